"""Distances between two sets of features.

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
it, such a batch outweighs all others. `min_sizes` bounds it from below. 1e-8 is
added to every mean square, so a distance depends on the scale of features whose
root mean square is below 1e-3.

With the norm 'log' a layer counts as log(1 + d / c), where d is its distance by
'l2' and c a hundredth. Its gradient is that of d, divided by d + c. So layers
and examples keep their shares of the gradient as their errors fall.

Axes: B batch, C channels; a feature is [B, ..., C].
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vaegan_jax import names
from vaegan_jax.losses import masks
from vaegan_jax.losses.arguments import (
  Weights,
  check_axis,
  check_choice,
  check_layers,
  check_sizes,
  warn_once,
  weights_by_layer,
)
from vaegan_jax.losses.layers import Features

# The batch's part of the mean square in 'local'. It bounds the gradient at a
# position with almost no features: at three times that of an average one.
_BATCH_SHARE = 0.1
# The constant c of 'log': an error of -20 dB of the size that divides it.
_LOG_SHARE = 0.01
# Two values that differ by less are equal up to float32's rounding.
_ROUNDING = 2e-6

AxisName = str | tuple[str, ...]
Sizes = Mapping[str, float | jax.Array]


class Comparison(NamedTuple):
  """The comparison of two features; the options of `feature_distance`."""

  normalize: str = 'none'
  norm: str = 'l2'
  reduction: str = 'sum'
  axis_name: AxisName | None = None


def feature_distance(
  features_x: Features,
  features_y: Features,
  *,
  weights: Weights | None = None,
  normalize: str = 'none',
  norm: str = 'l2',
  reduction: str = 'sum',
  axis_name: AxisName | None = None,
  min_sizes: Sizes | None = None,
  where: jax.Array | None = None,
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
    norm: 'l2', squared differences; 'l1', absolute ones, of which those within
      float32's rounding are 0; 'log', the logarithm of 'l2', see the module. A
      vector of weights is within it.
    reduction: over one layer's features, 'sum', 'mean', or 'spatial': the sum
      over the channels, the mean over all else.
    axis_name: of the `pmap`, `vmap` or `shard_map` that the batch of 'batch'
      and 'local' spans; None: the batch is the one given here, as it is under
      `jit` with sharded arrays. (): the same, on purpose, in a `shard_map`.
    min_sizes: {layer: the least size} that 'relative', 'batch' and 'local' take
      an image or a batch to have, such as a tenth of `feature_sizes` over much
      data. Layers that it does not name have no such bound.
    where: [B] or [B, *S] booleans, the examples or positions to include, where
      S are the axes of space of the images; see `masks.position_weights`.

  Returns:
    [B] float32, non-negative if the weights are; 0 for an excluded example.

  Raises:
    ValueError: an unknown option, weights that are not one per layer, layers or
      shapes that differ, no layer at all, or an axis that nothing binds.
  """
  how = Comparison(normalize, norm, reduction, axis_name)
  return sum(
    layer_distances(
      features_x,
      features_y,
      how,
      weights=weights,
      min_sizes=min_sizes,
      where=where,
    ).values()
  )


def layer_distances(
  features_x: Features,
  features_y: Features,
  how: Comparison,
  *,
  weights: Weights | None = None,
  min_sizes: Sizes | None = None,
  where: jax.Array | Mapping[str, jax.Array] | None = None,
) -> dict[str, jax.Array]:
  """Computes the terms of `feature_distance`, {layer: [B]}, weighted.

  `where` may also be {layer: weights [B, *S, 1 or C] of its positions}.
  """
  _check(features_x, features_y, how, min_sizes)
  terms = {}
  for name, weight in weights_by_layer(features_x, weights).items():
    x, y = features_x[name], features_y[name]
    if x.ndim == 1:  # One number per image is one channel.
      x, y = x[:, None], y[:, None]
    if jnp.ndim(weight) and jnp.shape(weight) != x.shape[-1:]:
      raise ValueError(
        f'the weight of layer {name!r} has the shape {jnp.shape(weight)}; '
        f'expected a number or {x.shape[-1:]}, one per channel'
      )
    included = masks.layer_weights(where, name, x)
    least = (min_sizes or {}).get(name, 0.0)
    terms[name] = _layer_distance(x, y, how, weight, least, included)
  return terms


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
  return {
    name: jnp.mean(magnitude(feature.astype(jnp.float32), norm))
    for name, feature in features.items()
  }


def _layer_distance(x, y, how: Comparison, weight, least, included):
  """Computes one layer's distance [B] of x and y, [B, ..., C].

  The weight is [] or [C], `least` the least size, and `included` None or the
  weights [B, ..., 1 or C] of the positions.
  """
  epsilon = _epsilon(jnp.promote_types(x.dtype, y.dtype))
  x, y = x.astype(jnp.float32), y.astype(jnp.float32)
  if how.normalize == 'unit':
    x, y = to_unit_length(x, epsilon), to_unit_length(y, epsilon)
  if how.normalize == 'local':
    # Squares for either norm, so that a bound for 'l1' is squared.
    least = jnp.square(least) if how.norm == 'l1' else least
    mean = batch_mean(jnp.square(x), how.axis_name, included)
    size = jnp.maximum(mean, least)
    x, y = (_to_local_size(f, _BATCH_SHARE * size + epsilon) for f in (x, y))
  difference = _difference(x, y, how.norm)
  if how.norm != 'log' or jnp.ndim(weight):
    difference, weight = weight * difference, 1.0
  distance = _reduce(difference, how, included)
  axes = tuple(range(1, x.ndim))
  if how.normalize == 'relative':
    size = masks.mean(magnitude(x, how.norm), included, axes)
    distance = distance / (jnp.maximum(size, least) + epsilon)
  if how.normalize == 'batch':
    mean = batch_mean(magnitude(x, how.norm), how.axis_name, included)
    distance = distance / (jnp.maximum(mean, least) + epsilon)
  if how.norm == 'log':
    # The sign is that of negative weights in a vector.
    size = jnp.log1p(jnp.abs(distance) / _LOG_SHARE)
    distance = weight * jnp.sign(distance) * size
  return distance


