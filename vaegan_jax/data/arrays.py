"""Decodes files of arrays, which keep their dtype.

Nothing is unpickled, and the size that a file claims is checked before memory
is allocated. Axes: S one to three of space (samples; height, width; depth,
height, width), C channels (bands).
"""

import functools
import io
import threading
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from vaegan_jax.data import no_data, sound_conversion, sounds, tiff_files
from vaegan_jax.data.reading import (
  Declared,
  OtherAxes,
  Reading,
  TooShort,
  UnreadableKind,
  check_size,
)

_SUFFIXES = ('.npy', '.npz', '.tif', '.tiff', '.png')
# Axes by name: any other, time, depth, height, width, channels.
AXES = 'QTZYXC'
MAX_AXES = 4  # Depth, height, width, channels.
# NumPy parses headers as Python, which in version 3.11 sometimes fails in
# several threads at once (https://github.com/python/cpython/issues/106905).
PARSING = threading.Lock()
_PNG_OF_COLOR = (
  'it is a PNG with 16 bits of each colour, and Pillow reads only 8: save it '
  'as .npy or TIFF'
)

_READING = Reading()


class Stored(NamedTuple):
  """An array as a file has it, read or, as `slices.Values`, opened."""

  # [*S], [*S, C] or [C, *S]. Of what is read, 64 bits become float32, as on the
  # device, and bool becomes uint8; what is opened has the dtype of the file.
  values: Any
  axes: str = ''  # A letter for each axis, as `data.axes`; '' if unknown.
  # Bool, of the same shape, which values mean "no data"; None if none do.
  missing: np.ndarray | None = None
  sample_rate: int = 0  # Samples per second; 0 if not a sound.
  nodata: str = ''  # The value that means "no data", or the first of them.
  was: str = ''  # A converted sound's own format; '' if not converted.
  kind: str = ''  # 'npy', 'tiff' or 'sound', of an opened file.


def suffixes(rules: int) -> tuple[str, ...]:
  """Returns the suffixes of files of arrays, by `data.folder_rules`."""
  return (*_SUFFIXES, *sounds.suffixes(rules))


def read_stored(data: bytes, reading: Reading = _READING) -> Stored:
  """Reads the only array of a file, whatever its name.

  Args:
    data: a `.npy`, an `.npz` with one array, a TIFF, a PNG or a sound.
    reading: how it is read.

  Raises:
    Exception: whatever the libraries raise for a damaged file.
    UnreadableKind: the library that reads it is missing.
    ValueError: it is pickled, encrypted, too large, or of another kind.
  """
  axes, nodata, hidden, rate, was = reading.axes, '', None, 0, ''
  if data.startswith(b'\x93NUMPY'):
    array = _read_npy(data)
  elif data.startswith(b'PK\x03\x04'):
    array = _read_npz(data)
  elif data.startswith(tiff_files.SIGNATURES):
    array, found, nodata, hidden = tiff_files.read_tiff(data, reading)
    axes = axes or (found if reading.rules > 2 else '')
  elif data.startswith(b'\x89PNG'):
    array = _read_png(data)
  elif sounds.is_sound(io.BytesIO(data), reading.rules):
    (array, rate), axes = sounds.read_sound(data, reading.rules), ''
    found = sound_conversion.convert(array, rate, reading)
    if found is not array:
      was = sound_conversion.describe(array, rate)
      sound_conversion.check(array)
      array, rate = found[:, :], found.sample_rate
  else:
    raise ValueError(
      'its content is no .npy, .npz, TIFF, PNG or sound that is read; a pickle '
      'is not loaded'
    )
  if not 1 <= array.ndim <= MAX_AXES or not array.size:
    raise ValueError(
      f'it has the shape {list(array.shape)}, and must have 1 to {MAX_AXES} '
      'axes, none of them empty'
    )
  stored = to_stored(array, axes, nodata, reading, hidden)
  return stored._replace(sample_rate=rate, was=was)


