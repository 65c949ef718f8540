"""Tiles of TIFF scenes that are larger than memory.

Only the parts of a file that a tile needs are read and decoded.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from vaegan_jax.data import tiff_files
from vaegan_jax.data.reading import MAX_BYTES, Declared, NoData
from vaegan_jax.data.store import Recent, import_reader, reporting_damage
from vaegan_jax.errors import UserError

SUFFIXES = ('.tif', '.tiff', '.btf')
_PIXEL_SCALE = 33550  # Tags of GeoTIFF.
_TIEPOINT, _TRANSFORMATION, _GEO_KEYS = 33922, 34264, 34735
_CRS_KEYS = (3072, 2048)  # The codes of a projected or geographic system.
_KEPT_BYTES = 2**26  # Of decoded parts, which neighbours share.
_SEPARATE = 2  # Planar configuration: one plane a band.


class Scene:
  """A georeferenced image in a file."""

  def __init__(self, path: str):
    """Reads the header; raises a UserError if it is not that of a scene."""
    tifffile = import_reader('tifffile', path, 'a TIFF')
    with (
      reporting_damage(f'{path!r} of data.path'),
      tifffile.TiffFile(path) as file,
    ):
      self._read_header(path, file)

  def _read_header(self, path: str, file) -> None:
    page, self.path = file.pages[0], path
    self._check_pages(file)
    if tiff_files.has_mask(path):
      raise self._error(tiff_files.MASKED.format('in a .msk file beside it'))
    if tiff_files.has_palette(page):
      raise self._error(
        'has a palette, whose indices are not values: write its colors, as '
        'gdal_translate -expand rgb does'
      )
    if 'Y' not in page.axes or set(page.axes) - set('YXS'):
      raise self._error(
        f'has the axes {page.axes}, and must have bands of Y, X'
      )
    bands = page.shape[page.axes.index('S')] if 'S' in page.axes else 1
    height, width = (page.shape[page.axes.index(axis)] for axis in 'YX')
    self.shape, self.dtype = (height, width, bands), page.dtype
    if page.dtype is None or page.dtype.kind not in 'uif':
      raise self._error(f'holds {page.dtype}, and must hold real numbers')
    self._is_separate = page.planarconfig == _SEPARATE and bands > 1
    self._offsets, self._counts = page.dataoffsets, page.databytecounts
    self.no_data = tiff_files.read_nodata(page)
    tag = page.tags.get(_PIXEL_SCALE)
    # The size of a pixel in units of the map, (x, y); () if unknown.
    self.pixel_scale = tuple(map(float, tag.value[:2])) if tag else ()
    self.place = _find_place(page, self.shape)
    self._alpha = tiff_files.find_alpha(page)
    # True: values are read without decoding.
    self.is_mapped = page.is_memmappable and 0 not in self._counts
    self._byteorder, self._page = file.byteorder, page
    self._tables = page.jpegtables
    self._recent = Recent(1)
    self.segment = (height, width)  # Decoded at once.
    if self.is_mapped:
      return
    if page.is_tiled:
      self.segment = (page.tilelength, page.tilewidth)
    else:
      self.segment = (min(page.rowsperstrip, height), width)
    samples = 1 if self._is_separate else bands
    size = int(np.prod(self.segment)) * samples * self.dtype.itemsize
    if size > MAX_BYTES:
      raise self._error(
        f'is compressed in parts of {size / 2**20:,.0f} MiB: write it in '
        'tiles, such as by gdal_translate -co TILED=YES'
      )
    self._recent = Recent(max(4, _KEPT_BYTES // size))
    self._check_decoder()

  def _check_pages(self, file) -> None:
    for page in file.pages[1:]:
      if page.subfiletype & tiff_files.MASK:
        raise self._error(tiff_files.MASKED.format('of its own'))
      if not page.subfiletype & tiff_files.REDUCED:
        raise self._error(
          f'has {len(file.pages)} pages: write one scene with bands to a file'
        )

  def _check_decoder(self) -> None:
    """Raises a UserError if a part cannot be decoded for lack of a library."""
    number = next((n for n, count in enumerate(self._counts) if count), None)
    try:
      if number is not None:
        self._part(number)
    except Exception as error:  # Of tifffile, and of decoders.
      missing = isinstance(error, (ImportError, KeyError))
      if missing or 'imagecodecs' in str(error):
        raise self._error(
          f'is compressed as {self._page.compression.name}, which needs '
          'imagecodecs: pip install imagecodecs'
        ) from error

  def read(
    self, top: int, left: int, height: int, width: int
  ) -> np.ndarray | Declared:
    """Reads a tile [height, width, C] in the dtype of the file.

    Raises:
      NoData: a part was never written.
    """
    if self.is_mapped:
      tile = self._map_tile(top, left, height, width)
    else:
      tile = self._decode_tile(top, left, height, width)
    hidden = None
    if self._alpha is not None:
      is_clear = tile[..., self._alpha, None] == 0
      hidden = np.broadcast_to(is_clear, tile.shape)
    if not self.no_data and hidden is None:
      return tile
    return Declared(tile, self.no_data, hidden)

  def _map_tile(self, top, left, height, width) -> np.ndarray:
    rows, columns = slice(top, top + height), slice(left, left + width)
    # A map that is kept would hold all that was read in memory.
    h, w, c = self.shape
    shape = (c, h, w) if self._is_separate else (h, w, c)
    dtype = self.dtype.newbyteorder(self._byteorder)
    values = np.memmap(self.path, dtype, 'r', self._offsets[0], shape)
    if self._is_separate:
      return np.moveaxis(values[:, rows, columns], 0, -1).copy()
    return values[rows, columns].copy()

  def _decode_tile(self, top, left, height, width) -> np.ndarray:
    full_height, full_width, bands = self.shape
    rows, columns = self.segment
    across = -(-full_width // columns)
    per_plane = across * -(-full_height // rows)
    tile = np.empty((height, width, bands), self.dtype)
    planes = range(bands) if self._is_separate else [slice(None)]
    numbers = [
      (y * across + x, y, x)
      for y in range(top // rows, -(-(top + height) // rows))
      for x in range(left // columns, -(-(left + width) // columns))
    ]
    for place, plane in enumerate(planes):
      for number, y, x in numbers:
        part = self._part(place * per_plane + number)
        first, start = max(top, y * rows), max(left, x * columns)
        end = min(top + height, (y + 1) * rows)
        stop = min(left + width, (x + 1) * columns)
        values = part[
          first - y * rows : end - y * rows,
          start - x * columns : stop - x * columns,
        ]
        target = tile[first - top : end - top, start - left : stop - left]
        target[..., plane] = values[..., 0] if self._is_separate else values
    return tile

  def _part(self, number: int) -> np.ndarray:
    if not self._counts[number]:
      raise NoData('a part of it was never written')
    return self._recent.get(number, lambda: self._decode(number))

  def _decode(self, number: int) -> np.ndarray:
    """Returns a part [h, w, c] of the file, decoded."""
    count = self._counts[number]
    with open(self.path, 'rb') as file:
      data = os.pread(file.fileno(), count, self._offsets[number])
    if len(data) != count:
      raise ValueError('its file is truncated')
    options = {'jpegtables': self._tables} if self._tables else {}
    part, _, _ = self._page.decode(data, number, **options)
    return part[0]

  def _error(self, complaint: str) -> UserError:
    return UserError(f'{self.path!r} of data.path {complaint}.')


def _find_place(page: Any, shape: Sequence[int]) -> tuple[Any, ...]:
  """Returns where a georeferenced page lies on the map; () if unknown.

  It is (reference system, least x, least y, largest x, largest y), without the
  pixels at the edges, which neighbours may share.
  """
  codes = (_TRANSFORMATION, _PIXEL_SCALE, _TIEPOINT, _GEO_KEYS)
  found = [page.tags.get(code) for code in codes]
  matrix, scale, tie, keys = (tag.value if tag else () for tag in found)
  if len(matrix) == 16:
    to_map = np.reshape(matrix, (4, 4))[:2, [0, 1, 3]]
  elif len(scale) > 1 and len(tie) >= 6:
    (right, down), (i, j, _, x, y, _) = scale[:2], tie[:6]
    to_map = np.array([[right, 0, x - i * right], [0, -down, y + j * down]])
  else:
    return ()
  height, width = shape[:2]
  columns, rows = [1, width - 1, 1, width - 1], [1, 1, height - 1, height - 1]
  corners = to_map @ [columns, rows, [1] * 4]
  if not np.isfinite(corners).all():
    return ()
  codes = dict(zip(keys[::4], keys[3::4], strict=False))
  system = next((codes[key] for key in _CRS_KEYS if key in codes), 0)
  return (int(system), *corners.min(1).tolist(), *corners.max(1).tolist())


def group_places(
  names: Sequence[str], places: Sequence[Sequence[Any]]
) -> list[str]:
  """Groups scenes that overlap, also through others.

  Returns:
    A key for each scene, equal within a group. Scenes whose place is unknown
    have their names.
  """
  keys = list(names)
  all_places = sorted({tuple(place) for place in places if place})
  rest, found = np.reshape(np.array(all_places, float), (-1, 5)), {}
  while len(rest):
    first, waiting, rest = tuple(rest[0]), [rest[0]], rest[1:]
    while waiting:
      place = waiting.pop()
      found[tuple(place)] = f'place {first}'
      overlaps = (rest[:, 0] == place[0]) & np.all(
        (rest[:, 1:3] < place[3:]) & (rest[:, 3:] > place[1:3]), axis=1
      )
      waiting, rest = [*waiting, *rest[overlaps]], rest[~overlaps]
  for number, place in enumerate(places):
    if place:
      keys[number] = found[tuple(map(float, place))]
  return keys
