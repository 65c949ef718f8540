"""The perceptual distance: how far apart two images are in a network's eyes.

`capture_features` collects what the layers of any Flax module compute, linen
(through `capture_intermediates`) or NNX (see `capturing.py`);
`perceptual_distance` compares two such collections, by `distances.py`. Nothing
here knows how the network is trained.
Axes: B batch, H height, W width, C channels; a feature is [B, ..., C].
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.losses import capture
from vaegan_jax.losses.distances import (
  Weights,
  check_choice,
  feature_distance,
)
from vaegan_jax.losses.layers import (
  Calls,
  IsLayer,
  Layers,
  name_features,
  select,
  selection,
)


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
  names, is_layer = selection(layers)
  outputs, calls = _run(
    module, variables, (images, *args), is_layer, apply_kwargs
  )
  features, paths = name_features(calls, len(images))
  if names is not None:
    features = select(features, names, paths)
  if layers is not None and not features:
    raise ValueError(
      f'layers={layers!r} keeps nothing: no such layer was called that returns '
      'a floating-point array [B, ...]'
    )
  return outputs, features


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
  axis_name: str | None = None,
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
    y: [B, H, W, C] images to compare. (For other data, call
      `capture_features` and `feature_distance`.)
    layers: see `capture_features`; None: every captured layer.
    weights: see `feature_distance`, as `normalize`, `norm` and `reduction`.
    normalize: 'none', 'unit', 'batch', 'local' or 'relative'.
    norm: 'l2' or 'l1'.
    reduction: 'sum', 'mean' or 'spatial'.
    axis_name: of the devices that share a batch, for 'batch' and 'local'.
    gradients_to: of 'x', 'y' and 'variables' (an NNX module's own).
    **apply_kwargs: passed on to `capture_features`.

  Returns:
    [B] float32, non-negative if the weights are.

  Raises:
    ValueError: the images differ in shape, are not [B, H, W, C] or not
      floating-point; or see `capture_features` and `feature_distance`.
  """
  _check_images(x, y)
  x, y, frozen = _stop_gradients(x, y, gradients_to)

  def features_of(images):
    judge = capture.as_judge(module, variables, frozen=frozen)
    return capture_features(*judge, images, layers=layers, **apply_kwargs)[1]

  return feature_distance(
    features_of(x),
    features_of(y),
    weights=weights,
    normalize=normalize,
    norm=norm,
    reduction=reduction,
    axis_name=axis_name,
  )


def _run(
  module: Any,
  variables: Mapping[str, Any] | None,
  inputs: tuple[Any, ...],
  is_layer: IsLayer,
  kwargs: Mapping[str, Any],
) -> tuple[Any, Calls]:
  """Returns what a module of either API returns, and the calls inside it."""
  if isinstance(module, nn.Module):
    if variables is None:
      raise ValueError('variables are None; a linen module needs its own')
    return capture.capture_linen(module, variables, inputs, is_layer, **kwargs)
  if capture.is_nnx(module):
    if variables is not None:
      raise ValueError('variables must be None for an nnx.Module: it has them')
    return capture.capture_nnx(module, inputs, is_layer, **kwargs)
  raise ValueError(
    f'module is a {type(module).__name__}; expected an instance of '
    'flax.linen.Module or flax.nnx.Module'
  )


def _stop_gradients(
  x: jax.Array, y: jax.Array, gradients_to: Sequence[str]
) -> tuple[jax.Array, jax.Array, bool]:
  """Returns x, y, and whether gradients stop at the variables too."""
  if isinstance(gradients_to, str):
    gradients_to = (gradients_to,)
  for name in gradients_to:
    check_choice('gradients_to', name, ('x', 'y', 'variables'))
  stop = jax.lax.stop_gradient
  x = x if 'x' in gradients_to else stop(x)
  y = y if 'y' in gradients_to else stop(y)
  return x, y, 'variables' not in gradients_to


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
