"""The splits of a dataset, and their cache."""

import collections
import errno
import os
import shutil
import zlib

import numpy as np
import pytest
from PIL import Image

from configs import default
from vaegan_jax.data import datasets, decoded_cache, decoding, images
from vaegan_jax.data.batches import create_batches
from vaegan_jax.data.pictures import Pictures
from vaegan_jax.errors import UserError


@pytest.fixture
def builder(tmp_path):
  folder = tmp_path / 'images'
  folder.mkdir()
  rng = np.random.default_rng(0)
  for i in range(30):
    pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f'{i:02}.png')
  return datasets.create_builder(
    'image_folder', path=str(folder), data_dir=str(tmp_path)
  )


def _load(builder, split='train', **options):
  options = {'sides': (8, 8), 'channels': 3, **options}
  return images.load_images(builder, split, **options)


def _fail(data, **options):
  raise OSError('broken')


def _caches(builder):
  return sorted(builder.data_path.glob('*.npy*'))


def test_cached_images_equal_decoded_ones(builder, monkeypatch):
  monkeypatch.setattr(decoded_cache, '_CHUNK', 11)  # The last has fewer.
  indices = np.array([5, 0, 20, 5])
  decoded = _load(builder, cache_images=False)
  assert not _caches(builder)
  cached = _load(builder)
  number = builder.info.splits['train'].num_examples
  assert len(cached) == len(decoded) == number
  assert cached[indices].shape == (4, 8, 8, 3)
  np.testing.assert_array_equal(cached[indices], decoded[indices])
  everywhere = np.arange(number)
  np.testing.assert_array_equal(cached[everywhere], decoded[everywhere])
  assert cached.fingerprint == decoded.fingerprint


def test_images_are_decoded_once(builder, monkeypatch):
  expected = _load(builder)[np.arange(20)]
  monkeypatch.setattr(decoding, 'decode_image', _fail)
  np.testing.assert_array_equal(_load(builder)[np.arange(20)], expected)


@pytest.mark.parametrize('place', ('first', 'middle', 'last', 'checksum'))
def test_a_byte_that_flips_in_the_cache_is_noticed(
  place, builder, monkeypatch, caplog
):
  everywhere = np.arange(20)
  expected = _load(builder)[everywhere]
  (path,) = _caches(builder)
  data = bytearray(path.read_bytes())
  number = builder.info.splits['train'].num_examples
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
  images = _load(builder)
  for _ in range(2):
    np.testing.assert_array_equal(images[everywhere], expected)
    np.testing.assert_array_equal(images[everywhere[::-1]], expected[::-1])
  index = 0 if place == 'first' else 11
  assert f'Image {index} of {path} is damaged: decoded again' in caplog.text
  assert not path.exists()  # The next start writes it anew.
  caplog.clear()
  np.testing.assert_array_equal(_load(builder)[everywhere], expected)
  assert 'damaged' not in caplog.text and path.exists()


def test_an_image_is_checked_once(builder, monkeypatch):
  images = _load(builder)
  crc32, checked = zlib.crc32, []
  monkeypatch.setattr(
    zlib, 'crc32', lambda data: checked.append(1) or crc32(data)
  )
  for indices in ([3, 4], [4, 5], [3, 5], [5, 6]):
    images[np.array(indices)]
  assert len(checked) == 4


def test_a_cache_of_an_earlier_version_is_written_anew(builder, caplog):
  expected = _load(builder)[np.arange(20)]
  (path,) = _caches(builder)
  np.save(path, np.load(path))  # Without checksums.
  np.testing.assert_array_equal(_load(builder)[np.arange(20)], expected)
  number = builder.info.splits['train'].num_examples
  assert f'it has 0 of {number} checksums' in caplog.text


def test_every_way_to_decode_has_its_own_cache(builder):
  variants = [
    {},
    {'sides': (4, 4)},
    {'channels': 1},
    {'center_crop': 4},
    {'split': 'test'},
    {'split': 'train[:90%]'},
    {'split': 'train+test'},
  ]
  images = [_load(builder, **variant) for variant in variants]
  assert len({image.fingerprint for image in images}) == len(variants)
  assert len(_caches(builder)) == len(variants)
  number = builder.info.splits['train'].num_examples
  assert [len(image) for image in images] == [
    *[number] * 4,
    *(30 - number, round(0.9 * number), 30),
  ]


def test_a_copy_of_a_dataset_has_its_fingerprint(builder, tmp_path):
  shutil.copytree(tmp_path / 'images', tmp_path / 'copy')  # New times.
  for path in (tmp_path / 'copy').iterdir():
    path.touch()
  copy = datasets.create_builder(
    'image_folder', path=str(tmp_path / 'copy'), data_dir=str(tmp_path)
  )
  assert copy.data_path != builder.data_path
  assert _load(copy).fingerprint == _load(builder).fingerprint


