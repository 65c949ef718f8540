"""From a prepared dataset to batches: decoding, caching, order and flips.

Images are uint8 on the host and become float32 in [-1, 1] on the device. The
batch of a training step is a pure function of the seed, the step and the
process, so resuming at any step costs the same and repeats the same bits.
"""

import functools
import hashlib
import os
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import grain
import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from vaegan_jax.data import datasets, decoding
from vaegan_jax.errors import UserError

_CACHE_VERSION = 1  # Raise it whenever `decode_image` changes its pixels.
_CHUNK = 256  # Images written to the cache at once.
_REPORT_SECONDS = 5
_PREPARE_AGAIN = 'delete that folder to have the data prepared again.'
_PREFETCH = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)


class Images(Protocol):
  """All images of one split, by index.

  `fingerprint` names the dataset, the split and the way it is decoded.
  """

  fingerprint: str

  def __len__(self) -> int: ...

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    """Returns the images at `indices` [B] as [B, S, S, C] uint8."""


# All images of a split.


def load_splits(data: Mapping[str, Any], fields: Sequence[str]) -> list[Images]:
  """Prepares the dataset that a configuration describes; opens its splits.

  Args:
    data: the fields of `config.data`.
    fields: which splits: 'train_split', 'eval_split'.

  Returns:
    The images of each.

  Raises:
    UserError: as `datasets.create_builder` and `load_images`.
  """
  builder = datasets.create_builder(
    data['name'], path=data['path'], data_dir=data['data_dir']
  )
  return [
    load_images(
      builder,
      data[field],
      image_size=data['image_size'],
      channels=data['channels'],
      center_crop=data['center_crop'],
      cache_images=data['cache_images'],
      field=f'data.{field}',
    )
    for field in fields
  ]


def load_images(
  builder: tfds.core.DatasetBuilder,
  split: str,
  *,
  image_size: int,
  channels: int,
  center_crop: int = 0,
  cache_images: bool = True,
  field: str = 'data.train_split',
) -> Images:
  """Opens a split of a prepared dataset.

  With `cache_images` every image is decoded once into a uint8 memory map
  beside the prepared data. Without it, or where the map has no room, images
  are decoded each time they are asked for.

  Args:
    builder: a prepared TFDS builder, as from `datasets.create_builder`.
    split: a TFDS split, such as 'train', 'train[:90%]' or 'train+test'.
    image_size: the side of the images, in pixels.
    channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
    center_crop: the side of the square cut from the middle; 0: the largest.
    cache_images: whether to keep the decoded images on disk.
    field: the configuration field that holds `split`, for the error message.

  Returns:
    The images.

  Raises:
    UserError: the split is unknown or empty, or has no images.
  """
  source = datasets.open_split(builder, split, field)
  decode = functools.partial(
    decoding.decode_image,
    channels=channels,
    image_size=image_size,
    center_crop=center_crop,
  )
  info = builder.info
  # No path and no time of a file: copies of a dataset are the same dataset.
  parts = (info.name, str(info.version), int(info.dataset_size), split)
  parts += (len(source), image_size, channels, center_crop, _CACHE_VERSION)
  # Of a folder, which may change without changing any of those.
  parts += ((info.metadata or {}).get('content_hash'),)
  fingerprint = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
  images = _DecodedImages(
    source, decode, fingerprint, (image_size, image_size, channels)
  )
  if not cache_images:
    return images
  slug = re.sub(r'\W+', '_', split).strip('_')
  name = f'decoded-{slug}-{image_size}x{channels}-{fingerprint}.npy'
  path = pathlib.Path(builder.data_path) / name
  if not _is_whole(path, images.shape):
    try:
      _write_cache(images, path)
    except OSError as error:
      logging.warning('Decoding on the fly: no image cache (%s).', error)
      return images
  return _CachedImages(path, fingerprint)


class _DecodedImages:
  """Images decoded each time they are asked for."""

  def __init__(self, source, decode, fingerprint, shape):
    self._source = source
    self._name = source.dataset_info.data_dir
    self._decode = decode
    self.fingerprint = fingerprint
    self.shape = (len(source), *shape)

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    images = np.empty((len(indices), *self.shape[1:]), np.uint8)
    records = self._read([int(index) for index in indices])
    for row, (index, record) in enumerate(zip(indices, records, strict=True)):
      try:
        images[row] = self._decode(record['image'])
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


class _CachedImages:
  """Images in a memory map on disk."""

  def __init__(self, path: pathlib.Path, fingerprint: str):
    pixels = np.load(path, mmap_mode='r', allow_pickle=False)
    self._pixels = np.asarray(pixels)
    self.fingerprint = fingerprint

  def __len__(self) -> int:
    return len(self._pixels)

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    return self._pixels[indices]


def _is_whole(path: pathlib.Path, shape: tuple[int, ...]) -> bool:
  """Whether the cache is there, and has all the pixels."""
  if not path.exists():
    return False
  try:
    pixels = np.load(path, mmap_mode='r', allow_pickle=False)
    if (pixels.shape, pixels.dtype) == (shape, np.uint8):
      return True
    reason = f'it is {pixels.dtype}{list(pixels.shape)}'
  except Exception as error:  # NumPy parses its header as Python.
    reason = error
  logging.warning('%s is damaged (%s); decoding again.', path, reason)
  return False


