"""Reads every valid file of a matrix, written by the tools that people have.

  python -m tests.data.formats

The matrix is format x dtype x layout x compression x axes. Each file is read as
an array and, where its format is one of images, as an image. Its values must be
exact, or it must be refused with a reason. The command prints a table, a row
for each layout, and exits with 1 if a value is wrong, or if a reason is not
among those that are expected. Tools that are not installed are named.
"""

import collections
import importlib.util
import io
import itertools
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests.data import sounds_test, store_formats
from tests.data.contents import encode, save_geotiff, tiff
from tests.data.store_formats import Case, on_device, values
from vaegan_jax.data import arrays, decode
from vaegan_jax.data.reading import Reading

DTYPES, FLOATS = store_formats.DTYPES[:6], ('float16', 'float32', 'float64')
_READING = Reading(max_nodata=1.0)
_REASONS = re.compile(
  r'it is a TIFF (of|with) .*array_folder reads it$|pixels are floats, which '
  r'have no fixed white$|its content is no \.npy'
)


def as_array(
  tool: str, layout: str, data: bytes, want: np.ndarray | None
) -> Case:
  """Returns the case of a file that is read as an array [*S, C]."""
  return Case((tool, layout, 'array'), _read_array, data, want)


def in_both_ways(
  tool: str,
  layout: str,
  data: bytes,
  want: np.ndarray | None,
  image: np.ndarray | None,
) -> Iterator[Case]:
  """Yields a file that is also read as an `image` [H, W, C] uint8."""
  yield as_array(tool, layout, data, want)
  yield Case((tool, layout, 'image'), _read_image, data, image)


