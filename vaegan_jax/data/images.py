"""The images of one split: read, decoded once, and kept beside the data.

Images are uint8 on the host, arrays of the dtype of their files. Where there is
room, all are decoded into a memory map; elsewhere each is decoded when it is
asked for. `batches.py` says in which order they come.
"""

import functools
import hashlib
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from vaegan_jax.data import (
  arrays,
  bucket_datasets,
  datasets,
  decoded_cache,
  decoding,
  features,
)
from vaegan_jax.errors import UserError

_CACHE_VERSION = 1  # Raise it whenever `decode_image` changes its pixels.
_PREPARE_AGAIN = 'delete that folder to have the data prepared again.'


class Images(Protocol):
  """All images of one split, by index.

  `fingerprint` names the dataset, the split and the way it is decoded.
  """

  dtype: np.dtype
  fingerprint: str

  def __len__(self) -> int: ...

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    """Returns the images at `indices` [B] as [B, *S, C] of `dtype`."""


def load_splits(
  data: Mapping[str, Any], fields: Sequence[str], *, fill_bucket: bool = False
) -> list[Images]:
  """Prepares the dataset that a configuration describes; opens its splits.

  Args:
    data: the fields of `config.data`.
    fields: which splits: 'train_split', 'eval_split'.
    fill_bucket: as `bucket_datasets.open_dataset`.

  Returns:
    The images of each; with `data.random_crop_margin` their middles, of which
    `whole` has all that is read.

  Raises:
    UserError: as `bucket_datasets.open_dataset`, `datasets.check_array` and
      `load_images`.
  """
  sides, margin = _sides_of(data), data['random_crop_margin']
  read = tuple(side + margin for side in sides)
  builder = bucket_datasets.open_dataset(
    data,
    fill_bucket=fill_bucket,
    num_samples=read[0] if len(read) == 1 else 0,
  )
  features.check_array(builder.info, data)
  splits = [
    load_images(
      builder,
      data[field],
      sides=read,
      channels=data['channels'],
      center_crop=data['center_crop'],
      cache_images=data['cache_images'],
      field=f'data.{field}',
      feature=data['feature'],
    )
    for field in fields
  ]
  return [Middles(s, sides) for s in splits] if margin else splits


class Middles:
  """The middles of examples, by index, as all but training sees them.

  Attributes:
    whole: the same with what is around them, out of which training cuts a part.
  """

  def __init__(self, whole: Images, sides: Sequence[int]):
    """Takes examples.

    Args:
      whole: by index, [*S, C].
      sides: S' of their middles.
    """
    self.whole = whole
    self._sides = tuple(sides)
    self.dtype, self.fingerprint = whole.dtype, whole.fingerprint

  def __len__(self) -> int:
    return len(self.whole)

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    """Returns the middles at `indices` [B] as [B, *S', C] of `dtype`."""
    return np.ascontiguousarray(arrays.middle(self.whole[indices], self._sides))


def whole_of(images: Images) -> Images:
  """The examples with what is around their middles, if anything is read."""
  return images.whole if isinstance(images, Middles) else images


def _sides_of(data: Mapping[str, Any]) -> tuple[int, ...]:
  """As the configuration has it, in which this wing does not look things up."""
  pair = np.broadcast_to(data['image_size'], 2).tolist()
  return tuple(data['shape'] or pair)