def _write_cache(images: _DecodedImages, path: pathlib.Path) -> None:
  """Decodes all images into `path`, which appears only when it is complete."""
  size, free = int(np.prod(images.shape)), shutil.disk_usage(path.parent).free
  if size > 0.95 * free:  # A full disk would break the checkpoints, too.
    raise OSError(f'{path} needs {size} bytes, of which {free} are free')
  # Several processes may decode at once; the last rename wins, with equal data.
  partial = path.with_name(f'{path.name}.{os.getpid()}-{time.time_ns()}')
  start = time.monotonic()
  next_report = start + _REPORT_SECONDS
  try:
    # Written, not mapped: on a disk that fills up, a map ends the process.
    with partial.open('wb') as file:
      header = {'descr': '|u1', 'fortran_order': False, 'shape': images.shape}
      np.lib.format.write_array_header_1_0(file, header)
      for first in range(0, len(images), _CHUNK):
        done = min(first + _CHUNK, len(images))
        file.write(images[np.arange(first, done)].data)
        now = time.monotonic()
        if now >= next_report:
          next_report = now + _REPORT_SECONDS
          _print_progress(done, len(images), now - start)
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)
  _print_progress(len(images), len(images), time.monotonic() - start)


def _print_progress(done: int, total: int, seconds: float) -> None:
  rate = done / seconds
  print(
    f'Decoded {done:,} of {total:,} images, {rate:,.0f} images/s, '
    f'{(total - done) / rate:.0f} s remaining.',
    flush=True,
  )


# Batches.


def create_batches(
  images: Images,
  *,
  seed: int,
  batch_size: int,
  num_devices: int,
  num_parts: int = 1,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[np.ndarray]:
  """Returns this process's part of the training batches, without end.

  Each epoch is a new permutation of all images; batches run across the border
  of two epochs. The parts of processes 0, 1, ... concatenate to the batch that
  a single process would get.

  Args:
    images: the training images.
    seed: fixes the order.
    batch_size: images a part, over all processes; divisible by their devices.
    num_devices: this process's devices (D).
    num_parts: batches a step (K), each shared out over the devices.
    start_step: the last finished step; the first batch is that of the next.
    process_index: which process this is.
    process_count: the number of processes.

  Returns:
    An iterator of [D, K B, S, S, C] uint8, with B images of each part for each
    device, part after part.

  Raises:
    UserError: the batch cannot be shared out evenly.
  """
  total_devices = num_devices * process_count
  if batch_size < 1 or batch_size % total_devices:
    raise UserError(
      f'batch_size is {batch_size}, which {total_devices} devices cannot share '
      f'evenly; use a multiple of {total_devices}, such as '
      f'{max(1, round(batch_size / total_devices)) * total_devices}.'
    )
  batches = _Batches(
    images,
    seed,
    batch_size,
    num_devices,
    num_parts,
    process_index,
    process_count,
  )
  return iter(batches[start_step:].to_iter_dataset(_PREFETCH))


class _Batches(grain.MapDataset):
  """The batches of all steps, by number from 0; every one a whole element.

  The order is NumPy's permutation, one an epoch: it is several times faster
  than grain's shuffle, which computes one index at a time, and grain's order
  has changed between its releases.
  """

  def __init__(
    self,
    images,
    seed,
    batch_size,
    num_devices,
    num_parts,
    process_index,
    process_count,
  ):
    super().__init__()
    self._images = images
    self._seed = seed
    self._batch_size = batch_size
    self._num_devices = num_devices
    self._num_parts = num_parts
    self._local_size = batch_size // process_count
    self._offset = process_index * self._local_size
    self._order = functools.lru_cache(maxsize=2)(self._permute)

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.slice(index)
    parts = np.arange(index * self._num_parts, (index + 1) * self._num_parts)
    firsts = parts * self._batch_size + self._offset
    sequence = firsts[:, None] + np.arange(self._local_size)
    # [K, D, B] to [D, K, B]: a device has its share of every part.
    sequence = sequence.reshape(self._num_parts, self._num_devices, -1)
    sequence = sequence.transpose(1, 0, 2).reshape(-1)
    epochs, places = np.divmod(sequence, len(self._images))
    indices = np.empty_like(places)
    for epoch in np.unique(epochs):
      chosen = epochs == epoch
      indices[chosen] = self._order(int(epoch))[places[chosen]]
    batch = self._images[indices]
    return batch.reshape(self._num_devices, -1, *batch.shape[1:])

  def _permute(self, epoch: int) -> np.ndarray:
    rng = np.random.default_rng((self._seed, epoch))
    return rng.permutation(len(self._images))


# On the device.


def to_float(images: jax.Array) -> jax.Array:
  """Maps [..., H, W, C] uint8 in [0, 255] to float32 in [-1, 1]."""
  return jnp.asarray(images, jnp.float32) / 127.5 - 1.0


def random_flip(images: jax.Array, flip: jax.Array) -> jax.Array:
  """Mirrors left and right the images whose own bit is set.

  Args:
    images: [B, H, W, C], of any type.
    flip: [B] bool.

  Returns:
    [B, H, W, C].
  """
  return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)
