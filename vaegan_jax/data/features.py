"""Which feature of a dataset's records is the example, and what it holds.

Images are files in a feature of TFDS's kind `Image`; arrays are the files of a
folder, and of TFDS's own datasets the numbers of a `Tensor` or an `Audio`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from vaegan_jax.errors import UserError


def find_feature(info: tfds.core.DatasetInfo, name: str = '') -> str:
  """The feature that holds the examples.

  Args:
    info: of a prepared dataset.
    name: of the feature; '': 'image', or else the only one of numbers.

  Returns:
    Its name.

  Raises:
    UserError: there is none of that name, none at all, or several.
  """
  known = sorted(key for key in info.features if _holds_examples(info, key))
  if name in known:
    return name
  if not name and 'image' in info.features:
    return 'image'
  if not name and len(known) == 1:
    return known[0]
  if not known:
    raise UserError(
      f'data.name is {info.name!r}, whose records have no "image", and no '
      'array of numbers; use a dataset of images, such as "cifar10".'
    )
  raise UserError(
    f'data.feature={name!r} must be one of {", ".join(map(repr, known))}, the '
    f'images and arrays of data.name={info.name!r}: for example, '
    f'--config.data.feature={known[0]}'
  )


def _holds_examples(info: tfds.core.DatasetInfo, name: str) -> bool:
  return isinstance(info.features[name], tfds.features.Image) or is_tensor(
    info, name
  )


def is_tensor(info: tfds.core.DatasetInfo, name: str) -> bool:
  """Whether a feature is an array of numbers, and no label or text.

  Args:
    info: of a prepared dataset.
    name: of the feature.
  """
  feature = info.features[name]  # Labels and texts are of kinds below these.
  is_one = type(feature) in (tfds.features.Tensor, tfds.features.Audio)
  return (
    is_one and bool(feature.shape) and np.dtype(feature.np_dtype).kind in 'buif'
  )


def array_of(
  info: tfds.core.DatasetInfo, name: str
) -> tuple[tuple[int | None, ...], np.dtype | None]:
  """The shape and dtype of examples that are arrays; (), None of images.

  Args:
    info: of a prepared dataset.
    name: of the feature that holds them.

  Returns:
    The shape, None where lengths differ, and the dtype: what has 64 bits is
    float32, in which the device computes.
  """
  if is_tensor(info, name):
    feature = info.features[name]
    dtype = np.dtype(feature.np_dtype)
    if dtype.kind == 'b':
      dtype = np.dtype(np.uint8)
    is_wide = dtype.itemsize > 4
    return tuple(feature.shape), np.dtype(np.float32) if is_wide else dtype
  metadata = info.metadata or {}
  if 'dtype' not in metadata:
    return (), None
  return tuple(metadata['shape']), np.dtype(metadata['dtype'])


def check_array(info: tfds.core.DatasetInfo, data: Mapping[str, Any]) -> None:
  """Checks that a dataset is of what its configuration says that it is.

  Args:
    info: of a prepared dataset.
    data: the fields of `config.data`.

  Raises:
    UserError: it has images, and the configuration is of arrays, or it has
      arrays, and the configuration is of images, or sounds of another sample
      rate.
  """
  name = find_feature(info, data['feature'])
  shape, dtype = array_of(info, name)
  if data['shape'] and dtype is None:
    raise UserError(
      f'data.shape={tuple(data["shape"])} is of arrays, and data.name='
      f'{data["name"]!r} of images, whose sides are data.image_size: for '
      'example, --config.data.image_size=64 --config.data.shape="()"'
    )
  if is_tensor(info, name) and not data['shape']:
    space = shape[:-1] if shape[-1] == data['channels'] else shape[:3]
    sides = tuple(side or 64 for side in space or shape)
    raise UserError(
      f'data.shape=() must say how much is cut out of the arrays {list(shape)} '
      f'of data.name={data["name"]!r}: for example, '
      f'--config.data.shape="{sides}"'
    )
  _check_rate(info, name, data)


def _check_rate(info, name: str, data: Mapping[str, Any]) -> None:
  rate = getattr(info.features[name], 'sample_rate', None)
  rate = rate or dict(info.metadata or {}).get('sample_rate')
  if rate and rate != data['sample_rate']:
    raise UserError(
      f'data.sample_rate={data["sample_rate"]} must be {rate}, the samples a '
      f'second of data.name={data["name"]!r}: --config.data.sample_rate={rate}'
    )


class Tensors(Sequence):
  """Records of which one feature alone is decoded, by index."""

  def __init__(
    self, info: tfds.core.DatasetInfo, records: Sequence[bytes], name: str
  ):
    """Decodes nothing yet.

    Args:
      info: of the dataset.
      records: as they are stored.
      name: of the feature.
    """
    self.dataset_info = info
    self._records = records
    part = tfds.decode.PartialDecoding({name: True})
    self._features = part.extract_features(info.features)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> dict:
    return self.__getitems__([index])[0]

  def __getitems__(self, indices: Sequence[int]) -> list[dict]:
    """Returns the records at these places, with that feature."""
    return [
      self._features.deserialize_example_np(record)
      for record in self._records.__getitems__(indices)
    ]
