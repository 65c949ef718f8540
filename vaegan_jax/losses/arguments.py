"""Checks the arguments of the public losses, and warns once about a thing.

Every mistake is a ValueError of one message: what is wrong, the rule, and how
to mend it.
"""

import difflib
import inspect
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from vaegan_jax.losses.layers import Features

# One factor per layer, in order or by name; a vector [C] weights channels.
Weights = Sequence[float | jax.Array] | Mapping[str, float | jax.Array]

_WARNED: set[str] = set()
# A longer word than an option's abbreviation or misspelling scores less.
_LIKENESS = 0.65


def check_choice(what: str, value: Any, known: Sequence[str]) -> None:
  """Raises a ValueError that lists the known values, unless this is one."""
  if value not in known:
    raise ValueError(f'{what} is {value!r}; known: {", ".join(known)}')


def check_array(what: str, value: Any) -> None:
  """Raises a ValueError unless a value is an array with a batch axis."""
  if not hasattr(value, 'dtype') or not hasattr(value, 'shape'):
    raise ValueError(
      f'{what} is a {type(value).__name__}; expected one array [B, ...], such '
      'as jnp.stack makes of a list'
    )
  if not value.shape:
    raise ValueError(
      f'{what} has the shape (); expected a batch [B, ...]; x[None] makes one '
      'of an example'
    )


def check_images(names: Sequence[str], x: Any, y: Any) -> None:
  """Raises a ValueError unless two batches [B, ..., C] can be compared."""
  for name, images in zip(names, (x, y), strict=True):
    check_array(name, images)
    if len(images.shape) < 2:
      raise ValueError(
        f'{name} has the shape {images.shape}; expected a batch with channels, '
        'such as images [B, H, W, C] or sounds [B, T, C]'
      )
    if not jnp.issubdtype(images.dtype, jnp.floating):
      raise ValueError(
        f'{name} is {images.dtype}; expected floating-point images, such as '
        'float32 in [-1, 1]'
      )
  if x.shape != y.shape:
    raise ValueError(
      f'{names[0]} is {x.shape} and {names[1]} is {y.shape}: their shapes must '
      'be equal'
    )


def check_sounds(x: Any, sample_rate: Any) -> None:
  """Raises a ValueError unless these are sounds [B, T, C] at a sample rate."""
  if x.ndim != 3:
    raise ValueError(
      f'spectrum_weight is for sounds [B, T, C], and x has the shape {x.shape};'
      ' give spectrum_weight=0'
    )
  is_number = isinstance(sample_rate, (int, float, np.number))
  if not is_number or not 0 < sample_rate < float('inf'):
    raise ValueError(
      f'sample_rate is {sample_rate!r}; expected a number above 0, in Hz'
    )


def check_layers(features_x: Features, features_y: Features) -> None:
  """Raises a ValueError unless two sets of features have the same layers."""
  for features in (features_x, features_y):
    if not isinstance(features, Mapping):
      raise ValueError(
        f'features are a {type(features).__name__}; expected a dictionary '
        '{layer: [B, ...]}'
      )
    for name, feature in features.items():
      check_array(f'layer {name!r}', feature)
      if not jnp.issubdtype(feature.dtype, jnp.floating):
        raise ValueError(
          f'layer {name!r} is {feature.dtype}; expected floating-point features'
        )
  if not features_x:
    raise ValueError('no features to compare: there must be a layer')
  if set(features_x) != set(features_y):
    raise ValueError(
      f'the layers differ: {list(features_x)} of x, {list(features_y)} of y'
    )


