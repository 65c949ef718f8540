"""Small data sets of TFDS."""

import numpy as np
import tensorflow_datasets as tfds

SPECTRA = np.random.default_rng(0).integers(0, 999, (7, 6, 5), np.int64)
PIXELS = np.random.default_rng(0).integers(0, 256, (15, 8, 8, 3), np.uint8)


def sound(index):
  return np.arange(40 + index) * 100 + index


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A data set with one split, unless a subclass has others."""

  VERSION = tfds.core.Version('1.0.0')
  url_infos = None

  def kinds(self):
    """Returns the features by name."""
    return {'label': np.int32}

  def _info(self):
    features = tfds.features.FeaturesDict(self.kinds())
    return tfds.core.DatasetInfo(builder=self, features=features)

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(range(9))}


class Unreachable(Builder):
  """A data set whose download fails, after something was written."""

  def _generate_examples(self, indices):
    yield 0, {'label': 0}
    raise ConnectionError('no route to host')


class Measured(Builder, skip_registration=True):
  """Numbers of several kinds, beside other features."""

  def kinds(self):
    tensor = tfds.features.Tensor
    return {
      'spectra': tensor(shape=(7, 6, 5), dtype=np.uint16),
      'zipped': tensor(shape=(7, 6), dtype=np.float32, encoding='zlib'),
      'sound': tfds.features.Audio(sample_rate=8_000),
      'number': tensor(shape=(), dtype=np.int32),
      'label': tfds.features.ClassLabel(num_classes=3),
      'nested': {'text': tfds.features.Text()},
    }

  def _generate_examples(self, indices):
    for index in indices:
      example = {
        'spectra': (SPECTRA + index).astype(np.uint16),
        'zipped': (SPECTRA[..., 0] / 7 + index).astype(np.float32),
        'sound': sound(index),
        'number': index,
        'label': index % 3,
        'nested': {'text': 'a'},
      }
      yield index, example


class OnlyOne(Builder, skip_registration=True):
  """A data set with a single array."""

  def kinds(self):
    scan = tfds.features.Tensor(shape=(4, 4, 4), dtype=np.int16)
    return {'scan': scan, 'label': tfds.features.ClassLabel(num_classes=3)}

  def _generate_examples(self, indices):
    for index in indices:
      scan = np.full((4, 4, 4), -index, np.int16)
      yield index, {'scan': scan, 'label': 1}


class Photos(Builder):
  """Fifteen images, in two splits."""

  def kinds(self):
    image = tfds.features.Image(shape=(8, 8, 3), encoding_format='png')
    return {'image': image}

  def _split_generators(self, dl_manager):
    ends = {'train': range(12), 'test': range(12, 15)}
    return {name: self._generate_examples(ends[name]) for name in ends}

  def _generate_examples(self, indices):
    for index in indices:
      yield index, {'image': PIXELS[index]}
