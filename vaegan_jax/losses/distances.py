"""Distances between two sets of features.

Owns the distance of the features themselves (`feature_distance`), of their
correlations (`gram_distance`), and the loss of style transfer.

With `normalize`, the features of a layer are divided by

    'none'      nothing
    'unit'      at each position, the norm of the channel vector, x's and y's
                own
    'relative'  in each image, the mean of x's squares (for 'l1', of absolute
                values); one almost flat image can outweigh all others
    'batch'     that mean over the whole batch, a constant to the gradient
    'local'     at each position, the root of the channels' mean square plus a
                part of the batch's. Faint texture counts as much as strong
                edges, as it does to the eye (divisive normalisation: Carandini
                & Heeger, 2012), and no image outweighs the others

The size of one image or batch says little where it is nearly silent: divided by
it, such a batch outweighs all others. `min_sizes` bounds it from below.

Axes: B batch, C channels; a feature is [B, ..., C].
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vaegan_jax import names
from vaegan_jax.losses.layers import Features, select

# The batch's part of the mean square in 'local'. It bounds the gradient at a
# position with almost no features: at three times that of an average one.
_BATCH_SHARE = 0.1

# One factor per layer, in order or by name; a vector [C] weights channels.
Weights = Sequence[float | jax.Array] | Mapping[str, float | jax.Array]


def feature_distance(
  features_x: Features,
  features_y: Features,
  *,
  weights: Weights | None = None,
  normalize: str = 'none',
  norm: str = 'l2',
  reduction: str = 'sum',
  axis_name: str | None = None,
  min_sizes: Mapping[str, float | jax.Array] | None = None,
) -> jax.Array:
  """Computes the distance between two sets of features, summed over layers.

  By default it is that of Larsen et al. (arXiv 1512.09300, eq. 7, without its
  factor 1/2) over every given layer. 'unit' and 'spatial' with LPIPS's weights
  is LPIPS (arXiv 1801.03924, eq. 1) up to its epsilon. All of it is float32.

  Args:
    features_x: {layer: [B, ...]} of the reference.
    features_y: the same layers and shapes.
    weights: one factor per layer, in the order of `features_x` or by name, each
      a number or a vector [C]; None: 1. (JAX sorts a dict that passes through
      `jit` or `jax.tree.map` by its names: give weights by name then.)
    normalize: the divisor; see the module. A larger layer counts more with the
      reduction 'sum', and as much as others with 'mean'.
    norm: 'l2', squared differences; 'l1', absolute ones.
    reduction: over one layer's features, 'sum', 'mean', or 'spatial': the sum
      over the channels, the mean over all else.
    axis_name: of the `pmap`, `vmap` or `shard_map` that the batch of 'batch'
      and 'local' spans; None: the batch is the one given here.
    min_sizes: {layer: the least size} that 'relative', 'batch' and 'local' take
      an image or a batch to have, such as a tenth of `feature_sizes` over much
      data. Layers that it does not name have no such bound.

  Returns:
    [B] float32, non-negative if the weights are.

  Raises:
    ValueError: an unknown option, weights that are not one per layer, layers or
      shapes that differ, or no layer at all.
  """
  check_choice('normalize', normalize, names.NORMALIZATIONS)
  check_choice('norm', norm, names.DISTANCE_NORMS)
  check_choice('reduction', reduction, names.REDUCTIONS)
  _check_features(features_x, features_y)
  total = 0.0
  for name, weight in _weigh(features_x, weights).items():
    total = total + _layer_distance(
      name,
      features_x[name],
      features_y[name],
      weight,
      normalize,
      norm,
      reduction,
      axis_name,
      (min_sizes or {}).get(name, 0.0),
    )
  return total


def feature_sizes(
  features: Features, *, norm: str = 'l2'
) -> dict[str, jax.Array]:
  """Computes the size of each layer's features, for `min_sizes`.

  Args:
    features: {layer: [B, ...]} of any batch; average over several, as in a
      moving average, if one may be unlike the data.
    norm: that of the distance.

  Returns:
    {layer: []}: the mean of their squares or, for 'l1', of absolute values.

  Raises:
    ValueError: an unknown norm.
  """
  check_choice('norm', norm, names.DISTANCE_NORMS)
  magnitude = jnp.square if norm == 'l2' else jnp.abs
  return {
    name: jnp.mean(magnitude(feature.astype(jnp.float32)))
    for name, feature in features.items()
  }


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
  _check_names(features_x, features_y)
  if weights is None:
    weights = [1.0 / len(features_x)] * len(features_x)
  total = 0.0
  for name, weight in _weigh(features_x, weights).items():
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
      scale = jnp.sum(x**2, axis=(1, 2)) + _epsilon(jnp.float32)
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
    style_features,
    select(features, list(style_features)),
    normalize=normalize,
  )
  return content_weight * content / 2 + style_weight * style


def _layer_distance(
  name, x, y, weight, normalize, norm, reduction, axis_name, min_size
) -> jax.Array:
  """Computes one layer's distance [B]; x, y: [B, ...]."""
  epsilon = _epsilon(jnp.promote_types(x.dtype, y.dtype))
  if x.ndim == 1:  # One number per image is one channel.
    x, y = x[:, None], y[:, None]
  if jnp.ndim(weight) and jnp.shape(weight) != x.shape[-1:]:
    raise ValueError(
      f'the weight of layer {name!r} has the shape {jnp.shape(weight)}; '
      f'expected a number or {x.shape[-1:]}, one per channel'
    )
  x, y = x.astype(jnp.float32), y.astype(jnp.float32)
  if normalize == 'unit':
    x, y = to_unit_length(x, epsilon), to_unit_length(y, epsilon)
  if normalize == 'local':
    # Squares for either norm, so that a bound for 'l1' is squared.
    least = min_size if norm == 'l2' else jnp.square(min_size)
    size = jnp.maximum(_batch_mean(jnp.square(x), axis_name), least)
    x, y = (_to_local_size(f, _BATCH_SHARE * size + epsilon) for f in (x, y))
  magnitude = jnp.square if norm == 'l2' else _absolute
  difference = weight * magnitude(x - y)
  if reduction == 'spatial':
    difference = jnp.sum(difference, axis=-1, keepdims=True)
  axes = tuple(range(1, x.ndim))
  reduce = jnp.sum if reduction == 'sum' else jnp.mean
  distance = reduce(difference, axis=axes)
  if normalize == 'relative':
    size = jnp.maximum(jnp.mean(magnitude(x), axis=axes), min_size)
    distance = distance / (size + epsilon)
  if normalize == 'batch':
    size = jnp.maximum(_batch_mean(magnitude(x), axis_name), min_size)
    distance = distance / (size + epsilon)
  return distance


