"""Datasets of TFDS whose examples are numbers: found, read, cut, refused."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vaegan_jax.data import datasets, features, images
from vaegan_jax.errors import UserError

SPECTRA = np.random.default_rng(0).integers(0, 999, (7, 6, 5), np.int64)


def sound(index):
  return np.arange(40 + index) * 100 + index


class Measured(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Numbers of several kinds, beside what is no example."""

  VERSION = tfds.core.Version('1.0.0')
  url_infos = None

  def _info(self):
    tensor, audio = tfds.features.Tensor, tfds.features.Audio
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          'spectra': tensor(shape=(7, 6, 5), dtype=np.uint16),
          'zipped': tensor(shape=(7, 6), dtype=np.float32, encoding='zlib'),
          'sound': audio(sample_rate=8_000),
          'number': tensor(shape=(), dtype=np.int32),
          'label': tfds.features.ClassLabel(num_classes=3),
          'nested': {'text': tfds.features.Text()},
        }
      ),
    )

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(range(9))}

  def _generate_examples(self, indices):
    for index in indices:
      yield (
        index,
        {
          'spectra': (SPECTRA + index).astype(np.uint16),
          'zipped': (SPECTRA[..., 0] / 7 + index).astype(np.float32),
          'sound': sound(index),
          'number': index,
          'label': index % 3,
          'nested': {'text': 'a'},
        },
      )


class OnlyOne(Measured, skip_registration=True):
  """With a single array, whose name nobody has to know."""

  def _info(self):
    tensor = tfds.features.Tensor(shape=(4, 4, 4), dtype=np.int16)
    label = tfds.features.ClassLabel(num_classes=3)
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict({'scan': tensor, 'label': label}),
    )

  def _generate_examples(self, indices):
    for index in indices:
      scan = np.full((4, 4, 4), -index, np.int16)
      yield index, {'scan': scan, 'label': 1}


@pytest.fixture(scope='module', params=['array_record', 'tfrecord'])
def opened(request, tmp_path_factory):
  """(name) -> the prepared dataset, as `create_builder` opens it."""
  folder = str(tmp_path_factory.mktemp(request.param))
  for builder in (Measured, OnlyOne):
    builder(data_dir=folder).download_and_prepare(file_format=request.param)
  return lambda name: datasets.create_builder(name, data_dir=folder)


@pytest.mark.parametrize(
  ('feature', 'sides', 'channels', 'dtype'),
  [
    ('spectra', (7, 4), 5, np.uint16),
    ('zipped', (5, 6), 1, np.float32),
    ('sound', (32,), 1, np.float32),
  ],
)
@pytest.mark.parametrize('cache_images', [False, True])
def test_numbers_are_read_and_cut(
  feature, sides, channels, dtype, cache_images, opened
):
  split = images.load_images(
    opened('measured'),
    'train',
    sides=sides,
    channels=channels,
    feature=feature,
    cache_images=cache_images,
  )
  assert split.dtype == dtype
  found = {example.tobytes() for example in split[np.arange(9)]}
  middle = {
    'spectra': lambda i: (SPECTRA + i)[:, 1:5],
    'zipped': lambda i: (SPECTRA[..., 0] / 7 + i)[1:6],
    'sound': lambda i: sound(i)[(8 + i) // 2 :][:32],
  }[feature]
  assert found == {middle(i).astype(dtype).tobytes() for i in range(9)}


def test_the_only_array_needs_no_name(opened):
  info = opened('only_one').info
  assert features.find_feature(info) == 'scan'
  assert features.array_of(info, 'scan') == ((4, 4, 4), np.int16)


@pytest.mark.parametrize('feature', ['', 'label', 'number', 'no'])
def test_of_several_one_must_be_named(feature, opened):
  told = r"data\.feature='.*' must be one of 'sound', 'spectra', 'zipped'"
  with pytest.raises(UserError, match=told):
    features.find_feature(opened('measured').info, feature)


@pytest.mark.parametrize(
  ('changes', 'told'),
  [
    ({'shape': ()}, r'--config\.data\.shape="\(7, 6\)"'),
    ({'feature': 'sound'}, r'--config\.data\.sample_rate=8000'),
  ],
)
def test_what_the_fields_contradict_is_one_sentence(changes, told, opened):
  data = {'name': 'measured', 'feature': 'spectra', 'shape': (7, 6)}
  data |= {'channels': 5, 'sample_rate': 16_000} | changes
  with pytest.raises(UserError, match=told):
    features.check_array(opened('measured').info, data)


def test_examples_that_are_too_short_are_one_sentence(opened):
  split = images.load_images(
    opened('measured'),
    'train',
    sides=(45,),
    channels=1,
    feature='sound',
    cache_images=False,
  )
  with pytest.raises(
    UserError, match=r'is too short, as it has \[4\d\] places'
  ):
    split[np.arange(9)]
