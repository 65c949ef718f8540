"""From the bytes of an image file to pixels.

What a file claims is checked before memory is given to it: it may be of the
kinds below alone, and of `PIL.Image.MAX_IMAGE_PIXELS` (89 million) at most.
"""

import contextlib
import functools
import io
from concurrent import futures

import numpy as np
from absl import logging
from PIL import Image, ImageOps, features

# Pillow's, by the number of channels.
MODES = {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}
# Told by the content. Pillow knows more, some of which run other programs:
# an EPS file, whatever its name, is handed to Ghostscript.
FIRST_KINDS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'PPM')
# And what each of these needs, which is not everywhere.
_NEEDS = {
  'AVIF': 'a Pillow that was built with AVIF',
  'JPEG2000': 'a Pillow that was built with OpenJPEG',
  'HEIF': 'pillow-heif (pip install pillow-heif)',
  'JPEG XL': 'another program to make it a JPEG or PNG',
}
# How files begin that are images whatever their names say. (BMP, TIFF and PPM
# begin as other files do too.)
_BEGINNINGS = (
  (b'\xff\xd8\xff', 'JPEG'),
  (b'\x89PNG\r\n\x1a\n', 'PNG'),
  (b'GIF87a', 'GIF'),
  (b'GIF89a', 'GIF'),
  (b'\0\0\0\x0cjP  \r\n\x87\n', 'JPEG2000'),
  (b'\xff\x4f\xff\x51\0', 'JPEG2000'),
  (b'\0\0\0\x0cJXL \r\n\x87\n', 'JPEG XL'),
)
_HEIF_BRANDS = (
  *(b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx', b'hevm', b'hevs'),
  *(b'mif1', b'msf1'),
)
# Pixels; larger images are unpacked one at a time, and always by one thread,
# because glibc keeps what each thread has once needed.
_LARGE = 2**24
_large_images = futures.ThreadPoolExecutor(1)


class UnreadableKind(ValueError):
  """A whole image, perhaps, of a kind that cannot be read here."""


def find_kind(data: bytes) -> str:
  """What the first bytes of a file say that it is.

  Args:
    data: the file, or its first 64 bytes.

  Returns:
    Pillow's name of the kind; '' if it is none, or one not sure from these.
  """
  for beginning, kind in _BEGINNINGS:
    if data.startswith(beginning):
      return kind
  if data[:4] == b'RIFF' and data[8:12] == b'WEBP':
    return 'WEBP'
  if data[4:8] != b'ftyp':
    return ''
  # A brand, a version, and more brands: an AVIF may begin as any HEIF.
  size = min(int.from_bytes(data[:4]), len(data), 64)
  brands = [data[i : i + 4] for i in (8, *range(16, size, 4))]
  if b'avif' in brands or b'avis' in brands:
    return 'AVIF'
  return 'HEIF' if brands[0] in _HEIF_BRANDS else ''


@functools.cache
def readable_kinds() -> tuple[str, ...]:
  """Pillow's names of the kinds that are read here."""
  kinds = list(FIRST_KINDS)
  for kind, feature in (('AVIF', 'avif'), ('JPEG2000', 'jpg_2000')):
    if features.check(feature):
      kinds.append(kind)
  with contextlib.suppress(ImportError):  # It is nobody's requirement.
    import pillow_heif

    pillow_heif.register_heif_opener()
    kinds.append('HEIF')
  return tuple(kinds)


def read_image(
  data: bytes, kinds: tuple[str, ...] | None = None
) -> Image.Image:
  """Reads the first frame of an image file, upright, with every pixel loaded.

  Args:
    data: an image file.
    kinds: Pillow's names of those that are read; None: `readable_kinds`.

  Returns:
    The image, turned as its EXIF orientation says, with 8 bits a channel.

  Raises:
    Exception: whatever Pillow raises for a damaged file.
    UnreadableKind: it is of a kind that something is needed for.
    ValueError: it would unpack to too many pixels, or they are floats, which
      have no fixed white.
  """
  if kinds is None:
    kinds, kind = readable_kinds(), find_kind(data)
    if kind and kind not in kinds:
      raise UnreadableKind(f'it is {kind}, which needs {_NEEDS[kind]}')
  image = Image.open(io.BytesIO(data), formats=kinds)
  pixels = image.width * image.height
  if pixels > Image.MAX_IMAGE_PIXELS:
    raise ValueError(
      f'it declares {image.width} x {image.height} pixels, which are more than '
      f'{Image.MAX_IMAGE_PIXELS:,}'
    )
  if pixels > _LARGE:
    return _large_images.submit(_load, image).result()
  return _load(image)


def _load(image: Image.Image) -> Image.Image:
  image.load()
  with contextlib.suppress(Exception):  # Damaged notes, but whole pixels.
    ImageOps.exif_transpose(image, in_place=True)
  if image.mode == 'F':
    raise ValueError('pixels are floats, which have no fixed white')
  if image.mode.startswith('I'):  # 16 bits: Pillow's own conversion clips.
    logging.log_first_n(
      logging.WARNING,
      'Of images with 16 bits the upper 8 are kept, which are nearly black if '
      "12 are used: data.name='array_folder' keeps them all.",
      1,
    )
    high_bytes = np.asarray(image) >> 8
    image = Image.fromarray(np.clip(high_bytes, 0, 255).astype(np.uint8))
  return image


def decode_image(
  data: bytes,
  *,
  channels: int,
  image_size: int | tuple[int, int],
  center_crop: int = 0,
) -> np.ndarray:
  """Decodes an image file to so many pixels, without a change of proportions.

  Transparent pixels show white where the channels asked for have no alpha.
  Resizing is Pillow's Lanczos filter, which averages when it shrinks and
  interpolates when it enlarges.

  Args:
    data: an image file in any format that Pillow reads.
    channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
    image_size: the sides (height, width) of the result, in pixels, or one for
      both; they may exceed the file's.
    center_crop: the shorter side of what is cut from the middle, in pixels of
      the file; 0, or more than fits: the largest that does.

  Returns:
    [H, W, C] uint8, with H and W the image size.

  Raises:
    Exception: whatever Pillow raises for a damaged file.
  """
  return to_size(
    read_image(data),
    channels=channels,
    image_size=image_size,
    center_crop=center_crop,
  )


def to_size(
  image: Image.Image,
  *,
  channels: int,
  image_size: int | tuple[int, int],
  center_crop: int = 0,
) -> np.ndarray:
  """Cuts, converts and resizes an image that is read, as `decode_image`.

  Args:
    image: upright, with 8 bits a channel.
    channels, image_size, center_crop: as `decode_image` takes them.

  Returns:
    [H, W, C] uint8, with H and W the image size.
  """
  height, width = np.broadcast_to(image_size, 2).tolist()
  scale = min(image.width / width, image.height / height)
  if center_crop:
    scale = min(scale, center_crop / min(height, width))
  cut = [max(1, round(scale * side)) for side in (width, height)]
  left, top = (image.width - cut[0]) // 2, (image.height - cut[1]) // 2
  image = image.crop((left, top, left + cut[0], top + cut[1]))
  image = _convert(image, MODES[channels])
  if image.size != (width, height):
    image = image.resize((width, height), Image.Resampling.LANCZOS)
  return np.asarray(image).reshape(height, width, channels)


def _convert(image: Image.Image, mode: str) -> Image.Image:
  if image.has_transparency_data and mode in ('L', 'RGB'):
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image)
  elif image.mode in ('P', 'LAB'):  # Pillow has no direct way to LA from them.
    image = image.convert('RGBA')
  return image.convert(mode)