def stored_of(data: bytes | np.ndarray | Declared, reading: Reading) -> Stored:
  """Returns a file or an array as `read_stored` does."""
  if isinstance(data, bytes):
    return read_stored(data, reading)
  given = data if isinstance(data, Declared) else Declared(data, '')
  values = np.asarray(given.values)
  return to_stored(values, reading.axes, given.nodata, reading, given.hidden)


def to_stored(
  array: np.ndarray,
  axes: str,
  nodata: str,
  reading: Reading,
  hidden: np.ndarray | None = None,
) -> Stored:
  """Converts an array to a dtype of the device, and finds no data in it.

  Arguments are those of `Stored`, as the file has them, and of `no_data.find`.
  """
  missing = no_data.find(array, nodata, reading, hidden)
  if missing is None:
    return Stored(_to_device(array), axes)
  # A marker of missing values, such as float64's lowest, may exceed float32.
  first = str(array[missing][0])
  array = np.where(missing, array.dtype.type(0), array)
  return Stored(_to_device(array), axes, missing, nodata=first)


def check_sample_rate(found: int, wanted: int) -> None:
  """Raises an UnreadableKind for a sound of another rate; 0: none, or any."""
  if wanted and found not in (0, wanted):
    raise UnreadableKind(
      f'it has {found:,} samples per second, and data.sample_rate is '
      f'{wanted:,}: resample it, as ffmpeg -i old.wav -ar {wanted} new.wav '
      'does, or, for a model of a folder, use --config.data.resample=true'
    )


def check_finite(array: np.ndarray) -> None:
  """Raises a ValueError that counts NaNs and infinities, if there are any."""
  if array.dtype.kind != 'f' or np.isfinite(array).all():
    return
  raise ValueError(
    f'of {array.size:,} values {np.isnan(array).sum():,} are NaN and '
    f'{np.isinf(array).sum():,} infinite'
  )


def to_example(
  array: np.ndarray, *, channels: int, shape: Sequence[int], axes: str = ''
) -> np.ndarray:
  """Cuts the middle [*S', C] out of an array [*S], [*S, C] or [C, *S].

  Args:
    array: of any dtype, which it keeps.
    channels: C.
    shape: S'.
    axes: a letter for each axis, as `data.axes`, in any order; '' if unknown.

  Raises:
    OtherAxes: it has other channels or axes.
    TooShort: an axis is too short.
  """
  wanted = list(shape)
  array = channels_last(array, channels, len(wanted), axes)
  found = list(array.shape[:-1])
  if any(size < least for size, least in zip(found, wanted, strict=True)):
    raise TooShort(f'its shape {found} is smaller than {wanted}')
  return middle(array, shape)


def channels_last(
  array: np.ndarray, channels: int, num_axes: int, axes: str = ''
) -> np.ndarray:
  """Returns an array with `num_axes` axes S as [*S, C]; see `to_example`.

  Raises:
    OtherAxes: it has other channels or axes.
  """
  given = list(array.shape)
  if axes:
    array = array.transpose(_canonical_order(given, channels, num_axes, axes))
    if 'C' not in axes and array.ndim == num_axes:
      array = array[..., None]
  elif array.ndim == num_axes:
    array = array[..., None]
  if array.ndim != num_axes + 1:
    raise OtherAxes(f'{given} has no {num_axes} axes of space')
  if not axes and array.shape[-1] != channels and array.shape[0] == channels:
    array = np.moveaxis(array, 0, -1)
  if array.shape[-1] != channels:
    raise OtherAxes(f'no axis of {list(array.shape)} has {channels} channels')
  return array


def _canonical_order(
  given: list[int], channels: int, num_axes: int, axes: str
) -> list[int]:
  """Returns the axes of an array in the order Q, T, Z, Y, X, C."""
  if len(axes) != len(given):
    raise OtherAxes(f'{given} has not the axes {axes!r}')
  num_space = len(axes.replace('C', ''))
  # The first axis, if it is neither height nor width, may be of channels.
  is_first = axes[0] not in 'YX' and given[0] == channels
  if 'C' not in axes and num_space == num_axes + 1 and is_first:
    axes = 'C' + axes[1:]
  elif num_space != num_axes:
    raise OtherAxes(
      f'its axes are {axes} {given}, and {num_axes} of space are needed'
    )
  return sorted(range(len(axes)), key=lambda i: AXES.index(axes[i]))


