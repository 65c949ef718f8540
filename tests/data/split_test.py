"""The splits of a data set, and their decoded copies."""

import collections
import errno
import os
import shutil
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.data.opening import caches, everything, load, open_folder
from vaegan_jax.data import cache, decode
from vaegan_jax.data.batches import create_batches
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.pictures import Pictures
from vaegan_jax.data.split import load_splits, whole_of
from vaegan_jax.errors import UserError


@pytest.fixture
def dataset(tmp_path):
  folder = tmp_path / 'images'
  folder.mkdir()
  rng = np.random.default_rng(0)
  for i in range(30):
    pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f'{i:02}.png')
  return open_folder(folder, tmp_path)


def _fail(data, **options):
  raise OSError('broken')


def _caches(dataset):
  return caches(dataset.cache_dir)


def test_cached_images_equal_decoded_ones(dataset, monkeypatch):
  monkeypatch.setattr(cache, '_CHUNK', 11)  # The last has fewer.
  indices = np.array([5, 0, 20, 5])
  decoded = load(dataset, cache_images=False)
  assert not _caches(dataset)
  cached = load(dataset)
  number = dataset.counts['train']
  assert len(cached) == len(decoded) == number
  assert cached[indices].shape == (4, 8, 8, 3)
  np.testing.assert_array_equal(cached[indices], decoded[indices])
  everywhere = np.arange(number)
  np.testing.assert_array_equal(cached[everywhere], decoded[everywhere])
  assert cached.fingerprint == decoded.fingerprint


def test_images_are_decoded_once(dataset, monkeypatch):
  expected = load(dataset)[np.arange(20)]
  monkeypatch.setattr(decode, 'decode_image', _fail)
  np.testing.assert_array_equal(load(dataset)[np.arange(20)], expected)


@pytest.mark.parametrize('place', ('first', 'middle', 'last', 'checksum'))
def test_a_byte_that_flips_in_the_cache_is_noticed(
  place, dataset, monkeypatch, caplog
):
  everywhere = np.arange(20)
  expected = load(dataset)[everywhere]
  (path,) = _caches(dataset)
  data = bytearray(path.read_bytes())
  number = dataset.counts['train']
  size = 8 * 8 * 3
  start = len(data) - number * (size + 4)  # Of the pixels.
  at = {
    'first': 0,
    'middle': 11 * size,
    'last': 12 * size - 1,
    'checksum': number * size + 11 * 4,
  }[place]
  data[start + at] ^= 4
  path.write_bytes(data)
  images = load(dataset)
  for _ in range(2):
    np.testing.assert_array_equal(images[everywhere], expected)
    np.testing.assert_array_equal(images[everywhere[::-1]], expected[::-1])
  index = 0 if place == 'first' else 11
  assert f'Example {index} of {path} is damaged' in caplog.text
  assert not path.exists()  # The next start writes it anew.
  caplog.clear()
  np.testing.assert_array_equal(load(dataset)[everywhere], expected)
  assert 'damaged' not in caplog.text and path.exists()


def test_an_image_is_checked_once(dataset, monkeypatch):
  images = load(dataset)
  crc32, checked = zlib.crc32, []
  monkeypatch.setattr(
    zlib, 'crc32', lambda data: checked.append(1) or crc32(data)
  )
  for indices in ([3, 4], [4, 5], [3, 5], [5, 6]):
    images[np.array(indices)]
  assert len(checked) == 4


def test_a_cache_of_an_earlier_version_is_written_anew(dataset, caplog):
  expected = load(dataset)[np.arange(20)]
  (path,) = _caches(dataset)
  np.save(path, np.load(path))  # Without checksums.
  np.testing.assert_array_equal(load(dataset)[np.arange(20)], expected)
  number = dataset.counts['train']
  assert f'it has 0 of {number} checksums' in caplog.text


