"""All images of a split, decoded once into a file that is mapped into memory.

The file is NumPy's .npy, behind whose pixels comes the CRC32 of each image. An
image is checked when it is first read: opening takes no longer for more of
them, and what a damaged disk has changed is decoded again.
"""

import os
import pathlib
import shutil
import time
import zlib
from typing import Protocol

import numpy as np
from absl import logging

_CHUNK = 256  # Images written at once.
_REPORT_SECONDS = 5
_CRC32 = np.dtype('<u4')


class DecodedImages(Protocol):
  """Images that are decoded when they are asked for."""

  shape: tuple[int, ...]  # [N, S, S, C]
  dtype: np.dtype
  fingerprint: str

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    """Returns the images at `indices` [B] as [B, S, S, C] of that dtype."""


class CachedImages:
  """Images in a file, each of which is checked when it is first read."""

  def __init__(self, path: pathlib.Path, images: DecodedImages):
    """Opens a file.

    Args:
      path: of the file, which `is_whole`.
      images: that were written into it.
    """
    pixels, self._crc32s = _open(path, images.shape, images.dtype)
    self._pixels = np.asarray(pixels)
    self._whole = np.zeros(len(pixels), bool)  # So far as it is known.
    self._path = path
    self._images = images
    self.fingerprint = images.fingerprint
    self.dtype = images.dtype

  def __len__(self) -> int:
    return len(self._pixels)

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    """Returns the images at `indices` [B] as [B, S, S, C] of their dtype.

    Raises:
      UserError: one that is damaged cannot be decoded again.
    """
    batch = self._pixels[indices]
    for row in np.flatnonzero(~self._whole[indices]):
      index = indices[row]
      if zlib.crc32(batch[row].data) == self._crc32s[index]:
        self._whole[index] = True
      else:
        batch[row] = self._decode(index)
    return batch

  def _decode(self, index: int) -> np.ndarray:
    logging.warning(
      'Image %d of %s is damaged: decoded again, as all of them will be by the '
      'next start.',
      index,
      self._path,
    )
    # What is mapped already stays, under no name.
    self._path.unlink(missing_ok=True)
    return self._images[np.array([index])][0]


def is_whole(
  path: pathlib.Path, shape: tuple[int, ...], dtype: np.dtype
) -> bool:
  """Whether the file is there, and has everything; its pixels are not read.

  Args:
    path: of the file.
    shape: [N, S, S, C] that it must have.
    dtype: of its pixels.
  """
  if not path.exists():
    return False
  try:
    _open(path, shape, dtype)
    return True
  except Exception as error:  # NumPy parses its header as Python.
    logging.warning('%s is damaged (%s); decoding again.', path, error)
  return False


def _open(
  path: pathlib.Path, shape: tuple[int, ...], dtype: np.dtype
) -> tuple[np.memmap, np.ndarray]:
  """Returns the pixels [N, S, S, C], mapped, and the CRC32s [N].

  Raises:
    ValueError: the file has something else.
  """
  pixels = np.load(path, mmap_mode='r', allow_pickle=False)
  if (pixels.shape, pixels.dtype) != (shape, dtype):
    raise ValueError(f'it is {pixels.dtype}{list(pixels.shape)}')
  crc32s = np.fromfile(path, _CRC32, offset=pixels.offset + pixels.nbytes)
  if len(crc32s) != len(pixels):
    raise ValueError(f'it has {len(crc32s)} of {len(pixels)} checksums')
  return pixels, crc32s


def write(images: DecodedImages, path: pathlib.Path) -> None:
  """Decodes all images into `path`, which appears only when it is complete.

  Args:
    images: to decode.
    path: of the file.

  Raises:
    OSError: the disk has no room for it, or cannot be written.
    UserError: an image cannot be decoded.
  """
  number = images.shape[0]
  size = int(np.prod(images.shape)) * images.dtype.itemsize
  size += number * _CRC32.itemsize
  free = shutil.disk_usage(path.parent).free
  if size > 0.95 * free:  # A full disk would break the checkpoints, too.
    raise OSError(f'{path} needs {size} bytes, of which {free} are free')
  # Several processes may decode at once; the last rename wins, with equal data.
  partial = path.with_name(f'{path.name}.{os.getpid()}-{time.time_ns()}')
  start = time.monotonic()
  next_report = start + _REPORT_SECONDS
  crc32s = np.empty(number, _CRC32)
  try:
    # Written, not mapped: on a disk that fills up, a map ends the process.
    with partial.open('wb') as file:
      descr = np.lib.format.dtype_to_descr(images.dtype)
      header = {'descr': descr, 'fortran_order': False, 'shape': images.shape}
      np.lib.format.write_array_header_1_0(file, header)
      for first in range(0, number, _CHUNK):
        done = min(first + _CHUNK, number)
        pixels = images[np.arange(first, done)]
        crc32s[first:done] = [zlib.crc32(image.data) for image in pixels]
        file.write(pixels.data)
        now = time.monotonic()
        if now >= next_report:
          next_report = now + _REPORT_SECONDS
          _print_progress(done, number, now - start)
      file.write(crc32s.data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)
  _print_progress(number, number, time.monotonic() - start)


def _print_progress(done: int, total: int, seconds: float) -> None:
  rate = done / seconds
  print(
    f'Decoded {done:,} of {total:,} images, {rate:,.0f} images/s, '
    f'{(total - done) / rate:.0f} s remaining.',
    flush=True,
  )
