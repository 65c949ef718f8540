"""The perceptual distance: between two images, in a network's features.

`capture_features` collects the outputs of any Flax module's layers, linen
(through `capture_intermediates`) or NNX (see `capture.py`).
`perceptual_distance` compares two such collections, by `distances.py`. All of
it is independent of the network's training.
Axes: B batch, S the axes of space, C channels; a feature is [B, ..., C].
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import flax.errors
import flax.linen as nn
import jax

from vaegan_jax.losses import capture, masks
from vaegan_jax.losses.arguments import (
  Weights,
  check_array,
  check_choice,
  check_images,
  check_options,
  warn_once,
)
from vaegan_jax.losses.distances import (
  AxisName,
  Comparison,
  Sizes,
  layer_distances,
  warn_of_unnamed_axes,
)
from vaegan_jax.losses.layers import (
  Call,
  IsLayer,
  Layers,
  Named,
  name_features,
  select,
  selection,
)
from vaegan_jax.losses.own_output import distinct_features


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
  dictionary are `name.0` or `name.key`. Functions that are not modules, such as
  `nn.relu` by itself, are not captured.

  The module's own output, such as a critic's logits, is not a feature, in any
  shape, unless `layers` names it (or nothing else were left). An array that
  several layers return, such as `SpectralNorm` and what it wraps, is one
  feature, with the name of the first.

  Layers in an `nn.scan` are features if its `variable_axes` has 'intermediates'
  at 1 or later: [B, steps, ...]. At 0 the steps stand before the images. Such
  features, those of folded batches [B * T, ...] and those that do not come out
  of a transformation are left out, and a warning names them once.

  Args:
    module: any linen or NNX module.
    variables: of a linen module, as for `module.apply`; None for NNX, which
      carries its own (and changes them in place, as when it is called).
    images: [B, ...] the module's input.
    *args: further inputs.
    layers: the features to keep, in one of four forms. Names of layers or
      features, which set the order. One or several module types. A predicate
      (path, module) -> bool, which may choose the module's output too. None:
      every layer.
    **apply_kwargs: passed on to `module.apply` (`method`, `mutable`, `rngs`,
      the module's own), or to the NNX module (`method` is handled here).

  Returns:
    The module's output (with `mutable`, a pair, as `module.apply` returns), and
    {name: feature [B, ...]} in forward order.

  Raises:
    ValueError: not a Flax module; a name in `layers` without a feature, and the
      message lists all names; nothing is kept; or a misspelled option.
  """
  check_module(module, variables)
  check_options(module, apply_kwargs, ['layers'])
  check_array('images', images)
  return _capture(module, variables, (images, *args), layers, apply_kwargs)


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
  axis_name: AxisName | None = None,
  min_sizes: Sizes | None = None,
  where: jax.Array | None = None,
  gradients_to: Sequence[str] = ('y',),
  **apply_kwargs: Any,
) -> jax.Array:
  """Computes the distance of images x and y in a network's features.

  By default gradients reach `y` alone: `x` is the reference, and the network is
  frozen. An NNX module is left unchanged (its copy runs). Images are sounds,
  volumes or video as well: [B, *S, C] of any number of axes.

  Args:
    module: any linen or NNX module, in evaluation mode. With BatchNorm or
      dropout, call `.eval()` of an NNX module first, and pass a linen module's
      own flag, such as `train=False`.
    variables: its variables; None for NNX.
    x: [B, *S, C] floating-point reference images.
    y: [B, *S, C] images to compare.
    layers: see `capture_features`; None: every captured layer.
    weights, normalize, norm, reduction, min_sizes: see `feature_distance`.
    axis_name: of the devices that share a batch; see `feature_distance`.
    where: [B] or [B, *S] booleans, the examples or positions to include. Both
      images are 0 elsewhere before the module runs.
    gradients_to: some of 'x', 'y' and 'variables' (an NNX module's own).
    **apply_kwargs: passed on to `capture_features`.

  Returns:
    [B] float32, non-negative if the weights are.

  Raises:
    ValueError: the images differ in shape or are not floating-point; or see
      `capture_features` and `feature_distance`.
  """
  check_module(module, variables)
  check_options(module, apply_kwargs, options_of(perceptual_distance))
  check_images('xy', x, y)
  how = Comparison(normalize, norm, reduction, axis_name)
  warn_of_unnamed_axes(x, how)
  x, y, frozen = _stop_gradients(x, y, gradients_to)
  x, y, where = masks.apply(where, x, y)
  _, *features = capture_pair(
    module, variables, x, y, layers, apply_kwargs, frozen=frozen
  )
  return sum(
    layer_distances(
      *features, how, weights=weights, min_sizes=min_sizes, where=where
    ).values()
  )


