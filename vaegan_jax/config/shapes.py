"""What the sides and axes of `config.data` stand for.

Photographs have `data.image_size`, one side or a pair (height, width). Whatever
else is on a grid has `data.shape`: (samples,), (height, width), or (depth,
height, width).
"""

from typing import Any

from vaegan_jax.data import sources

MAX_AXES = 3


def holds_arrays(data: Any) -> bool:
  """Returns whether examples are arrays in units of their own, no photographs.

  Args:
    data: the fields of `config.data`.
  """
  return sources.holds_arrays(data['name'], tuple(data['shape']))


def as_pair(image_size: int | tuple[int, int]) -> tuple[int, ...]:
  """Returns (height, width), or what stands there in their place."""
  return tuple(image_size) if _is_many(image_size) else (image_size,) * 2


def _is_many(value: Any) -> bool:
  return isinstance(value, (tuple, list))  # JSON has lists.


def spatial_shape(data: Any) -> tuple[int, ...]:
  """Returns the one to three sides of the examples, S, in places or pixels.

  Args:
    data: the fields of `config.data`.
  """
  return tuple(data['shape']) or as_pair(data['image_size'])


def shape_field(data: Any) -> str:
  """Names the field that gives the sides, for what is said of them."""
  return 'data.shape' if data['shape'] else 'data.image_size'


def shape_flag(data: Any) -> str:
  """The same field with its value, as it is typed."""
  field = shape_field(data)
  return f'{field}={data[field.removeprefix("data.")]}'


def example_shape(data: Any) -> tuple[int, ...]:
  """Returns (*S, C) of the examples that `config.data` describes."""
  return (*spatial_shape(data), data['channels'])


def flip_axes(data: Any) -> tuple[int, ...]:
  """Returns the axes of space along which training mirrors examples."""
  if data.flip_axes:
    return tuple(data.flip_axes)
  return (1,) if data.random_flip and not holds_arrays(data) else ()


def shown_bands(data: Any) -> tuple[int, ...]:
  """Returns the channels that figures show; () if all, as of images."""
  if data.shown_bands:
    return tuple(data.shown_bands)
  return (0,) if holds_arrays(data) else ()
