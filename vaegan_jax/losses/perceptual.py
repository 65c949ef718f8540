"""The perceptual distance: between two images, in a network's features.

`capture_features` collects the outputs of any Flax module's layers, linen
(through `capture_intermediates`) or NNX (see `capture.py`).
`perceptual_distance` compares two such collections, by `distances.py`. All of
it is independent of the network's training.
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
  """Runs a module once and returns its layers' outputs as features.

  A feature is a floating-point array whose first axis is the batch's. Its name
  is the path of its layer: `block_2`, `stage1/conv3`. The calls of a layer that
  is called more than once are `name:0`, `name:1`. The entries of a tuple or a
  dictionary are `name.0` or `name.key`. Functions that are no modules, such as
  `nn.relu` by itself, are not captured. Under `nn.scan` the first axis counts
  the steps, so such layers are skipped (unless there are as many steps as
  images: name the layers then).

  Args:
    module: any linen or NNX module.
    variables: of a linen module, as for `module.apply`; None for NNX, which
      carries its own (and changes them in place, as when it is called).
    images: [B, ...] the module's input.
    *args: further inputs.
    layers: the features to keep, in one of four forms. Names of layers or
      features, which set the order. One or several module types. A predicate
      (path, module) -> bool. None: every layer.
    **apply_kwargs: passed on to `module.apply` (`method`, `mutable`, `rngs`,
      the module's own), or to the NNX module (`method` is handled here).

  Returns:
    The module's output (with `mutable`, a pair, as `module.apply` returns), and
    {name: feature [B, ...]} in forward order.

  Raises:
    ValueError: not a Flax module; a name in `layers` without a feature, and the
      message lists all names; or nothing is kept.
  """
  names, is_layer = selection(layers)
  outputs, calls = _run(
    module, variables, (images, *args), is_layer, apply_kwargs
  )
  features, paths = name_features(calls, jnp.shape(images)[0])
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
  """Computes the distance of images x and y in a network's features.

  By default gradients reach `y` alone: `x` is the reference, and the network is
  frozen. An NNX module is left unchanged (its copy runs).

  Args:
    module: any linen or NNX module, in evaluation mode. With BatchNorm or
      dropout, call `.eval()` of an NNX module first, and pass a linen module's
      own flag, such as `train=False`.
    variables: its variables; None for NNX.
    x: [B, H, W, C] floating-point reference images.
    y: [B, H, W, C] images to compare. (For other data, call
      `capture_features` and `feature_distance`.)
    layers: see `capture_features`; None: every captured layer.
    weights, normalize, norm, reduction: see `feature_distance`.
    axis_name: of the devices that share a batch; see `feature_distance`.
    gradients_to: some of 'x', 'y' and 'variables' (an NNX module's own).
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
    copy = capture.protected_copy(module, variables, frozen=frozen)
    return capture_features(*copy, images, layers=layers, **apply_kwargs)[1]

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
  """Calls a module of either API; returns its output and the calls inside."""
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
  """Returns x, y, and whether gradients also stop at the variables."""
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
