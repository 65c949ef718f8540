"""From the bytes of an image file to pixels.

What a file claims is checked before memory is given to it: it may be of the
kinds in `_FORMATS` alone, and of `PIL.Image.MAX_IMAGE_PIXELS` (89 million) at
most.
"""

import contextlib
import io
from concurrent import futures

import numpy as np
from PIL import Image, ImageOps

_MODES = {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}
# Told by the content. Pillow knows more, some of which run other programs:
# an EPS file, whatever its name, is handed to Ghostscript.
_FORMATS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'PPM')
# Pixels; larger images are unpacked one at a time, and always by one thread,
# because glibc keeps what each thread has once needed.
_LARGE = 2**24
_large_images = futures.ThreadPoolExecutor(1)


def read_image(data: bytes) -> Image.Image:
  """Reads the first frame of an image file, upright, with every pixel loaded.

  Args:
    data: an image file in any format that Pillow reads.

  Returns:
    The image, turned as its EXIF orientation says, with 8 bits a channel.

  Raises:
    Exception: whatever Pillow raises for a damaged file.
    ValueError: it would unpack to too many pixels, or they are floats, which
      have no fixed white.
  """
  image = Image.open(io.BytesIO(data), formats=_FORMATS)
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
    high_bytes = np.asarray(image) >> 8
    image = Image.fromarray(np.clip(high_bytes, 0, 255).astype(np.uint8))
  return image


def decode_image(
  data: bytes, *, channels: int, image_size: int, center_crop: int = 0
) -> np.ndarray:
  """Decodes an image file to a square of pixels.

  Transparent pixels show white where the channels asked for have no alpha.
  Resizing is Pillow's Lanczos filter, which averages when it shrinks and
  interpolates when it enlarges.

  Args:
    data: an image file in any format that Pillow reads.
    channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
    image_size: the side of the result, in pixels; may exceed the file's.
    center_crop: the side of the square cut from the middle, in pixels of the
      file; 0, or more than fits: the largest square.

  Returns:
    [S, S, C] uint8, with S the image size.

  Raises:
    Exception: whatever Pillow raises for a damaged file.
  """
  image = read_image(data)
  width, height = image.size
  side = min(center_crop or width, width, height)
  left, top = (width - side) // 2, (height - side) // 2
  image = image.crop((left, top, left + side, top + side))
  image = _convert(image, _MODES[channels])
  if side != image_size:
    image = image.resize((image_size, image_size), Image.Resampling.LANCZOS)
  return np.asarray(image).reshape(image_size, image_size, channels)


def _convert(image: Image.Image, mode: str) -> Image.Image:
  if image.has_transparency_data and mode in ('L', 'RGB'):
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image)
  elif image.mode in ('P', 'LAB'):  # Pillow has no direct way to LA from them.
    image = image.convert('RGBA')
  return image.convert(mode)
