"""The perceptual distance: how far apart two images are in a network's eyes.

`capture_features` collects what the layers of any Flax module compute, linen
(through `capture_intermediates`) or NNX (see `capturing.py`);
`feature_distance` and `gram_distance` compare two such collections;
`perceptual_distance` does both. Nothing here knows how the network is trained.
Axes: B batch, H height, W width, C channels; a feature is [B, ..., C].
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.losses import capturing

NORMALIZATIONS = ('none', 'unit', 'relative')
NORMS = ('l2', 'l1')
REDUCTIONS = ('sum', 'mean', 'spatial')

Features = Mapping[str, jax.Array]
# Names, module types, or (path, module) -> whether it is a layer.
Layers = Sequence[str] | type | tuple[type, ...] | Callable[[str, Any], bool]
# One factor a layer, in order or by name; a vector [C] weights channels.
Weights = Sequence[float | jax.Array] | Mapping[str, float | jax.Array]


def capture_features(
  module: Any,
  variables: Mapping[str, Any] | None,
  images: jax.Array,
  *args: Any,
  layers: Layers | None = None,
  **apply_kwargs: Any,
) -> tuple[Any, dict[str, jax.Array]]:
  """Runs a module once and keeps what its layers return.

  A feature is a floating-point array whose first axis is the batch's. It has
  the path of its layer as name: `block_2`, `stage1/conv3`. Of a layer that is
  called more than once, the calls are `name:0`, `name:1`; of one that returns
  a tuple or a dictionary, the entries are `name.0` or `name.key`. Functions
  that are no modules, such as `nn.relu` by itself, cannot be seen. Under
  `nn.scan` the first axis counts the steps, so that such layers are left out
  (unless there are as many steps as images: name the layers then).

  Args:
    module: any linen or NNX module.
    variables: of a linen module, as for `module.apply`; None for NNX, which
      carries its own (and changes them in place, as when it is called).
    images: [B, ...] the module's input.
    *args: further inputs.
    layers: what to keep. Names: a layer's gives all its features; they come in
      the order of the names. A module type, or several. A predicate (path,
      module) -> bool. None: every layer.
    **apply_kwargs: passed on to `module.apply` (`method`, `mutable`, `rngs`,
      the module's own), or to the NNX module (`method` is looked at here).

  Returns:
    What the module returns (with `mutable`, a pair, as `module.apply`), and
    {name: feature [B, ...]} in forward order.

  Raises:
    ValueError: not a Flax module; a name in `layers` of which there is no
      feature, and it lists those that there are; or nothing is kept.
  """
  names, is_layer = capturing.selection(layers)
  inputs = (images, *args)
  if isinstance(module, nn.Module):
    if variables is None:
      raise ValueError('variables are None; a linen module needs its own')
    outputs, calls = capturing.capture_linen(
      module, variables, inputs, is_layer, **apply_kwargs
    )
  elif capturing.is_nnx(module):
    if variables is not None:
      raise ValueError('variables must be None for an nnx.Module: it has them')
    outputs, calls = capturing.capture_nnx(
      module, inputs, is_layer, **apply_kwargs
    )
  else:
    raise ValueError(
      f'module is a {type(module).__name__}; expected an instance of '
      'flax.linen.Module or flax.nnx.Module'
    )
  features, paths = capturing.name_features(calls, len(images))
  if names is not None:
    features = _select(features, names, paths)
  if layers is not None and not features:
    raise ValueError(
      f'layers={layers!r} keeps nothing: no such layer was called that returns '
      'a floating-point array [B, ...]'
    )
  return outputs, features


def feature_distance(
  features_x: Features,
  features_y: Features,
  *,
  weights: Weights | None = None,
  normalize: str = 'none',
  norm: str = 'l2',
  reduction: str = 'sum',
) -> jax.Array:
  """Distance between two sets of features, summed over the layers.

  By default it is that of Larsen et al. (arXiv 1512.09300, eq. 7, without its
  factor 1/2) over every given layer. 'unit' and 'spatial' with LPIPS's weights
  is LPIPS (arXiv 1801.03924, eq. 1) up to its epsilon. Computed in float32,
  whatever comes in.

  Args:
    features_x: {layer: [B, ...]} of the reference, whose scale 'relative'
      divides by.
    features_y: the same layers and shapes.
    weights: one factor a layer, in the order of `features_x` or by name, each
      a number or a vector [C]; None: 1. (JAX sorts a dict that passes through
      `jit` or `jax.tree.map` by its names: weigh those by name.)
    normalize: 'none'; 'unit', each position's channel vector to length 1;
      'relative', each image's layer divided by the mean of its reference
      feature's squares (or absolute values, for 'l1'); with 'sum' a layer
      still counts by its size, with 'mean' all count alike.
    norm: 'l2', squared differences; 'l1', absolute ones.
    reduction: over one layer's features, 'sum', 'mean', or 'spatial': the sum
      over the channels, the mean over all else.

  Returns:
    [B] float32, non-negative if the weights are.

  Raises:
    ValueError: an unknown option, weights that are not one a layer, layers or
      shapes that differ, or no layer at all.
  """
  _check_choice('normalize', normalize, NORMALIZATIONS)
  _check_choice('norm', norm, NORMS)
  _check_choice('reduction', reduction, REDUCTIONS)
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
    )
  return total


def perceptual_distance(
  module: Any,
  variables: Mapping[str, Any] | None,
  x: jax.Array,
  y: jax.Array,
  *,
  layers: Layers | None = None,
  weights: Weights | None = None,
  normalize: str = 'none',
  norm: str = 'l2',
  reduction: str = 'sum',
  gradients_to: Sequence[str] = ('y',),
  **apply_kwargs: Any,
) -> jax.Array:
  """Distance between the images x and y in the features of a network.

  By default gradients reach `y` alone: `x` is the reference, and the network
  only judges. An NNX module is left unchanged (its copy runs).

  Args:
    module: any linen or NNX module, in the mode in which it is to judge: with
      BatchNorm or dropout, call `.eval()` of an NNX module first, and pass a
      linen module's own flag, such as `train=False`.
    variables: its variables; None for NNX.
    x: [B, H, W, C] floating-point reference images.
    y: [B, H, W, C] images to compare, such as reconstructions. (For other
      data, call `capture_features` and `feature_distance`.)
    layers: see `capture_features`; None: every captured layer.
    weights: see `feature_distance`, as `normalize`, `norm` and `reduction`.
    normalize: 'none', 'unit' or 'relative'.
    norm: 'l2' or 'l1'.
    reduction: 'sum', 'mean' or 'spatial'.
    gradients_to: which of 'x', 'y' and 'variables' (an NNX module's own) may
      receive gradients.
    **apply_kwargs: passed on to `capture_features`.

  Returns:
    [B] float32, non-negative if the weights are.

  Raises:
    ValueError: the images differ in shape, are not [B, H, W, C] or not
      floating-point; or see `capture_features` and `feature_distance`.
  """
  _check_images(x, y)
  if isinstance(gradients_to, str):
    gradients_to = (gradients_to,)
  for name in gradients_to:
    _check_choice('gradients_to', name, ('x', 'y', 'variables'))
  stop = jax.lax.stop_gradient
  x = x if 'x' in gradients_to else stop(x)
  y = y if 'y' in gradients_to else stop(y)

  frozen = 'variables' not in gradients_to

  def capture(images):
    judge = capturing.as_judge(module, variables, frozen=frozen)
    return capture_features(*judge, images, layers=layers, **apply_kwargs)[1]

  return feature_distance(
    capture(x),
    capture(y),
    weights=weights,
    normalize=normalize,
    norm=norm,
    reduction=reduction,
  )


def gram_distance(
  features_x: Features,
  features_y: Features,
  *,
  weights: Weights | None = None,
  normalize: str = 'none',
) -> jax.Array:
  """Style distance: between the features' correlations, wherever they occur.

  Gatys et al. (arXiv 1508.06576, eq. 4 and 5), with each Gram matrix divided
  by its number of positions, so that images of two sizes can be compared; for
  images of one size that is the paper's.

  Args:
    features_x: {layer: [B, ..., C]} of the style; B may be 1, for one style.
    features_y: the same layers and channels; any size.
    weights: one factor a layer, in order or by name; None: one over their
      number, as the paper.
    normalize: 'none' (the paper), or 'relative': each layer's squared
      difference divided by the sum of the squares of x's Gram matrix.

  Returns:
    [B] float32, non-negative if the weights are.

  Raises:
    ValueError: an unknown option, or layers, batches or channels that differ.
  """
  _check_choice('normalize', normalize, ('none', 'relative'))
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
  """What style transfer minimises (Gatys et al., arXiv 1508.06576, eq. 7).

  The content term is eq. 1: half the squared difference, summed, over the
  layers given. The style term is `gram_distance`.

  Args:
    features: {layer: [B, ..., C]} of the image that is made, with every layer
      of the next two.
    content_features: {layer: [B, ..., C]} of the content image.
    style_features: {layer: [B or 1, ..., C]} of the style image, of any size.
    content_weight: alpha of the paper.
    style_weight: beta of the paper.
    normalize: 'none' (the paper), or 'relative': the terms are (half) the
      share of their reference's size, so that the weights mean the same for any
      network; about 10 is a style weight then.

  Returns:
    [B] float32, non-negative.

  Raises:
    ValueError: an unknown option, a missing layer, or shapes that differ.
  """
  content = feature_distance(
    content_features,
    _select(features, list(content_features)),
    normalize=normalize,
    reduction='sum' if normalize == 'none' else 'mean',
  )
  style = gram_distance(
    style_features,
    _select(features, list(style_features)),
    normalize=normalize,
  )
  return content_weight * content / 2 + style_weight * style


def _layer_distance(
  name, x, y, weight, normalize, norm, reduction
) -> jax.Array:
  """One layer's distance [B]; x, y: [B, ...]."""
  epsilon = _epsilon(jnp.promote_types(x.dtype, y.dtype))
  if x.ndim == 1:  # One number an image is one channel.
    x, y = x[:, None], y[:, None]
  if jnp.ndim(weight) and jnp.shape(weight) != x.shape[-1:]:
    raise ValueError(
      f'the weight of layer {name!r} has the shape {jnp.shape(weight)}; '
      f'expected a number or {x.shape[-1:]}, one a channel'
    )
  x, y = x.astype(jnp.float32), y.astype(jnp.float32)
  if normalize == 'unit':
    x, y = _unit(x, epsilon), _unit(y, epsilon)
  magnitude = jnp.square if norm == 'l2' else _absolute
  difference = weight * magnitude(x - y)
  if reduction == 'spatial':
    difference = jnp.sum(difference, axis=-1, keepdims=True)
  axes = tuple(range(1, x.ndim))
  reduce = jnp.sum if reduction == 'sum' else jnp.mean
  distance = reduce(difference, axis=axes)
  if normalize == 'relative':
    distance = distance / (jnp.mean(magnitude(x), axis=axes) + epsilon)
  return distance


def _absolute(x: jax.Array) -> jax.Array:
  """|x|, whose gradient at 0 is 0; that of `jnp.abs` is 1."""
  return x * jnp.sign(x)


def _unit(feature: jax.Array, epsilon: float) -> jax.Array:
  """Scales channel vectors to length 1; feature: [B, ..., C]."""
  square = jnp.sum(feature**2, axis=-1, keepdims=True)
  return feature * jax.lax.rsqrt(square + epsilon)


def _epsilon(dtype) -> float:
  """What is added under roots and to denominators, for all-zero features.

  Larger for float16, whose range 1 / 1e-8, and so a gradient, would leave.
  """
  return max(1e-8, 2 * float(jnp.finfo(dtype).tiny))


def _gram(feature: jax.Array) -> jax.Array:
  """Correlations of the channels over positions: [B, ..., C] to [B, C, C]."""
  flat = feature.astype(jnp.float32)
  flat = flat.reshape(flat.shape[0], -1, flat.shape[-1])
  return jnp.einsum('bpc,bpd->bcd', flat, flat) / flat.shape[1]


def _select(
  features: Features,
  names: Sequence[str],
  paths: Mapping[str, str] | None = None,
) -> dict[str, jax.Array]:
  """Keeps the named features, or all of a named layer, in the given order."""
  selected = {}
  for name in names:
    found = [f for f in features if name in (f, (paths or {}).get(f))]
    if not found:
      raise ValueError(
        f'no layer {name!r} that returns a floating-point array [B, ...]; '
        f'there are: {list(features)}'
      )
    selected |= {feature: features[feature] for feature in found}
  return selected


def _weigh(features: Features, weights: Weights | None) -> dict[str, Any]:
  """Returns {layer: weight}, each layer once."""
  if weights is None:
    return dict.fromkeys(features, 1.0)
  if not isinstance(weights, Mapping):
    if isinstance(weights, (int, float)):
      raise ValueError(
        f'weights are {weights!r}; give one weight a layer: {list(features)}'
      )
    if len(weights) != len(features):
      raise ValueError(
        f'{len(weights)} weights for {len(features)} layers: '
        f'{list(features)}; give one weight a layer'
      )
    return dict(zip(features, weights, strict=True))
  if set(weights) != set(features):
    raise ValueError(
      f'weights are of {sorted(weights)}; the layers are {list(features)}'
    )
  return {name: weights[name] for name in features}


def _check_choice(what: str, value: Any, known: Sequence[str]) -> None:
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


def _check_images(x: jax.Array, y: jax.Array) -> None:
  for name, images in (('x', x), ('y', y)):
    if jnp.ndim(images) != 4:
      raise ValueError(
        f'{name} has the shape {jnp.shape(images)}; expected a batch of images '
        '[B, H, W, C]'
      )
    if not jnp.issubdtype(jnp.result_type(images), jnp.floating):
      raise ValueError(
        f'{name} is {jnp.result_type(images)}; expected floating-point images, '
        'such as float32 in [-1, 1]'
      )
  if x.shape != y.shape:
    raise ValueError(
      f'x is {x.shape} and y is {y.shape}: their shapes must be equal'
    )
