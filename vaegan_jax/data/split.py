"""The examples of one split: read, decoded once, and kept in a memory map.

Examples on the host have the dtype of their files; photographs are uint8.
`batches.py` gives their order.
"""

import functools
import hashlib
import pathlib
import re
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any, Protocol

import numpy as np
from absl import logging

from vaegan_jax.data import array_shapes, arrays, cache, decode, sources
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.reading import TooShort
from vaegan_jax.data.source import Dataset
from vaegan_jax.data.store import Parts
from vaegan_jax.data.whole_arrays import open_crops
from vaegan_jax.errors import UserError

_CACHE_VERSION = 1  # Raise it whenever `decode_image` changes its pixels.


class Images(Protocol):
  """All examples of one split, by index."""

  dtype: np.dtype  # Float32 if NaN stands for no data.
  stored_dtype: np.dtype  # The files' own dtype.
  fingerprint: str  # Names the data set, the split and the way of decoding.

  def __len__(self) -> int: ...

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    """Returns the examples at `indices` [B] as [B, *S, C] of `dtype`."""


def load_splits(
  data: DataConfig,
  fields: Sequence[str],
  *,
  fill_bucket: bool = False,
  report: Callable[[str], None] = lambda line: None,
) -> list[Images]:
  """Opens splits of a data set, and prepares it first if necessary.

  Args:
    data: the fields of `config.data`.
    fields: 'train_split', 'eval_split' or both.
    fill_bucket: see `source.Source.open`.
    report: gets lines about the data set.

  Returns:
    The examples of each split. With `data.random_crop_margin` these are the
    middles of what is read, and `whole_of` returns all that is read.

  Raises:
    UserError: the data cannot be used, or contradicts the configuration.
  """
  dataset = sources.find(data.name).open(data, fill_bucket=fill_bucket)
  check_examples(dataset, data)
  for line in dataset.report(data):
    report(line)
  splits = [
    open_split(dataset, data, getattr(data, field), f'data.{field}')
    for field in fields
  ]
  if data.crop == 'random':
    for field, split in zip(fields, splits, strict=True):
      report(f'data.{field}: {split}.')
  if data.random_crop_margin:
    return [Middles(split, data.spatial_shape) for split in splits]
  return splits


def check_examples(dataset: Dataset, data: DataConfig) -> None:
  """Raises a UserError for a data set that contradicts its configuration.

  It may have images instead of arrays, the reverse, or another sample rate.
  """
  if data.shape and dataset.dtype is None:
    raise UserError(
      f'data.shape={data.shape} is for arrays, and data.name={data.name!r} '
      'has images, whose sides are data.image_size: for example, '
      '--config.data.image_size=64 --config.data.shape="()"'
    )
  if dataset.dtype is not None and not data.holds_arrays:
    shape = dataset.shape
    space = shape[:-1] if shape[-1] == data.channels else shape[:3]
    suggested = tuple(length or 64 for length in space or shape)
    raise UserError(
      f'data.shape=() must give the part to cut out of the arrays '
      f'{list(shape)} of data.name={data.name!r}: for example, '
      f'--config.data.shape="{suggested}"'
    )
  if dataset.sample_rate:
    _check_sounds(dataset, data)


def _check_sounds(dataset: Dataset, data: DataConfig) -> None:
  """Checks the rate of sounds, and channels where they could be mixed."""
  name, rate = f'data.name={data.name!r}', dataset.sample_rate
  is_converted = sources.find(data.name).has_conversion
  if rate != data.sample_rate:
    remedy = f'--config.data.sample_rate={rate}'
    remedy += ', or --config.data.resample=true' * is_converted
    raise UserError(
      f'data.sample_rate={data.sample_rate} must be {rate}, the samples per '
      f'second of {name}: {remedy}'
    )
  channels = dataset.shape[-1]
  if is_converted and channels != data.channels:
    raise UserError(
      f'data.channels={data.channels} must be {channels}, that of the sounds '
      f'of {name}: --config.data.channels={channels}, or '
      '--config.data.mix_channels=true'
    )


class Middles:
  """The middles [*S', C] of examples [*S, C], which evaluation reads."""

  def __init__(self, whole: Images, shape: Sequence[int]):
    """Wraps the examples `whole`; `shape` is S'."""
    self.whole = whole
    self._shape = tuple(shape)
    self.dtype, self.fingerprint = whole.dtype, whole.fingerprint
    self.stored_dtype = whole.stored_dtype

  def __len__(self) -> int:
    return len(self.whole)

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(arrays.middle(self.whole[indices], self._shape))


def whole_of(images: Images) -> Images:
  """Returns the examples with the margin of the random crop, if any."""
  return images.whole if isinstance(images, Middles) else images