def _read_array(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
  *space, channels = shape
  return arrays.decode_array(
    data, channels=channels, shape=tuple(space), reading=_READING
  )


def _read_image(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
  *size, channels = shape
  return decode.decode_image(data, channels=channels, image_size=tuple(size))


def as_image(pixels: np.ndarray, inverted: bool = False) -> np.ndarray | None:
  """Returns the image [H, W, C] uint8 of pixels; None if they are no image."""
  if pixels.dtype not in (np.uint8, np.uint16):
    return None
  pixels = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype('uint8')
  return 255 - pixels if inverted else pixels


def of_numpy() -> Iterator[Case]:
  """Yields .npy and .npz: byte orders, Fortran's order, three layouts."""
  orders = itertools.product(DTYPES + FLOATS, '<>', 'CF')
  for (dtype, byte_order, order), compressed in itertools.product(
    orders, (None, False, True)
  ):
    for axes in ('YXC', 'CYX', 'YX', 'ZYX', 'X'):
      shape = [{'Z': 3, 'Y': 6, 'X': 7, 'C': 4}[name] for name in axes]
      array = values(dtype, tuple(shape))
      array = np.asarray(array, array.dtype.newbyteorder(byte_order), order)
      content = io.BytesIO()
      if compressed is None:
        np.save(content, array)
      else:
        (np.savez_compressed if compressed else np.savez)(content, x=array)
      want = array if 'C' in axes else array[..., None]
      want = np.moveaxis(want, 0, -1) if axes == 'CYX' else want
      tool = 'NumPy ' + ('.npy' if compressed is None else '.npz')
      yield as_array(tool, 'sounds to volumes', content.getvalue(), want)


def of_tifffile() -> Iterator[Case]:
  """Yields TIFFs: layouts, photometrics, compressions, byte orders, axes."""
  compressions = [None, 'zlib']
  if importlib.util.find_spec('imagecodecs'):
    compressions += ['lzw', 'zstd', 'lzma', 'packbits']
  for dtype, compression, byte_order in itertools.product(
    DTYPES + FLOATS, compressions, '<>'
  ):
    base = {'compression': compression, 'byteorder': byte_order}
    grey = values(dtype, (16, 17))
    for photometric in ('minisblack', 'miniswhite'):
      yield from in_both_ways(
        'tifffile',
        f'grey, {photometric}',
        tiff(grey, photometric=photometric, **base),
        grey[..., None],
        as_image(grey[..., None], photometric == 'miniswhite'),
      )
    if compression == 'packbits' and dtype not in ('uint8', 'int8'):
      continue
    for count, planar in itertools.product((3, 4, 5), ('contig', 'separate')):
      is_color = count < 5
      photometric = 'rgb' if is_color else 'minisblack'
      pixels = values(dtype, (16, 17, count))
      stored = pixels
      if planar == 'separate':
        stored = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
      extra = {'extrasamples': ['unassalpha']} if count == 4 else {}
      options = {'photometric': photometric, 'planarconfig': planar}
      yield from in_both_ways(
        'tifffile',
        f'{count} bands, {photometric}, {planar}',
        tiff(stored, **options, **extra, **base),
        pixels,
        as_image(pixels) if is_color else None,
      )
    if dtype in ('float16', 'float64', 'uint32') or byte_order == '>':
      continue
    for kind, axes in itertools.product(
      ('', 'ome', 'imagej'), ('ZYX', 'TYX', 'CYX', 'ZCYX')
    ):
      if kind == 'imagej' and dtype not in ('uint8', 'uint16', 'float32'):
        continue
      stack = values(dtype, tuple({'C': 2}.get(a, 16) for a in axes))
      order = [axes.index(a) for a in 'TZYXC' if a in axes]
      want = stack.transpose(order)
      yield as_array(
        'tifffile',
        f'{axes}, also as OME and of ImageJ',
        tiff(
          stack,
          photometric='minisblack',
          metadata={'axes': axes},
          **({kind: True} if kind else {}),
          **(base if kind != 'imagej' else {'compression': compression}),
        ),
        want if 'C' in axes else want[..., None],
      )


def of_rasterio() -> Iterator[Case]:
  """Yields GeoTIFFs: interleaving, compressions, tiles, no data."""
  from rasterio.io import MemoryFile

  for dtype, interleave, compress, tiled, *counts in itertools.product(
    ('uint8', 'uint16', 'int16', 'uint32', 'int32', 'float32', 'float64'),
    ('band', 'pixel'),
    ('none', 'deflate', 'lzw', 'zstd'),
    (False, True),
    (1, 5),
    (False, True),
  ):
    count, has_nodata = counts
    bands = values(dtype, (count, 32, 32))
    nodata = None
    if has_nodata:
      limits = np.finfo(dtype) if 'f' in dtype else np.iinfo(dtype)
      nodata = limits.min if 'u' not in dtype[:1] else limits.max
      bands[bands == nodata] = 1
      bands[:, 3, 4:9] = nodata
    options = {'interleave': interleave, 'compress': compress, 'tiled': tiled}
    options |= {'blockxsize': 16, 'blockysize': 16} if tiled else {}
    with MemoryFile() as memory:
      save_geotiff(memory.name, bands, nodata=nodata, **options)
      data = memory.read()
    want = np.moveaxis(bands, 0, -1)
    if has_nodata:
      with np.errstate(over='ignore'):  # The least float64 is no float32.
        want = want.astype(np.float32)
      want[3, 4:9] = np.nan
    layout = f'{count} band{"s" * (count > 1)}, by {interleave}'
    layout += ', no data' if has_nodata else ''
    image = as_image(np.moveaxis(bands, 0, -1)) if count == 1 else None
    yield from in_both_ways('rasterio', layout, data, want, image)


def of_pillow() -> Iterator[Case]:
  """Yields images of every mode that Pillow writes in a lossless format."""
  from PIL import Image

  formats = {
    'PNG': ('1', 'L', 'LA', 'RGB', 'RGBA', 'I;16'),
    'TIFF': ('1', 'L', 'LA', 'RGB', 'RGBA', 'I;16', 'F', 'I'),
    'BMP': ('1', 'L', 'RGB'),
    'PPM': ('L', 'RGB', 'I;16'),
    'WEBP': ('RGB', 'RGBA'),
    'JPEG2000': ('L', 'RGB', 'RGBA', 'I;16'),
  }
  dtypes = {'I;16': 'uint16', 'F': 'float32', 'I': 'int32'}
  for name, modes in formats.items():
    for mode in modes:
      count = {'LA': 2, 'RGB': 3, 'RGBA': 4}.get(mode, 1)
      pixels = values(dtypes.get(mode, 'uint8'), (16, 17, count))
      stored = pixels if count > 1 else pixels[..., 0]
      image = Image.fromarray(stored)
      if mode == '1':
        image = image.convert('1', dither=Image.Dither.NONE)
        pixels = np.asarray(image)[..., None].astype(np.uint8) * 255
      options = {'lossless': True, 'exact': True} if name == 'WEBP' else {}
      is_array = name in ('PNG', 'TIFF')
      bits = pixels // 255 if mode == '1' and name == 'TIFF' else pixels
      yield from in_both_ways(
        f'Pillow {name}',
        'all modes',
        encode(image, name, **options),
        bits if is_array else None,
        as_image(pixels),
      )


def of_soundfile() -> Iterator[Case]:
  """Yields sounds: containers, bits, channels."""
  import soundfile

  wanted = {'PCM_U8': 'int16', 'PCM_S8': 'int16', 'PCM_16': 'int16'}
  wanted |= {'PCM_24': 'int32', 'PCM_32': 'int32'}
  wanted |= {'FLOAT': 'float32', 'DOUBLE': 'float32'}
  readable = ('WAV', 'WAVEX', 'RF64', 'FLAC', 'AIFF')
  for name in (*readable, 'AU', 'CAF', 'W64'):
    for subtype, channels in itertools.product(
      soundfile.available_subtypes(name), (1, 2, 6)
    ):
      if subtype not in wanted and name in readable:
        continue
      sound = values('int16', (500, channels))
      if subtype in ('PCM_U8', 'PCM_S8'):
        sound = sound // 256 * 256
      is_float = subtype in ('FLOAT', 'DOUBLE')
      stored = sound / 2**15 if is_float else sound
      try:
        data = sounds_test.content(stored, 48000, subtype, name)
      except (soundfile.LibsndfileError, TypeError, ValueError):
        continue  # No such file exists.
      want = None
      if name in readable:
        dtype = wanted[subtype]
        scale = {'int16': 1, 'int32': 2**16, 'float32': 2**-15}[dtype]
        want = (sound.astype(np.float64) * scale).astype(dtype)
      yield as_array(f'soundfile {name}', 'all bits', data, want)


FILES: dict[str, Callable[[], Iterator[Case]]] = {
  'numpy': of_numpy,
  'tifffile': of_tifffile,
  'rasterio': of_rasterio,
  'PIL': of_pillow,
  'soundfile': of_soundfile,
}
PACKAGES = (*FILES, *store_formats.WRITERS)


def cases(package: str, folder: Path) -> Iterator[Case]:
  """Yields what a tool writes, in memory or into a new folder."""
  if package in store_formats.WRITERS:
    yield from store_formats.WRITERS[package](folder / package)
  else:
    yield from FILES[package]()


def read(case: Case) -> tuple[str, str]:
  """Reads a file or the data of a source; returns (outcome, reason)."""
  want = case.want
  try:
    found = case.read(case.data, (16, 17, 1) if want is None else want.shape)
  except Exception as error:
    is_true = want is None and _REASONS.match(str(error))
    return ('refused' if is_true else 'wrong'), str(error)
  if want is None:
    return 'wrong', 'it is read'
  want = on_device(want)
  is_exact = found.dtype == want.dtype.newbyteorder('=')
  is_exact = is_exact and np.array_equal(found, want, equal_nan=True)
  return ('exact', '') if is_exact else ('wrong', f'other values {found.dtype}')


def main() -> int:
  """Reads all files and prints the table; returns the exit status."""
  table = collections.defaultdict(collections.Counter)
  reasons, absent = {}, []

  with tempfile.TemporaryDirectory() as folder:
    for package in PACKAGES:
      if not importlib.util.find_spec(package):
        absent.append(package)
        continue
      for case in cases(package, Path(folder)):
        outcome, reason = read(case)
        table[case.row][outcome] += 1
        if reason:
          reasons.setdefault((*case.row, outcome), reason)
  print('| written by | layout | read as | exact | refused | such as |')
  print('| --- | --- | --- | ---: | ---: | --- |')
  for (tool, layout, way), counts in table.items():
    reason = reasons.get((tool, layout, way, 'refused'), '')
    cells = (tool, layout, way, counts['exact'], counts['refused'], reason)
    print('| ' + ' | '.join(map(str, cells)) + ' |')
  wrong = [(row, r) for row, r in reasons.items() if row[-1] == 'wrong']
  for row, reason in wrong:
    print(f'WRONG: {table[row[:-1]]["wrong"]} of {row[:-1]}: {reason}')
  total = sum(map(collections.Counter.total, table.values()))
  print(f'{total:,} readings; not installed: {", ".join(absent) or "none"}.')
  return int(bool(wrong))


if __name__ == '__main__':
  sys.exit(main())
