"""Reads TIFFs as arrays, with their axes and the value of no data.

It needs `tifffile`, which is imported only then. Axes: T time, Z depth, Y
height, X width, C channels, Q any other.
"""

import functools
import io
import logging
import re
from typing import Any, NamedTuple

import numpy as np

from vaegan_jax.data.reading import UnreadableKind, check_size

# Little and big endian; BigTIFF.
SIGNATURES = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_GDAL_NODATA = 42113
_SET = (
  'it is one file of an OME-TIFF set, whose planes are in several files (such '
  'as {!r}): write each set into one file, as tifffile.imwrite(new, '
  "tifffile.imread(old), metadata={{'axes': 'CYX'}}) does, with the axes that "
  'it has'
)
_OME_FILE = re.compile(
  r'<UUID\b[^>]*\bFileName="([^"]+)"|<BinaryOnly\b[^>]*MetadataFile="([^"]+)"'
)


class Tiff(NamedTuple):
  """The content of a TIFF.

  Attributes:
    values: the first series, as stored.
    axes: a letter for each axis of `values`; only 'C' may be last.
    nodata: the value that means "no data", as text; '' if none is declared.
  """

  values: np.ndarray
  axes: str
  nodata: str


def read_tiff(data: bytes, rules: int, keep_order: bool) -> Tiff:
  """Reads the first series of a TIFF.

  Args:
    data: the file.
    rules: `data.folder_rules`; below 3 planes that are missing are zeros.
    keep_order: whether to keep the stored order of axes; channels are last
      otherwise.

  Raises:
    UnreadableKind: a library is missing, or it is one of several files.
    ValueError: it is too large, or lacks planes.
  """
  try:
    import tifffile  # Optional, and slow to import.
  except ImportError as error:
    raise UnreadableKind(
      'it is a TIFF, which needs tifffile (pip install tifffile)'
    ) from error
  _filter_warnings()
  with tifffile.TiffFile(io.BytesIO(data)) as file:
    if rules > 2:
      check_whole(file.ome_metadata)
    series = file.series[0]
    check_size(series.nbytes, 'unpacks to')
    if rules > 2 and any(page is None for page in series.pages):
      missing = sum(page is None for page in series.pages)
      raise ValueError(
        f'{missing:,} of the {len(series.pages):,} planes that it declares '
        'are missing'
      )
    array, axes = _read_values(series), series.axes
    nodata = _read_nodata(file)
  if 'Y' not in axes or 'X' not in axes:
    raise ValueError(f'it has the axes {axes}, and no height and width')
  if not keep_order:
    for name in 'CS':  # Channels, and samples per pixel.
      if name in axes:
        array = np.moveaxis(array, axes.index(name), -1)
        axes = axes.replace(name, '') + name
  return Tiff(array, _letters(axes), nodata)


def map_tiff(path: str) -> Tiff | None:
  """Maps the first series of a TIFF into memory, in its stored order.

  Returns:
    The values and what is known of them; None if they must be decoded, or may
    be in several files.
  """
  try:
    import tifffile
  except ImportError:
    return None  # Reading it reports that.
  _filter_warnings()
  with tifffile.TiffFile(path) as file:
    series, ome = file.series[0], file.ome_metadata
    offset = series.dataoffset
    has_names = 'Y' in series.axes and 'X' in series.axes
    if offset is None or not has_names or 'FileName=' in (ome or ''):
      return None
    dtype = series.dtype.newbyteorder(file.byteorder)
    values = np.memmap(path, dtype, 'r', offset, series.shape)
    return Tiff(values, _letters(series.axes), _read_nodata(file))


def _letters(axes: str) -> str:
  """Returns axes as `data.axes` has them."""
  return re.sub('[^TZYXC]', 'Q', axes.replace('S', 'C'))


def _read_nodata(file: Any) -> str:
  """Returns the value of GDAL's tag; '' if there is none."""
  tag = file.pages[0].tags.get(_GDAL_NODATA)
  return str(tag.value).strip('\0 ') if tag else ''


@functools.cache
def _filter_warnings() -> None:
  """Drops warnings about no data, which is parsed here, for each file."""
  logging.getLogger('tifffile').addFilter(
    lambda record: 'GDAL_NODATA' not in record.getMessage()
  )


def check_whole(ome: str | None) -> None:
  """Raises an UnreadableKind if OME-XML has planes in several files."""
  found = _OME_FILE.findall(ome or '')
  files = {planes for planes, _ in found if planes}
  others = {metadata for _, metadata in found if metadata}
  if len(files) > 1 or others:
    raise UnreadableKind(_SET.format(min(files | others)))


def _read_values(series: Any) -> np.ndarray:
  try:
    return series.asarray()
  except (ValueError, ImportError) as error:
    if isinstance(error, ValueError) and 'imagecodecs' not in str(error):
      raise
    raise UnreadableKind(
      'it is a TIFF whose compression needs imagecodecs (pip install '
      'imagecodecs)'
    ) from error