def open_split(
  dataset: Dataset,
  data: DataConfig,
  split: str,
  field: str = 'data.train_split',
) -> Images:
  """Opens one split of a data set; see `Dataset.find_parts`.

  With `data.cache_images`, all examples are decoded once, into a memory map;
  without room for it, at each read.

  Raises:
    UserError: the split is unknown or empty, or the arrays do not contain such
      examples.
  """
  parts, axes = dataset.find_parts(split, field), ''
  reading, is_image = data.reading, dataset.dtype is None
  if is_image:
    function = decode.decoder(data, dataset.to_srgb)
  else:
    function, axes = _array_decoder(dataset, data)
  count = sum(end - first for _, first, end in parts)
  full_shape = (count, *data.read_shape, data.channels)
  masks = reading.masks and not is_image
  key = ((axes,) if axes else ()) + ('masked', reading.nodata) * masks
  key += (data.crop,) if data.crop != 'center' else ()
  key += reading.sound_key
  fingerprint = _fingerprint(dataset, split, full_shape, data.center_crop, key)
  path = None
  if data.cache_images and dataset.cache_dir:
    path = dataset.cache_dir / _copy_name(split, full_shape, fingerprint)
  if data.crop == 'random':
    return open_crops(dataset, data, parts, fingerprint, path)
  images = _Decoder(dataset, parts, function, fingerprint, full_shape, masks)
  return _cached(images, path, dataset) if path else images


def _copy_name(split: str, shape: tuple[int, ...], fingerprint: str) -> str:
  slug = re.sub(r'\W+', '_', split).strip('_')
  size = 'x'.join(map(str, np.atleast_1d(arrays.short_shape(shape[1:-1]))))
  return f'decoded-{slug}-{size}x{shape[-1]}-{fingerprint}.npy'


def _cached(images: '_Decoder', path: pathlib.Path, dataset: Dataset) -> Images:
  """Returns the examples of a decoded copy, which is written if necessary."""
  if not cache.is_whole(path, images.shape, images.dtype):
    try:
      cache.write(images, path)
    except OSError as error:
      logging.warning('Decoding at each read, without a cache (%s).', error)
      return images
    dataset.close()
  return cache.CachedExamples(path, images)


def _array_decoder(
  dataset: Dataset, data: DataConfig
) -> tuple[Callable[[Any], np.ndarray], str]:
  """Returns the function that decodes an array, and axes for fingerprints."""
  shape, reading = data.read_shape, data.reading
  options = {'channels': data.channels, 'shape': shape}
  known = tuple(length or max(shape) for length in dataset.shape)
  axes = '' if dataset.sample_rate else reading.axes or dataset.axes
  array_shapes.check_shape(
    known,
    **options,
    axes=axes,
    rules=reading.rules,
    in_folder=dataset.name == 'array_folder',
  )
  function = functools.partial(arrays.decode_array, **options, reading=reading)
  # Else axes do not matter, as channels are where unknown axes have them.
  is_unnamed = 'C' not in axes and len(known) == len(shape) + 1
  matter = axes and is_unnamed and known[-1] == data.channels
  return function, axes if matter else reading.axes


def _fingerprint(
  dataset: Dataset,
  split: str,
  shape: tuple[int, ...],
  center_crop: int,
  key: tuple[str, ...],
) -> str:
  """Returns a name for a data set, a split of it and the way of decoding."""
  count, *space, channels = shape
  size = arrays.short_shape(space)
  size = size if isinstance(size, int) else list(size)
  # Paths and times of files are absent: a copy of a data set is the same one.
  parts = (dataset.name, dataset.version, dataset.num_bytes, split)
  parts += (count, size, channels, center_crop, _CACHE_VERSION)
  # A folder may change without changing any of these.
  parts += (dataset.content_hash,)
  if dataset.feature != 'image':
    parts += (dataset.feature,)
  if dataset.to_srgb:
    parts += ('srgb',)
  parts += (*dataset.reading_key, *key)
  return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


class _Decoder:
  """Examples that are decoded at each read, several at a time."""

  def __init__(self, dataset, parts, function, fingerprint, shape, masks):
    self._dataset, self._parts = dataset, parts
    self._numbers = Parts(end - first for _, first, end in parts)
    self._function = function
    self._pool = futures.ThreadPoolExecutor(thread_name_prefix='decode')
    self.fingerprint = fingerprint
    self.shape = shape
    dtype = np.dtype(np.uint8 if dataset.dtype is None else dataset.dtype)
    self.stored_dtype = dtype
    self.dtype = np.dtype(np.float32) if masks else dtype

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    images = np.empty((len(indices), *self.shape[1:]), self.dtype)
    found = self._pool.map(self._read, [int(index) for index in indices])
    for row, image in enumerate(found):
      images[row] = image
    return images

  def _read(self, index: int) -> np.ndarray:
    part, place = self._numbers.find(index)
    split, first, _ = self._parts[part]
    dataset, place = self._dataset, first + place
    try:
      (stored,) = dataset.read(split, [place])
    except (RuntimeError, ValueError, OSError) as error:
      raise dataset.error(split, place, 'cannot be read', error) from error
    try:
      return self._function(stored)
    except TooShort as error:
      raise UserError(
        f'{dataset.describe(split, place)} in {dataset.location} is too short, '
        f'as {error}: take less of each, such as '
        '--config.data.shape="(64,)", or other data'
      ) from error
    except Exception as error:  # Pillow raises nearly anything.
      raise dataset.error(split, place, 'cannot be decoded', error) from error
