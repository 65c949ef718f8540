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
from vaegan_jax.data.reading import Reading, UnreadableKind
from vaegan_jax.data.store import check_unchanged, stat_of

_READING = Reading()


class Values(Protocol):
  """An array, or what is sliced like one."""

  shape: tuple[int, ...]
  dtype: np.dtype

  def __getitem__(self, cuts: tuple[slice, ...]) -> np.ndarray: ...


class Opened(NamedTuple):
  """The array of a file.

  Attributes:
    values: in the order of axes and the dtype of the file.
    axes: a letter for each axis, as `data.axes`; '' if unknown.
    nodata: the value that means "no data", as text; '' if none is declared.
    sample_rate: samples per second; 0 if not a sound.
    kind: 'npy', 'tiff', 'sound' or, of other sources, ''.
    was: for a converted sound, its own format; see `sound_conversion.describe`.
  """

  values: Values
  axes: str = ''
  nodata: str = ''
  sample_rate: int = 0
  kind: str = ''
  was: str = ''


class Facts(NamedTuple):
  """Facts about a stored array, from the first reading of its file.

  Attributes:
    space: the lengths of its axes of space, S.
    in_place: whether the file can be read by slices.
    nodata: the whole number that means "no data", as text; '' if none does.
    empty: numbers of its grid's crops that hold too much no data.
  """

  space: tuple[int, ...]
  in_place: bool = False
  nodata: str = ''
  empty: Sequence[int] = ()


class Mapped:
  """An array whose values lie in a file as they are in memory."""

  def __init__(self, path: str, values: np.memmap):
    """Takes a map of a file, and keeps what is needed to map it again."""
    self._path, self._state = path, stat_of(path)
    self.shape, self.dtype = values.shape, values.dtype
    order = 'C' if values.flags.c_contiguous else 'F'
    self._map = (values.offset, values.shape, order)

  def __getitem__(self, cuts):
    """Returns a copy of a part.

    Raises:
      OSError: the file has changed.
    """
    check_unchanged(self._path, self._state)
    values = np.memmap(self._path, self.dtype, 'r', *self._map)
    return np.array(values[cuts])


class Sliced:
  """An array of a file, read by slices as [*S, C].

  Attributes:
    space: S.
    dtype: that of the device.
    order: the stored axis of each of [*S, C]; -1 if C is not stored.
  """

  def __init__(
    self,
    opened: Opened,
    channels: int,
    num_axes: int,
    reading: Reading,
    nodata: str = '',
  ):
    """Finds the axes.

    Args:
      opened: the array.
      channels: C.
      num_axes: the number of axes S.
      reading: how it is read.
      nodata: the value that means "no data", if `opened` declares none.

    Raises:
      ValueError: it has other axes or channels, or no real numbers.
    """
    shape = opened.values.shape
    self._values, self._reading = opened.values, reading
    self._nodata = opened.nodata or nodata
    self.order = _find_order(shape, channels, num_axes, opened.axes)
    self.space = tuple(shape[axis] for axis in self.order[:-1])
    self.dtype = arrays.device_dtype(opened.values.dtype)

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


def open_values(path: str, reading: Reading = _READING) -> Opened | None:
  """Opens the array of a file, by its content, without reading its values.

  Args:
    path: the file.
    reading: how it is read.

  Returns:
    The array; None if its format must be decoded whole.

  Raises:
    Exception: whatever the libraries raise for a damaged file.
  """
  axes = reading.axes
  with open(path, 'rb') as file:
    start = file.read(8)
    if start.startswith(b'\x93NUMPY'):
      with arrays.PARSING:
        values = np.load(path, mmap_mode='r', allow_pickle=False)
      return Opened(Mapped(path, values), axes, kind='npy')
    if start.startswith(tiff_files.SIGNATURES):
      return _open_tiff(path, axes)
    if sounds.is_sound(file, reading.rules):
      return _open_sound(sounds.SoundFile(path), reading)
  return None


def _open_sound(sound: sounds.SoundFile, reading: Reading) -> Opened:
  found, was = sound_conversion.convert(sound, sound.sample_rate, reading), ''
  if found is not sound:
    was = sound_conversion.describe(sound, sound.sample_rate)
  return Opened(found, sample_rate=found.sample_rate, kind='sound', was=was)


def _open_tiff(path: str, axes: str) -> Opened | None:
  found = tiff_files.map_tiff(path)
  if found is None:
    return None
  values = Mapped(path, found.values)
  return Opened(values, axes or found.axes, found.nodata, kind='tiff')


def marked(stored: arrays.Stored, nodata: str) -> arrays.Stored:
  """Writes what means "no data" into values, which then need no mask.

  It is NaN in floats, and the number `nodata` in whole numbers.
  """
  if stored.missing is None:
    return stored
  values = stored.values.copy()
  values[stored.missing] = np.nan if values.dtype.kind == 'f' else int(nodata)
  return stored._replace(values=values, missing=None)


def _unused(values: np.ndarray) -> np.generic | None:
  """Returns the least whole number of the dtype that no value is, if any."""
  used, limits = np.unique(values), np.iinfo(values.dtype)
  wanted = np.arange(used.size).astype(used.dtype) + used.dtype.type(limits.min)
  gaps = np.flatnonzero(used != wanted)
  if gaps.size:
    return wanted[gaps[0]]
  return used[-1] + 1 if used[-1] < limits.max else None


def decoded(stored: arrays.Stored, reading: Reading) -> Opened:
  """Returns a decoded array, in which values may mark missing ones.

  Args:
    stored: what `arrays.stored_of` returns for it.
    reading: how it was read.

  Raises:
    UnreadableKind: its whole numbers leave none to mark it.
  """
  nodata = ''
  if stored.missing is not None and stored.values.dtype.kind in 'iu':
    valid = stored.values[~stored.missing]
    number = no_data.parse(reading.nodata or stored.nodata, valid.dtype)
    if not reading.nodata and (valid == number).any():  # It is masked.
      number = _unused(valid)
    if number is None:
      raise UnreadableKind(
        f'each number of {valid.dtype} has a meaning, so that none can mark '
        'what its mask hides in crops: --config.data.crop=center reads it'
      )
    nodata = str(number)
  values = marked(stored, nodata).values
  return Opened(values, stored.axes, nodata, stored.sample_rate, was=stored.was)
