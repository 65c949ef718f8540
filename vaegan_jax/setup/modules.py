"""Builds the modules that a configuration describes.

Inference needs this module alone, without optimizers and orbax.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from vaegan_jax import models
from vaegan_jax.config.settings import loss_settings
from vaegan_jax.config.shapes import example_shape, spatial_shape
from vaegan_jax.losses.reconstruction import layer_sizes
from vaegan_jax.models.build import init_variables
from vaegan_jax.names import ADVERSARIAL_OBJECTIVES

Variables = Mapping[str, Any]  # 'params' and 'batch_stats' of one module.


def create_modules(config: ml_collections.ConfigDict) -> dict[str, nn.Module]:
  """Builds the modules of a run, by name: 'autoencoder', perhaps 'critic'."""
  return models.create_modules(
    with_critic=config.objective in ADVERSARIAL_OBJECTIVES,
    space=spatial_shape(config.data),
    channels=config.data.channels,
    model=config.model,
    critic=config.critic,
  )


def trained_parts(config: ml_collections.ConfigDict) -> tuple[str, ...] | None:
  """Returns the names of the autoencoder's parts that move; None: all."""
  return {'all': None, 'decoder': ('decoder',), 'none': ()}[config.model.train]


def sizes_function(
  config: ml_collections.ConfigDict, modules: Mapping[str, nn.Module]
) -> Callable[..., dict[str, jax.Array]] | None:
  """Returns (critic's variables or None, images) -> sizes of the layers.

  None if the run does not follow them; see `training/layer_sizes.py`.
  """
  loss, critic = loss_settings(config), modules.get('critic')
  has_layers = critic is not None or loss.spectrum_weight > 0
  if not has_layers or not loss.needs_sizes:
    return None
  return functools.partial(layer_sizes, loss, critic)


def size_shapes(
  config: ml_collections.ConfigDict, modules: Mapping[str, nn.Module]
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes and dtypes of those sizes, {} without them."""
  measure = sizes_function(config, modules)
  if measure is None:
    return {}
  critic = variable_shapes(config, modules).get('critic')
  x = jax.ShapeDtypeStruct((1, *example_shape(config.data)), jnp.float32)
  return jax.eval_shape(measure, critic, x)


def variable_shapes(
  config: ml_collections.ConfigDict, modules: Mapping[str, nn.Module]
) -> dict[str, Variables]:
  """Returns {network: its params and batch_stats}, as shapes and dtypes."""
  x = jax.ShapeDtypeStruct((1, *example_shape(config.data)), jnp.float32)
  return {
    name: {
      'batch_stats': {},
      **init_variables.eval_shape(module, jax.random.key(0), x),
    }
    for name, module in modules.items()
  }
