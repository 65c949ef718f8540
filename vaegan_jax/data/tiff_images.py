"""TIFFs in folders of images: which Pillow reads as they are.

It reads one band of several, and integers that have no fixed black and white,
without a word. `image_folder` must not train on these. (As arrays they keep all
their bands and values.)
"""

import io

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from vaegan_jax.data import tiff_files
from vaegan_jax.data.reading import Reading, UnreadableKind

_DESCRIPTION, _SAMPLES, _PLANES, _FORMAT = 270, 277, 284, 339
_ORIENTATION, _PROFILE = 274, 34675
_BITS, _COMPRESSION, _PHOTOMETRIC = 258, 259, 262
_KINDS = {1: 'unsigned integers', 2: 'signed integers', 3: 'floats'}
_GREY = (0, 1)  # MINISWHITE and MINISBLACK.
_AS_ARRAYS = '--config.data.name=array_folder reads it'


def open_image(data: bytes, kinds: tuple[str, ...]) -> Image.Image:
  """Opens an image whose pixels Pillow reads as they are meant.

  Args:
    data: an image file.
    kinds: Pillow's names of those that may be read.

  Raises:
    UnreadableKind: it is a TIFF with other bands or types than images have.
    Exception: whatever Pillow raises for a damaged file.
  """
  is_tiff = data.startswith(tiff_files.SIGNATURES)
  try:
    image = Image.open(io.BytesIO(data), formats=kinds)
  except UnidentifiedImageError:
    tags = _read_tags(data) if is_tiff else {}
    if not tags:
      raise
    _check_tags(tags, 0)
    return _read_unsigned(data, tags)
  if is_tiff:
    _check_tags(image.tag_v2, len(image.getbands()))
    if _is_misread(image.tag_v2):
      return _read_unsigned(data, image.tag_v2)
  return image


def is_inverted(image: Image.Image) -> bool:
  """Returns whether a grey image has 16 bits, of which 0 is white."""
  tags = getattr(image, 'tag_v2', {})
  return tags.get(_PHOTOMETRIC) == 0 and image.mode.startswith('I')


def describe(data: bytes) -> tuple[int, bool]:
  """Counts the pages of a whole image; 1 unless it is a TIFF.

  Returns:
    The number, and whether the first `data.folder_rules` read other pixels.
  """
  if not data.startswith(tiff_files.SIGNATURES):
    return 1, False
  try:
    with Image.open(io.BytesIO(data), formats=('TIFF',)) as image:
      otherwise = is_inverted(image) or _is_misread(image.tag_v2)
      return image.n_frames, otherwise
  except UnidentifiedImageError:  # Only tifffile reads it.
    return 1, True


def _check_tags(tags, bands: int) -> None:
  """Checks the tags of a TIFF that Pillow opens as `bands`; 0: not at all."""
  description = tags.get(_DESCRIPTION)
  if isinstance(description, str):
    tiff_files.check_whole(description)
  samples, bits = tags.get(_SAMPLES, 1), _first(tags.get(_BITS, 1))
  kind = _KINDS.get(_first(tags.get(_FORMAT, 1)))
  has_white = kind == 'unsigned integers' and bits <= 16
  if kind and not has_white:
    raise UnreadableKind(
      f'it is a TIFF of {kind} of {bits} bits, which have no fixed black and '
      f'white: {_AS_ARRAYS}'
    )
  is_grey = tags.get(_PHOTOMETRIC) in _GREY
  if samples > max(bands, 1) and (is_grey or not bands):
    raise UnreadableKind(
      f'it is a TIFF with {samples} bands, which are not an image: {_AS_ARRAYS}'
    )


def _is_misread(tags) -> bool:
  """Returns whether Pillow takes the bytes of 16-bit planes for pixels."""
  return (
    tags.get(_PLANES) == 2
    and _first(tags.get(_BITS, 1)) == 16
    and tags.get(_COMPRESSION, 1) == 1
  )


def _read_unsigned(data: bytes, tags) -> Image.Image:
  """Reads the upper 8 bits of unsigned integers, of up to four bands."""
  read = tiff_files.read_tiff(data, Reading())
  values = read.values if 'C' in read.axes else read.values[..., None]
  if values.ndim != 3 or values.dtype not in (np.uint8, np.uint16):
    raise UnreadableKind(
      f'it is a TIFF of {values.dtype} {list(values.shape)}: {_AS_ARRAYS}'
    )
  pixels = values[..., :4]
  if pixels.dtype == np.uint16:
    pixels = (pixels >> 8).astype(np.uint8)
  if tags.get(_PHOTOMETRIC) == 0:
    pixels = 255 - pixels
  image = Image.fromarray(pixels if pixels.shape[-1] > 1 else pixels[..., 0])
  exif = Image.Exif()
  exif[_ORIENTATION] = tags.get(_ORIENTATION, 1)
  image.info |= {'exif': exif.tobytes(), 'icc_profile': tags.get(_PROFILE)}
  return image


def _read_tags(data: bytes):
  """Reads the tags of a TIFF's first page; {} if they are damaged."""
  try:
    tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
    file = io.BytesIO(data)
    file.seek(tags.next)
    tags.load(file)
    return dict(tags)
  except Exception:  # Whatever Pillow raises for a damaged file.
    return {}


def _first(value):
  return value[0] if isinstance(value, tuple) else value
