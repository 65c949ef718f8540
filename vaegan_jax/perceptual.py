"""The perceptual distance: how far apart two images are in a network's eyes.

`capture_features` collects what the layers of any Flax linen module compute,
through Flax's `capture_intermediates`; `feature_distance` compares two such
collections; `perceptual_distance` does both. Nothing here knows how the
network is trained. Axes: B batch; any number of axes after it; channels last.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core.scope import union_filters

NORMALIZATIONS = ('none', 'unit', 'relative')
REDUCTIONS = ('sum', 'mean')
# Added under the root and to denominators, so that all-zero features give a
# finite distance and a finite gradient.
EPSILON = 1e-8

Features = Mapping[str, jax.Array]


def capture_features(
  module: nn.Module,
  variables: Mapping[str, Any],
  images: jax.Array,
  *args: Any,
  layers: Sequence[str] | None = None,
  layer_type: type[nn.Module] | tuple[type[nn.Module], ...] = nn.Module,
  **apply_kwargs: Any,
) -> tuple[Any, dict[str, jax.Array]]:
  """Runs a module once and keeps what its layers return.

  Args:
    module: any linen module.
    variables: its variables, as for `module.apply`.
    images: [B, ...] the module's input.
    *args: further inputs.
    layers: which submodules to keep, by path (`block_2`, `stage1/conv3`);
      None: all of `layer_type`.
    layer_type: only submodules of these classes are layers.
    **apply_kwargs: passed on to `module.apply`.

  Returns:
    What `module.apply` returns, and {layer: feature [B, ...]} in forward order.

  Raises:
    ValueError: a name in `layers` that the module has not; it lists those
      that there are.
  """
  order = []  # Paths in the order of the calls; a collection may be sorted.

  def is_layer(submodule: nn.Module, method_name: str) -> bool:
    keep = (
      method_name == '__call__'
      and isinstance(submodule, layer_type)
      and submodule.path != ()  # The whole is no layer of itself.
    )
    if keep and (path := '/'.join(submodule.path)) not in order:
      order.append(path)
    return keep

  mutable = apply_kwargs.pop('mutable', False)
  outputs, collected = module.apply(
    variables,
    images,
    *args,
    capture_intermediates=is_layer,
    mutable=union_filters(mutable, 'intermediates'),
    **apply_kwargs,
  )
  collected = dict(collected)
  intermediates = collected.pop('intermediates', {})
  features = {path: _at(intermediates, path) for path in order}
  if layers is not None:
    features = _select(features, layers)
  if mutable is not False:  # As `module.apply` does.
    outputs = (outputs, collected)
  return outputs, features


def feature_distance(
  features_x: Features,
  features_y: Features,
  *,
  weights: Sequence[float] | None = None,
  normalize: str = 'none',
  reduction: str = 'sum',
) -> jax.Array:
  """Squared distance between two sets of features, summed over the layers.

  With 'none' and 'sum' it is the distance of Larsen et al. (arXiv 1512.09300,
  eq. 7, without its factor 1/2) over every given layer.

  Args:
    features_x: {layer: [B, ...]} of the reference, whose scale 'relative'
      divides by.
    features_y: the same layers and shapes.
    weights: one factor a layer, in the order of `features_x`; None: 1. (JAX
      sorts a dict that passes through `jit` or `jax.tree.map` by its names.)
    normalize: 'none'; 'unit', each position's channel vector to length 1, as
      LPIPS does (arXiv 1801.03924, eq. 1); 'relative', each image's layer
      divided by the mean square of its reference feature.
    reduction: over one layer's features, 'sum' or 'mean'.

  Returns:
    [B] float32, non-negative.

  Raises:
    ValueError: an unknown `normalize` or `reduction`, weights that are not one
      a layer, or no layer at all.
  """
  if normalize not in NORMALIZATIONS:
    raise ValueError(f'normalize is {normalize!r}; known: {NORMALIZATIONS}')
  if reduction not in REDUCTIONS:
    raise ValueError(f'reduction is {reduction!r}; known: {REDUCTIONS}')
  if not features_x:
    raise ValueError('no features to compare: the network needs a layer')
  weights = [1.0] * len(features_x) if weights is None else list(weights)
  if len(weights) != len(features_x):
    raise ValueError(
      f'{len(weights)} weights for {len(features_x)} layers: '
      f'{list(features_x)}; give one weight a layer'
    )
  reduce = {'sum': jnp.sum, 'mean': jnp.mean}[reduction]
  total = 0.0
  for weight, (name, x) in zip(weights, features_x.items(), strict=True):
    x, y = x.astype(jnp.float32), features_y[name].astype(jnp.float32)
    if normalize == 'unit':
      x, y = _unit(x), _unit(y)
    axes = tuple(range(1, x.ndim))
    distance = reduce((x - y) ** 2, axis=axes)
    if normalize == 'relative':
      distance = distance / (jnp.mean(x**2, axis=axes) + EPSILON)
    total = total + weight * distance
  return total


def perceptual_distance(
  module: nn.Module,
  variables: Mapping[str, Any],
  x: jax.Array,
  y: jax.Array,
  *,
  layers: Sequence[str] | None = None,
  weights: Sequence[float] | None = None,
  normalize: str = 'none',
  reduction: str = 'sum',
  **apply_kwargs: Any,
) -> jax.Array:
  """Distance between the images x and y in the features of a network.

  Gradients reach `y` alone: `x` is the reference, and the network only judges.

  Args:
    module: any linen module.
    variables: its variables.
    x: [B, ...] reference images.
    y: [B, ...] images to compare, such as reconstructions.
    layers: see `capture_features`; None: every captured layer.
    weights: see `feature_distance`.
    normalize: see `feature_distance`.
    reduction: see `feature_distance`.
    **apply_kwargs: passed on to `capture_features`.

  Returns:
    [B] float32, non-negative.
  """
  variables, x = jax.lax.stop_gradient((variables, x))

  def capture(images):
    return capture_features(
      module, variables, images, layers=layers, **apply_kwargs
    )[1]

  return feature_distance(
    capture(x),
    capture(y),
    weights=weights,
    normalize=normalize,
    reduction=reduction,
  )


def _unit(feature: jax.Array) -> jax.Array:
  """Scales channel vectors to length 1; feature: [B, ..., C]."""
  square = jnp.sum(feature**2, axis=-1, keepdims=True)
  return feature * jax.lax.rsqrt(square + EPSILON)


def _at(intermediates: Mapping[str, Any], path: str) -> jax.Array:
  """The feature at `path`: what the module's first call returned."""
  for name in path.split('/'):
    intermediates = intermediates[name]
  return intermediates['__call__'][0]


def _select(
  features: Mapping[str, jax.Array], layers: Sequence[str]
) -> dict[str, jax.Array]:
  """Keeps the named layers, in the order of the names."""
  unknown = [name for name in layers if name not in features]
  if unknown:
    raise ValueError(f'no layer {unknown[0]!r}; there are: {list(features)}')
  return {name: features[name] for name in layers}
