"""Values that mean "no data": found, counted, and marked.

NaN means it, and so does the value that a file declares (GDAL_NODATA) or that
`data.nodata` states. An example with a larger share of them than
`data.max_nodata` is skipped. In others they are NaN: so they stay with their
positions in copies, crops and flips. On the device `pixels.fill` makes them a
mask. Axes: S space, C channels.
"""

import decimal
import math
from collections.abc import Mapping

import numpy as np

from vaegan_jax.data.reading import NoData, Reading

IGNORE = 'none'  # The value of `data.nodata` for which nothing means it.


def find(
  values: np.ndarray,
  declared: str,
  reading: Reading,
  hidden: np.ndarray | None = None,
) -> np.ndarray | None:
  """Finds the values that mean "no data".

  Args:
    values: an array, in the dtype of its file.
    declared: the values that the file declares, as text with spaces between;
      '' for none.
    reading: how it is read.
    hidden: bool, of the same shape, what the file hides otherwise, as by a
      mask; None for nothing.

  Returns:
    A boolean array of the same shape; None if there are none.
  """
  if reading.rules < 3 or reading.nodata == IGNORE:
    return None
  missing = np.zeros(values.shape, bool) if hidden is None else hidden.copy()
  for text in (reading.nodata or declared).split():
    number = parse(text, values.dtype)
    if number is not None:
      missing |= values == number
  if values.dtype.kind == 'f':
    missing |= np.isnan(values)
  return missing if missing.any() else None


def check(missing: np.ndarray, max_share: float) -> None:
  """Checks that an example has enough values.

  Args:
    missing: [*S, C] bool, which values are missing.
    max_share: the largest share that may be.

  Raises:
    NoData: the share is larger, or a channel has no value.
  """
  share = float(missing.mean())
  if share > max_share:
    raise NoData(
      f'{share:.2%} of its values are missing, and data.max_nodata is '
      f'{max_share:g}'
    )
  for channel in np.flatnonzero(missing.all(tuple(range(missing.ndim - 1)))):
    raise NoData(f'its channel {channel} has no value')


def mark(example: np.ndarray, missing: np.ndarray | None) -> np.ndarray:
  """Returns the example as float32 with NaN for no data, if it has any."""
  if missing is None:
    return example
  return np.where(missing, np.float32(np.nan), example.astype(np.float32))


class Counts:
  """Counts of examples that are kept, and of those that are masked."""

  def __init__(self, counts: Mapping[str, int] | None = None):
    """Starts with nothing, or with what `to_json` returned."""
    counts = counts or {}
    self.examples, self.masked, self._missing, self._values = (
      counts.get(key, 0) for key in ('arrays', 'filled', 'missing', 'values')
    )

  def add(self, missing: int, values: int) -> None:
    """Counts an example, with its values of no data, and all."""
    self.examples += 1
    self.masked += missing > 0
    self._missing += missing
    self._values += values

  def to_json(self) -> dict[str, int]:
    """Returns the counts for an index."""
    return {
      'arrays': self.examples,
      'filled': self.masked,
      'missing': self._missing,
      'values': self._values,
    }

  def describe_missing(self, noun: str) -> list[str]:
    """Returns a sentence about the share of no data, if there is any."""
    if not self.masked:
      return []
    return [
      f'{self.masked:,} of {self.examples:,} {noun} hold values that mean no '
      f'data, {self._missing / self._values:.2%} of all values: they count in '
      'no range, loss or metric.'
    ]


def parse(text: str, dtype: np.dtype) -> np.generic | None:
  """Returns a number of the dtype; None if the text is not such a number.

  GDAL's tags may end with a null byte.
  Text such as '-3.40282347e+38', float32's lowest, is rounded to float32.
  """
  text = text.strip('\0 ')
  try:
    if dtype.kind == 'f':
      number, limits = float(text), np.finfo(dtype)
      if math.isfinite(number):
        number = min(max(number, float(limits.min)), float(limits.max))
      return dtype.type(number)
    if dtype.kind in 'iu':
      # GDAL writes 17 digits of a float, too few for the ends of int64.
      exact = decimal.Decimal(float(text) if 'e' in text.lower() else text)
      number, limits = int(exact), np.iinfo(dtype)
      if number == exact and limits.min <= number <= limits.max:
        return dtype.type(number)
  except (ValueError, OverflowError, decimal.InvalidOperation):
    pass
  return None