def capture_pair(
  module: Any,
  variables: Mapping[str, Any] | None,
  x: jax.Array,
  y: jax.Array,
  layers: Layers | None,
  apply_kwargs: Mapping[str, Any],
  *,
  frozen: bool,
) -> tuple[Any, dict[str, jax.Array], dict[str, jax.Array]]:
  """Captures the same features of x and of y, in copies of the module.

  Returns the module's output for y, without what is mutable, and both features.
  """

  def capture_in_copy(images, layers):
    copy = capture.protected_copy(module, variables, frozen=frozen)
    return _capture(*copy, (images,), layers, apply_kwargs)

  _, features_x = capture_in_copy(x, layers)
  outputs, features_y = capture_in_copy(y, list(features_x) or layers)
  return _without_mutable(outputs, apply_kwargs), features_x, features_y


def _capture(module, variables, inputs, layers, kwargs):
  """Returns (the module's output, {name: feature}); see `capture_features`."""
  names, is_layer, is_exact = selection(layers)
  run = functools.partial(_run, module, variables, inputs, kwargs)
  outputs, calls, hidden = run(is_layer)
  named = name_features(calls, inputs[0].shape[0])
  features = named.features
  if names is not None:
    features = select(features, names, named.paths)
  else:
    _warn_of_omitted(named, hidden)
  if not is_exact:
    features = _distinct(run, features, inputs[0].shape[0], kwargs)
  if layers is not None and not features:
    raise ValueError(
      f'layers={layers!r} keeps nothing: no such layer was called that returns '
      'a floating-point array [B, ...]'
    )
  return outputs, features


def _distinct(run, features, batch_size, kwargs):
  """Leaves out features that are repeated, or are the module's output."""

  def outputs_and_features():
    outputs, calls, _ = run(lambda path, part: True)
    outputs = _without_mutable(outputs, kwargs)
    return outputs, name_features(calls, batch_size).features

  names = distinct_features(outputs_and_features, features)
  if not names:  # Not traceable; or there is nothing but the output.
    return features
  return {name: features[name] for name in features if name in names}


def _without_mutable(outputs, kwargs):
  """Returns the output alone of what `module.apply` returns."""
  return outputs if kwargs.get('mutable', False) is False else outputs[0]


def _warn_of_omitted(named: Named, hidden: Sequence[str]) -> None:
  if named.omitted:
    arrays = ', '.join(f'{name} {s}' for name, s in named.omitted.items())
    warn_once(
      f"layers left out, as their first axis is not the images': {arrays}. "
      'Reshape folded batches to [B, ...]; where nn.scan or nn.vmap stacks '
      "layers, give variable_axes={'intermediates': 1}"
    )
  if hidden:
    warn_once(
      f'layers left out, as their outputs stay inside a transformation: '
      f'{", ".join(hidden)}. In nn.scan or nn.vmap, give '
      "variable_axes={'intermediates': 1}; call a function of JAX on arrays, "
      'not around a layer'
    )


def _run(
  module: Any,
  variables: Mapping[str, Any] | None,
  inputs: tuple[Any, ...],
  kwargs: Mapping[str, Any],
  is_layer: IsLayer,
) -> tuple[Any, list[Call], list[str]]:
  """Calls a module of either API.

  Returns its output, the calls inside, and the paths of layers whose outputs
  did not come back.
  """
  if capture.is_nnx(module):
    return capture.capture_nnx(module, inputs, is_layer, **kwargs)
  try:
    return capture.capture_linen(module, variables, inputs, is_layer, **kwargs)
  except flax.errors.ScopeCollectionNotFound as error:
    if 'params' in variables or '"params"' not in str(error):
      raise
    raise ValueError(
      f"variables are of {list(variables)} and have no 'params'; of parameters "
      "alone give variables={'params': params}"
    ) from error


def check_module(module: Any, variables: Any) -> None:
  """Raises a ValueError unless it is a Flax module with its variables."""
  if capture.is_nnx(module):
    if variables is not None:
      raise ValueError('variables must be None for an nnx.Module: it has them')
  elif not isinstance(module, nn.Module):
    raise ValueError(
      f'module is a {type(module).__name__}; expected an instance of '
      'flax.linen.Module or flax.nnx.Module; of another network (Equinox, '
      'Haiku, a function) give the features {layer: [B, ...]} that it returns '
      'to feature_distance'
    )
  elif variables is None:
    raise ValueError('variables are None; a linen module needs its own')
  elif not isinstance(variables, Mapping):
    raise ValueError(
      f'variables are a {type(variables).__name__}; expected what module.init '
      "returns, such as {'params': params}"
    )


def options_of(function: Callable) -> list[str]:
  """Returns the names of a function's own keyword options."""
  return list(function.__kwdefaults__)


def _stop_gradients(
  x: jax.Array, y: jax.Array, gradients_to: Sequence[str]
) -> tuple[jax.Array, jax.Array, bool]:
  """Returns x, y, and whether gradients also stop at the variables."""
  if isinstance(gradients_to, str):
    gradients_to = (gradients_to,)
  if not isinstance(gradients_to, Collection):
    raise ValueError(
      f'gradients_to is {gradients_to!r}; expected some of x, y and variables, '
      'or () for none'
    )
  for name in gradients_to:
    check_choice('gradients_to', name, ('x', 'y', 'variables'))
  stop = jax.lax.stop_gradient
  x = x if 'x' in gradients_to else stop(x)
  y = y if 'y' in gradients_to else stop(y)
  return x, y, 'variables' not in gradients_to
