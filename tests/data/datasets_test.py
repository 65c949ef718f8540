"""Datasets: what is stored, prepared only once, and whole or not at all."""

import logging
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vaegan_jax.data import datasets, drawn, drawn_faces, image_files
from vaegan_jax.errors import UserError

_ROOT = pathlib.Path(__file__).parents[2]


class Unreachable(tfds.core.GeneratorBasedBuilder):
  """A dataset whose download fails, after something was written."""

  VERSION = tfds.core.Version('1.0.0')
  url_infos = None

  def _info(self):
    features = tfds.features.FeaturesDict({'label': np.int32})
    return tfds.core.DatasetInfo(builder=self, features=features)

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    yield 0, {'label': 0}
    raise ConnectionError('no route to host')


def _write_images(folder, names, size=8):
  for shade, name in enumerate(names):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (size, size), (shade, 2 * shade, 0)).save(path)


def _open(folder, data_dir, **options):
  return datasets.create_builder(
    'image_folder', path=str(folder), data_dir=str(data_dir), **options
  )


def _paths(builder, split):
  decoders = {'image': tfds.decode.SkipDecoding()}
  source = builder.as_data_source(split, decoders=decoders)
  return {record['path'].decode() for record in source}


@pytest.fixture
def folder(tmp_path):
  _write_images(tmp_path / 'images', [f'{i:02}.png' for i in range(20)])
  return tmp_path / 'images'


@pytest.mark.parametrize('rules', (1, 2))
def test_the_splits_are_those_of_the_folder(rules, folder, tmp_path):
  images = image_files.ImageFiles(str(folder), rules)
  splits = images.split(images.find_damaged())
  builder = _open(folder, tmp_path, folder_rules=rules)
  for name, members in splits.items():
    assert _paths(builder, name) == set(members)
  assert len(_paths(builder, 'train+test')) == 20


def test_stores_the_files_as_they_are(folder, tmp_path):
  source = _open(folder, tmp_path).as_data_source(
    'test', decoders={'image': tfds.decode.SkipDecoding()}
  )
  for record in source:
    path = folder / record['path'].decode()
    assert record['image'] == path.read_bytes()


