"""Builds the modules that a configuration describes.

Inference needs this module alone, without optimizers and orbax.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from vaegan_jax import models
from vaegan_jax.config.shapes import example_shape, spatial_shape
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


def variable_shapes(
  config: ml_collections.ConfigDict, modules: Mapping[str, nn.Module]
) -> dict[str, Variables]:
  """Returns {network: its params and batch_stats}, as shapes and dtypes."""
  x = jax.ShapeDtypeStruct((1, *example_shape(config.data)), jnp.float32)
  return {
    name: {
      'batch_stats': {},
      **jax.eval_shape(module.init, jax.random.key(0), x),
    }
    for name, module in modules.items()
  }
