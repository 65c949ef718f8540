"""Arrays that are too large to be read whole: read and written in parts.

Their latents are in memory, and their outputs in a temporary file. Axes: S axes
of space, C channels.
"""

import contextlib
import math
from collections.abc import Callable, Iterator

import numpy as np
from etils import epath

from vaegan_jax.data import arrays, reading, slices, sounds
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.errors import UserError
from vaegan_jax.inference.whole_files import (
  Form,
  Whole,
  check_form,
  read_tags,
  tiff_options,
  to_dtype,
  whole_example,
)
from vaegan_jax.runtime.files import replacing

_PART_BYTES = 2**24  # That are read or written at once.
_MAX_TIFF_BYTES = 2**32 - 2**25  # Of values, or offsets need 64 bits.


class LargeArray:
  """An array [*S, C] that stays in its file."""

  def __init__(self, whole: slices.Sliced, channels: int):
    self._whole = whole
    self.shape, self.dtype = (*whole.space, channels), whole.dtype

  def __getitem__(self, places: tuple[np.ndarray, ...]) -> np.ndarray:
    """Returns the values at places along each axis of space, by `np.ix_`."""
    starts = [int(place.min()) for place in places]
    ends = [int(place.max()) + 1 for place in places]
    space = [end - start for start, end in zip(starts, ends, strict=True)]
    part = self._whole.read(starts, space).values
    return part[
      tuple(place - start for place, start in zip(places, starts, strict=True))
    ]

  def rows(self, first: int, end: int) -> np.ndarray:
    """Returns the values from `first` to `end` of the first axis."""
    return self._read_rows(first, end).values

  def _read_rows(self, first: int, end: int) -> arrays.Stored:
    starts = [first] + [0] * (len(self.shape) - 2)
    return self._whole.read(starts, (end - first, *self.shape[1:-1]))

  def check(self) -> None:
    """Reads all values once.

    Raises:
      ValueError: some are infinite, or mean "no data".
    """
    for first, end in parts_of(self.shape, self.dtype):
      stored = self._read_rows(first, end)
      arrays.check_finite(stored.values)
      if stored.missing is not None:
        raise ValueError(
          f'it has more than {reading.MAX_BYTES:,} bytes, and values that mean '
          'no data, which only smaller files may have'
        )


def is_large(shape: tuple[int, ...], dtype: np.dtype | str) -> bool:
  """Returns whether an array is too large to be read whole."""
  return math.prod(shape) * np.dtype(dtype).itemsize > reading.MAX_BYTES


def parts_of(shape: tuple[int, ...], dtype: np.dtype) -> list[tuple[int, int]]:
  """Returns (first, end) of parts of an array's first axis."""
  row_bytes = math.prod(shape[1:]) * np.dtype(dtype).itemsize
  step = max(1, _PART_BYTES // row_bytes)
  return [(n, min(n + step, shape[0])) for n in range(0, shape[0], step)]


def open_large(path: str, settings: DataConfig) -> Whole | None:
  """Opens a file that is too large to be read whole; its values stay there.

  Returns:
    None if it is small, or its format cannot be read in parts.

  Raises:
    Exception: whatever the libraries raise for a damaged file.
    ValueError: it has other axes, channels or another sample rate, or values
      that are infinite or mean "no data".
  """
  opened = slices.open_values(path, settings.reading)
  if opened is None:
    return None
  stored = getattr(opened.values, 'source', opened.values)  # Not yet converted.
  if not is_large(stored.shape, stored.dtype):
    return None
  arrays.check_sample_rate(opened.sample_rate, settings.sample_rate)
  values = LargeArray(slices.Sliced(opened, settings), settings.channels)
  values.check()
  shape, axes, facts = opened.values.shape, opened.axes, {}
  if opened.kind == 'sound':
    with open(path, 'rb') as file:
      facts = sounds.read_format(file)
    facts['sample_rate'] = opened.sample_rate
  elif opened.kind == 'tiff':
    facts = read_tags(path)
    if 'C' in axes:  # They are written last, as those of small files.
      space = sorted(axes.replace('C', ''), key=arrays.AXES.index)
      shape, axes = values.shape, ''.join(space) + 'C'
  form = Form(opened.kind, shape, values.dtype.name, axes, facts=facts)
  return Whole(values, form)


def write_large(
  values: np.ndarray | LargeArray,
  form: Form,
  settings: DataConfig,
  path: epath.Path,
  limits: tuple[float, float] | None = None,
) -> None:
  """Writes values [*S, C] as a file of a form in parts, clipped to the limits.

  Raises:
    UserError: the values are of another shape than the form's, or the output
      is in a bucket.
  """
  check_form(form, values.shape, settings)
  if '://' in str(path):
    raise UserError(
      f'--output={path.parent} must be on a disk for files of more than '
      f'{reading.MAX_BYTES:,} bytes: for example, --output=/scratch/output'
    )
  dtype = np.dtype(form.dtype)
  with (
    replacing(path) as temporary,
    _create(temporary, form, settings) as write,
  ):
    for first, end in parts_of(values.shape, np.float32):
      is_open = isinstance(values, LargeArray)
      part = values.rows(first, end) if is_open else values[first:end]
      part = part if limits is None else np.clip(part, *limits)
      write(first, to_dtype(part, dtype).astype(dtype))


@contextlib.contextmanager
def _create(
  path: epath.Path, form: Form, settings: DataConfig
) -> Iterator[Callable[[int, np.ndarray], None]]:
  """Opens a new file; yields a function that writes rows from a first one."""
  if form.kind == 'sound':
    channels = form.shape[-1]
    with sounds.create(str(path), channels, **form.facts) as file:
      yield lambda first, part: file.write(part)
    return
  dtype = np.dtype(form.dtype)
  if form.kind == 'tiff':
    import tifffile

    options = tiff_options(form)
    size = math.prod(form.shape) * dtype.itemsize
    options['bigtiff'] |= size > _MAX_TIFF_BYTES
    array = tifffile.memmap(str(path), shape=form.shape, dtype=dtype, **options)
  else:
    array = np.lib.format.open_memmap(path, 'w+', dtype, form.shape)
  target = whole_example(array, form, settings)

  def write(first, part):
    target[first : first + len(part)] = part

  yield write
  array.flush()
