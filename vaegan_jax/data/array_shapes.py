"""Checks that examples can be cut out of arrays, and suggests what fits."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vaegan_jax.data import arrays, no_data
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.errors import UserError


class Kind(NamedTuple):
  """Properties that all arrays of a data set must share."""

  dtype: str  # Its name.
  shape: tuple[int | None, ...]  # None for a length that may vary.
  sample_rate: int = 0  # Samples per second; 0 if not a sound.
  axes: str = ''  # A letter for each axis, as `data.axes`; '' if unknown.

  def __str__(self) -> str:
    if not self.sample_rate:
      lengths = ', '.join('?' if n is None else str(n) for n in self.shape)
      return f'{self.dtype} [{lengths}] {self.axes}'.rstrip()
    return (
      f'{self.dtype} sounds with channels={self.shape[-1]} and '
      f'sample_rate={self.sample_rate}'
    )


def check_shape(
  given: tuple[int, ...],
  *,
  channels: int,
  shape: Sequence[int],
  axes: str = '',
  rules: int = 3,
  in_folder: bool = False,
) -> None:
  """Checks that examples can be cut out of arrays of the shape `given`.

  Args:
    given: the arrays' shape.
    channels, shape, axes: see `arrays.to_example`.
    rules: `data.folder_rules`; below 3, channels that may be the first axis
      or the last are the last.
    in_folder: whether each is a file of an `array_folder`.

  Raises:
    UserError: they cannot; it names the field to set.
  """
  array = np.broadcast_to(np.uint8(0), given)  # Needs no memory.
  try:
    arrays.to_example(array, channels=channels, shape=shape, axes=axes)
  except ValueError as error:
    remedy = _suggest(given, channels, shape, axes)
    axis = find_examples(given, channels=channels, shape=shape)
    may_be_many = in_folder and axis is not None and 'C' not in axes
    if may_be_many and 'array_file' not in remedy:
      remedy += f'; or, if it has {describe_examples(given, axis)}'
    raise UserError(
      f'data.channels={channels} and the shape {list(shape)} do not fit the '
      f'examples of the data, each of which is {list(given)}, as {error}: '
      f'{remedy}'
    ) from error
  ends = {given[0], given[-1]}
  is_ambiguous = channels > 1 and len(given) == len(shape) + 1
  if rules > 2 and not axes and is_ambiguous and ends == {channels}:
    space = 'ZYX'[-len(shape) :]
    raise UserError(
      f'data.axes must tell which axis of the arrays {list(given)} has the '
      f'{channels} channels: --config.data.axes={space}C for the last, or '
      f'--config.data.axes=C{space} for the first'
    )


def find_examples(
  given: tuple[int, ...], *, channels: int, shape: Sequence[int]
) -> int | None:
  """Returns the axis of a file that may be one of examples; None if none is.

  Without it, an example can be cut out of the array, and otherwise not. Of
  several such axes the longest is taken.
  """
  if _can_cut(given, channels, shape):
    return None
  axes = example_axes(given, channels=channels, shape=shape)
  return max(axes, key=lambda axis: given[axis], default=None)


def example_axes(
  given: tuple[int, ...], *, channels: int, shape: Sequence[int]
) -> list[int]:
  """Returns the axes without which an example can be cut out of an array."""
  return [
    axis
    for axis in range(len(given))
    if _can_cut(given[:axis] + given[axis + 1 :], channels, shape)
  ]


def _can_cut(
  given: tuple[int, ...], channels: int, shape: Sequence[int]
) -> bool:
  array = np.broadcast_to(np.uint8(0), given)  # Needs no memory.
  try:
    arrays.to_example(array, channels=channels, shape=shape)
  except (ValueError, IndexError):
    return False
  return True


def describe_examples(given: tuple[int, ...], axis: int) -> str:
  """Returns a clause about a file whose `axis` may be of examples."""
  flag = f' --config.data.example_axis={axis}' if axis else ''
  return (
    f'{given[axis]:,} examples along axis {axis}, --config.data.name='
    f'array_file{flag} reads all of one such file'
  )


def cut(
  given: Iterable[Any], channels: int, shape: Sequence[int]
) -> np.ndarray:
  """Cuts middles [B, *S', C] out of arrays, or raises a UserError."""
  try:
    return np.stack(
      [
        arrays.to_example(np.asarray(array), channels=channels, shape=shape)
        for array in given
      ]
    )
  except (ValueError, IndexError) as error:
    raise UserError(
      f'the arrays do not fit a run with data.channels={channels} and the '
      f'shape {list(shape)}: {error}'
    ) from error


def count_missing(stored: arrays.Stored, data: DataConfig) -> tuple[int, int]:
  """Counts the missing values, and all values, of an array's middle.

  If it has no such middle, the whole array counts; `check_shape` reports it.

  Raises:
    NoData: they are too many.
  """
  missing, shape = stored.missing, data.read_shape
  if missing is None:
    return 0, data.channels * math.prod(shape)
  options = {'channels': data.channels, 'shape': shape, 'axes': stored.axes}
  try:
    missing = arrays.to_example(missing, **options)
  except ValueError:
    missing = missing[..., None]
  no_data.check(missing, data.max_nodata)
  return int(missing.sum()), missing.size


def _suggest(
  given: tuple[int, ...], channels: int, shape: Sequence[int], axes: str
) -> str:
  """Returns flags that fit such arrays, in a clause."""
  if len(given) > arrays.MAX_AXES:
    return 'save each with at most three axes of space and one of channels'
  example = 'for example, --config.data.{}={}'
  if axes and 0 <= len(given) - len(shape) <= 1 and len(axes) != len(given):
    letters = 'ZYX'[-len(shape) :] + 'C' * (len(given) - len(shape))
    return example.format('axes', letters)
  space, number = given[:3], 1
  if axes and len(axes) == len(given):
    sizes = sorted(
      zip(axes, given, strict=True), key=lambda a: arrays.AXES.index(a[0])
    )
    space = tuple(size for name, size in sizes if name != 'C')
    number = given[axes.index('C')] if 'C' in axes else 1
    if number != channels and len(space) == len(shape):
      return example.format('channels', number)
    if 'C' not in axes and len(space) == len(shape) + 1:
      return _suggest_for_pages(space, shape)
  elif len(given) > 1 and channels == given[-1]:
    space = given[:-1]
  elif len(given) > 1 and channels == given[0]:
    space = given[1:]
  elif len(given) == len(shape) and channels > 1:
    return example.format('channels', 1)
  elif len(given) == len(shape) + 1:
    if given[0] > max(given[1:]) and not _fits(given[:-1], shape, given[1:]):
      return _suggest_for_pages(given, shape)
    # The channels are rarely the longest.
    return example.format('channels', min(given[0], given[-1]))
  if len(space) == len(shape):
    space = tuple(map(min, space, shape))
  return example.format('shape', f'"{space}"')


def _fits(space, shape, other) -> bool:
  larger, other_larger = (
    all(size >= least for size, least in zip(sizes, shape, strict=True))
    for sizes in (space, other)
  )
  return larger and not other_larger


def _suggest_for_pages(given: tuple[int, ...], shape: Sequence[int]) -> str:
  """Explains the first axis of [N, *S] without channels."""
  number, space = given[0], tuple(map(min, given[1:], shape))
  message = (
    f'if its first axis is {number:,} channels, --config.data.channels='
    f'{number}; if it is {number:,} examples, save each as a file of its own, '
    'or all in one .npy, and take --config.data.name=array_file'
  )
  if len(given) <= 3:
    message += f'; if it is an axis of space, --config.data.shape="{given}"'
  if space != tuple(shape):
    message += f'; and, for the first two, --config.data.shape="{space}"'
  return message