def load_images(
  builder: tfds.core.DatasetBuilder,
  split: str,
  *,
  sides: tuple[int, ...],
  channels: int,
  center_crop: int = 0,
  cache_images: bool = True,
  field: str = 'data.train_split',
  feature: str = '',
) -> Images:
  """Opens a split of a prepared dataset.

  With `cache_images` every image is decoded once into a memory map beside the
  prepared data. Without it, or where the map has no room, images are decoded
  each time they are asked for.

  Args:
    builder: a prepared TFDS builder, as from `datasets.create_builder`.
    split: a TFDS split, such as 'train', 'train[:90%]' or 'train+test'.
    sides: S of the examples; (height, width) of images, in pixels.
    channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; of arrays any number.
    center_crop: the shorter side of what is cut from the middle; 0: all.
    cache_images: whether to keep the decoded images on disk.
    field: the configuration field that holds `split`, for the error message.
    feature: that holds the examples, as `features.find_feature` takes it.

  Returns:
    The images.

  Raises:
    UserError: the split is unknown or empty, or has no images, or such cannot
      be cut out of arrays.
  """
  feature = features.find_feature(builder.info, feature)
  source = datasets.open_split(builder, split, field, feature)
  decode, dtype = _create_decode(
    builder.info,
    feature,
    channels=channels,
    sides=sides,
    center_crop=center_crop,
  )
  shape = (len(source), *sides, channels)
  fingerprint = _fingerprint(builder.info, split, shape, center_crop, feature)
  images = _DecodedImages(source, feature, decode, fingerprint, shape, dtype)
  if not cache_images:
    return images
  slug = re.sub(r'\W+', '_', split).strip('_')
  size = 'x'.join(map(str, np.atleast_1d(arrays.short_sides(sides))))
  name = f'decoded-{slug}-{size}x{channels}-{fingerprint}.npy'
  path = pathlib.Path(builder.data_path) / name
  if not decoded_cache.is_whole(path, images.shape, dtype):
    try:
      decoded_cache.write(images, path)
    except OSError as error:
      logging.warning('Decoding on the fly: no image cache (%s).', error)
      return images
  return decoded_cache.CachedImages(path, images)


def _create_decode(
  info: tfds.core.DatasetInfo,
  feature: str,
  *,
  channels: int,
  sides: tuple[int, ...],
  center_crop: int,
) -> tuple[Callable[[Any], np.ndarray], np.dtype]:
  """What makes an example of what is stored, and the dtype that it has."""
  shape, dtype = features.array_of(info, feature)
  if dtype is None:
    decode = functools.partial(
      decoding.decode_image,
      channels=channels,
      image_size=sides,
      center_crop=center_crop,
    )
    return decode, np.dtype(np.uint8)
  known = tuple(length or max(sides) for length in shape)
  arrays.check_shape(known, channels=channels, sides=sides)
  decode = functools.partial(
    arrays.decode_array, channels=channels, sides=sides
  )
  return decode, dtype


def _fingerprint(
  info: tfds.core.DatasetInfo,
  split: str,
  shape: tuple[int, ...],
  center_crop: int,
  feature: str,
) -> str:
  """Names a dataset, one of its splits, and the way it is decoded."""
  count, *sides, channels = shape
  size = arrays.short_sides(sides)
  size = size if isinstance(size, int) else list(size)  # As it was a list.
  # No path and no time of a file: copies of a dataset are the same dataset.
  parts = (info.name, str(info.version), int(info.dataset_size), split)
  parts += (count, size, channels, center_crop, _CACHE_VERSION)
  # Of a folder, which may change without changing any of those.
  parts += ((info.metadata or {}).get('content_hash'),)
  if feature != 'image':
    parts += (feature,)
  return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


class _DecodedImages:
  """Images decoded each time they are asked for."""

  def __init__(self, source, feature, decode, fingerprint, shape, dtype):
    self._source, self._feature = source, feature
    self._name = source.dataset_info.data_dir
    self._decode = decode
    self.fingerprint = fingerprint
    self.shape = shape
    self.dtype = dtype

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    images = np.empty((len(indices), *self.shape[1:]), self.dtype)
    records = self._read([int(index) for index in indices])
    for row, (index, record) in enumerate(zip(indices, records, strict=True)):
      try:
        images[row] = self._decode(record[self._feature])
      except arrays.TooShort as error:
        raise UserError(
          f'Record {index} of {self._name} is too short, as {error}: take less '
          'of each, such as --config.data.shape="(64,)", or other data'
        ) from error
      except Exception as error:  # Pillow raises nearly anything.
        # A record of zeros has every field, and None in each.
        name = record.get('path') or record.get('file_name') or b''
        name = name.decode(errors='replace')
        raise UserError(
          f'Record {index} {name!r} of {self._name} does not decode as an '
          f'image ({type(error).__name__}: {error}); {_PREPARE_AGAIN}'
        ) from error
    return images

  def _read(self, indices: list[int]) -> list[dict]:
    try:
      return self._source.__getitems__(indices)
    except (RuntimeError, ValueError, OSError) as error:
      raise UserError(
        f'The prepared data of {self._name} is damaged near record '
        f'{indices[0]} ({error}); {_PREPARE_AGAIN}'
      ) from error