def test_prepares_once_and_again_when_the_folder_changes(
  folder, tmp_path, monkeypatch
):
  first = _open(folder, tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(datasets, '_prepare', None)  # Would fail if it were called.
    assert _open(folder, tmp_path).data_path == first.data_path
  _write_images(folder, ['new.png'])
  changed = _open(folder, tmp_path)
  assert changed.data_path != first.data_path
  assert 'new.png' in _paths(changed, 'train+test')


def test_leaves_out_damaged_images_and_names_them(folder, tmp_path, caplog):
  whole = (folder / '03.png').read_bytes()
  (folder / '03.png').write_bytes(whole[: len(whole) // 2])
  (folder / '04.png').write_bytes(b'')
  with caplog.at_level(logging.WARNING):
    builder = _open(folder, tmp_path)
  assert len(_paths(builder, 'train+test')) == 18
  warnings = [line for line in caplog.messages if 'damaged' in line]
  assert len(warnings) == 1
  assert '2 of 20' in warnings[0]
  listed = (builder.data_path / image_files.DAMAGED_FILE).read_text()
  first, second = listed.splitlines()
  assert first.startswith("'03.png': ")
  assert (
    second == "'04.png': UnidentifiedImageError: cannot identify image file"
  )


def test_too_much_damage_is_an_error_and_leaves_nothing(folder, tmp_path):
  for i in range(3):
    (folder / f'{i:02}.png').write_bytes(b'damaged')
  for _ in range(2):
    with pytest.raises(UserError, match=r"3 of 20 images.*'00\.png'"):
      _open(folder, tmp_path / 'data')
  assert not list((tmp_path / 'data').rglob('dataset_info.json'))


def test_names_that_are_not_text(folder, tmp_path):
  os.rename(os.fsencode(folder / '05.png'), os.fsencode(folder) + b'/\xff.png')
  builder = _open(folder, tmp_path)
  assert builder.info.splits['train+test'].num_examples == 20


def test_paths_may_have_a_home_and_variables(folder, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setenv('WHERE', 'images')
  builder = _open('~/$WHERE', '~/data')
  assert builder.data_path.is_relative_to(tmp_path / 'data')


def test_a_crash_while_preparing_leaves_nothing_that_looks_prepared(tmp_path):
  for _ in range(2):
    with pytest.raises(UserError, match=r'ConnectionError: no route to host'):
      datasets.create_builder('unreachable', data_dir=str(tmp_path))
  assert not (tmp_path / 'unreachable' / '1.0.0').exists()


def test_data_prepared_in_another_format_is_a_users_error(folder, tmp_path):
  info = _open(folder, tmp_path).data_path / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'riegeli'))
  with pytest.raises(UserError, match=r'as riegeli; .*data\.data_dir'):
    _open(folder, tmp_path)


def test_a_killed_preparation_is_done_again(folder, tmp_path):
  code = (
    'import os, sys\n'
    'from vaegan_jax.data import datasets\n'
    'def kill(self, names):\n'
    '  yield b"0", {"image": b"", "path": b""}\n'
    '  os._exit(9)\n'
    'datasets.ImageFolder._generate_examples = kill\n'
    'datasets.create_builder(\n'
    '  "image_folder", path=sys.argv[1], data_dir=sys.argv[2])\n'
  )
  command = [sys.executable, '-c', code, str(folder), str(tmp_path / 'data')]
  killed = subprocess.run(command, capture_output=True, cwd=_ROOT)
  assert killed.returncode == 9
  assert list((tmp_path / 'data').rglob('*incomplete*'))
  assert len(_paths(_open(folder, tmp_path / 'data'), 'train+test')) == 20


def test_an_unknown_name_is_answered_with_the_closest_ones(tmp_path):
  with pytest.raises(UserError, match=r"'celeb_b'.*celeb_a"):
    datasets.create_builder('celeb_b', data_dir=str(tmp_path))
  with pytest.raises(UserError, match=r"'draw_faces'.*drawn_faces"):
    datasets.create_builder('draw_faces', data_dir=str(tmp_path))


@pytest.mark.parametrize('name', ['cifar10:9.9.9', 'cifar10/large', 'a b', ''])
def test_a_name_that_tfds_cannot_open_is_a_users_error(tmp_path, name):
  with pytest.raises(UserError, match=r'data\.name is'):
    datasets.create_builder(name, data_dir=str(tmp_path))


def test_reading_never_imports_tensorflow(folder, tmp_path):
  _open(folder, tmp_path)
  code = (
    'import sys\n'
    'from vaegan_jax.data import batches, datasets, images\n'
    'builder = datasets.create_builder(\n'
    '  "image_folder", path=sys.argv[1], data_dir=sys.argv[2])\n'
    'split = images.load_images(\n'
    '  builder, "train", sides=(4, 4), channels=3)\n'
    'next(batches.create_batches(\n'
    '  split, seed=0, batch_size=2, num_devices=1))\n'
    'assert "tensorflow" not in sys.modules\n'
  )
  command = [sys.executable, '-c', code, str(folder), str(tmp_path)]
  subprocess.run(command, check=True, cwd=_ROOT)


def test_drawn_faces_builder(tmp_path, monkeypatch):
  counts = (('train', 6), ('test', 2))
  monkeypatch.setattr(drawn.DrawnFaces, 'num_images', counts)
  builder = datasets.create_builder('drawn_faces', data_dir=str(tmp_path))
  assert {k: v.num_examples for k, v in builder.info.splits.items()} == dict(
    counts
  )
  images = [record['image'] for record in builder.as_data_source('train+test')]
  assert {image.tobytes() for image in images} == {
    drawn_faces.draw_face(index).tobytes() for index in range(8)
  }
