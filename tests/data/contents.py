"""Encodes the content of files of images and arrays in tests."""

import io

import numpy as np
import tifffile
from PIL import Image


def encode(image, file_format='PNG', **options):
  """Encodes an image, or an array of its pixels."""
  content = io.BytesIO()
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  image.save(content, file_format, **options)
  return content.getvalue()


def noise_png(seed):
  """Encodes an image of 9 x 8 random colors."""
  pixels = np.random.default_rng(seed).integers(0, 255, (9, 8, 3), np.uint8)
  return encode(pixels)


def tiff(array, **options):
  """Encodes an array as a TIFF."""
  content = io.BytesIO()
  tifffile.imwrite(content, array, **options)
  return content.getvalue()


def cut(path, size):
  """Truncates a file to `size` bytes, or by -`size`; returns its path."""
  path.write_bytes(path.read_bytes()[:size])
  return path


class Trap:
  """An object that tells when it is unpickled."""

  def __reduce__(self):
    return print, ('unpickled',)


def traps(*shape):
  """Returns an array of traps."""
  array = np.empty(shape, object)
  array[:] = Trap()
  return array
