"""The splits of a dataset, their cache, and the order of batches."""

import collections
import errno
import functools
import itertools
import os
import shutil

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from configs import default
from vaegan_jax.data import datasets, decoding, input_pipeline
from vaegan_jax.errors import UserError

# Images of a split.


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
  options = {'image_size': 8, 'channels': 3, **options}
  return input_pipeline.load_images(builder, split, **options)


def _fail(data, **options):
  raise OSError('broken')


def _caches(builder):
  return sorted(builder.data_path.glob('*.npy*'))


def test_cached_images_equal_decoded_ones(builder, monkeypatch):
  monkeypatch.setattr(input_pipeline, '_CHUNK', 10)  # The last has 7.
  indices = np.array([5, 0, 26, 5])
  decoded = _load(builder, cache_images=False)
  assert not _caches(builder)
  cached = _load(builder)
  assert len(cached) == len(decoded) == 27
  assert cached[indices].shape == (4, 8, 8, 3)
  np.testing.assert_array_equal(cached[indices], decoded[indices])
  np.testing.assert_array_equal(cached[np.arange(27)], decoded[np.arange(27)])
  assert cached.fingerprint == decoded.fingerprint


def test_images_are_decoded_once(builder, monkeypatch):
  expected = _load(builder)[np.arange(27)]
  monkeypatch.setattr(decoding, 'decode_image', _fail)
  np.testing.assert_array_equal(_load(builder)[np.arange(27)], expected)


def test_every_way_to_decode_has_its_own_cache(builder):
  variants = [
    {},
    {'image_size': 4},
    {'channels': 1},
    {'center_crop': 4},
    {'split': 'test'},
    {'split': 'train[:90%]'},
    {'split': 'train+test'},
  ]
  images = [_load(builder, **variant) for variant in variants]
  assert len({image.fingerprint for image in images}) == len(variants)
  assert len(_caches(builder)) == len(variants)
  assert [len(image) for image in images] == [27, 27, 27, 27, 3, 24, 30]


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
    patch.setattr(input_pipeline, '_print_progress', interrupt)
    patch.setattr(input_pipeline, '_CHUNK', 1)
    patch.setattr(input_pipeline, '_REPORT_SECONDS', 0)
    with pytest.raises(KeyboardInterrupt):
      _load(builder)
  assert not _caches(builder)
  assert _load(builder)[np.arange(27)].any(axis=(1, 2, 3)).all()


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
    next(_batches(images))


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
  (images,) = input_pipeline.load_splits(data, ['train_split'])
  expected = _load(builder, image_size=4, channels=1, center_crop=6)
  assert images.fingerprint == expected.fingerprint
  with pytest.raises(UserError, match=r"data\.eval_split is 'no'"):
    input_pipeline.load_splits(data, ['train_split', 'eval_split'])


# Batches.


class _Numbers:
  """Images whose only pixel is their index."""

  fingerprint = 'numbers'

  def __init__(self, count):
    self._pixels = np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1)

  def __len__(self):
    return len(self._pixels)

  def __getitem__(self, indices):
    return self._pixels[indices]


def _batches(images, **options):
  options = {'seed': 0, 'batch_size': 4, 'num_devices': 1, **options}
  return input_pipeline.create_batches(images, **options)


def _take(count, images, **options):
  """The first batches, each flattened to the indices of its images."""
  batches = _batches(images, **options)
  return np.stack([b.ravel() for b in itertools.islice(batches, count)])


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 30), seed=st.integers(0, 2**32))
def test_every_epoch_is_a_permutation(count, seed):
  # Also of fewer images than a batch: epochs follow each other without a gap.
  stream = _take(count, _Numbers(count), seed=seed).ravel()
  for epoch in stream.reshape(4, count):
    np.testing.assert_array_equal(np.sort(epoch), np.arange(count))


def test_epochs_and_seeds_have_orders_of_their_own():
  orders = [
    tuple(epoch)
    for seed in range(3)
    for epoch in _take(10, _Numbers(20), seed=seed).reshape(2, 20)
  ]
  assert len(set(orders)) == 6