def middle(x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
  """Returns the middle [..., *S', C] of examples [..., *S, C], as a view."""
  sizes = x.shape[-1 - len(shape) : -1]
  cuts = [
    slice((size - wanted) // 2, (size - wanted) // 2 + wanted)
    for size, wanted in zip(sizes, shape, strict=True)
  ]
  return x[(..., *cuts, slice(None))]


def decode_array(
  data: bytes | np.ndarray | Declared,
  *,
  channels: int,
  shape: Sequence[int],
  sample_rate: int = 0,
  reading: Reading = _READING,
) -> np.ndarray:
  """Reads a file as an example; see `read_stored` and `to_example`.

  Args:
    data: the content of a file, or an array.
    channels, shape: see `to_example`.
    sample_rate: required rate of a sound; 0 for any.
    reading: how it is read.

  Returns:
    [*S, C] in the dtype of the file; float32 with NaN where values mean no
    data.

  Raises:
    Exception: see there; also a ValueError for values that are not finite,
      another sample rate, or too much no data.
  """
  stored = stored_of(data, reading)
  check_sample_rate(stored.sample_rate, sample_rate)
  check_finite(stored.values)
  cut = functools.partial(
    to_example, channels=channels, shape=shape, axes=stored.axes
  )
  example = cut(stored.values)
  if stored.missing is None:
    return example
  missing = cut(stored.missing)
  no_data.check(missing, reading.max_nodata)
  return no_data.mark(example, missing if missing.any() else None)


def short_shape(shape: Sequence[int]) -> int | tuple[int, ...]:
  """Returns a square's size as one number, as fingerprints have it."""
  is_square = len(shape) == 2 and shape[0] == shape[1]
  return shape[0] if is_square else tuple(shape)


def encode_npy(array: np.ndarray) -> bytes:
  """Returns the content of a `.npy` file."""
  content = io.BytesIO()
  np.save(content, array, allow_pickle=False)
  return content.getvalue()


def device_dtype(dtype: Any) -> np.dtype:
  """Returns the dtype on the device; raises a ValueError for no numbers."""
  dtype = np.dtype(dtype)
  if dtype.kind not in 'buif':
    raise ValueError(f'it holds {dtype}, and must hold real numbers')
  if dtype.kind == 'b':
    return np.dtype(np.uint8)
  return np.dtype(np.float32) if dtype.itemsize > 4 else dtype.newbyteorder('=')


def _to_device(array: np.ndarray) -> np.ndarray:
  with np.errstate(over='ignore'):  # `check_finite` reports infinities.
    return array.astype(device_dtype(array.dtype), copy=False)


def _read_npy(data: bytes) -> np.ndarray:
  with PARSING:
    return np.load(io.BytesIO(data), allow_pickle=False)


def _read_npz(data: bytes) -> np.ndarray:
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    members = archive.infolist()
    if len(members) != 1:
      raise ValueError(f'it has {len(members)} arrays, and must have one')
    (member,) = members
    if member.flag_bits & 1:
      raise ValueError('it is encrypted')
    check_size(member.file_size, 'unpacks to')  # `read` stops there.
    content = archive.read(member)
  return _read_npy(content)


def _read_png(data: bytes) -> np.ndarray:
  bits, color = data[24:26]
  if bits == 16 and color:
    raise UnreadableKind(_PNG_OF_COLOR)
  image = Image.open(io.BytesIO(data), formats=('PNG',))
  check_size(image.width * image.height * 4, 'unpacks to')
  if image.mode == 'P':
    image = image.convert('RGBA' if image.has_transparency_data else 'RGB')
  elif image.mode == '1':
    image = image.convert('L')
  array = np.asarray(image)
  return array.astype(np.uint16) if bits == 16 else array