def test_another_image_of_as_many_bytes_is_another_dataset(builder, tmp_path):
  shutil.copytree(tmp_path / 'images', tmp_path / 'copy')
  first = min((tmp_path / 'copy').iterdir())
  before = first.read_bytes()
  # The checksum of PNG's end mark, at which Pillow does not look.
  first.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
  changed = datasets.create_builder(
    'image_folder', path=str(tmp_path / 'copy'), data_dir=str(tmp_path)
  )
  assert changed.info.dataset_size == builder.info.dataset_size
  assert _load(changed).fingerprint != _load(builder).fingerprint


def test_without_room_images_are_decoded_on_the_fly(
  builder, monkeypatch, caplog
):
  usage = collections.namedtuple('Usage', 'free')(1000)
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
  images = _load(builder)
  assert images[np.arange(3)].shape == (3, 8, 8, 3)
  assert not _caches(builder)
  assert '1000 are free' in caplog.text


def test_a_disk_that_fills_up_leaves_no_cache(builder, monkeypatch, caplog):
  def fill(descriptor):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', fill)
  images = _load(builder)
  assert images[np.arange(3)].shape == (3, 8, 8, 3)
  assert not _caches(builder)
  assert 'No space left on device' in caplog.text


def test_an_interrupted_cache_is_never_used(builder, monkeypatch):
  def interrupt(*args):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(decoded_cache, '_print_progress', interrupt)
    patch.setattr(decoded_cache, '_CHUNK', 1)
    patch.setattr(decoded_cache, '_REPORT_SECONDS', 0)
    with pytest.raises(KeyboardInterrupt):
      _load(builder)
  assert not _caches(builder)
  assert _load(builder)[np.arange(20)].any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize(
  'split', ['valid', 'train[', 'valid[:10%]', 'test[:0]']
)
def test_an_unknown_split_names_the_field_and_the_splits(builder, split):
  message = r"data\.eval_split is '.*'train', 'test'"
  with pytest.raises(UserError, match=message):
    _load(builder, split, field='data.eval_split')


def test_a_damaged_record_is_named(builder, monkeypatch):
  monkeypatch.setattr(decoding, 'decode_image', _fail)
  images = _load(builder, cache_images=False)
  with pytest.raises(UserError, match=r"Record 3 '\d\d\.png'.*broken"):
    images[np.array([3])]
  with pytest.raises(UserError, match='broken'):
    next(create_batches(images, seed=0, batch_size=4, num_devices=1))


def test_damaged_prepared_data_is_a_users_error(builder):
  (file,) = builder.data_path.glob('*-train.array_record*')
  data = bytearray(file.read_bytes())
  middle = len(data) // 2
  data[middle : middle + 1000] = bytes(1000)
  file.write_bytes(data)
  with pytest.raises(UserError, match=r'image_folder.* is damaged'):
    _load(builder)


def test_load_splits_reads_the_fields_of_a_configuration(builder, tmp_path):
  data = default.get_config().data
  data.update(name='image_folder', path=str(tmp_path / 'images'))
  data.update(data_dir=str(tmp_path), eval_split='no', cache_images=False)
  data.update(image_size=4, channels=1, center_crop=6)
  (split,) = images.load_splits(data, ['train_split'])
  expected = _load(builder, sides=(4, 4), channels=1, center_crop=6)
  assert split.fingerprint == expected.fingerprint
  with pytest.raises(UserError, match=r"data\.eval_split is 'no'"):
    images.load_splits(data, ['train_split', 'eval_split'])


def test_with_a_margin_training_reads_all_and_others_the_middle(
  builder, tmp_path
):
  data = default.get_config().data.to_dict()
  data.update(name='image_folder', path=str(tmp_path / 'images'))
  data.update(data_dir=str(tmp_path), image_size=4, random_crop_margin=2)
  (split,) = images.load_splits(data, ['train_split'])
  everywhere = np.arange(len(split))
  whole = images.whole_of(split)
  expected = _load(builder, sides=(6, 6))
  assert whole.fingerprint == split.fingerprint == expected.fingerprint
  np.testing.assert_array_equal(whole[everywhere], expected[everywhere])
  middle = expected[everywhere][:, 1:5, 1:5]
  np.testing.assert_array_equal(split[everywhere], middle)
  assert images.whole_of(expected) is expected
  # And so do pictures that are of no dataset.
  pictures = Pictures(
    data['path'], channels=3, sides=(4, 4), center_crop=0, margin=2
  )
  found = pictures[np.arange(len(pictures))]
  assert {x.tobytes() for x in middle} < {x.tobytes() for x in found}
