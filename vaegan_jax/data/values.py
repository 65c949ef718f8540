"""The range of a dataset's values: which become -1 and 1 for the networks.

It is found once, over the training split, and is a field of the run from then
on: see `setup/data.py`.
"""

import numpy as np

from vaegan_jax.data.images import Images
from vaegan_jax.data.pixels import ValueRange
from vaegan_jax.errors import UserError

PERCENTILES = (0.1, 99.9)
_NUM_VALUES = 2**24  # Of evenly chosen examples, that are looked at.
_READ_TOGETHER = 256
_MAX_OUTSIDE = 0.01  # Of the values, beyond a pair that was given.
_UNFILLED = 0.25  # Share of the range below which that is told.
_MIN_WIDTH = 1e-30  # Below, float32 has no room for it.
_MAX_BOUND = 1e37
_RESOLUTION = 2.0**-16  # Of a range, next to its larger bound.


def find_range(given: ValueRange, images: Images) -> tuple[ValueRange, str]:
  """Settles what the values of a dataset are mapped from.

  Args:
    given: the field `data.value_range`; 'dtype' is of arrays here.
    images: the training split.

  Returns:
    The pair (low, high), and a sentence that tells of it.

  Raises:
    UserError: the field does not suit the values, or they are all the same.
  """
  values = _look(images)
  low, high = _bounds(given, values, images.dtype)
  _check_precision(low, high)
  least, most = float(values.min()), float(values.max())
  outside = float(np.mean((values < low) | (values > high)))
  told = (
    f'data.value_range: {low:g} becomes -1 and {high:g} becomes 1; of '
    f'{values.size:,} values looked at, from {least:g} to {most:g}, '
    f'{outside:.2%} are beyond and cut'
  )
  # With as many digits as float32 has, or the ends would be beyond.
  use = f'--config.data.value_range="({least:.9g}, {most:.9g})"'
  if outside > _MAX_OUTSIDE:
    raise UserError(
      f'data.value_range={given!r} is left by {outside:.1%} of the values of '
      f'the training split, which go from {least:g} to {most:g}: for example, '
      f'{use}'
    )
  filled = (min(most, high) - max(least, low)) / (high - low)
  if filled < _UNFILLED:
    told += f'; they fill {filled:.1%} of the range, all of which {use} uses'
  return (low, high), f'{told}.'


def _look(images: Images) -> np.ndarray:
  """Values of evenly chosen examples, in one row."""
  size = images[np.arange(1)].size
  number = min(len(images), max(1, _NUM_VALUES // size))
  places = np.arange(number) * len(images) // number
  parts = [
    images[places[first : first + _READ_TOGETHER]].reshape(-1)
    for first in range(0, number, _READ_TOGETHER)
  ]
  return np.concatenate(parts)


def _bounds(
  given: ValueRange, values: np.ndarray, dtype: np.dtype
) -> tuple[float, float]:
  """What the field means for these values."""
  if given == 'percentiles':
    low, high = map(float, np.percentile(values, PERCENTILES))
    if low == high:  # Nearly all are the same, of which nothing is to be cut.
      low, high = float(values.min()), float(values.max())
    if low == high:
      raise UserError(
        f'data.path has nothing to learn, as all values of its training split '
        f'are {low:g}: name other files, such as --config.data.path=/data/bands'
      )
    return low, high
  if given == 'dtype':
    if dtype.kind == 'f':
      raise UserError(
        f"data.value_range='dtype' is of whole numbers, and the files of "
        f'data.path hold {dtype}: for example, '
        '--config.data.value_range=percentiles'
      )
    limits = np.iinfo(dtype)
    return float(limits.min), float(limits.max)
  low, high = given
  return float(low), float(high)


def _check_precision(low: float, high: float) -> None:
  """Refuses what 32 bits cannot tell apart."""
  bound, width = max(abs(low), abs(high)), high - low
  if width < max(_MIN_WIDTH, _RESOLUTION * bound) or bound > _MAX_BOUND:
    raise UserError(
      f'data.value_range=({low:g}, {high:g}) is too narrow, small or large for '
      'float32, in which the device computes: subtract an offset or scale the '
      'files, so that it is, for example, "(0, 1)"'
    )
