"""Examples that are cut out of larger arrays: a fixed grid, or random places.

The grid has the crops of `data.shape` that fit side by side into each array, in
its middle. Evaluation takes the grid. Training takes, for each crop of the
grid, one from a random place of the same array, so that an array counts as
often as it is long. Axes: S one to three of space, C channels, B batch.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np

from vaegan_jax.data import arrays, no_data
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.reading import NoData, TooShort
from vaegan_jax.data.slices import Facts, Sliced
from vaegan_jax.data.source import Dataset
from vaegan_jax.data.store import Parts, Recent
from vaegan_jax.errors import UserError

_ATTEMPTS = 16  # At random places, before the crop of the grid is taken.
_STREAM = 1  # Apart from the random numbers of the order of examples.
_OPEN_AT_ONCE = 4096  # Headers of files.
_SLAB_BYTES = 2**24  # That are read at once by `find_empty`.
# 2**64 over the golden ratio. Its multiples are spread evenly.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Grid(NamedTuple):
  """Crops side by side in an array."""

  counts: tuple[int, ...]  # How many there are along each axis of space.
  offset: tuple[int, ...]  # The start of the first one.
  shape: tuple[int, ...]  # S of a crop.

  @classmethod
  def of(cls, space: Sequence[int], shape: Sequence[int]) -> 'Grid':
    """Places crops in the middle of an array; TooShort if none fits."""
    pairs = list(zip(space, shape, strict=True))
    if any(length < least for length, least in pairs):
      raise TooShort(f'its shape {list(space)} is smaller than {list(shape)}')
    offset = tuple(length % least // 2 for length, least in pairs)
    counts = tuple(length // least for length, least in pairs)
    return cls(counts, offset, tuple(shape))

  def start(self, number: int) -> list[int]:
    """Returns the first position of a crop, by its number."""
    place = np.unravel_index(number, self.counts)
    return [
      first + int(n) * length
      for first, n, length in zip(self.offset, place, self.shape, strict=True)
    ]


def find_empty(
  whole: Sliced, shape: Sequence[int], max_nodata: float
) -> tuple[list[int], int, int, bool]:
  """Reads all of an array once, in slabs.

  Returns:
    The numbers of the grid's crops that hold too much no data, the number of
    values of no data, that of all, and whether all are equal.

  Raises:
    NoData: all of them hold too much.
    ValueError: a value is infinite.
  """
  grid = Grid.of(whole.space, shape)
  length, step = whole.space[0], grid.shape[0]
  empty, num_missing, num_values, row = [], 0, 0, 0
  low, high = np.inf, -np.inf
  while row < grid.counts[0]:
    # Each crop's values are in one slab; what is beside the grid is read, too.
    row_bytes = step * int(np.prod(whole.space[1:])) * whole.dtype.itemsize
    rows = min(max(1, _SLAB_BYTES // row_bytes), grid.counts[0] - row)
    place = grid.offset[0] + row * step
    first = place if row else 0
    end = place + rows * step
    end = end if row + rows < grid.counts[0] else length
    slab = whole.read(
      [first] + [0] * (len(shape) - 1), (end - first, *whole.space[1:])
    )
    arrays.check_finite(slab.values)
    low = min(low, slab.values.min(), key=float)
    high = max(high, slab.values.max(), key=float)
    num_values += slab.values.size
    if slab.missing is not None:
      num_missing += int(slab.missing.sum())
      found = _is_empty(slab.missing[place - first :], grid, rows, max_nodata)
      numbers = np.flatnonzero(found) + row * int(np.prod(grid.counts[1:]))
      empty += numbers.tolist()
    row += rows
  if len(empty) == np.prod(grid.counts):
    raise NoData(
      f'each of its {len(empty):,} crops of {list(shape)} holds more no data '
      f'than data.max_nodata={max_nodata:g}'
    )
  return empty, num_missing, num_values, bool(low == high)


def _is_empty(
  missing: np.ndarray, grid: Grid, rows: int, max_nodata: float
) -> np.ndarray:
  """Returns which crops of `rows` hold too much no data, or a channel of it."""
  counts = (rows, *grid.counts[1:])
  offset = (0, *grid.offset[1:])
  cuts = tuple(
    slice(first, first + number * length)
    for first, number, length in zip(offset, counts, grid.shape, strict=True)
  )
  sides = itertools.chain(*zip(counts, grid.shape, strict=True))
  crops = missing[cuts].reshape(*sides, -1)
  share = crops.mean(tuple(range(1, 2 * len(counts), 2)))
  return (share.mean(-1) > max_nodata) | (share == 1).any(-1)


class Crops:
  """The crops of arrays, by index; see `split.Images`.

  The first N are spread evenly over all arrays, for any N.
  """

  def __init__(
    self,
    dataset: Dataset,
    data: DataConfig,
    places: Sequence[tuple[str, int]],
    facts: Sequence[Facts],
    open_array: Callable[[int], Sliced],
    fingerprint: str,
  ):
    """Places the grids, and reads nothing yet.

    Args:
      dataset, data: an opened source, and its settings.
      places: (split, index) of the arrays in the data set.
      facts: of the arrays.
      open_array: opens an array, by its number.
      fingerprint: see `split.Images`.
    """
    self._dataset, self._places = dataset, places
    self._facts, self._open = facts, open_array
    self._shape, self._max_nodata = data.read_shape, data.max_nodata
    self.stored_dtype = np.dtype(dataset.dtype)
    masks = data.reading.masks
    self.dtype = np.dtype(np.float32) if masks else self.stored_dtype
    self.fingerprint = fingerprint
    grid = functools.cache(functools.partial(Grid.of, shape=self._shape))
    self._grids = [grid(fact.space) for fact in facts]
    self._parts = Parts(
      math.prod(grid.counts) - len(fact.empty)
      for grid, fact in zip(self._grids, facts, strict=True)
    )
    numbers = np.arange(len(self._parts), dtype=np.uint64)
    self._order = np.argsort(numbers * _GOLDEN)
    self._opened = Recent(_OPEN_AT_ONCE)
    self._filled = functools.lru_cache(64)(self._list_filled)
    self._pool = futures.ThreadPoolExecutor(thread_name_prefix='crops')

  def __str__(self) -> str:
    number, shape = len(self._facts), 'x'.join(map(str, self._shape))
    return (
      f'{len(self):,} crops of {shape} fit side by side into {number:,} files'
    )

  def __len__(self) -> int:
    return len(self._order)

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    """Returns the crops of the grid at `indices` [B] as [B, *S, C]."""
    return self._stack(self._pool.map(self._read_grid, indices))

  def at_random(
    self, indices: np.ndarray, seed: int, numbers: np.ndarray
  ) -> np.ndarray:
    """Returns crops from random places of the arrays of other crops.

    Args:
      indices: [B], of crops in the arrays to take.
      seed: of the run.
      numbers: [B], which examples of the whole training they are.

    Returns:
      [B, *S, C], a function of the arguments.
    """
    read = functools.partial(self._read_random, seed)
    return self._stack(self._pool.map(read, indices, numbers))

  def _stack(self, found: Any) -> np.ndarray:
    return np.stack(list(found)).astype(self.dtype, copy=False)

  def _read_random(self, seed: int, index: int, number: int) -> np.ndarray:
    which, _ = self._find(index)
    free = np.subtract(self._facts[which].space, self._shape) + 1
    rng = np.random.default_rng((seed, int(number), _STREAM))
    for _ in range(_ATTEMPTS):
      try:
        return self._read(which, rng.integers(free))
      except NoData:
        continue
    return self._read_grid(index)

  def _read_grid(self, index: int) -> np.ndarray:
    which, number = self._find(index)
    return self._read(which, self._grids[which].start(number))

  def _read(self, which: int, start: Sequence[int]) -> np.ndarray:
    try:
      whole = self._opened.get(which, lambda: self._open(which))
      stored = whole.read(start, self._shape)
    except UserError:
      raise
    except Exception as error:  # Libraries raise nearly anything.
      place = self._places[which]
      raise self._dataset.error(*place, 'cannot be read', error) from error
    if stored.missing is None:
      return stored.values
    no_data.check(stored.missing, self._max_nodata)
    return no_data.mark(stored.values, stored.missing)

  def _find(self, index: int) -> tuple[int, int]:
    """Returns an array, and the number of a crop in its grid."""
    which, place = self._parts.find(int(self._order[index]))
    return which, self._filled(which)[place]

  def _list_filled(self, which: int) -> Sequence[int]:
    """Returns the crops of an array's grid that hold enough data."""
    empty = self._facts[which].empty
    number = math.prod(self._grids[which].counts)
    return np.delete(np.arange(number), empty) if empty else range(number)
