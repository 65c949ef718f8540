"""The loss of style transfer: distances between features' correlations.

Axes: B batch, C channels; a feature is [B, ..., C].
"""

import jax
import jax.numpy as jnp

from vaegan_jax.losses.arguments import (
  Weights,
  check_choice,
  check_layers,
  weights_by_layer,
)
from vaegan_jax.losses.distances import feature_distance
from vaegan_jax.losses.layers import Features, select

_EPSILON = 1e-8


def gram_distance(
  features_x: Features,
  features_y: Features,
  *,
  weights: Weights | None = None,
  normalize: str = 'none',
) -> jax.Array:
  """Computes the style distance: between the features' correlations.

  Gatys et al. (arXiv 1508.06576, eq. 4 and 5), with each Gram matrix divided by
  its number of positions. For images of one size it is the paper's; images of
  two sizes can be compared too.

  Args:
    features_x: {layer: [B, ..., C]} of the style; B may be 1, for one style.
    features_y: the same layers and channels; any size.
    weights: one factor per layer, in order or by name; None: one over their
      number, as in the paper.
    normalize: 'none' (the paper), or 'relative': each layer's squared
      difference divided by the sum of the squares of x's Gram matrix.

  Returns:
    [B] float32, non-negative if the weights are.

  Raises:
    ValueError: an unknown option, or layers, batches or channels that differ.
  """
  check_choice('normalize', normalize, ('none', 'relative'))
  check_layers(features_x, features_y)
  if weights is None:
    weights = [1.0 / len(features_x)] * len(features_x)
  total = 0.0
  for name, weight in weights_by_layer(features_x, weights).items():
    x, y = (
      f[name][:, None] if f[name].ndim == 1 else f[name]
      for f in (features_x, features_y)
    )
    if x.shape[-1] != y.shape[-1] or x.shape[0] not in (1, y.shape[0]):
      raise ValueError(
        f'layer {name!r} is {x.shape} for x and {y.shape} for y: for a Gram '
        'distance the channels must be equal, and the batches, unless x has '
        'one image'
      )
    scale = 4.0 * x.shape[-1] ** 2
    x, y = _gram(x), _gram(y)
    if normalize == 'relative':
      scale = jnp.sum(x**2, axis=(1, 2)) + _EPSILON
    total = total + weight * jnp.sum((x - y) ** 2, axis=(1, 2)) / scale
  return total


def style_and_content_loss(
  features: Features,
  content_features: Features,
  style_features: Features,
  *,
  content_weight: float = 1.0,
  style_weight: float = 1e4,
  normalize: str = 'none',
) -> jax.Array:
  """Computes the loss of style transfer (arXiv 1508.06576, eq. 7).

  The content term is eq. 1 there: half the summed squared difference. The style
  term is `gram_distance`.

  Args:
    features: {layer: [B, ..., C]} of the optimised image, with every layer of
      the next two.
    content_features: {layer: [B, ..., C]} of the content image.
    style_features: {layer: [B or 1, ..., C]} of the style image, of any size.
    content_weight: alpha of the paper.
    style_weight: beta of the paper.
    normalize: 'none' (the paper), or 'relative': the terms are relative to
      their reference's size, so that weights suit any network; 10 is a usual
      style weight then.

  Returns:
    [B] float32, non-negative.

  Raises:
    ValueError: an unknown option, a missing layer, or shapes that differ.
  """
  content = feature_distance(
    content_features,
    select(features, list(content_features)),
    normalize=normalize,
    reduction='sum' if normalize == 'none' else 'mean',
  )
  style = gram_distance(
    style_features, select(features, list(style_features)), normalize=normalize
  )
  return content_weight * content / 2 + style_weight * style


def _gram(feature: jax.Array) -> jax.Array:
  """Correlates channels over positions: [B, ..., C] to [B, C, C]."""
  flat = feature.astype(jnp.float32)
  flat = flat.reshape(flat.shape[0], -1, flat.shape[-1])
  return jnp.einsum('bpc,bpd->bcd', flat, flat) / flat.shape[1]