def check_sizes(min_sizes: Any, layers: Any = None) -> None:
  """Raises a ValueError unless least sizes are {layer: number}, 0 or more.

  Args:
    min_sizes: None, or the least sizes; what JAX traces has no value to check.
    layers: the layers that there are; None: not known yet.
  """
  if min_sizes is None:
    return
  if not isinstance(min_sizes, Mapping):
    raise ValueError(
      f'min_sizes are a {type(min_sizes).__name__}; expected {{layer: number}}'
    )
  if layers is not None and (unknown := set(min_sizes) - set(layers)):
    raise ValueError(
      f'min_sizes are of {sorted(unknown)}; the layers are {list(layers)}'
    )
  for name, size in min_sizes.items():
    if not _is_size(size):
      raise ValueError(
        f'min_sizes[{name!r}] is {_describe(size)}; expected one number, 0 or '
        'more, such as a tenth of what feature_sizes returns'
      )


def _is_size(size) -> bool:
  """Returns whether a least size is a number that is finite and not below 0."""
  if isinstance(size, (str, bytes)) or np.ndim(size):
    return False
  known = not isinstance(size, jax.core.Tracer)
  if isinstance(size, jax.Array) and known:  # Of this process, or of others.
    known = size.is_fully_addressable or size.is_fully_replicated
  try:
    return not known or 0 <= float(size) < float('inf')
  except (TypeError, ValueError):
    return False


def _describe(value) -> str:
  """Returns a value's shape if it has axes, and the value otherwise."""
  if shape := getattr(value, 'shape', ()):
    return f'an array of shape {shape}'
  return repr(value)


def check_axis(axis_name: Any) -> None:
  """Raises a ValueError unless it is None, or names of axes.

  A function in their place is that of `distances.batch_mean`.
  """
  if callable(axis_name):
    return
  several = axis_name if isinstance(axis_name, (tuple, list)) else [axis_name]
  if axis_name is not None and not all(isinstance(a, str) for a in several):
    raise ValueError(
      f'axis_name is {axis_name!r}; expected the name of an axis of a pmap, '
      'vmap or shard_map, a string, or a tuple of them'
    )


def check_count(what: str, value: Any) -> None:
  """Raises a ValueError unless a value is an integer, 0 or more."""
  try:
    fits = not isinstance(value, bool) and operator.index(value) >= 0
  except TypeError:
    fits = False
  if not fits:
    raise ValueError(f'{what} is {value!r}; expected an integer, 0 or more')


def weights_by_layer(
  features: Features, weights: Weights | None
) -> dict[str, Any]:
  """Returns {layer: weight}, each layer once; see `feature_distance`."""
  if weights is None:
    return dict.fromkeys(features, 1.0)
  if not isinstance(weights, Mapping):
    is_one = isinstance(weights, str) or getattr(weights, 'shape', 1) == ()
    if is_one or not hasattr(weights, '__len__'):
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


def check_options(
  module: Any, kwargs: Mapping[str, Any], options: Sequence[str]
) -> None:
  """Raises a ValueError for a keyword that looks like a misspelled option.

  Args:
    module: the module that all of `kwargs` are passed on to.
    kwargs: keywords; one that the module's method names is the module's own.
    options: the options of the function that received them.
  """
  method = kwargs.get('method') or '__call__'
  if isinstance(method, str):
    method = getattr(type(module), method, None)
  try:
    own = inspect.signature(method).parameters
  except (TypeError, ValueError):  # Not a function of Python.
    own = {}
  takes_any = any(p.kind is p.VAR_KEYWORD for p in own.values())
  for name in kwargs:
    near = None if name in own else _nearest(name, options, takes_any)
    if near:
      raise ValueError(
        f'{name} is not an option, and {type(module).__name__} takes no such '
        f'argument; did you mean {near}?'
      )


def _nearest(name, options, takes_any) -> str | None:
  """Returns the option that a keyword abbreviates, names or misspells."""
  if name == 'mask' and 'where' in options and not takes_any:
    return 'where'
  parts = name.split('_')
  for option in options:
    words = option.split('_')
    if len(parts) == len(words) > 1 and all(map(str.startswith, words, parts)):
      return option
  return next(
    iter(difflib.get_close_matches(name, options, 1, _LIKENESS)), None
  )


def warn_once(message: str) -> None:
  """Logs a warning, the first time in this process that it is given."""
  if message not in _WARNED:
    _WARNED.add(message)
    logging.warning('%s', message)
