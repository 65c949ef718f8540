"""The places of overlapping tiles in an array, and what is assembled of them.

A position that is in several tiles gets their weighted mean:

  hard    one tile has all the weight: the one whose edge is farther away
  smooth  the weights change gradually over the overlap

Axes: S axes of space, B batch.
"""

import bisect
import functools
import itertools
import math
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Grid(NamedTuple):
  """The positions of overlapping tiles of one shape."""

  starts: tuple[tuple[int, ...], ...]  # First positions along each axis.
  tile: tuple[int, ...]  # Length of a tile along each axis.

  def scaled(self, factor: int) -> 'Grid':
    """Returns the same tiles with `factor` positions for each one."""
    starts = tuple(tuple(n * factor for n in axis) for axis in self.starts)
    return Grid(starts, tuple(n * factor for n in self.tile))

  @property
  def space(self) -> tuple[int, ...]:
    """The spatial shape S that the tiles cover."""
    ends = zip(self.starts, self.tile, strict=True)
    return tuple(starts[-1] + length for starts, length in ends)

  def tiles(self) -> list[tuple[int, ...]]:
    """Returns the place of each tile along each axis, in order."""
    return list(itertools.product(*(range(len(axis)) for axis in self.starts)))

  def weights(self, axis: int, place: int, smooth: bool) -> np.ndarray:
    """Returns a tile's weights [length] along an axis; those of all sum to 1.

    Args:
      axis: the axis.
      place: the tile's place along it.
      smooth: whether they change gradually.
    """
    starts, length = self.starts[axis], self.tile[axis]
    first = bisect.bisect_right(starts, starts[place] - length)
    end = bisect.bisect_left(starts, starts[place] + length)
    near = tuple(start - starts[first] for start in starts[first:end])
    return _weights(near, place - first, length, smooth)


def place_tiles(
  space: Sequence[int],
  tile: Sequence[int],
  overlap: Sequence[int],
  multiple: int = 1,
) -> Grid:
  """Places tiles over the shape `space`; a tile is no longer than its axis.

  They overlap by at least `overlap`, the last two of an axis by more. All begin
  at a multiple of `multiple`, for which tiles may be shorter than `tile`.
  """
  starts, sizes = [], []
  for length, size, shared in zip(space, tile, overlap, strict=True):
    size = length if length <= size else size - (size - length) % multiple
    step = max((size - shared) // multiple, 1) * multiple
    starts.append((*range(0, length - size, step), length - size))
    sizes.append(size)
  return Grid(tuple(starts), tuple(sizes))


@functools.lru_cache(64)
def _weights(
  starts: tuple[int, ...], which: int, length: int, smooth: bool
) -> np.ndarray:
  """Returns the weights [length] of one tile among all that overlap with it."""
  twice = 2 * np.arange(length) + 1  # Twice the distance from the first edge.
  weights = [np.ones(length) for _ in starts]
  for i, (start, after) in enumerate(itertools.pairwise(starts)):
    shared = start + length - after
    rise = np.clip(twice / (2 * max(shared, 1)), 0, 1)
    rise = np.sin(np.pi / 2 * rise) ** 2 if smooth else rise >= 0.5
    weights[i + 1] *= rise
    if shared > 0:
      weights[i][after - start :] *= 1.0 - rise[:shared]
  total = np.zeros(starts[-1] + length)
  for start, weight in zip(starts, weights, strict=True):
    total[start : start + length] += weight
  first = starts[which]
  return weights[which] / total[first : first + length]


class Tiles:
  """The tiles of an array, by index; what is beyond its end repeats it."""

  def __init__(self, x: np.ndarray, grid: Grid):
    """Takes x [*S, ...], and a grid whose shape may exceed S."""
    self._x, self._grid, self._tiles = x, grid, grid.tiles()

  def __len__(self) -> int:
    return len(self._tiles)

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    """Returns the tiles at `indices` [B] as [B, *tile, ...]."""
    return np.stack([self._read(*self._tiles[index]) for index in indices])

  def _read(self, *places: int) -> np.ndarray:
    positions = []
    for axis, place in enumerate(places):
      start, length = self._grid.starts[axis][place], self._grid.tile[axis]
      inside = np.arange(start, start + length)
      positions.append(np.minimum(inside, self._x.shape[axis] - 1))
    return self._x[np.ix_(*positions)]


class Canvas:
  """An array that is assembled from tiles."""

  def __init__(self, grid: Grid, smooth: bool, scratch: str = ''):
    """Starts with zeros.

    Args:
      grid: the places of the tiles.
      smooth: whether overlapping tiles are blended.
      scratch: a folder for a temporary file with the array, if it is large.
    """
    self._grid, self._array, self._scratch = grid, None, scratch
    self._tiles, self._smooth = grid.tiles(), smooth

  def add(self, index: int, tile: np.ndarray) -> None:
    """Adds a tile [*tile, ...]; whole numbers are not blended."""
    if self._array is None:
      shape = self._grid.space + tile.shape[len(self._grid.tile) :]
      self._array = _zeros(shape, tile.dtype, self._scratch)
    places = self._tiles[index]
    smooth = self._smooth and tile.dtype.kind not in 'iu'
    for axis, place in enumerate(places):
      weight = self._grid.weights(axis, place, smooth).astype(tile.dtype)
      tile = tile * weight.reshape([-1] + [1] * (tile.ndim - axis - 1))
    self._array[
      tuple(
        slice(starts[place], starts[place] + length)
        for starts, place, length in zip(
          self._grid.starts, places, self._grid.tile, strict=True
        )
      )
    ] += tile

  def result(self, space: Sequence[int]) -> np.ndarray:
    """Returns the array [*space, ...]."""
    return self._array[tuple(map(slice, space))]


def _zeros(shape: tuple[int, ...], dtype: np.dtype, scratch: str) -> np.ndarray:
  """Returns an array of zeros, in a temporary file if `scratch` is given."""
  if not scratch:
    return np.zeros(shape, dtype)
  with tempfile.TemporaryFile(dir=scratch) as file:  # The map keeps it.
    file.truncate(math.prod(shape) * np.dtype(dtype).itemsize)
    return np.memmap(file, dtype, 'r+', shape=shape)
