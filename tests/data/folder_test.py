"""Folders read in place: what is kept of them, and for how long."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.data.contents import write_images
from tests.data.opening import (
  caches,
  everything,
  list_arrays,
  load,
  names_in,
  open_dataset,
  open_folder,
)
from tests.data.tfds_builders import Builder
from tests.processes import SERVER
from vaegan_jax.data import folder as folder_module
from vaegan_jax.data import image_files
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.errors import UserError

_ROOT = Path(__file__).parents[2]


def _add(folder, count):
  first = len(list(folder.glob('*.png')))
  names = [f'{index:02}.png' for index in range(first, first + count)]
  return write_images(folder, names, first=first)


@pytest.fixture
def folder(tmp_path):
  return _add(tmp_path / 'images', 20)


class ImageFolder(Builder, skip_registration=True):
  """A folder as earlier versions had TFDS copy it."""

  root, splits = None, None

  def kinds(self):
    image = tfds.features.Image(shape=(None, None, None))
    text = tfds.features.Text()
    return {
      'image': image if self.root.name == 'images' else text,
      'path': text,
    }

  def _split_generators(self, dl_manager):
    return {
      key: self._generate_examples(names) for key, names in self.splits.items()
    }

  def _generate_examples(self, names):
    for name in names:
      key = os.fsencode(name)
      yield key, {'image': (self.root / name).read_bytes(), 'path': key}


@pytest.mark.parametrize('kind', ('images', 'arrays'))
def test_order_and_size_are_those_of_copies_by_tfds(
  kind, tmp_path, monkeypatch
):
  folder = tmp_path / kind
  if kind == 'images':
    _add(folder, 20)
    (folder / 'b').mkdir()
    (folder / 'b' / ('long name ' * 20 + '.png')).write_bytes(
      (folder / '03.png').read_bytes() + bytes(20_000)
    )
    files, name = image_files.ImageFiles(str(folder)), 'image_folder'
  else:
    folder.mkdir()
    for index in range(20):
      np.save(folder / f'{index}.npy', np.full((9, 8, 8), index, np.uint8))
    files, name = list_arrays(folder), 'array_folder'
  monkeypatch.setattr(ImageFolder, 'root', folder)
  monkeypatch.setattr(ImageFolder, 'splits', files.split(files.find_damaged()))
  builder = ImageFolder(data_dir=str(tmp_path / 'old'))
  builder.download_and_prepare(file_format='array_record')
  dataset = open_dataset(name, tmp_path / 'data', path=folder)
  assert dataset.num_bytes == int(builder.info.dataset_size)
  decoders = {'image': tfds.decode.SkipDecoding()}
  for split, count in dataset.counts.items():
    stored = list(builder.as_data_source(split, decoders=decoders))
    assert len(stored) == count
    every = range(count)
    assert dataset.read(split, every) == [r['image'] for r in stored]
    paths = [os.fsdecode(record['path']) for record in stored]
    assert [dataset.describe(split, i) for i in every] == list(map(repr, paths))


@pytest.mark.parametrize('rules', (1, 2))
def test_the_splits_are_those_of_the_folder(rules, folder, tmp_path):
  files = image_files.ImageFiles(str(folder), rules)
  dataset = open_folder(folder, tmp_path, folder_rules=rules)
  for name, members in files.split(files.find_damaged()).items():
    assert names_in(dataset, name) == set(members)
  assert len(load(dataset, 'train+test')) == 20


def test_files_are_read_where_they_are_and_never_copied(folder, tmp_path):
  dataset = open_folder(folder, tmp_path / 'data')
  for index in range(dataset.counts['test']):
    (content,) = dataset.read('test', [index])
    name = next(iter(names_in(dataset, 'test')))
    assert content == (folder / name).read_bytes() or dataset.counts['test'] > 1
  images = load(dataset)
  assert len(images) == dataset.counts['train']
  total = sum(p.stat().st_size for p in (tmp_path / 'data').rglob('*.npy'))
  kept = [p for p in (tmp_path / 'data').rglob('*') if p.is_file()]
  assert {path.suffix for path in kept} == {'.npy', '.json'}
  assert total < 2 * images[np.arange(1)].nbytes * len(images)


def test_files_are_checked_once_and_again_when_the_folder_changes(
  folder, tmp_path, monkeypatch
):
  first = open_folder(folder, tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(image_files.ImageFiles, 'find_damaged', None)  # Would fail.
    again = open_folder(folder, tmp_path)
    assert again.cache_dir == first.cache_dir
    assert names_in(again) == names_in(first)
  _add(folder, 1)
  changed = open_folder(folder, tmp_path)
  assert changed.cache_dir != first.cache_dir
  assert '20.png' in names_in(changed)


def test_a_damaged_index_is_written_anew(folder, tmp_path, caplog):
  first = open_folder(folder, tmp_path)
  (index,) = tmp_path.rglob('index.json')
  whole = index.read_bytes()
  for damaged in (whole[:-9], whole.replace(b'03.png', b'04.png'), b'\xff'):
    index.write_bytes(damaged)
    assert names_in(open_folder(folder, tmp_path)) == names_in(first)
    assert index.read_bytes() == whole


def test_skips_damaged_images_and_names_them(folder, tmp_path, caplog):
  whole = (folder / '03.png').read_bytes()
  (folder / '03.png').write_bytes(whole[: len(whole) // 2])
  (folder / '04.png').write_bytes(b'')
  with caplog.at_level(logging.WARNING):
    dataset = open_folder(folder, tmp_path)
  assert len(names_in(dataset)) == 18
  (warning,) = (line for line in caplog.messages if 'damaged' in line)
  assert '2 of 20' in warning
  report = dataset.cache_dir / image_files.DAMAGED_FILE
  assert str(report) in warning
  first, second = report.read_text().splitlines()
  assert first.startswith("'03.png': ")
  assert (
    second == "'04.png': UnidentifiedImageError: cannot identify image file"
  )


def test_too_much_damage_is_an_error_and_leaves_nothing(folder, tmp_path):
  for i in range(3):
    (folder / f'{i:02}.png').write_bytes(b'damaged')
  for _ in range(2):
    with pytest.raises(UserError, match=r"3 of 20 images.*'00\.png'"):
      open_folder(folder, tmp_path / 'data')
  assert not list((tmp_path / 'data').rglob('index.json'))


def test_names_that_are_not_text(folder, tmp_path):
  os.rename(os.fsencode(folder / '05.png'), os.fsencode(folder) + b'/\xff.png')
  for _ in range(2):  # Checked, and out of the index.
    dataset = open_folder(folder, tmp_path)
    assert len(everything(load(dataset, 'train+test'))) == 20


def test_paths_may_have_a_home_and_variables(folder, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setenv('WHERE', 'images')
  dataset = open_folder('~/$WHERE', '~/data')
  assert dataset.cache_dir.is_relative_to(tmp_path / 'data')


@pytest.mark.parametrize('change', ('other content', 'gone', 'touched'))
def test_a_file_that_changes_during_a_run_is_never_read(
  change, folder, tmp_path
):
  dataset = open_folder(folder, tmp_path)
  images = load(dataset, 'train+test', cache_images=False)
  everything(images)
  victim = folder / '03.png'
  if change == 'gone':
    victim.unlink()
  elif change == 'touched':
    os.utime(victim, ns=(0, 1))
  else:
    victim.write_bytes(victim.read_bytes() + b'more')
  with pytest.raises(UserError, match=r"'03\.png' in .* cannot be read"):
    everything(images)


def test_the_decoded_copies_of_earlier_states_are_removed(
  folder, tmp_path, capsys
):
  data = tmp_path / 'data'
  for _ in range(3):
    images = load(open_folder(folder, data))
    expected = everything(images)
    assert len(caches(data)) == 1
    _add(folder, 12)
  # A process that still reads one keeps it.
  open_folder(folder, data)
  assert not caches(data)
  np.testing.assert_array_equal(everything(images), expected)
  assert capsys.readouterr().out.count('an earlier state of the folder') == 3


def test_what_is_of_another_folder_or_of_other_rules_is_kept(tmp_path):
  data = tmp_path / 'data'
  folder, other = (_add(tmp_path / name, 12) for name in ('images', 'other'))
  for dataset in (
    open_folder(other, data),
    open_folder(folder, data, folder_rules=1),
    open_folder(folder, data),
  ):
    load(dataset)
  assert len(caches(data)) == 3
  # In a container, another folder is at the same path.
  folder.rename(tmp_path / 'elsewhere')
  _add(folder, 15)
  load(open_folder(folder, data))
  assert len(caches(data)) == 4
  _add(folder, 1)
  load(open_folder(folder, data))
  assert len(caches(data)) == 4


def test_decoded_copies_of_earlier_versions_are_used(
  folder, tmp_path, monkeypatch, capsys
):
  data = tmp_path / 'data'
  dataset = open_folder(folder, data)
  expected = everything(load(dataset))
  (path,) = caches(data)
  state = image_files.ImageFiles(str(folder)).fingerprint
  old = data / 'image_folder' / state / 'image_folder' / '1.0.0'
  old.mkdir(parents=True)
  path.rename(old / path.name)
  shutil.rmtree(dataset.cache_dir)
  dataset = open_folder(folder, data)
  assert 'it may be removed' in capsys.readouterr().out
  shutil.rmtree(data / 'image_folder' / state)
  monkeypatch.setattr('vaegan_jax.data.decode.to_size', None)  # Would fail.
  np.testing.assert_array_equal(everything(load(dataset)), expected)


def test_a_copy_of_a_folder_has_its_fingerprint(folder, tmp_path):
  first = load(open_folder(folder, tmp_path))
  shutil.copytree(folder, tmp_path / 'copy')
  for path in (tmp_path / 'copy').iterdir():
    path.touch()
  copy = open_folder(tmp_path / 'copy', tmp_path)
  assert load(copy).fingerprint == first.fingerprint
  # The checksum of PNG's end mark, which Pillow does not check.
  victim = tmp_path / 'copy' / '00.png'
  before = victim.read_bytes()
  victim.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
  changed = open_folder(tmp_path / 'copy', tmp_path)
  assert changed.num_bytes == copy.num_bytes
  assert load(changed).fingerprint != first.fingerprint


def test_a_data_dir_that_cannot_be_written_is_named(folder, tmp_path):
  (tmp_path / 'file').touch()
  data_dir = tmp_path / 'file' / 'data'  # Root cannot write there, either.
  with pytest.raises(UserError) as caught:
    open_folder(folder, data_dir)
  assert f"data.data_dir is '{data_dir}'" in str(caught.value)
  assert '--config.data.data_dir=/scratch/data' in str(caught.value)


def _open_and_die(folder, data_dir):
  os.replace = lambda *_: os._exit(9)
  open_folder(folder, data_dir)


def test_a_killed_check_is_done_again(folder, tmp_path):
  killed = SERVER.Process(
    target=_open_and_die, args=(folder, tmp_path / 'data')
  )
  killed.start()
  killed.join()
  assert killed.exitcode == 9
  assert list((tmp_path / 'data').rglob('index.json.*'))
  assert len(names_in(open_folder(folder, tmp_path / 'data'))) == 20


def test_reading_never_imports_tensorflow_or_tfds(folder, tmp_path):
  code = (
    'import sys\n'
    'from tests.data.opening import load, open_folder\n'
    'from vaegan_jax.data import batches\n'
    'split = load(open_folder(*sys.argv[1:]))\n'
    'next(batches.create_batches(\n'
    '  split, seed=0, batch_size=2, num_devices=1))\n'
    'assert "tensorflow" not in sys.modules\n'
    'assert "tensorflow_datasets" not in sys.modules\n'
  )
  command = [sys.executable, '-c', code, str(folder), str(tmp_path)]
  subprocess.run(command, check=True, cwd=_ROOT)


def test_an_index_of_an_earlier_version_is_read(folder, tmp_path, monkeypatch):
  first = open_folder(folder, tmp_path, folder_rules=2)
  data = DataConfig('image_folder', image_size=16, folder_rules=2)
  assert 'enlarged' in first.report(data)[-1]
  read = folder_module.read_index

  def read_without_counts(path):
    index = read(path)
    del index['counts']  # That version did not count.
    return index

  monkeypatch.setattr(folder_module, 'read_index', read_without_counts)
  again = open_folder(folder, tmp_path, folder_rules=2)
  assert names_in(again) == names_in(first)
  assert again.report(data) == first.report(data)[:-1]
