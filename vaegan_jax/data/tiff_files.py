"""Reads TIFFs as arrays, with their axes and the value of no data.

It needs `tifffile`, which is imported only then. Axes: T time, Z depth, Y
height, X width, C channels, Q any other.
"""

import functools
import io
import logging
import os
import re
from typing import Any, NamedTuple

import numpy as np

from vaegan_jax.data import no_data
from vaegan_jax.data.reading import Reading, UnreadableKind, check_size

# Little and big endian; BigTIFF.
SIGNATURES = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
GDAL_NODATA = 42113
REDUCED, MASK = 1, 4  # Bits of the kind of page.
_PALETTE = 3  # Photometric interpretation.
_ALPHA = (1, 2)  # Kinds of extra samples.
_PLACE = (33550, 34264, 34735)  # Scale, transform and keys of a GeoTIFF.
_MASK_SUFFIX = '.msk'  # GDAL's, after the whole name of a TIFF.
MASKED = (
  'has a mask {}, which is not read: write its values as no data, as gdalwarp '
  '-dstnodata does'
)
_SET = (
  'it is one file of an OME-TIFF set, whose planes are in several files (such '
  'as {!r}): write each set into one file, as tifffile.imwrite(new, '
  "tifffile.imread(old), metadata={{'axes': 'CYX'}}) does, with the axes that "
  'it has'
)
_SEVERAL = (
  'it holds {} images, and a file must be one example: write each into a file '
  'of its own, as tifffile.imwrite(new, tifffile.imread(old, series=0)) does '
  'for the first'
)
_OME_FILE = re.compile(
  r'<UUID\b[^>]*\bFileName="([^"]+)"|<BinaryOnly\b[^>]*MetadataFile="([^"]+)"'
)


class Tiff(NamedTuple):
  """The content of a TIFF."""

  values: np.ndarray  # The first series; of a palette, its colors [..., 3].
  axes: str  # A letter for each axis of `values`; only 'C' may be last.
  nodata: str  # The value that means "no data", as text; '' if none does.
  # Bool, of the same shape, which values a mask or a GeoTIFF's alpha hides, or
  # were never written; None if none are.
  hidden: np.ndarray | None = None


def read_tiff(data: bytes, reading: Reading) -> Tiff:
  """Reads the first series of a TIFF.

  Args:
    data: the file.
    reading: how it is read. By rules below 3 planes that are missing are zeros,
      nothing is hidden, the first of several images is taken, and indices of a
      palette are values. With axes the stored order is kept; channels are
      last otherwise.

  Raises:
    UnreadableKind: a library is missing, it is one of several files, has
      several images, or its mask is of another shape.
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
    if reading.rules > 2:
      check_whole(file.ome_metadata)
      if (count := _count_images(file)) > 1:
        raise UnreadableKind(_SEVERAL.format(count))
    series = file.series[0]
    check_size(series.nbytes, 'unpacks to')
    if reading.rules > 2 and any(page is None for page in series.pages):
      missing = sum(page is None for page in series.pages)
      raise ValueError(
        f'{missing:,} of the {len(series.pages):,} planes that it declares '
        'are missing'
      )
    array, axes = _read_values(series), series.axes
    nodata = read_nodata(file.pages[0])
    hidden = _find_hidden(file, array) if reading.rules > 2 else None
    if reading.rules > 2 and has_palette(series.keyframe):
      if not reading.nodata:  # The declared one is an index.
        hidden = no_data.find(array, nodata, reading, hidden)
      array, axes, nodata = _read_palette(series, array), axes + 'S', ''
      if hidden is not None:
        hidden = np.broadcast_to(hidden[..., None], array.shape)
  if 'Y' not in axes or 'X' not in axes:
    raise ValueError(f'it has the axes {axes}, and no height and width')
  if not reading.axes:
    for name in 'CS':  # Channels, and samples per pixel.
      if name in axes:
        array = np.moveaxis(array, axes.index(name), -1)
        if hidden is not None:
          hidden = np.moveaxis(hidden, axes.index(name), -1)
        axes = axes.replace(name, '') + name
  return Tiff(array, _letters(axes), nodata, hidden)


def map_tiff(path: str) -> Tiff | None:
  """Maps the first series of a TIFF into memory, in its stored order.

  Returns:
    The values and what is known of them; None for what `read_tiff` must decode
    or refuse.
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
    if _find_masks(file) or find_alpha(series.keyframe) is not None:
      return None
    if _count_images(file) > 1 or has_palette(series.keyframe):
      return None
    dtype = series.dtype.newbyteorder(file.byteorder)
    values = np.memmap(path, dtype, 'r', offset, series.shape)
    return Tiff(values, _letters(series.axes), read_nodata(file.pages[0]))