def _reduce(difference, how: Comparison, included):
  """Reduces weighted differences [B, ..., C] to [B]."""
  axes = tuple(range(1, difference.ndim))
  if how.reduction == 'spatial':
    if included is not None:  # Channels may differ in what they include.
      return masks.mean(difference, included, axes[:-1]).sum(axis=-1)
    difference = jnp.sum(difference, axis=-1, keepdims=True)
  if how.reduction != 'sum':
    return masks.mean(difference, included, axes)
  if included is not None:
    difference = included * difference
  return jnp.sum(difference, axis=axes)


def _difference(x, y, norm):
  """Computes (x - y)^2, or |x - y| for 'l1'."""
  if norm != 'l1':
    return jnp.square(x - y)
  # The sign of a difference by rounding alone would be noise in the gradient.
  difference = x - y
  is_noise = jnp.abs(difference) <= _ROUNDING * jnp.abs(x)
  return difference * jnp.where(is_noise, 0.0, jnp.sign(difference))


def batch_mean(values: jax.Array, axis_name, included) -> jax.Array:
  """Computes the mean [] over the whole batch, a constant to the gradient.

  `axis_name` may be a function (values, weights or None) -> mean, where this is
  not all of a device's batch.
  """
  values = jax.lax.stop_gradient(values)
  if callable(axis_name):
    return axis_name(values, included)
  if axis_name is None:
    _warn_of_part()
    return masks.mean(values, included)
  try:
    if included is None:
      return jax.lax.pmean(jnp.mean(values), axis_name)
    return masks.divide(
      *jax.lax.psum(masks.weighted_sums(values, included), axis_name)
    )
  except NameError as error:
    raise ValueError(
      f'axis_name is {axis_name!r}, and no pmap, vmap or shard_map around this '
      'call binds that axis; leave axis_name out under jit, where the batch of '
      'a sharded array is whole'
    ) from error


def _warn_of_part() -> None:
  """Warns once in a `shard_map` or `pmap`, which holds a part of a batch."""
  mesh = jax.sharding.get_abstract_mesh()
  axes = [name for name in mesh.manual_axes if mesh.shape[name] > 1]
  if axes:
    warn_once(
      "normalize='batch' and 'local' divide by the size of the batch, which "
      'inside this shard_map or pmap is only a part of it: give axis_name='
      f'{axes[0]!r}, the axis that shares the batch, or axis_name=() if each '
      'device is meant to use its own part'
    )


def warn_of_unnamed_axes(x: jax.Array, how: Comparison) -> None:
  """Warns once if a batch spans an axis besides those of `how.axis_name`.

  A `shard_map` tells the axes that an array varies over if it checks them
  (`check_vma`, its default). No name at all has a warning of its own.
  """
  if how.normalize not in ('batch', 'local') or not how.axis_name:
    return
  named = how.axis_name
  named = {named} if isinstance(named, str) else set(named)
  shape = jax.sharding.get_abstract_mesh().shape
  spanned = getattr(jax.typeof(x), 'manual_axis_type', None)
  spanned = getattr(spanned, 'varying', ())
  axes = tuple(a for a in shape if a in spanned and shape[a] > 1)
  if unnamed := [a for a in axes if a not in named]:
    warn_once(
      f'the batch spans the axes {axes}, and axis_name={how.axis_name!r} omits '
      f'{", ".join(unnamed)}: normalize={how.normalize!r} divides by the size '
      f'of a part of it; give axis_name={axes!r} unless that is meant'
    )


def _to_local_size(feature: jax.Array, least: jax.Array) -> jax.Array:
  """Divides channel vectors by the root of their mean square plus `least`."""
  square = jnp.mean(feature**2, axis=-1, keepdims=True)
  return feature * jax.lax.rsqrt(square + least)


def magnitude(x: jax.Array, norm: str) -> jax.Array:
  """Computes x^2, or |x| for 'l1', with a gradient of 0 at 0."""
  return x * jnp.sign(x) if norm == 'l1' else jnp.square(x)


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


def _check(features_x, features_y, how: Comparison, min_sizes) -> None:
  check_choice('normalize', how.normalize, names.NORMALIZATIONS)
  check_choice('norm', how.norm, names.DISTANCE_NORMS)
  check_choice('reduction', how.reduction, names.REDUCTIONS)
  check_axis(how.axis_name)
  check_layers(features_x, features_y)
  for name, x in features_x.items():
    if x.shape != features_y[name].shape:
      raise ValueError(
        f'layer {name!r} is {x.shape} for x and {features_y[name].shape} for '
        'y: their shapes must be equal'
      )
  check_sizes(min_sizes, features_x)
