"""Sources are found by name, and a new one is one file."""

import importlib
import subprocess
import sys

import numpy as np
import pytest

from tests.data.opening import everything, load, open_dataset
from vaegan_jax.data import sources
from vaegan_jax.data.batches import create_batches
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.split import load_splits
from vaegan_jax.errors import UserError

_NEW = '''
"""Squares of one shade each."""

import numpy as np

from vaegan_jax.data import source


class Squares(source.Dataset):
  """Examples that need no file."""

  name, location = 'squares', 'memory'
  counts = {'train': 12, 'test': 4}
  content_hash = 'first'

  def __init__(self, cache_dir):
    self.cache_dir = cache_dir

  def read(self, split, indices):
    first = 0 if split == 'train' else 12
    return [np.full((9, 8, 3), first + i, np.uint8) for i in indices]


class Source(source.Source):
  """What is known without opening it."""

  @classmethod
  def open(cls, data, *, fill_bucket=False):
    import pathlib
    return Squares(pathlib.Path(data.local_dir))
'''


@pytest.fixture
def squares(tmp_path, monkeypatch):
  """A source in a file of its own."""
  folder = tmp_path / 'plugins'
  folder.mkdir()
  (folder / 'squares.py').write_text(_NEW)
  monkeypatch.setattr(sources, '__path__', [*sources.__path__, str(folder)])
  importlib.invalidate_caches()
  sources._load.cache_clear()
  yield 'squares'
  sources._load.cache_clear()
  sys.modules.pop('vaegan_jax.data.sources.squares', None)


def test_a_new_source_is_one_file(squares, tmp_path):
  assert squares in sources.names()
  data = DataConfig(
    squares, data_dir=str(tmp_path), image_size=8, eval_split='test+train[:50%]'
  )
  assert not data.holds_arrays
  for cache in (False, True):
    options = {'cache_images': cache, 'shape': (8, 8), 'channels': 3}
    split = load(open_dataset(squares, tmp_path), **options)
    assert len(split) == 12
    np.testing.assert_array_equal(everything(split)[:, 0, 0, 0], np.arange(12))
  train, held_out = load_splits(data, ['train_split', 'eval_split'])
  assert train.fingerprint == split.fingerprint != held_out.fingerprint
  assert list(everything(held_out)[:, 0, 0, 0]) == [*range(12, 16), *range(6)]
  batch = next(create_batches(train, seed=0, batch_size=4, num_devices=2))
  assert batch.shape == (2, 2, 8, 8, 3)
  with pytest.raises(UserError, match=r"'no'.*'train', 'test'"):
    load(open_dataset(squares, tmp_path), 'no')


def test_the_configuration_accepts_a_new_source(squares):
  from configs import default
  from vaegan_jax.config import validation

  config = default.get_config()
  config.data.name = squares
  validation.validate(config)
  config.data.path = 'somewhere'
  with pytest.raises(UserError, match=r'data\.path'):
    validation.validate(config)


def test_sources_and_writers_need_no_heavy_imports():
  code = (
    'import sys\n'
    'from vaegan_jax.data import sources\n'
    'from vaegan_jax.data.data_config import DataConfig\n'
    'found = {n: DataConfig(n).holds_arrays for n in sources.names()}\n'
    'assert sorted(n for n in found if found[n]) == [\n'
    '  "array_file", "array_folder", "drawn_bands", "drawn_sounds",\n'
    '  "drawn_volumes", "medical", "scenes"]\n'
    'assert not DataConfig("cifar10").holds_arrays\n'
    'assert DataConfig("measured", shape=(7, 6)).holds_arrays\n'
    'heavy = {"tensorflow", "tensorflow_datasets", "PIL", "grain"}\n'
    'assert not heavy & set(sys.modules), heavy & set(sys.modules)\n'
    'import vaegan_jax.runtime.writers\n'
    'assert "tensorflow" not in sys.modules\n'
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def test_lists_of_a_saved_configuration_become_tuples():
  data = DataConfig('x', shape=[4, 6], image_size=[8, 9], value_range=[0, 1])
  assert data.spatial_shape == (4, 6) and data.value_range == (0, 1)
  data = DataConfig('x', image_size=[8, 9], random_crop_margin=2)
  assert data.spatial_shape == (8, 9) and data.read_shape == (10, 11)
