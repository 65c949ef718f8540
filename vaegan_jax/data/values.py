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
_FAR = 1.0  # Widths of the range; values further outside are reported.
_MIN_WIDTH = 1e-30  # The limits of float32.
_MAX_BOUND = 1e37
_RESOLUTION = 2.0**-16  # Minimum of a range, relative to its larger bound.


def find_range(
  given: ValueRange, images: Images, clip: bool = False
) -> tuple[ValueRange, str]:
  """Computes the range of values that is mapped to [-1, 1].

  Args:
    given: the field `data.value_range`; the examples are arrays.
    images: the training split.
    clip: whether the field is meant to clip many values.

  Returns:
    The pair (low, high), and sentences about it for the terminal.

  Raises:
    UserError: the field does not fit the values, or they are all the same.
  """
  examples = _sample(images)
  values = examples[~np.isnan(examples)]
  low, high = _bounds(given, values, images.stored_dtype)
  _check_precision(low, high)
  least, most = float(values.min()), float(values.max())
  is_outside = (examples < low) | (examples > high)
  outside = float(is_outside.sum() / values.size)
  message = (
    f'data.value_range: {low:g} becomes -1 and {high:g} becomes 1; of '
    f'{values.size:,} sampled values, from {least:g} to {most:g}, '
    f'{outside:.2%} are outside and clipped'
  )
  # With all digits of float32, or the ends would be outside.
  use = f'--config.data.value_range="({least:.9g}, {most:.9g})"'
  if outside > _MAX_OUTSIDE and not clip:
    raise UserError(
      f'data.value_range={given!r} does not contain {outside:.1%} of the '
      f'values of the training split, from {least:g} to {most:g}: for example, '
      f'{use}, or --config.data.clip=true if they are to be clipped'
    )
  if outside and (least >= high or most <= low):
    raise UserError(
      f'data.value_range={given!r} contains none of the values of the training '
      f'split, from {least:g} to {most:g}: for example, {use}'
    )
  filled = (min(most, high) - max(least, low)) / (high - low)
  if filled < _UNFILLED and least < most:
    message += f'; they fill {filled:.1%} of the range: {use} uses all of it'
  message += '.'
  if not clip and is_outside.any():
    message += _warn_of_clipping(given, (low, high), examples, is_outside)
  return (low, high), message


def _warn_of_clipping(given, found, examples, is_outside) -> str:
  """Returns a warning if clipping to (low, high) changes what matters, or ''.

  `examples` and `is_outside` are [N, *S, C], as in `find_range`.
  """
  low, high = found
  least, most = float(np.nanmin(examples)), float(np.nanmax(examples))
  number = int(is_outside.reshape(len(examples), -1).any(1).sum())
  which = f' Warning: {number:,} of {len(examples):,} sampled examples'
  if given == 'percentiles' and examples.ndim == 3 and least < 0 < most:
    zero = -(high + low) / (high - low)
    use = 'dtype'
    if examples.dtype.kind == 'f':
      bound = max(1.0, -least, most)
      use = f'"({-bound:.9g}, {bound:.9g})"'
    return (
      f'{which} have clipped peaks, and 0 (the silence of a sound) becomes '
      f'{zero:.3g}: --config.data.value_range={use} keeps both.'
    )
  reach = max(low - least, most - high) / (high - low)
  if reach <= _FAR:
    return ''
  return (
    f'{which} have clipped values that lie up to {reach:,.3g} times the '
    f'width of the range beyond it: --config.data.value_range='
    f'"({least:.9g}, {most:.9g})" keeps them, and --config.data.clip=true says '
    'that they are to be clipped.'
  )


def _sample(images: Images) -> np.ndarray:
  """Returns evenly spaced examples [N, *S, C], NaN where no data."""
  size = images[np.arange(1)].size
  number = min(len(images), max(1, _NUM_VALUES // size))
  indices = np.arange(number) * len(images) // number
  parts = [
    images[indices[first : first + _READ_TOGETHER]]
    for first in range(0, number, _READ_TOGETHER)
  ]
  return np.concatenate(parts)


def _bounds(
  given: ValueRange, values: np.ndarray, dtype: np.dtype
) -> tuple[float, float]:
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
  bound, width = max(abs(low), abs(high)), high - low
  if width < max(_MIN_WIDTH, _RESOLUTION * bound) or bound > _MAX_BOUND:
    raise UserError(
      f'data.value_range=({low:g}, {high:g}) is too narrow, small or large for '
      'float32, in which the device computes: subtract an offset or scale the '
      'files to a range such as "(0, 1)"'
    )
