"""From the bytes of a file of numbers to an array, in the dtype that it has.

Owns which files hold examples that are no photographs, and how they are read:
nothing is unpickled, and what a file claims is checked before memory is given
to it. Axes: S one to three of space (samples; height, width; depth, height,
width), C channels (bands).
"""

import io
import threading
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vaegan_jax.data import sounds
from vaegan_jax.data.decoding import UnreadableKind
from vaegan_jax.errors import UserError

SUFFIXES = ('.npy', '.npz', '.tif', '.tiff', '.png', *sounds.SUFFIXES)
_MAX_AXES = 4  # Depth, height, width, channels.
_MAX_BYTES = 2**28  # Of one array; a compressed file may claim any number.
# NumPy has Python parse a header, which in Python 3.11 fails now and then where
# threads do so at once (https://github.com/python/cpython/issues/106905).
_PARSING = threading.Lock()
# Little and big endian; BigTIFF.
_TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_PNG_OF_COLOR = (
  'it is a PNG with 16 bits of each colour, of which Pillow reads 8: save it '
  'as .npy or TIFF'
)


class TooShort(ValueError):
  """An array out of which not so much can be cut."""


def read_array(data: bytes) -> np.ndarray:
  """Reads the one array of a file, whatever its name.

  Args:
    data: of a `.npy`, an `.npz` with one array, a TIFF, a PNG or a sound.

  Returns:
    [*S], [*S, C] or [C, *S], in the dtype that the file has; what has 64 bits
    becomes float32, in which the device computes, and bool uint8.

  Raises:
    Exception: whatever the libraries raise for a damaged file.
    UnreadableKind: a library is missing that reads it.
    ValueError: it is pickled, encrypted, too large, or of no such kind.
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
      'it is no .npy, .npz, TIFF, PNG, WAV or FLAC by its content; a pickle is '
      'not loaded'
    )
  if not 1 <= array.ndim <= _MAX_AXES or not array.size:
    raise ValueError(
      f'it has the shape {list(array.shape)}, and must have 1 to {_MAX_AXES} '
      'axes, all of them long'
    )
  return _to_plain(array)


def check_finite(array: np.ndarray) -> None:
  """Raises a ValueError that counts what is NaN and infinite, if anything is.

  Args:
    array: of any shape and dtype.
  """
  if array.dtype.kind != 'f' or np.isfinite(array).all():
    return
  raise ValueError(
    f'of {array.size:,} values {np.isnan(array).sum():,} are NaN and '
    f'{np.isinf(array).sum():,} infinite'
  )


def to_example(
  array: np.ndarray, *, channels: int, sides: Sequence[int]
) -> np.ndarray:
  """Cuts the middle out of an array, whose values stay as they are.

  Args:
    array: [*S], [*S, C] or [C, *S], as `sides` and `channels` say.
    channels: C.
    sides: S' of the result.

  Returns:
    [*S', C].

  Raises:
    ValueError: it has other channels, or a side is too short.
  """
  wanted, shape = list(sides), list(array.shape)
  if array.ndim == len(wanted):
    array = array[..., None]
  if array.ndim != len(wanted) + 1:
    raise ValueError(f'{shape} has no {len(wanted)} axes of space')
  if array.shape[-1] != channels and array.shape[0] == channels:
    array = np.moveaxis(array, 0, -1)
  *found, last = array.shape
  if last != channels:
    raise ValueError(f'no axis of {list(array.shape)} has {channels} channels')
  if any(side < least for side, least in zip(found, wanted, strict=True)):
    raise TooShort(f'it has {found} places, fewer than {wanted}')
  return middle(array, sides)


def middle(x: np.ndarray, sides: Sequence[int]) -> np.ndarray:
  """The middle of examples.

  Args:
    x: [..., *S, C], S of so many axes as `sides`.
    sides: S', no larger than S.

  Returns:
    [..., *S', C], a view.
  """
  last = x.shape[-1 - len(sides) : -1]
  cuts = [
    slice((side - wanted) // 2, (side - wanted) // 2 + wanted)
    for side, wanted in zip(last, sides, strict=True)
  ]
  return x[(..., *cuts, slice(None))]


def cut(
  given: Iterable[Any], channels: int, sides: Sequence[int]
) -> np.ndarray:
  """Cuts the middle out of each of some arrays; see `to_example`.

  Args:
    given: arrays of any dtype.
    channels, sides: as `to_example` takes them.

  Returns:
    [B, *S', C].

  Raises:
    UserError: one of them cannot be cut.
  """
  try:
    return np.stack(
      [
        to_example(np.asarray(array), channels=channels, sides=sides)
        for array in given
      ]
    )
  except (ValueError, IndexError) as error:
    raise UserError(
      f'the arrays do not fit a run of data.channels={channels} and the sides '
      f'{list(sides)}: {error}'
    ) from error


def decode_array(
  data: bytes | np.ndarray,
  *,
  channels: int,
  sides: Sequence[int],
  sample_rate: int = 0,
) -> np.ndarray:
  """Reads a file as an example; see `read_array` and `to_example`.

  Args:
    data: of the file, or what was in it.
    channels, sides: as `to_example` takes them.
    sample_rate: that a sound must have; 0: any.

  Returns:
    [*S', C].

  Raises:
    Exception: as they do, and a ValueError for values that are not finite, or
      another sample rate.
  """
  if not isinstance(data, bytes):
    array = _to_plain(np.asarray(data))
  elif sounds.is_sound(data):
    array, rate = sounds.read_sound(data)
    if sample_rate not in (0, rate):
      raise ValueError(
        f'it has {rate:,} samples a second, and data.sample_rate is '
        f'{sample_rate:,}'
      )
  else:
    array = read_array(data)
  check_finite(array)
  return to_example(array, channels=channels, sides=sides)


def check_shape(
  shape: tuple[int, ...], *, channels: int, sides: Sequence[int]
) -> None:
  """Checks that examples can be cut out of files of a shape.

  Args:
    shape: of the array in each file.
    channels, sides: as `to_example` takes them.

  Raises:
    UserError: they cannot; with the field to set.
  """
  array = np.broadcast_to(np.uint8(0), shape)  # Of no memory.
  try:
    to_example(array, channels=channels, sides=sides)
  except ValueError as error:
    field, value = _suggest(shape, channels, sides)
    raise UserError(
      f'data.channels={channels} and the sides {list(sides)} do not fit the '
      f'examples of the data, each of which is {list(shape)}, as {error}: for '
      f'example, --config.data.{field}={value}'
    ) from error


def _suggest(
  shape: tuple[int, ...], channels: int, sides: Sequence[int]
) -> tuple[str, Any]:
  """A field, and a value of it with which such examples can be cut."""
  space = shape[:3]
  if len(shape) > 1 and channels == shape[-1]:
    space = shape[:-1]
  elif len(shape) > 1 and channels == shape[0]:
    space = shape[1:]
  elif len(shape) == len(sides) and channels > 1:
    return 'channels', 1
  elif len(shape) == len(sides) + 1:  # Channels are rarely the most.
    return 'channels', min(shape[0], shape[-1])
  if len(space) == len(sides):
    space = tuple(map(min, space, sides))
  return 'shape', f'"{space}"'


def short_sides(sides: Sequence[int]) -> int | tuple[int, ...]:
  """Of a square its one side, by which data has always been named."""
  is_square = len(sides) == 2 and sides[0] == sides[1]
  return sides[0] if is_square else tuple(sides)


def encode_npy(array: np.ndarray) -> bytes:
  """The content of a `.npy` file."""
  content = io.BytesIO()
  np.save(content, array, allow_pickle=False)
  return content.getvalue()


def _to_plain(array: np.ndarray) -> np.ndarray:
  """In the machine's byte order, and a dtype that the device has."""
  kind, size = array.dtype.kind, array.dtype.itemsize
  if kind not in 'buif':
    raise ValueError(f'it holds {array.dtype}, and must hold real numbers')
  if kind == 'b':
    return array.astype(np.uint8)
  if size > 4:
    with np.errstate(over='ignore'):  # Infinity is told, as of any file.
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
    _check_bytes(member.file_size)  # More is not read.
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
  """The first series of a TIFF: its pages first, unless they are bands."""
  try:
    import tifffile  # Only where there is one.
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
          'it is a TIFF of a compression that needs imagecodecs (pip install '
          'imagecodecs)'
        ) from error
      raise
  if 'Y' not in axes or 'X' not in axes:
    raise ValueError(f'it has the axes {axes}, and no height and width')
  for name in 'CS':  # Channels, and the samples of a pixel.
    if name in axes:
      array = np.moveaxis(array, axes.index(name), -1)
      axes = axes.replace(name, '') + name
  return array


def _check_bytes(size: int) -> None:
  if size > _MAX_BYTES:
    raise ValueError(f'it unpacks to more than {_MAX_BYTES:,} bytes')
