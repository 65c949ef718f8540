"""Encodes the content of files of images and arrays in tests."""

import io
import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image


def encode(image, file_format='PNG', **options):
  """Encodes an image, or an array of its pixels."""
  content = io.BytesIO()
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  image.save(content, file_format, **options)
  return content.getvalue()


def write_images(folder, names, size=8, first=0):
  """Writes images of a color each, or arrays of a number each."""
  for shade, name in enumerate(names, first):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.npy':
      np.save(path, np.full((4, 4), shade, np.uint8))
      continue
    color = shade % 256, 2 * shade % 256, shade // 256
    Image.new('RGB', (size, size), color).save(path)
  return folder


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


def encrypted(path):
  """Marks the first member of a zip as encrypted; returns its path."""
  data = bytearray(path.read_bytes())
  with zipfile.ZipFile(path) as archive:
    data[archive.start_dir + 8] |= 1
  path.write_bytes(data)
  return path


def save_geotiff(path, bands, corner=(0, 0), mask=None, **options):
  """Writes bands [C, H, W] as GDAL does, from (left, top) of a larger scene."""
  rasterio = pytest.importorskip('rasterio')
  count, height, width = bands.shape
  profile = {'count': count, 'height': height, 'width': width}
  profile |= {'transform': rasterio.transform.from_origin(5e5, 5e6, 10, 10)}
  options = {'dtype': bands.dtype, **profile, **options}
  with (
    rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
    rasterio.open(path, 'w', driver='GTiff', **options) as file,
  ):
    file.write(bands, window=rasterio.windows.Window(*corner, width, height))
    if mask is not None:
      file.write_mask(mask)
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
