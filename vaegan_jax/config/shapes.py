"""The shape of the examples, from the fields of `config.data`.

Images have `data.image_size`, one number or a pair (height, width). Arrays have
`data.shape`: (samples,), (height, width) or (depth, height, width).
"""

import math
from typing import Any

import ml_collections

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


def latent_space(config: ml_collections.ConfigDict) -> tuple[int, ...]:
  """Returns the shape of the smallest feature map, a latent map's."""
  space, model = spatial_shape(config.data), config.model
  factor = model.patch_size * math.prod(model.strides or (2,) * model.depth)
  return tuple(side // factor for side in space)


def num_latent_entries(config: ml_collections.ConfigDict) -> int:
  """Returns the number of entries of an example's latent."""
  model = config.model
  num_positions = 1
  if model.latent_shape == 'map':
    num_positions = math.prod(latent_space(config))
  return num_positions * model.latent_dim


class BitPerEntry(ml_collections.FieldReference):
  """A rate in bits per example: the number of entries of the latent.

  It follows the other fields until it is set. Latents that are not Gaussian,
  and those of an encoder that does not move, have 0, no rate to steer.
  """

  def __init__(self, config: ml_collections.ConfigDict):
    super().__init__(0.0)
    self._config = config

  @property
  def follows(self) -> bool:
    """Whether no number has been set."""
    own = self._value
    return self._config is not None or (
      isinstance(own, BitPerEntry) and own.follows
    )

  def set(self, value: Any, type_safe: bool = True) -> None:
    """Sets a number, which follows nothing."""
    self._config = None
    super().set(value, type_safe)

  def get(self) -> float:
    """Returns the number that was set, or else that of the entries."""
    if self._config is None:
      return super().get()
    try:
      model = self._config.model
      is_steered = model.latent == 'gaussian' and model.train == 'all'
      return float(num_latent_entries(self._config) if is_steered else 0)
    except (TypeError, ValueError, ArithmeticError):
      return 0.0  # Another field is wrong; its own rule reports it.


def has_rate_of_file(config: ml_collections.ConfigDict) -> bool:
  """Returns whether the rate follows the latent: no flag has set it."""
  rate = config.loss.get_ref('rate')
  return isinstance(rate, BitPerEntry) and rate.follows
