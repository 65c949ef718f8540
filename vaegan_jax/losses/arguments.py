"""Checks the arguments of the public losses, and warns once about a thing.

Every mistake is a ValueError of one message: what is wrong, the rule, and how
to mend it.
"""

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
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
  if not features_x:
    raise ValueError('no features to compare: there must be a layer')
  if set(features_x) != set(features_y):
    raise ValueError(
      f'the layers differ: {list(features_x)} of x, {list(features_y)} of y'
    )


def check_sizes(min_sizes: Mapping[str, Any] | None, layers: Any) -> None:
  """Raises a ValueError for least sizes of layers that are not there."""
  if unknown := set(min_sizes or ()) - set(layers):
    raise ValueError(
      f'min_sizes are of {sorted(unknown)}; the layers are {list(layers)}'
    )


def weights_by_layer(
  features: Features, weights: Weights | None
) -> dict[str, Any]:
  """Returns {layer: weight}, each layer once; see `feature_distance`."""
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
  for name in kwargs:
    near = difflib.get_close_matches(name, options, 1, _LIKENESS)
    if near and name not in own:
      raise ValueError(
        f'{name} is no option, and {type(module).__name__} takes no such '
        f'argument; did you mean {near[0]}?'
      )


def warn_once(message: str) -> None:
  """Logs a warning, the first time in this process that it is given."""
  if message not in _WARNED:
    _WARNED.add(message)
    logging.warning('%s', message)