def has_mask(path: str | os.PathLike) -> bool:
  """Returns whether GDAL's mask of a TIFF is in a file beside it."""
  return os.path.exists(os.fspath(path) + _MASK_SUFFIX)


def check_mask(path: str | os.PathLike, reading: Reading) -> None:
  """Raises an UnreadableKind for a TIFF with a mask beside it."""
  if reading.rules > 2 and reading.nodata != no_data.IGNORE and has_mask(path):
    raise UnreadableKind(
      f'it has a mask beside it, in {os.path.basename(path) + _MASK_SUFFIX!r}, '
      'which is not read: write it into the file, as gdal_translate --config '
      'GDAL_TIFF_INTERNAL_MASK YES does'
    )


def find_alpha(page: Any) -> int | None:
  """Returns which sample of a GeoTIFF's page is alpha; None if none is."""
  extra = page.extrasamples
  alphas = [n for n, kind in enumerate(extra) if kind in _ALPHA]
  if not alphas or not any(tag in page.tags for tag in _PLACE):
    return None
  return page.samplesperpixel - len(extra) + alphas[0]


def _find_masks(file: Any) -> list[Any]:
  """Returns the series of a file that are masks of others, in full size."""
  bits = REDUCED | MASK
  if file.is_ome:  # Its series leave out a mask that GDAL has added.
    last = file.pages.get(len(file.pages) - 1, aspage=True)
    if last.subfiletype & bits == MASK:
      raise UnreadableKind('it ' + MASKED.format('in an OME-TIFF'))
  return [s for s in file.series if s.keyframe.subfiletype & bits == MASK]


def _count_images(file: Any) -> int:
  """Returns the number of series other than thumbnails, levels and masks."""
  bits = REDUCED | MASK
  return sum(not s.keyframe.subfiletype & bits for s in file.series)


def has_palette(page: Any) -> bool:
  """Returns whether the values of a page are indices of colors."""
  return page.photometric == _PALETTE and page.colormap is not None


def _read_palette(series: Any, indices: np.ndarray) -> np.ndarray:
  """Returns the colors [..., 3] of indices, with 8 bits as in a PNG."""
  check_size(3 * indices.size, 'unpacks to')
  return (series.keyframe.colormap >> 8).astype(np.uint8).T[indices]


def _find_hidden(file: Any, values: np.ndarray) -> np.ndarray | None:
  """Returns `Tiff.hidden` of the first series, in its stored order."""
  series = file.series[0]
  axis = series.axes.find('S')
  found = _find_unwritten(series)
  if (alpha := find_alpha(series.keyframe)) is not None and axis >= 0:
    found.append(values.take([alpha], axis) == 0)
  for masks in _find_masks(file):
    space = tuple(
      n
      for name, n in zip(series.axes, series.shape, strict=True)
      if name != 'S'
    )
    if masks.shape != space:
      raise UnreadableKind('it ' + MASKED.format('of another shape'))
    mask = masks.asarray() == 0
    found.append(np.expand_dims(mask, axis) if axis >= 0 else mask)
  if not any(part.any() for part in found):
    return None
  return functools.reduce(np.logical_or, found, np.zeros(values.shape, bool))


def _find_unwritten(series: Any) -> list[np.ndarray]:
  """Returns a mask of the strips or tiles that were never written, if any."""
  key, pages = series.keyframe, list(series.pages)
  if series.dataoffset is not None:  # All values lie there.
    return []
  parts = None
  for n, page in enumerate(pages):
    places = zip(page.dataoffsets, page.databytecounts, strict=True)
    for number, place in enumerate(places):
      if 0 not in place:
        continue
      if parts is None:
        parts = np.zeros((len(pages), *key.shaped), bool)
      _, (s, d, h, w, _), size = key.decode(None, number)
      parts[n, s, d : d + size[0], h : h + size[1], w : w + size[2]] = True
  return [] if parts is None else [parts.reshape(series.shape)]


def _letters(axes: str) -> str:
  """Returns axes as `data.axes` has them."""
  return re.sub('[^TZYXC]', 'Q', axes.replace('S', 'C'))


def read_nodata(page: Any) -> str:
  """Returns the value of GDAL's tag; '' if there is none."""
  tag = page.tags.get(GDAL_NODATA)
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
