"""From the bytes of an image file to pixels."""

import io

import numpy as np
from PIL import Image, ImageOps

_MODES = {1: 'L', 2: 'LA', 3: 'RGB', 4: 'RGBA'}


def read_image(data: bytes) -> Image.Image:
  """Reads the first frame of an image file, upright, with every pixel loaded.

  Args:
    data: an image file in any format that Pillow reads.

  Returns:
    The image, turned as its EXIF orientation says, with 8 bits a channel.

  Raises:
    Exception: whatever Pillow raises for a damaged file, or for one that would
      unpack to more pixels than Pillow deems safe.
    ValueError: the pixels are floats, which have no fixed white.
  """
  image = Image.open(io.BytesIO(data))
  image.load()
  image = ImageOps.exif_transpose(image)
  if image.mode == 'F':
    raise ValueError('pixels are floats, which have no fixed white')
  if image.mode.startswith('I'):  # 16 bits: Pillow's own conversion clips.
    high_bytes = np.asarray(image).astype(np.int64) >> 8
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
  image = _convert(read_image(data), _MODES[channels])
  width, height = image.size
  side = min(center_crop or width, width, height)
  left, top = (width - side) // 2, (height - side) // 2
  image = image.crop((left, top, left + side, top + side))
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
