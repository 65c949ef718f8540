"""The distance that trains, in a run's critic, as a metric.

Axes: B examples; S, one to three axes of space; C channels.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from vaegan_jax.losses.reconstruction import LossConfig, compare, loss_features
from vaegan_jax.runtime import devices


def describe_distance(
  modules: Mapping[str, nn.Module], loss: LossConfig, batch_size: int
) -> tuple[str, ...]:
  """Returns the line of the protocol about a distance that mixes examples."""
  by_batch = loss.normalize in ('batch', 'local')
  if 'critic' not in modules or not (by_batch or loss.image_weight):
    return ()
  if loss.normalize == 'none':  # Then the image is not divided, either.
    return ()
  number = devices.shareable(batch_size)
  return (
    'distance: features are divided by their mean size in a batch, here of '
    f'{number:,} examples; other batch sizes give other values',
  )


@functools.partial(jax.jit, static_argnums=(0, 1))
def critic_distance(
  loss: LossConfig,
  critic: nn.Module,
  variables: Mapping[str, Any],
  sizes: Mapping[str, jax.Array] | None,
  x: jax.Array,
  x_recon: jax.Array,
  valid: jax.Array | None = None,
) -> jax.Array:
  """Computes the distance [B] of x and x_recon [B, *S, C], as in training.

  `sizes` are those of the layers in the data, if the run follows them.
  """
  features_x, features_recon = (
    loss_features(loss, critic, variables, images) for images in (x, x_recon)
  )
  pairs = x, x_recon, features_x, features_recon
  return compare(loss, *pairs, sizes=sizes, valid=valid)
