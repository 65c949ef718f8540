"""Values that mean "no data": found, counted, and replaced.

NaN means it, and so does the value that a file declares (GDAL_NODATA) or that
`data.nodata` states. An example with a larger share of them than
`data.max_nodata` is skipped. In others they become the median of their channel,
so that no such value is ever trained on. Axes: S space, C channels.
"""

import decimal
import math

import numpy as np

from vaegan_jax.data.reading import NoData, Reading

IGNORE = 'none'  # The value of `data.nodata` for which nothing means it.


def find(
  values: np.ndarray, declared: str, reading: Reading
) -> np.ndarray | None:
  """Finds the values that mean "no data".

  Args:
    values: an array, in the dtype of its file.
    declared: the value that the file declares, as text; '' for none.
    reading: how it is read.

  Returns:
    A boolean array of the same shape; None if there are none.
  """
  if reading.rules < 3 or reading.nodata == IGNORE:
    return None
  number = parse(reading.nodata or declared, values.dtype)
  missing = np.zeros(values.shape, bool)
  if number is not None:
    missing |= values == number
  if values.dtype.kind == 'f':
    missing |= np.isnan(values)
  return missing if missing.any() else None


def fill(
  example: np.ndarray, missing: np.ndarray, max_share: float
) -> np.ndarray:
  """Replaces no data by the median of its channel's other values.

  Args:
    example: [*S, C].
    missing: [*S, C] bool, what is no data.
    max_share: the largest share that may be.

  Raises:
    NoData: the share is larger, or a channel has no value.
  """
  share = float(missing.mean())
  if share > max_share:
    raise NoData(
      f'{share:.2%} of its values are no data, and data.max_nodata is '
      f'{max_share:g}'
    )
  filled = np.array(example)
  for channel in np.flatnonzero(missing.any(tuple(range(missing.ndim - 1)))):
    is_missing = missing[..., channel]
    if is_missing.all():
      raise NoData(f'its channel {channel} has no value')
    valid = example[..., channel][~is_missing]
    # Of two in the middle the lower: a mean may be no value of the dtype.
    filled[..., channel][is_missing] = np.quantile(valid, 0.5, method='lower')
  return filled


def parse(text: str, dtype: np.dtype) -> np.generic | None:
  """Returns a number of the dtype; None if the text is no such number.

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
      number, limits = int(decimal.Decimal(text)), np.iinfo(dtype)
      is_whole = number == decimal.Decimal(text)
      if is_whole and limits.min <= number <= limits.max:
        return dtype.type(number)
  except (ValueError, OverflowError, decimal.InvalidOperation):
    pass
  return None
