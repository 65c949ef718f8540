"""Data sets of TFDS: prepared once, read whole, or refused in a sentence."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.data.opening import everything, load, open_dataset
from tests.data.tfds_builders import SPECTRA, Measured, OnlyOne, Photos, sound
from vaegan_jax.data import tfds_dataset
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.split import check_examples
from vaegan_jax.errors import UserError


@pytest.fixture(scope='module', params=['array_record', 'tfrecord'])
def folder(request, tmp_path_factory):
  """Where data sets lie prepared, in one of the two formats."""
  folder = tmp_path_factory.mktemp(request.param)
  for builder in (Measured, OnlyOne, Photos):
    builder(data_dir=folder).download_and_prepare(file_format=request.param)
  return folder


@pytest.mark.parametrize(
  ('feature', 'shape', 'channels', 'dtype'),
  [
    ('spectra', (7, 4), 5, np.uint16),
    ('zipped', (5, 6), 1, np.float32),
    ('sound', (32,), 1, np.float32),
  ],
)
def test_numbers_are_read_and_cut(feature, shape, channels, dtype, folder):
  dataset = open_dataset('measured', folder, feature=feature)
  middle = {
    'spectra': lambda i: (SPECTRA + i)[:, 1:5],
    'zipped': lambda i: (SPECTRA[..., 0] / 7 + i)[1:6],
    'sound': lambda i: sound(i)[(8 + i) // 2 :][:32],
  }[feature]
  expected = {middle(i).astype(dtype).tobytes() for i in range(9)}
  for cache in (False, True):
    split = load(
      dataset, 'train', shape=shape, channels=channels, cache_images=cache
    )
    assert split.dtype == dtype
    assert {example.tobytes() for example in everything(split)} == expected


def test_the_only_array_needs_no_name(folder):
  dataset = open_dataset('only_one', folder)
  assert dataset.feature == 'scan'
  assert (dataset.shape, dataset.dtype) == ((4, 4, 4), np.int16)


@pytest.mark.parametrize('feature', ['', 'label', 'number', 'no'])
def test_one_of_several_must_be_named(feature, folder):
  message = r"data\.feature='.*' must be one of 'sound', 'spectra', 'zipped'"
  with pytest.raises(UserError, match=message):
    open_dataset('measured', folder, feature=feature)


@pytest.mark.parametrize(
  ('changes', 'remedy'),
  [
    ({'shape': ()}, r'--config\.data\.shape="\(7, 6\)"'),
    ({'feature': 'sound'}, r'--config\.data\.sample_rate=8000'),
  ],
)
def test_fields_that_contradict_the_data_are_a_users_error(
  changes, remedy, folder
):
  fields = {'feature': 'spectra', 'shape': (7, 6), 'channels': 5} | changes
  dataset = open_dataset('measured', folder, **fields)
  with pytest.raises(UserError, match=remedy):
    check_examples(dataset, DataConfig('measured', **fields))


def test_examples_that_are_too_short_are_a_users_error(folder):
  split = load(
    open_dataset('measured', folder, feature='sound'),
    'train',
    shape=(45,),
    channels=1,
    cache_images=False,
  )
  with pytest.raises(UserError, match=r'is too short.*--config\.data\.shape='):
    everything(split)


@pytest.mark.parametrize(
  'split', ('train', 'test', 'train[25%:75%]', 'test+train[:2]', 'all')
)
def test_every_split_is_that_of_tfds(folder, split):
  dataset = open_dataset('photos', folder)
  images = load(dataset, split, cache_images=False)
  builder = Photos(data_dir=folder)
  expected = [record['image'] for record in _records(builder, split)]
  np.testing.assert_array_equal(everything(images), expected)
  backwards = np.arange(len(images))[::-1]
  np.testing.assert_array_equal(images[backwards], expected[::-1])
  np.testing.assert_array_equal(everything(load(dataset, split)), expected)


def _records(builder, split):
  if builder.info.file_format.value == 'array_record':
    return builder.as_data_source(split)
  return tfds.as_numpy(builder.as_dataset(split=split))


def test_both_formats_are_the_same_data_set(tmp_path):
  found = []
  for name in ('array_record', 'tfrecord'):
    Photos(data_dir=tmp_path / name).download_and_prepare(file_format=name)
    found.append(load(open_dataset('photos', tmp_path / name)))
  assert found[0].fingerprint == found[1].fingerprint
  np.testing.assert_array_equal(*map(everything, found))


@pytest.mark.parametrize('split', ('no', 'train[', 'train[:0]'))
def test_an_unknown_split_is_a_users_error(folder, split):
  with pytest.raises(UserError, match=r"it has the splits 'train', 'test'"):
    load(open_dataset('photos', folder), split)


@pytest.mark.parametrize('place', ('length', 'record', 'end'))
def test_damage_to_a_tfrecord_is_a_users_error(place, tmp_path):
  builder = Photos(data_dir=tmp_path)
  builder.download_and_prepare(file_format='tfrecord')
  (file,) = builder.data_path.glob('*-test.tfrecord*')
  damaged = bytearray(file.read_bytes())
  if place == 'end':
    del damaged[-9:]
  else:
    damaged[2 if place == 'length' else len(damaged) // 2] ^= 1
  file.write_bytes(damaged)
  images = load(open_dataset('photos', tmp_path), 'test', cache_images=False)
  with pytest.raises(UserError, match=r'cannot be read.*delete that folder'):
    everything(images)


def test_damage_to_an_array_record_is_a_users_error(tmp_path):
  dataset = open_dataset('photos', tmp_path)
  (file,) = dataset.cache_dir.glob('*-train.array_record*')
  data = bytearray(file.read_bytes())
  middle = len(data) // 2
  data[middle : middle + 1000] = bytes(1000)
  file.write_bytes(data)
  with pytest.raises(UserError, match=r'photos.*delete that folder'):
    load(dataset)


def test_data_is_prepared_once(tmp_path, monkeypatch):
  dataset = open_dataset('photos', tmp_path)
  monkeypatch.setattr(tfds_dataset, '_prepare', None)  # Would fail.
  assert open_dataset('photos', tmp_path).location == dataset.location


def test_a_crash_while_preparing_leaves_nothing_that_looks_prepared(tmp_path):
  for _ in range(2):
    with pytest.raises(UserError, match=r'ConnectionError: no route to host'):
      open_dataset('unreachable', tmp_path)
  assert not (tmp_path / 'unreachable' / '1.0.0').exists()


def test_data_prepared_in_another_format_is_a_users_error(tmp_path):
  info = open_dataset('photos', tmp_path).cache_dir / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'riegeli'))
  with pytest.raises(UserError, match=r'as riegeli; .*data\.data_dir'):
    open_dataset('photos', tmp_path)


def test_an_unknown_name_is_answered_with_the_closest_ones(tmp_path):
  with pytest.raises(UserError, match=r"'celeb_b'.*celeb_a"):
    open_dataset('celeb_b', tmp_path)
  with pytest.raises(UserError, match=r"'draw_faces'.*drawn_faces"):
    open_dataset('draw_faces', tmp_path)


@pytest.mark.parametrize('name', ['cifar10:9.9.9', 'cifar10/large', 'a b', ''])
def test_a_name_that_tfds_cannot_open_is_a_users_error(tmp_path, name):
  with pytest.raises(UserError, match=r'data\.name is'):
    open_dataset(name, tmp_path)
