"""The range of a data set's values, which becomes [-1, 1] for the networks.

It is computed once, from the training split, and is a field of the run from
then on: see `setup/data.py`.
"""

import numpy as np

from vaegan_jax.data.pixels import ValueRange
from vaegan_jax.data.split import Images
from vaegan_jax.errors import UserError

PERCENTILES = (0.1, 99.9)
_NUM_VALUES = 2**24  # In the evenly spaced examples that are sampled.
_READ_TOGETHER = 256
_MAX_OUTSIDE = 0.01  # Share of values outside of a given range.
_UNFILLED = 0.25  # Share of the range; less is reported.
_MIN_WIDTH = 1e-30  # The limits of float32.
_MAX_BOUND = 1e37
_RESOLUTION = 2.0**-16  # Minimum of a range, relative to its larger bound.


def find_range(given: ValueRange, images: Images) -> tuple[ValueRange, str]:
  """Computes the range of values that is mapped to [-1, 1].

  Args:
    given: the field `data.value_range`; the examples are arrays.
    images: the training split.

  Returns:
    The pair (low, high), and a sentence about it for the terminal.

  Raises:
    UserError: the field does not fit the values, or they are all the same.
  """
  values = _sample(images)
  low, high = _bounds(given, values, images.dtype)
  _check_precision(low, high)
  least, most = float(values.min()), float(values.max())
  outside = float(np.mean((values < low) | (values > high)))
  message = (
    f'data.value_range: {low:g} becomes -1 and {high:g} becomes 1; of '
    f'{values.size:,} sampled values, from {least:g} to {most:g}, '
    f'{outside:.2%} are outside and clipped'
  )
  # With all digits of float32, or the ends would be outside.
  use = f'--config.data.value_range="({least:.9g}, {most:.9g})"'
  if outside > _MAX_OUTSIDE:
    raise UserError(
      f'data.value_range={given!r} does not contain {outside:.1%} of the '
      f'values of the training split, from {least:g} to {most:g}: for example, '
      f'{use}'
    )
  filled = (min(most, high) - max(least, low)) / (high - low)
  if filled < _UNFILLED:
    message += f'; they fill {filled:.1%} of the range: {use} uses all of it'
  return (low, high), f'{message}.'


def _sample(images: Images) -> np.ndarray:
  """Returns the values of evenly spaced examples [N]."""
  size = images[np.arange(1)].size
  number = min(len(images), max(1, _NUM_VALUES // size))
  indices = np.arange(number) * len(images) // number
  parts = [
    images[indices[first : first + _READ_TOGETHER]].reshape(-1)
    for first in range(0, number, _READ_TOGETHER)
  ]
  return np.concatenate(parts)


def _bounds(
  given: ValueRange, values: np.ndarray, dtype: np.dtype
) -> tuple[float, float]:
  """Returns (low, high) for a value of the field."""
  if given == 'percentiles':
    low, high = map(float, np.percentile(values, PERCENTILES))
    if low == high:  # Nearly all are the same; clip nothing.
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
        f"data.value_range='dtype' is for integers, and the files of "
        f'data.path hold {dtype}: for example, '
        '--config.data.value_range=percentiles'
      )
    limits = np.iinfo(dtype)
    return float(limits.min), float(limits.max)
  low, high = given
  return float(low), float(high)


def _check_precision(low: float, high: float) -> None:
  """Checks that float32 can represent the range."""
  bound, width = max(abs(low), abs(high)), high - low
  if width < max(_MIN_WIDTH, _RESOLUTION * bound) or bound > _MAX_BOUND:
    raise UserError(
      f'data.value_range=({low:g}, {high:g}) is too narrow, small or large for '
      'float32, in which the device computes: subtract an offset or scale the '
      'files to a range such as "(0, 1)"'
    )
