"""All examples of a split, decoded once into a memory-mapped file.

The file is NumPy's .npy, followed by the CRC32 of each example. Each example is
checked when it is first read, so that opening a large file takes no longer.
An example that a faulty disk has changed is decoded again.
"""

import os
import pathlib
import shutil
import time
import zlib
from typing import Any, BinaryIO

import numpy as np
from absl import logging

_CHUNK = 256  # Examples written at once.
_REPORT_SECONDS = 5
_CRC32 = np.dtype('<u4')
_MAX_USED = 0.95  # Share of the free bytes: a full disk breaks checkpoints.


class CachedExamples:
  """Examples in a file, each checked when it is first read."""

  def __init__(self, path: pathlib.Path, decoder: Any):
    """Opens a file that `is_whole`, with the `split.Images` of `decoder`."""
    values, self._crc32s = open_copy(path, decoder.shape, decoder.dtype)
    self._values = np.asarray(values)
    self._checked = np.zeros(len(values), bool)
    self._path = path
    self._decoder = decoder
    self.fingerprint = decoder.fingerprint
    self.dtype, self.stored_dtype = decoder.dtype, decoder.stored_dtype

  def __len__(self) -> int:
    return len(self._values)

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    """Returns the examples at `indices` [B] as [B, *S, C] of their dtype."""
    batch = self._values[indices]
    for row in np.flatnonzero(~self._checked[indices]):
      index = indices[row]
      if zlib.crc32(batch[row].data) == self._crc32s[index]:
        self._checked[index] = True
      else:
        batch[row] = self._decode(index)
    return batch

  def _decode(self, index: int) -> np.ndarray:
    logging.warning(
      'Example %d of %s is damaged: it is decoded again, and the next start '
      'decodes all of them.',
      index,
      self._path,
    )
    # Memory that is already mapped stays valid.
    self._path.unlink(missing_ok=True)
    return self._decoder[np.array([index])][0]


def is_whole(
  path: pathlib.Path, shape: tuple[int, ...], dtype: np.dtype
) -> bool:
  """Returns whether a file of values [N, *S, C] is complete; reads none."""
  if not path.exists():
    return False
  try:
    open_copy(path, shape, dtype)
    return True
  except Exception as error:  # NumPy parses its header as Python.
    logging.warning('%s is damaged (%s); decoding again.', path, error)
  return False


def open_copy(
  path: pathlib.Path, shape: tuple[int, ...], dtype: np.dtype
) -> tuple[np.memmap, np.ndarray]:
  """Opens a file; returns its values [N, *S, C], mapped, and CRC32s [N]."""
  values = np.load(path, mmap_mode='r', allow_pickle=False)
  if (values.shape, values.dtype) != (shape, dtype):
    raise ValueError(f'it is {values.dtype}{list(values.shape)}')
  crc32s = np.fromfile(path, _CRC32, offset=values.offset + values.nbytes)
  if len(crc32s) != len(values):
    raise ValueError(f'it has {len(crc32s)} of {len(values)} checksums')
  return values, crc32s


def write(decoder: Any, path: pathlib.Path, noun: str = 'examples') -> None:
  """Decodes all examples into `path`, which appears only when complete.

  Args:
    decoder: has the `shape` [N, *S, C] and the `dtype` of the examples, and
      returns some by their indices.
    path: the file.
    noun: of several examples, for messages.

  Raises:
    OSError: the disk has no room for it, or cannot be written.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  size = int(np.prod(decoder.shape)) * decoder.dtype.itemsize
  size += decoder.shape[0] * _CRC32.itemsize
  free = shutil.disk_usage(path.parent).free
  if size > _MAX_USED * free:
    raise OSError(f'{path} needs {size} bytes, of which {free} are free')
  # Several processes may decode at once; the last rename wins, with equal data.
  partial = path.with_name(f'{path.name}.{os.getpid()}-{time.time_ns()}')
  try:
    # A mapped file on a disk that fills up would end the process.
    with partial.open('wb') as file:
      _write_all(decoder, file, noun)
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)
  finally:
    partial.unlink(missing_ok=True)


def _write_all(decoder: Any, file: BinaryIO, noun: str) -> None:
  number, start = decoder.shape[0], time.monotonic()
  next_report = start + _REPORT_SECONDS
  crc32s = np.empty(number, _CRC32)
  descr = np.lib.format.dtype_to_descr(decoder.dtype)
  header = {'descr': descr, 'fortran_order': False, 'shape': decoder.shape}
  np.lib.format.write_array_header_1_0(file, header)
  for first in range(0, number, _CHUNK):
    done = min(first + _CHUNK, number)
    values = decoder[np.arange(first, done)]
    crc32s[first:done] = [zlib.crc32(example.data) for example in values]
    file.write(values.data)
    now = time.monotonic()
    if now >= next_report:
      next_report = now + _REPORT_SECONDS
      _print_progress(done, number, now - start, noun)
  file.write(crc32s.data)
  _print_progress(number, number, time.monotonic() - start, noun)


def _print_progress(done: int, total: int, seconds: float, noun: str) -> None:
  rate = done / seconds
  print(
    f'Decoded {done:,} of {total:,} {noun}, {rate:,.0f} {noun}/s, '
    f'{(total - done) / rate:.0f} s remaining.',
    flush=True,
  )
