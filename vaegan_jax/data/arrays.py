"""Decodes files of arrays, which keep their dtype.

Nothing is unpickled, and the size that a file claims is checked before memory
is allocated. Axes: S one to three of space (samples; height, width; depth,
height, width), C channels (bands).
"""

import io
import threading
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vaegan_jax.data import sounds
from vaegan_jax.data.decode import UnreadableKind
from vaegan_jax.errors import UserError

SUFFIXES = ('.npy', '.npz', '.tif', '.tiff', '.png', *sounds.SUFFIXES)
_MAX_AXES = 4  # Depth, height, width, channels.
_MAX_BYTES = 2**28  # Limit of one array; a compressed file may claim any size.
# NumPy parses headers as Python, which in version 3.11 sometimes fails in
# several threads at once (https://github.com/python/cpython/issues/106905).
_PARSING = threading.Lock()
# Little and big endian; BigTIFF.
_TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_PNG_OF_COLOR = (
  'it is a PNG with 16 bits of each colour, and Pillow reads only 8: save it '
  'as .npy or TIFF'
)


class TooShort(ValueError):
  """An error for an array that is smaller than the example."""


def read_array(data: bytes) -> np.ndarray:
  """Reads the only array of a file, whatever its name.

  Args:
    data: a `.npy`, an `.npz` with one array, a TIFF, a PNG or a sound.

  Returns:
    [*S], [*S, C] or [C, *S], in the dtype of the file; 64 bits become float32,
    as on the device, and bool becomes uint8.

  Raises:
    Exception: whatever the libraries raise for a damaged file.
    UnreadableKind: the library that reads it is missing.
    ValueError: it is pickled, encrypted, too large, or of another kind.
  """
  if data.startswith(b'\x93NUMPY'):
    array = _read_npy(data)
  elif data.startswith(b'PK\x03\x04'):
    array = _read_npz(data)
  elif data.startswith(_TIFF):
    array = _read_tiff(data)
  elif data.startswith(b'\x89PNG'):
    array = _read_png(data)
  elif sounds.is_sound(data):
    array = sounds.read_sound(data).samples
  else:
    raise ValueError(
      'its content is no .npy, .npz, TIFF, PNG, WAV or FLAC; a pickle is not '
      'loaded'
    )
  if not 1 <= array.ndim <= _MAX_AXES or not array.size:
    raise ValueError(
      f'it has the shape {list(array.shape)}, and must have 1 to {_MAX_AXES} '
      'axes, none of them empty'
    )
  return to_device_dtype(array)


def check_finite(array: np.ndarray) -> None:
  """Raises a ValueError that counts NaNs and infinities, if there are any."""
  if array.dtype.kind != 'f' or np.isfinite(array).all():
    return
  raise ValueError(
    f'of {array.size:,} values {np.isnan(array).sum():,} are NaN and '
    f'{np.isinf(array).sum():,} infinite'
  )


def to_example(
  array: np.ndarray, *, channels: int, shape: Sequence[int]
) -> np.ndarray:
  """Cuts the middle [*S', C] out of an array [*S], [*S, C] or [C, *S].

  Args:
    array: of any dtype, which it keeps.
    channels: C.
    shape: S'.

  Raises:
    ValueError: it has other channels, or an axis is too short.
  """
  wanted, given = list(shape), list(array.shape)
  if array.ndim == len(wanted):
    array = array[..., None]
  if array.ndim != len(wanted) + 1:
    raise ValueError(f'{given} has no {len(wanted)} axes of space')
  if array.shape[-1] != channels and array.shape[0] == channels:
    array = np.moveaxis(array, 0, -1)
  *found, last = array.shape
  if last != channels:
    raise ValueError(f'no axis of {list(array.shape)} has {channels} channels')
  if any(size < least for size, least in zip(found, wanted, strict=True)):
    raise TooShort(f'its shape {found} is smaller than {wanted}')
  return middle(array, shape)


