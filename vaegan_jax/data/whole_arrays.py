"""The arrays of a data set that crops are taken from.

Files whose values lie as in memory are read in place. Others are decoded once,
into one memory map with checksums. Axes: S one to three of space, C
channels.
"""

import bisect
import itertools
import math
import pathlib
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from vaegan_jax.data import arrays, cache
from vaegan_jax.data.crops import Crops
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.slices import Sliced, Values, marked
from vaegan_jax.data.source import Dataset
from vaegan_jax.data.store import Recent
from vaegan_jax.errors import UserError, describe_error

_ROW = 2**16  # Values with one checksum.


def open_crops(
  dataset: Dataset,
  data: DataConfig,
  parts: Sequence[tuple[str, int, int]],
  fingerprint: str,
  path: pathlib.Path | None,
) -> Crops:
  """Opens the crops of one split.

  Args:
    dataset, data: an opened source, and its settings.
    parts: (name, first, end) for each part of the split.
    fingerprint: see `split.Images`.
    path: file for the decoded copy; None if there is to be none.

  Raises:
    UserError: the copy cannot be written.
  """
  places = [(name, i) for name, first, end in parts for i in range(first, end)]
  facts = [dataset.whole(*place) for place in places]
  copied = [n for n, fact in enumerate(facts) if not fact.in_place]
  in_copy = {n: number for number, n in enumerate(copied)}

  if copied:
    copy = _Copy(
      path,
      [(*facts[n].space, data.channels) for n in copied],
      dataset.dtype,
      lambda number: _decode(dataset, data, *places[copied[number]]),
    )
    dataset.close()

  def open_array(n: int) -> Sliced:
    if n in in_copy:
      stored = arrays.Stored(copy.open(in_copy[n]))
    else:
      stored = dataset.open_whole(*places[n])
    stored = stored._replace(nodata=stored.nodata or facts[n].nodata)
    return Sliced(stored, data)

  return Crops(dataset, data, places, facts, open_array, fingerprint)


def _decode(
  dataset: Dataset, data: DataConfig, split: str, index: int
) -> np.ndarray:
  """Returns [*S, C] of a whole file, in which values may mark missing ones."""
  try:
    (content,) = dataset.read(split, [index])
    stored = arrays.stored_of(content, data.reading)
    values = marked(stored, data.reading).values
    num_axes = len(data.read_shape)
    return arrays.channels_last(values, data.channels, num_axes, stored.axes)
  except Exception as error:  # Libraries raise nearly anything.
    raise dataset.error(split, index, 'cannot be decoded', error) from error


class _Copy:
  """Arrays [*S, C] that are decoded one after the other into one file."""

  def __init__(
    self,
    path: pathlib.Path | None,
    shapes: Sequence[tuple[int, ...]],
    dtype: np.dtype,
    decode: Callable[[int], np.ndarray],
  ):
    """Opens the file, and writes it first if necessary; without a path, none.

    Raises:
      UserError: the file cannot be written.
    """
    self._path, self._shapes, self.dtype = path, shapes, dtype
    self._ends = list(itertools.accumulate(map(math.prod, shapes)))
    self.shape = (-(-self._ends[-1] // _ROW), _ROW)
    self._recent, self._decode = Recent(1), decode
    if path is None:
      return
    if not cache.is_whole(path, self.shape, dtype):
      try:
        cache.write(self, path, 'blocks')
      except OSError as error:
        raise UserError(
          f"data.crop='random' needs a decoded copy of {len(shapes):,} "
          f'compressed files ({describe_error(error)}): name a folder on a '
          'disk with room, such as --config.data.data_dir=/scratch/data, or '
          'save them as .npy, WAV or FLAC, which are read in place'
        ) from error
    values, self._crc32s = cache.open_copy(path, self.shape, dtype)
    self._values = values.reshape(-1)
    self._checked = np.zeros(len(values), bool)

  def __getitem__(self, rows: np.ndarray) -> np.ndarray:
    """Returns rows [B, ...] of the file, decoded; the order of rows is best."""
    found = np.zeros((len(rows), _ROW), self.dtype)
    for target, row in zip(found, rows, strict=True):
      place, end = int(row) * _ROW, min((int(row) + 1) * _ROW, self._ends[-1])
      while place < end:
        number = bisect.bisect_right(self._ends, place)
        first = self._first(number)
        stop = min(end, self._ends[number])
        values = self._whole(number).reshape(-1)[place - first : stop - first]
        begin = place - int(row) * _ROW
        target[begin : begin + len(values)] = values
        place = stop
    return found

  def open(self, number: int) -> Values:
    """Opens an array; raises a UserError if there is no file."""
    if self._path is None:
      raise UserError(
        "data.crop='random' needs data.cache_images=true for the "
        f'{len(self._shapes):,} files of data.path that are compressed, as '
        'each would be decoded whole for every crop: or save them as .npy, '
        'WAV or FLAC, which are read in place'
      )
    return _OfCopy(self, number, self._shapes[number], self.dtype)

  def read(self, number: int, cuts: tuple[slice, ...]) -> np.ndarray:
    """Returns a part of an array, checked when it is first read."""
    first, shape = self._first(number), self._shapes[number]
    rows = _rows_of(first, shape, cuts)
    unchecked = rows[~self._checked[rows]]
    for row in unchecked:
      values = self._values[row * _ROW : (row + 1) * _ROW]
      if zlib.crc32(values.data) != self._crc32s[row]:
        logging.warning(
          '%s is damaged: what it holds is decoded again, and the next start '
          'decodes all.',
          self._path,
        )
        self._path.unlink(missing_ok=True)  # What is mapped stays valid.
        return np.array(self._whole(number)[cuts])
    self._checked[unchecked] = True
    array = self._values[first : self._ends[number]].reshape(shape)
    return np.array(array[cuts])

  def _first(self, number: int) -> int:
    return self._ends[number] - math.prod(self._shapes[number])

  def _whole(self, number: int) -> np.ndarray:
    return self._recent.get(
      number, lambda: np.ascontiguousarray(self._decode(number))
    )


class _OfCopy(NamedTuple):
  """One array of a copy; see `slices.Values`."""

  copy: _Copy
  number: int
  shape: tuple[int, ...]
  dtype: np.dtype

  def __getitem__(self, cuts):
    return self.copy.read(self.number, cuts)


def _rows_of(
  first: int, shape: tuple[int, ...], cuts: tuple[slice, ...]
) -> np.ndarray:
  """Returns the rows that a part of an array [*S, C], from `first`, touches."""
  bounds = [c.indices(n)[:2] for c, n in zip(cuts, shape, strict=True)]
  inner = math.prod(shape[1:])
  # Along the first axis, the values from the first to the last of each.
  layers = first + np.arange(*bounds[0]) * inner
  low = np.ravel_multi_index([n for n, _ in bounds[1:]], shape[1:])
  high = np.ravel_multi_index([n - 1 for _, n in bounds[1:]], shape[1:])
  starts, stops = (layers + low) // _ROW, (layers + high) // _ROW
  if inner == high - low + 1:  # One run of values.
    return np.arange(starts[0], stops[-1] + 1)
  most = int((stops - starts).max())
  rows = np.minimum(starts[:, None] + np.arange(most + 1), stops[:, None])
  return np.unique(rows)