def _batch_mean(values: jax.Array, axis_name: str | None) -> jax.Array:
  """Computes the mean [] over the whole batch, a constant to the gradient."""
  mean = jnp.mean(jax.lax.stop_gradient(values))
  return mean if axis_name is None else jax.lax.pmean(mean, axis_name)


def _to_local_size(feature: jax.Array, least: jax.Array) -> jax.Array:
  """Divides channel vectors by the root of their mean square plus `least`."""
  square = jnp.mean(feature**2, axis=-1, keepdims=True)
  return feature * jax.lax.rsqrt(square + least)


def _absolute(x: jax.Array) -> jax.Array:
  """Computes |x| with a gradient of 0 at 0; that of `jnp.abs` is 1."""
  return x * jnp.sign(x)


def to_unit_length(feature: jax.Array, epsilon: float = 1e-8) -> jax.Array:
  """Scales channel vectors to length 1.

  Args:
    feature: [B, ..., C].
    epsilon: added to the squared lengths, for vectors of zeros.

  Returns:
    [B, ..., C].
  """
  square = jnp.sum(feature**2, axis=-1, keepdims=True)
  return feature * jax.lax.rsqrt(square + epsilon)


def _epsilon(dtype) -> float:
  """Returns the constant under roots and in denominators.

  It is larger for float16, in which 1 / 1e-8, and so a gradient, overflows.
  """
  return max(1e-8, 2 * float(jnp.finfo(dtype).tiny))


def _gram(feature: jax.Array) -> jax.Array:
  """Correlates channels over positions: [B, ..., C] to [B, C, C]."""
  flat = feature.astype(jnp.float32)
  flat = flat.reshape(flat.shape[0], -1, flat.shape[-1])
  return jnp.einsum('bpc,bpd->bcd', flat, flat) / flat.shape[1]


def _weigh(features: Features, weights: Weights | None) -> dict[str, Any]:
  """Returns {layer: weight}, each layer once."""
  if weights is None:
    return dict.fromkeys(features, 1.0)
  if not isinstance(weights, Mapping):
    if isinstance(weights, (int, float)):
      raise ValueError(
        f'weights are {weights!r}; give one weight per layer: {list(features)}'
      )
    if len(weights) != len(features):
      raise ValueError(
        f'{len(weights)} weights for {len(features)} layers: '
        f'{list(features)}; give one weight per layer'
      )
    return dict(zip(features, weights, strict=True))
  if set(weights) != set(features):
    raise ValueError(
      f'weights are of {sorted(weights)}; the layers are {list(features)}'
    )
  return {name: weights[name] for name in features}


def check_choice(what: str, value: Any, known: Sequence[str]) -> None:
  """Raises a ValueError that lists the known values, unless this is one."""
  if value not in known:
    raise ValueError(f'{what} is {value!r}; known: {", ".join(known)}')


def _check_names(features_x: Features, features_y: Features) -> None:
  if not features_x:
    raise ValueError('no features to compare: there must be a layer')
  if set(features_x) != set(features_y):
    raise ValueError(
      f'the layers differ: {list(features_x)} of x, {list(features_y)} of y'
    )


def _check_features(features_x: Features, features_y: Features) -> None:
  _check_names(features_x, features_y)
  for name, x in features_x.items():
    if x.shape != features_y[name].shape:
      raise ValueError(
        f'layer {name!r} is {x.shape} for x and {features_y[name].shape} for '
        'y: their shapes must be equal'
      )
