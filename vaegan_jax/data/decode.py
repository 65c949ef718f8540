"""Decodes image files to pixels.

The size that a file claims is checked before memory is allocated. Only the
kinds below are read, up to `PIL.Image.MAX_IMAGE_PIXELS` (89 million) pixels.
"""

import contextlib
import functools
import io
from collections.abc import Callable
from concurrent import futures
from typing import Any

import numpy as np
from absl import logging
from PIL import Image, ImageOps, features

from vaegan_jax.data import color, tiff_images
from vaegan_jax.data.reading import UnreadableKind

# Pillow's, by the number of channels.
MODES = {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}
# Detected from the content. Pillow knows others that run programs: it gives an
# EPS file, whatever its name, to Ghostscript.
FIRST_KINDS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'PPM')
# Optional requirements of these kinds.
_NEEDS = {
  'AVIF': 'a Pillow that was built with AVIF',
  'JPEG2000': 'a Pillow that was built with OpenJPEG',
  'HEIF': 'pillow-heif (pip install pillow-heif)',
  'JPEG XL': 'another program to make it a JPEG or PNG',
}
# Signatures of images, whatever their names. (Those of BMP, TIFF and PPM occur
# in other files, too.)
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
# Pixels. One thread unpacks all larger images, one at a time, because glibc
# keeps the memory that each thread once needed.
_LARGE = 2**24
_large_images = futures.ThreadPoolExecutor(1)


def find_kind(data: bytes) -> str:
  """Returns Pillow's name of the kind of an image, by its first 64 bytes.

  It is '' for what is not an image, or not certain.
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
  """Returns Pillow's names of the kinds that are read here."""
  kinds = list(FIRST_KINDS)
  for kind, feature in (('AVIF', 'avif'), ('JPEG2000', 'jpg_2000')):
    if features.check(feature):
      kinds.append(kind)
  with contextlib.suppress(ImportError):  # It is optional.
    import pillow_heif

    pillow_heif.register_heif_opener()
    kinds.append('HEIF')
  return tuple(kinds)


def read_image(
  data: bytes, kinds: tuple[str, ...] | None = None, rules: int = 3
) -> Image.Image:
  """Reads the first frame of an image file, upright, with every pixel loaded.

  Args:
    data: an image file.
    kinds: Pillow's names of those that may be read; None: `readable_kinds`.
    rules: `data.folder_rules`; below 3 Pillow reads any TIFF, also wrongly.

  Returns:
    The image, with its EXIF orientation applied and 8 bits per channel.

  Raises:
    Exception: whatever Pillow raises for a damaged file.
    UnreadableKind: it is of a kind whose library is missing.
    ValueError: it declares too many pixels, or they are floats, which have no
      fixed white.
  """
  if kinds is None:
    kinds, kind = readable_kinds(), find_kind(data)
    if kind and kind not in kinds:
      raise UnreadableKind(f'it is {kind}, which needs {_NEEDS[kind]}')
  if rules > 2:
    image = tiff_images.open_image(data, kinds)
  else:
    image = Image.open(io.BytesIO(data), formats=kinds)
  pixels = image.width * image.height
  if pixels > Image.MAX_IMAGE_PIXELS:
    raise ValueError(
      f'it declares {image.width} x {image.height} pixels, which are more than '
      f'{Image.MAX_IMAGE_PIXELS:,}'
    )
  if pixels > _LARGE:
    return _large_images.submit(_load, image, rules).result()
  return _load(image, rules)


def upright(image: Image.Image) -> Image.Image:
  """Returns an opened image as `read_image` does; the original stays."""
  return _load(image.copy())


def _load(image: Image.Image, rules: int = 3) -> Image.Image:
  image.load()
  is_inverted = rules > 2 and tiff_images.is_inverted(image)
  with contextlib.suppress(Exception):  # The pixels are whole all the same.
    ImageOps.exif_transpose(image, in_place=True)
  if image.mode == 'F':
    raise ValueError('pixels are floats, which have no fixed white')
  if image.mode.startswith('I'):  # 16 bits: Pillow's own conversion clips.
    logging.log_first_n(
      logging.WARNING,
      'Images with 16 bits keep the upper 8, which are nearly black if 12 are '
      "used: data.name='array_folder' keeps them all.",
      1,
    )
    high_bytes = np.asarray(image) >> 8
    if is_inverted:
      high_bytes = 255 - high_bytes
    profile = image.info.get('icc_profile')
    image = Image.fromarray(np.clip(high_bytes, 0, 255).astype(np.uint8))
    image.info['icc_profile'] = profile
  return image


def decode_image(
  data: bytes | np.ndarray, *, rules: int = 3, **options: Any
) -> np.ndarray:
  """Decodes a file, or an array [H', W', 3] uint8; `options` of `to_size`."""
  is_file = isinstance(data, bytes)
  image = read_image(data, rules=rules) if is_file else Image.fromarray(data)
  return to_size(image, **options)


def decoder(data: Any, to_srgb: bool) -> Callable[[Any], np.ndarray]:
  """Returns `decode_image` for the photographs of a `DataConfig`."""
  return functools.partial(
    decode_image,
    channels=data.channels,
    image_size=data.read_shape,
    center_crop=data.center_crop,
    to_srgb=to_srgb,
    rules=data.reading.rules,
  )


def to_size(
  image: Image.Image,
  *,
  channels: int,
  image_size: int | tuple[int, int],
  center_crop: int = 0,
  to_srgb: bool = False,
) -> np.ndarray:
  """Converts an image to a given size, without a change of proportions.

  Transparent pixels become white if the channels include no alpha.
  Resizing is Pillow's Lanczos filter, which averages when it shrinks and
  interpolates when it enlarges.

  Args:
    image: upright, with 8 bits per channel.
    channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
    image_size: the (height, width) of the result in pixels, or one number for
      both; it may exceed the image's.
    center_crop: the shorter side of a crop from the middle, in pixels of the
      image; 0, or more than fits: the largest that fits.
    to_srgb: whether to convert colors of another profile; see `color.to_srgb`.

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
  if to_srgb:
    image = color.to_srgb(image)
  image = _convert(image, MODES[channels])
  if image.size != (width, height):
    image = image.resize((width, height), Image.Resampling.LANCZOS)
  return np.asarray(image).reshape(height, width, channels)


def _convert(image: Image.Image, mode: str) -> Image.Image:
  if image.has_transparency_data and mode in ('L', 'RGB'):
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image)
  elif image.mode in ('P', 'LAB'):  # Pillow cannot convert them to LA.
    image = image.convert('RGBA')
  return image.convert(mode)