def test_every_way_to_decode_has_its_own_cache(dataset):
  variants = [
    {},
    {'shape': (4, 4)},
    {'channels': 1},
    {'center_crop': 4},
    {'split': 'test'},
    {'split': 'train[:90%]'},
    {'split': 'train+test'},
  ]
  images = [load(dataset, **variant) for variant in variants]
  assert len({image.fingerprint for image in images}) == len(variants)
  assert len(_caches(dataset)) == len(variants)
  number = dataset.counts['train']
  assert [len(image) for image in images] == [
    *[number] * 4,
    *(30 - number, round(0.9 * number), 30),
  ]


def test_without_room_images_are_decoded_on_the_fly(
  dataset, monkeypatch, caplog
):
  usage = collections.namedtuple('Usage', 'free')(1000)
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
  images = load(dataset)
  assert images[np.arange(3)].shape == (3, 8, 8, 3)
  assert not _caches(dataset)
  assert '1000 are free' in caplog.text


def test_a_disk_that_fills_up_leaves_no_cache(dataset, monkeypatch, caplog):
  def fill(descriptor):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', fill)
  images = load(dataset)
  assert images[np.arange(3)].shape == (3, 8, 8, 3)
  assert not _caches(dataset)
  assert 'No space left on device' in caplog.text


def test_an_interrupted_cache_is_never_used(dataset, monkeypatch):
  def interrupt(*args):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(cache, '_print_progress', interrupt)
    patch.setattr(cache, '_CHUNK', 1)
    patch.setattr(cache, '_REPORT_SECONDS', 0)
    with pytest.raises(KeyboardInterrupt):
      load(dataset)
  assert not _caches(dataset)
  assert load(dataset)[np.arange(20)].any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize(
  'split', ['valid', 'train[', 'valid[:10%]', 'test[:0]']
)
def test_an_unknown_split_names_the_field_and_the_splits(dataset, split):
  message = r"data\.eval_split is '.*'train', 'test'"
  with pytest.raises(UserError, match=message):
    load(dataset, split, field='data.eval_split')


def test_an_example_that_does_not_decode_is_named(dataset, monkeypatch):
  monkeypatch.setattr(decode, 'decode_image', _fail)
  images = load(dataset, cache_images=False)
  with pytest.raises(UserError, match=r"'\d\d\.png' in .*broken"):
    images[np.array([3])]
  with pytest.raises(UserError, match='broken'):
    next(create_batches(images, seed=0, batch_size=4, num_devices=1))


@pytest.fixture
def data(dataset, tmp_path):
  """Fields of `config.data` for the folder of `dataset`."""
  return {
    'name': 'image_folder',
    'path': str(tmp_path / 'images'),
    'data_dir': str(tmp_path),
    'image_size': 4,
  }


def test_load_splits_reads_the_fields_of_a_configuration(data, dataset):
  data |= {'channels': 1, 'center_crop': 6, 'cache_images': False}
  (split,) = load_splits(DataConfig(**data), ['train_split'])
  expected = load(dataset, shape=(4, 4), channels=1, center_crop=6)
  assert split.fingerprint == expected.fingerprint
  data = DataConfig(**data, eval_split='no')
  with pytest.raises(UserError, match=r"data\.eval_split is 'no'"):
    load_splits(data, ['train_split', 'eval_split'])


def test_with_a_margin_training_reads_all_and_others_the_middle(data, dataset):
  data = DataConfig(**data, random_crop_margin=2)
  (split,) = load_splits(data, ['train_split'])
  whole = whole_of(split)
  expected = load(dataset, shape=(6, 6))
  assert whole.fingerprint == split.fingerprint == expected.fingerprint
  np.testing.assert_array_equal(everything(whole), everything(expected))
  middle = everything(expected)[:, 1:5, 1:5]
  np.testing.assert_array_equal(everything(split), middle)
  assert whole_of(expected) is expected
  # Files outside of any data set are cropped alike.
  found = everything(Pictures(data.path, data))
  assert {x.tobytes() for x in middle} < {x.tobytes() for x in found}
