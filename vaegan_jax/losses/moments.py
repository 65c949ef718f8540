"""Moments of a batch, for the metrics of health checks and sizes of layers.

Axes: B examples on one device, S axes of space, C channels.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vaegan_jax.losses import distances, masks


def image_moments(
  x: jax.Array, x_recon: jax.Array, valid: jax.Array | None
) -> dict[str, Any]:
  """Averages images, and their squares, over the batch.

  Args:
    x, x_recon: [B, *S, C].
    valid: [B, *S, C] bool, the values that count; None: all.

  Returns:
    {'output', 'input'}: two [*S, C] each; with a mask also 'valid' [*S, C], the
    share by which `metrics_from_moments` divides them.
  """
  moments = {'output': _average(x_recon, valid), 'input': _average(x, valid)}
  if valid is not None:
    moments['valid'] = jnp.mean(valid, axis=0)
  return moments


def mean_sizes(
  layers: Mapping[str, jax.Array],
  where: jax.Array | Mapping[str, jax.Array] | None,
  norm: str = 'l2',
) -> dict[str, jax.Array]:
  """Computes the size of each layer's features, as `distances.feature_sizes`.

  With `where`, as for `distances.layer_distances`, it is the mean of the means
  of examples, which devices can average.
  """
  if where is None:
    return distances.feature_sizes(layers, norm=norm)

  def size(name, feature):
    weights = masks.layer_weights(where, name, feature)
    sizes = distances.magnitude(feature.astype(jnp.float32), norm)
    return masks.mean(sizes, weights, tuple(range(1, sizes.ndim))).mean()

  return {name: size(name, feature) for name, feature in layers.items()}


def metrics_from_moments(moments: Mapping[str, Any]) -> dict[str, jax.Array]:
  """Computes the metrics of the health checks.

  Args:
    moments: of `image_moments`, averaged over the devices, and perhaps the mean
      squares of features (`mean_sizes`), 'features'.

  Returns:
    {'output_std', 'input_std'}: the standard deviation between images, 0 if all
    are equal; 'feature_scale': the root mean square of a layer's features,
    averaged over the layers. Each is [].
  """
  metrics, valid = {}, moments.get('valid')
  for name in ('output', 'input'):
    mean, square = moments[name]
    if valid is not None:
      mean, square = masks.divide(mean, valid), masks.divide(square, valid)
    variance = jnp.maximum(square - mean**2, 0.0)
    metrics[f'{name}_std'] = masks.mean(jnp.sqrt(variance), valid)
  if 'features' in moments:
    squares = jnp.stack(list(moments['features'].values()))
    metrics['feature_scale'] = jnp.mean(jnp.sqrt(squares))
  return metrics


def _average(images, valid):
  """Averages images, and their squares, over the batch: two [*S, C]."""
  images = jax.lax.stop_gradient(images)
  if valid is not None:
    images = images * valid
  return jnp.mean(images, axis=0), jnp.mean(images**2, axis=0)
