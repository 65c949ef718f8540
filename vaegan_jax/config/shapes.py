"""The shape of the examples, from the fields of `config.data`.

Images have `data.image_size`, one number or a pair (height, width). Arrays have
`data.shape`: (samples,), (height, width) or (depth, height, width).
"""

from typing import Any

from vaegan_jax.data import data_config, sources

MAX_AXES = 3


def holds_arrays(data: Any) -> bool:
  """Returns whether examples are arrays in their own units, not images."""
  return sources.holds_arrays(data['name'], tuple(data['shape']))


def spatial_shape(data: Any) -> tuple[int, ...]:
  """Returns the sizes S of the one to three spatial axes of the examples."""
  return data_config.spatial_shape(data['shape'], data['image_size'])


def shape_field(data: Any) -> str:
  """Returns the name of the field that `spatial_shape` is read from."""
  return 'data.shape' if data['shape'] else 'data.image_size'


def shape_flag(data: Any) -> str:
  """Returns that field with its value, such as 'data.image_size=64'."""
  field = shape_field(data)
  return f'{field}={data[field.removeprefix("data.")]}'


def example_shape(data: Any) -> tuple[int, ...]:
  """Returns the shape (*S, C) of the examples."""
  return (*spatial_shape(data), data['channels'])


def flip_axes(data: Any) -> tuple[int, ...]:
  """Returns the spatial axes along which training mirrors examples."""
  if data.flip_axes:
    return tuple(data.flip_axes)
  return (1,) if data.random_flip and not holds_arrays(data) else ()


def shown_bands(data: Any) -> tuple[int, ...]:
  """Returns the channels that figures show; (): all, as of images."""
  if data.shown_bands:
    return tuple(data.shown_bands)
  return (0,) if holds_arrays(data) else ()