def middle(x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
  """Returns the middle [..., *S', C] of examples [..., *S, C], as a view.

  `shape` is S', no larger than S.
  """
  sizes = x.shape[-1 - len(shape) : -1]
  cuts = [
    slice((size - wanted) // 2, (size - wanted) // 2 + wanted)
    for size, wanted in zip(sizes, shape, strict=True)
  ]
  return x[(..., *cuts, slice(None))]


def cut(
  given: Iterable[Any], channels: int, shape: Sequence[int]
) -> np.ndarray:
  """Cuts the middles [B, *S', C] out of several arrays; see `to_example`.

  Raises:
    UserError: one of them cannot be cut.
  """
  try:
    return np.stack(
      [
        to_example(np.asarray(array), channels=channels, shape=shape)
        for array in given
      ]
    )
  except (ValueError, IndexError) as error:
    raise UserError(
      f'the arrays do not fit a run with data.channels={channels} and the '
      f'shape {list(shape)}: {error}'
    ) from error


def decode_array(
  data: bytes | np.ndarray,
  *,
  channels: int,
  shape: Sequence[int],
  sample_rate: int = 0,
) -> np.ndarray:
  """Reads a file as an example; see `read_array` and `to_example`.

  Args:
    data: the content of a file, or an array.
    channels, shape: see `to_example`.
    sample_rate: required rate of a sound; 0 for any.

  Raises:
    Exception: see there; also a ValueError for values that are not finite, or
      another sample rate.
  """
  if not isinstance(data, bytes):
    array = to_device_dtype(np.asarray(data))
  elif sounds.is_sound(data):
    array, rate = sounds.read_sound(data)
    if sample_rate not in (0, rate):
      raise ValueError(
        f'it has {rate:,} samples per second, and data.sample_rate is '
        f'{sample_rate:,}'
      )
  else:
    array = read_array(data)
  check_finite(array)
  return to_example(array, channels=channels, shape=shape)


def check_shape(
  given: tuple[int, ...], *, channels: int, shape: Sequence[int]
) -> None:
  """Checks that examples can be cut out of arrays of the shape `given`.

  Raises:
    UserError: they cannot; it names the field to set.
  """
  array = np.broadcast_to(np.uint8(0), given)  # Needs no memory.
  try:
    to_example(array, channels=channels, shape=shape)
  except ValueError as error:
    field, value = _suggest(given, channels, shape)
    raise UserError(
      f'data.channels={channels} and the shape {list(shape)} do not fit the '
      f'examples of the data, each of which is {list(given)}, as {error}: for '
      f'example, --config.data.{field}={value}'
    ) from error


def _suggest(
  given: tuple[int, ...], channels: int, shape: Sequence[int]
) -> tuple[str, Any]:
  """Returns a field, and a value of it that fits such arrays."""
  space = given[:3]
  if len(given) > 1 and channels == given[-1]:
    space = given[:-1]
  elif len(given) > 1 and channels == given[0]:
    space = given[1:]
  elif len(given) == len(shape) and channels > 1:
    return 'channels', 1
  elif len(given) == len(shape) + 1:  # The channels are rarely the longest.
    return 'channels', min(given[0], given[-1])
  if len(space) == len(shape):
    space = tuple(map(min, space, shape))
  return 'shape', f'"{space}"'


def short_shape(shape: Sequence[int]) -> int | tuple[int, ...]:
  """Returns a square's size as one number, as fingerprints have it."""
  is_square = len(shape) == 2 and shape[0] == shape[1]
  return shape[0] if is_square else tuple(shape)


def encode_npy(array: np.ndarray) -> bytes:
  """Returns the content of a `.npy` file."""
  content = io.BytesIO()
  np.save(content, array, allow_pickle=False)
  return content.getvalue()


def to_device_dtype(array: np.ndarray) -> np.ndarray:
  """Converts to the machine's byte order, and a dtype of the device."""
  kind, size = array.dtype.kind, array.dtype.itemsize
  if kind not in 'buif':
    raise ValueError(f'it holds {array.dtype}, and must hold real numbers')
  if kind == 'b':
    return array.astype(np.uint8)
  if size > 4:
    with np.errstate(over='ignore'):  # `check_finite` reports infinities.
      return array.astype(np.float32)
  return array.astype(array.dtype.newbyteorder('='), copy=False)


def _read_npy(data: bytes) -> np.ndarray:
  with _PARSING:
    return np.load(io.BytesIO(data), allow_pickle=False)


def _read_npz(data: bytes) -> np.ndarray:
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    members = archive.infolist()
    if len(members) != 1:
      raise ValueError(f'it has {len(members)} arrays, and must have one')
    (member,) = members
    if member.flag_bits & 1:
      raise ValueError('it is encrypted')
    _check_bytes(member.file_size)  # `read` stops there.
    content = archive.read(member)
  return _read_npy(content)


def _read_png(data: bytes) -> np.ndarray:
  bits, color = data[24:26]
  if bits == 16 and color:
    raise UnreadableKind(_PNG_OF_COLOR)
  image = Image.open(io.BytesIO(data), formats=('PNG',))
  _check_bytes(image.width * image.height * 4)
  if image.mode == 'P':
    image = image.convert('RGBA' if image.has_transparency_data else 'RGB')
  elif image.mode == '1':
    image = image.convert('L')
  array = np.asarray(image)
  return array.astype(np.uint16) if bits == 16 else array


def _read_tiff(data: bytes) -> np.ndarray:
  """Reads the first series of a TIFF, bands last and other pages first."""
  try:
    import tifffile  # Optional, and slow to import.
  except ImportError as error:
    raise UnreadableKind(
      'it is a TIFF, which needs tifffile (pip install tifffile)'
    ) from error
  with tifffile.TiffFile(io.BytesIO(data)) as file:
    series = file.series[0]
    _check_bytes(series.nbytes)
    try:
      array, axes = series.asarray(), series.axes
    except ValueError as error:
      if 'imagecodecs' in str(error):
        raise UnreadableKind(
          'it is a TIFF whose compression needs imagecodecs (pip install '
          'imagecodecs)'
        ) from error
      raise
  if 'Y' not in axes or 'X' not in axes:
    raise ValueError(f'it has the axes {axes}, and no height and width')
  for name in 'CS':  # Channels, and samples per pixel.
    if name in axes:
      array = np.moveaxis(array, axes.index(name), -1)
      axes = axes.replace(name, '') + name
  return array


def _check_bytes(size: int) -> None:
  if size > _MAX_BYTES:
    raise ValueError(f'it unpacks to more than {_MAX_BYTES:,} bytes')
