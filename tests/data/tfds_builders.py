"""Small data sets of TFDS."""

import numpy as np
import tensorflow_datasets as tfds

SPECTRA = np.random.default_rng(0).integers(0, 999, (7, 6, 5), np.int64)
PIXELS = np.random.default_rng(0).integers(0, 256, (15, 8, 8, 3), np.uint8)


def sound(index):
  return np.arange(40 + index) * 100 + index


class Unreachable(tfds.core.GeneratorBasedBuilder):
  """A data set whose download fails, after something was written."""

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


class Measured(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Numbers of several kinds, beside other features."""

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
  """A data set with a single array."""

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


class Photos(tfds.core.GeneratorBasedBuilder):
  """Fifteen images, in two splits."""

  VERSION = tfds.core.Version('1.0.0')
  url_infos = None

  def _info(self):
    image = tfds.features.Image(shape=(8, 8, 3), encoding_format='png')
    features = tfds.features.FeaturesDict({'image': image})
    return tfds.core.DatasetInfo(builder=self, features=features)

  def _split_generators(self, dl_manager):
    ends = {'train': range(12), 'test': range(12, 15)}
    return {name: self._generate_examples(ends[name]) for name in ends}

  def _generate_examples(self, indices):
    for index in indices:
      yield index, {'image': PIXELS[index]}
