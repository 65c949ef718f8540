"""From the bytes of a file of numbers to an array, in the dtype that it has.

Owns which files hold examples that are no photographs, and how they are read:
nothing is unpickled, and what a file claims is checked before memory is given
to it. Axes: H height, W width, C channels (bands).
"""

import io
import zipfile
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from vaegan_jax.data.decoding import UnreadableKind
from vaegan_jax.errors import UserError

SUFFIXES = ('.npy', '.npz', '.tif', '.tiff', '.png')
_MAX_BYTES = 2**28  # Of one array; a compressed file may claim any number.
# Little and big endian; BigTIFF.
_TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_PNG_OF_COLOR = (
  'it is a PNG with 16 bits of each colour, of which Pillow reads 8: save it '
  'as .npy or TIFF'
)


def read_array(data: bytes) -> np.ndarray:
  """Reads the one array of a file, whatever its name.

  Args:
    data: of a `.npy`, an `.npz` with one array, a TIFF or a PNG.

  Returns:
    [H, W] or [H, W, C], or [C, H, W] of a `.npy`, in the dtype that the file
    has; what has 64 bits becomes float32, in which the device computes, and
    bool uint8.

  Raises:
    Exception: whatever the libraries raise for a damaged file.
    UnreadableKind: a library is missing that reads it.
    ValueError: it is pickled, encrypted, too large, or of no such kind.
  """
  if data.startswith(b'\x93NUMPY'):
    array = np.load(io.BytesIO(data), allow_pickle=False)
  elif data.startswith(b'PK\x03\x04'):
    array = _read_npz(data)
  elif data.startswith(_TIFF):
    array = _read_tiff(data)
  elif data.startswith(b'\x89PNG'):
    array = _read_png(data)
  else:
    raise ValueError(
      'it is no .npy, .npz, TIFF or PNG by its content; a pickle is not loaded'
    )
  if array.ndim not in (2, 3) or not array.size:
    raise ValueError(f'it has the shape {list(array.shape)}, no [H, W, C]')
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
  array: np.ndarray, *, channels: int, image_size: int | tuple[int, int]
) -> np.ndarray:
  """Cuts the middle out of an array, whose values stay as they are.

  Args:
    array: [H, W], [H, W, C] or [C, H, W], as `channels` says.
    channels: C.
    image_size: the sides (height, width) of the result, or one for both.

  Returns:
    [H', W', C].

  Raises:
    ValueError: it has other channels, or a side is too short.
  """
  if array.ndim == 2:
    array = array[..., None]
  if array.shape[-1] != channels and array.shape[0] == channels:
    array = np.moveaxis(array, 0, -1)
  *sides, found = array.shape
  wanted = np.broadcast_to(image_size, 2).tolist()
  if found != channels:
    raise ValueError(f'no axis of {list(array.shape)} has {channels} channels')
  if any(side < least for side, least in zip(sides, wanted, strict=True)):
    raise ValueError(f'it has {sides} places, fewer than {wanted}')
  top, left = ((s - w) // 2 for s, w in zip(sides, wanted, strict=True))
  return array[top : top + wanted[0], left : left + wanted[1]]


def cut(
  given: Iterable[Any], channels: int, image_size: int | tuple[int, int]
) -> np.ndarray:
  """Cuts the middle out of each of some arrays; see `to_example`.

  Args:
    given: arrays of any dtype.
    channels, image_size: as `to_example` takes them.

  Returns:
    [B, H', W', C].

  Raises:
    UserError: one of them cannot be cut.
  """
  try:
    return np.stack(
      [
        to_example(np.asarray(a), channels=channels, image_size=image_size)
        for a in given
      ]
    )
  except (ValueError, IndexError) as error:
    raise UserError(
      f'the arrays do not fit a run of data.channels={channels} and '
      f'data.image_size={image_size}: {error}'
    ) from error


def decode_array(
  data: bytes, *, channels: int, image_size: int | tuple[int, int]
) -> np.ndarray:
  """Reads a file as an example; see `read_array` and `to_example`.

  Raises:
    Exception: as they do, and a ValueError for values that are not finite.
  """
  array = read_array(data)
  check_finite(array)
  return to_example(array, channels=channels, image_size=image_size)


def check_shape(
  shape: tuple[int, ...], *, channels: int, image_size: int | tuple[int, int]
) -> None:
  """Checks that examples can be cut out of files of a shape.

  Args:
    shape: of the array in each file.
    channels, image_size: as `to_example` takes them.

  Raises:
    UserError: they cannot; with the field to set.
  """
  array = np.broadcast_to(np.uint8(0), shape)  # Of no memory.
  try:
    to_example(array, channels=channels, image_size=image_size)
  except ValueError as error:
    first, second, last = (*shape, 1)[:3]
    field, value = 'channels', min(first, last)
    if channels in (first, last):
      side = first if channels == last else last
      field, value = 'image_size', min(side, second)
    raise UserError(
      f'data.channels={channels} and data.image_size={image_size} do not fit '
      f'the files of data.path, each of which holds {list(shape)}, as {error}: '
      f'for example, --config.data.{field}={value}'
    ) from error


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
  return np.load(io.BytesIO(content), allow_pickle=False)


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
  """The first series of a TIFF; bands that are pages become the last axis."""
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
  return np.moveaxis(array, (axes.index('Y'), axes.index('X')), (0, 1))


def _check_bytes(size: int) -> None:
  if size > _MAX_BYTES:
    raise ValueError(f'it unpacks to more than {_MAX_BYTES:,} bytes')
