"""Arrays in files that are read by slices, however large the files are.

Nothing stays open or mapped between two reads, so that memory stays bounded.
Axes: S one to three of space, C channels.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from vaegan_jax.data import (
  arrays,
  no_data,
  sound_conversion,
  sounds,
  tiff_files,
)
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.reading import Reading, UnreadableKind
from vaegan_jax.data.store import check_unchanged, stat_of

_READING = Reading()


class Values(Protocol):
  """An array, or what is sliced like one."""

  shape: tuple[int, ...]
  dtype: np.dtype

  def __getitem__(self, cuts: tuple[slice, ...]) -> np.ndarray: ...


class Facts(NamedTuple):
  """Facts about a stored array, from the first reading of its file."""

  space: tuple[int, ...]  # S.
  in_place: bool = False  # Whether the file can be read by slices.
  nodata: str = ''  # The whole number that means "no data"; '' if none does.
  empty: Sequence[int] = ()  # Crops of its grid with too much no data.


class Mapped:
  """An array whose values lie in a file as they are in memory."""

  def __init__(self, path: str, values: np.memmap):
    self._path, self._state = path, stat_of(path)
    self.shape, self.dtype = values.shape, values.dtype
    order = 'C' if values.flags.c_contiguous else 'F'
    self._map = (values.offset, values.shape, order)

  def __getitem__(self, cuts):
    check_unchanged(self._path, self._state)
    values = np.memmap(self._path, self.dtype, 'r', *self._map)
    return np.array(values[cuts])


class Sliced:
  """An array of a file, read by slices as [*S, C] in the device's dtype."""

  def __init__(self, stored: arrays.Stored, data: DataConfig):
    """Finds the axes of space, and that of channels, of a run's examples.

    Raises:
      ValueError: it has other axes or channels, or no real numbers.
    """
    shape = stored.values.shape
    self._values, self._reading = stored.values, data.reading
    self._nodata = stored.nodata
    num_axes = len(data.read_shape)
    self.order = _find_order(shape, data.channels, num_axes, stored.axes)
    self.space = tuple(shape[axis] for axis in self.order[:-1])
    self.dtype = arrays.device_dtype(stored.values.dtype)

  def read(self, start: Sequence[int], space: Sequence[int]) -> arrays.Stored:
    """Reads a part [*S', C], and finds its missing values.

    Args:
      start: its first position.
      space: S'.
    """
    cuts = [slice(None)] * len(self._values.shape)
    for axis, first, length in zip(self.order, start, space, strict=False):
      cuts[axis] = slice(int(first), int(first) + length)
    stored = arrays.to_stored(
      self._values[tuple(cuts)], '', self._nodata, self._reading
    )
    missing = stored.missing
    return stored._replace(
      values=self._place(stored.values),
      missing=None if missing is None else self._place(missing),
    )

  def _place(self, array: np.ndarray) -> np.ndarray:
    placed = array.transpose([axis for axis in self.order if axis >= 0])
    return placed if self.order[-1] >= 0 else placed[..., None]


def _find_order(
  shape: Sequence[int], channels: int, num_axes: int, axes: str
) -> tuple[int, ...]:
  """Returns the stored axis of each of [*S, C]; -1 if C is not stored."""
  # A stride of each axis tells where `channels_last` puts it.
  strides = range(1, len(shape) + 1)
  view = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), shape, strides)
  found = arrays.channels_last(view, channels, num_axes, axes)
  return tuple(stride - 1 for stride in found.strides)


def open_values(path: str, reading: Reading = _READING) -> arrays.Stored | None:
  """Opens the array of a file, by its content, without reading its values.

  Returns:
    The array, whose values are `Values`; None if its format must be decoded
    whole.

  Raises:
    Exception: whatever the libraries raise for a damaged file.
  """
  axes = reading.axes
  with open(path, 'rb') as file:
    start = file.read(8)
    if start.startswith(b'\x93NUMPY'):
      with arrays.PARSING:
        values = np.load(path, mmap_mode='r', allow_pickle=False)
      return arrays.Stored(Mapped(path, values), axes, kind='npy')
    if start.startswith(tiff_files.SIGNATURES):
      found = tiff_files.map_tiff(path)
      if found is None:
        return None
      values, axes = Mapped(path, found.values), axes or found.axes
      return arrays.Stored(values, axes, nodata=found.nodata, kind='tiff')
    if not sounds.is_sound(file, reading.rules):
      return None
  sound, was = sounds.SoundFile(path), ''
  values = sound_conversion.convert(sound, sound.sample_rate, reading)
  if values is not sound:
    was = sound_conversion.describe(sound, sound.sample_rate)
  rate = values.sample_rate
  return arrays.Stored(values, sample_rate=rate, was=was, kind='sound')


def marked(stored: arrays.Stored, reading: Reading) -> arrays.Stored:
  """Writes what means "no data" into values, which then need no mask.

  It is NaN in floats, and the number `nodata` of the result in whole numbers.

  Raises:
    UnreadableKind: its whole numbers leave none to mark it.
  """
  values, missing, nodata = stored.values, stored.missing, ''
  if missing is None:
    return stored
  mark = np.nan
  if values.dtype.kind in 'iu':
    valid = values[~missing]
    mark = no_data.parse(reading.nodata or stored.nodata, values.dtype)
    if not reading.nodata and (valid == mark).any():  # It is masked.
      mark = _unused(valid)
    if mark is None:
      raise UnreadableKind(
        f'each number of {values.dtype} has a meaning, so that none can mark '
        'what its mask hides in crops: --config.data.crop=center reads it'
      )
    nodata = str(mark)
  values = np.where(missing, values.dtype.type(mark), values)
  return stored._replace(values=values, missing=None, nodata=nodata)


def _unused(values: np.ndarray) -> np.generic | None:
  """Returns the least whole number of the dtype that no value is, if any."""
  used, limits = np.unique(values), np.iinfo(values.dtype)
  wanted = np.arange(used.size).astype(used.dtype) + used.dtype.type(limits.min)
  gaps = np.flatnonzero(used != wanted)
  if gaps.size:
    return wanted[gaps[0]]
  return used[-1] + 1 if used[-1] < limits.max else None