@settings(max_examples=20, deadline=None)
@given(step=st.integers(0, 25))
def test_a_resumed_stream_goes_on_where_it_stopped(step):
  whole = _take(30, _Numbers(17))
  resumed = _take(30 - step, _Numbers(17), start_step=step)
  np.testing.assert_array_equal(resumed, whole[step:])


def test_resuming_late_is_as_good_as_resuming_early():
  late = _take(2, _Numbers(17), start_step=10**9)
  np.testing.assert_array_equal(
    late[1:], _take(1, _Numbers(17), start_step=10**9 + 1)
  )


@pytest.mark.parametrize('processes', [1, 2, 4])
def test_the_processes_share_the_batch_of_one(processes):
  take = functools.partial(_take, 9, _Numbers(30), batch_size=8)
  parts = [
    take(process_index=index, process_count=processes)
    for index in range(processes)
  ]
  np.testing.assert_array_equal(np.concatenate(parts, axis=1), take())


def test_the_devices_share_the_batch_of_one():
  batch = next(_batches(_Numbers(30), batch_size=8, num_devices=4))
  assert batch.shape == (4, 2, 1, 1, 1)
  assert batch.dtype == np.uint8
  one = next(_batches(_Numbers(30), batch_size=8))
  np.testing.assert_array_equal(batch.ravel(), one.ravel())


@pytest.mark.parametrize('start_step', [0, 2])
def test_the_parts_of_a_step_are_consecutive_batches(start_step):
  images = _Numbers(30)
  steps = _take(4, images, num_parts=3, start_step=start_step)
  plain = _take(12, images, start_step=3 * start_step)
  np.testing.assert_array_equal(steps.reshape(12, 4), plain)


@pytest.mark.parametrize(
  ('devices', 'processes'), [(1, 1), (2, 1), (1, 2), (4, 1), (2, 2)]
)
def test_each_part_is_the_same_however_it_is_shared_out(devices, processes):
  take = functools.partial(
    _batches, _Numbers(30), num_parts=3, num_devices=devices
  )
  plain = _take(15, _Numbers(30)).reshape(5, 3, 4)
  shares = [
    itertools.islice(take(process_index=i, process_count=processes), 5)
    for i in range(processes)
  ]
  per_device = 4 // (devices * processes)
  for parts, *step in zip(plain, *shares, strict=True):
    for share in step:
      assert share.shape == (devices, 3 * per_device, 1, 1, 1)
    # [all devices, K, B]: on each device part after part.
    everywhere = np.concatenate(step).reshape(-1, 3, per_device)
    for k, part in enumerate(parts):
      np.testing.assert_array_equal(everywhere[:, k].ravel(), part)


def test_a_batch_that_devices_cannot_share_is_a_users_error():
  with pytest.raises(UserError, match=r'batch_size is 6.* multiple of 4.*8\.$'):
    _batches(_Numbers(9), batch_size=6, num_devices=2, process_count=2)


def test_the_order_is_the_same_in_every_release():
  # A change here changes what a resumed run sees: say so in the release notes.
  assert _take(2, _Numbers(8)).tolist() == [[2, 4, 3, 6], [5, 0, 1, 7]]


# On the device.


def test_to_float_maps_black_to_minus_one_and_white_to_one():
  floats = jax.jit(input_pipeline.to_float)(np.array([0, 51, 255], np.uint8))
  assert floats.dtype == np.float32
  np.testing.assert_allclose(floats, [-1, -0.6, 1], atol=1e-6)


def test_random_flip_mirrors_the_chosen_images_only():
  images = np.arange(2 * 2 * 3 * 1, dtype=np.float32).reshape(2, 2, 3, 1)
  flip = np.array([False, True])
  flipped = jax.jit(input_pipeline.random_flip)(images, flip)
  np.testing.assert_array_equal(flipped[0], images[0])
  np.testing.assert_array_equal(flipped[1], images[1, :, ::-1])
