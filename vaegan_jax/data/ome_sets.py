"""OME-TIFF sets: the planes of one image in several files, as one array.

The OME-XML of each file lists the planes of all. A set is read through the file
that is first by name; the others are parts of it. Axes: T time, Z depth, C
channels, Y height, X width.
"""

import io
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import numpy as np

from vaegan_jax.data import tiff_files
from vaegan_jax.data.reading import PartOfSet, check_size


class _Plane(NamedTuple):
  """The place of a plane along T, Z and C, and its page in a file."""

  place: tuple[int, int, int]
  file: str
  page: int


def join(
  name: str,
  data: bytes,
  names: Collection[str],
  read: Callable[[str], bytes],
) -> bytes:
  """Returns a TIFF with all planes of a set, or the same TIFF if it is whole.

  Args:
    name: the file's name, relative to its folder of examples.
    data: its content.
    names: names of all files; no others are read.
    read: returns the content of one.

  Raises:
    PartOfSet: another file stands for the set.
    ValueError: a plane is missing.
  """
  pixels = _find_pixels(data)
  if pixels is None:
    return data
  space = [int(pixels.get(f'Size{axis}', 1)) for axis in 'TZC']
  planes = list(_list_planes(pixels, space))
  files = sorted({plane.file for plane in planes})
  if len(files) < 2:
    return data
  folder, own = os.path.split(name)
  if own not in files:
    raise ValueError(f'its OME-TIFF set has the files {files}, and not {own!r}')
  for file in files:
    if file != os.path.basename(file):
      raise ValueError(f'its set has {file!r}, which is in another folder')
    if os.path.join(folder, file) not in names:
      raise ValueError(f'its OME-TIFF set lacks the file {file!r}')
  if own != files[0]:
    raise PartOfSet(f'it is part of the OME-TIFF set of {files[0]!r}')
  contents = {own: data}
  for file in files[1:]:
    contents[file] = read(os.path.join(folder, file))
  return _write(space, planes, contents)


def _find_pixels(data: bytes) -> ElementTree.Element | None:
  """Returns the element of the only image; None if it can be in one file."""
  is_tiff = data.startswith(tiff_files.SIGNATURES)
  if not is_tiff or b'FileName=' not in data or b'<UUID' not in data:
    return None
  try:
    import tifffile
  except ImportError:
    return None  # Reading it reports that.
  with tifffile.TiffFile(io.BytesIO(data)) as file:
    ome = file.ome_metadata
  # An entity may expand to gigabytes, and OME-XML has none.
  if not ome or '<!DOCTYPE' in ome:
    return None
  found = ElementTree.fromstring(ome).findall('.//{*}Image/{*}Pixels')
  return found[0] if len(found) == 1 else None


def _list_planes(pixels, space: list[int]) -> Iterator[_Plane]:
  """Yields the planes that name their file."""
  if any(
    int(c.get('SamplesPerPixel', 1)) > 1 for c in pixels.iter('{*}Channel')
  ):
    raise ValueError('its OME-TIFF set has several samples per pixel')
  order = pixels.get('DimensionOrder', 'XYCZT')[2:]  # The fastest first.
  sizes = dict(zip('TZC', space, strict=True))
  for block in pixels.iterfind('{*}TiffData'):
    uuid = block.find('{*}UUID')
    if uuid is None or not uuid.get('FileName'):
      continue
    step, first = 1, 0
    for axis in order:
      first += step * int(block.get(f'First{axis}', 0))
      step *= sizes[axis]
    page = int(block.get('IFD', 0))
    for index in range(int(block.get('PlaneCount', 1))):
      rest, place = first + index, {}
      for axis in order:
        rest, place[axis] = divmod(rest, sizes[axis])
      if rest:
        raise ValueError('its OME-TIFF set has planes outside of its image')
      yield _Plane(
        tuple(place[axis] for axis in 'TZC'), uuid.get('FileName'), page + index
      )


def _write(
  space: list[int], planes: list[_Plane], contents: dict[str, bytes]
) -> bytes:
  """Returns a TIFF of the planes, with the axes that are longer than 1."""
  import tifffile

  missing = np.ones(space, bool)
  for plane in planes:
    missing[plane.place] = False
  if missing.any():
    raise ValueError(
      f'{missing.sum():,} of the {missing.size:,} planes that its OME-TIFF set '
      'declares are missing'
    )
  stack = None
  for file, content in contents.items():
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
      for plane in planes:
        if plane.file != file:
          continue
        values = tiff.pages[plane.page].asarray()
        if stack is None:
          check_size(missing.size * values.nbytes, 'unpacks to')
          stack = np.empty((*space, *values.shape), values.dtype)
        if (values.shape, values.dtype) != (stack.shape[3:], stack.dtype):
          raise ValueError('the planes of its OME-TIFF set differ in shape')
        stack[plane.place] = values
  axes = ''.join(a for a, size in zip('TZC', space, strict=True) if size > 1)
  joined = io.BytesIO()
  tifffile.imwrite(
    joined,
    stack.reshape(*(size for size in space if size > 1), *stack.shape[3:]),
    photometric='minisblack',
    metadata={'axes': f'{axes}YX'},
  )
  return joined.getvalue()
