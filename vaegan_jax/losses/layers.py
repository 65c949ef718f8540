"""The argument `layers`, and the names of features.

Owns the meaning of the argument `layers` and the names of the features that
`perceptual.capture_features` documents. A feature is [B, ..., C].
"""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Features = Mapping[str, jax.Array]
# Names, module types, or (path, module) -> whether it is a layer.
Layers = Sequence[str] | type | tuple[type, ...] | Callable[[str, Any], bool]
# (layer, what it returned) in forward order: a layer follows those inside it,
# and occurs once per call.
Calls = list[tuple[str, Any]]
IsLayer = Callable[[str, Any], bool]  # (path, module) -> whether to record it.


def selection(
  layers: Layers | None,
) -> tuple[list[str] | None, IsLayer]:
  """Interprets the argument `layers` of `capture_features`.

  Returns the names to keep of what is recorded (None: all), and a predicate for
  the modules to record.
  """
  if layers is None:
    return None, lambda path, module: True
  if isinstance(layers, (str, type)):
    layers = (layers,)
  if callable(layers):
    return None, layers
  layers = tuple(layers)
  if layers and all(isinstance(layer, type) for layer in layers):
    return None, lambda path, module: isinstance(module, layers)
  return list(layers), lambda path, module: True


def name_features(
  calls: Calls, batch_size: int
) -> tuple[dict[str, jax.Array], dict[str, str]]:
  """Names the features of recorded calls, as `capture_features` documents.

  An array whose first axis is not B is no feature. Returns {name: feature [B,
  ...]} in forward order, and {name: path of its layer}.
  """
  counts = collections.Counter(path for path, _ in calls)
  seen = collections.Counter()
  features, paths = {}, {}
  for path, output in calls:
    call = f':{seen[path]}' if counts[path] > 1 else ''
    seen[path] += 1
    for keys, leaf in jax.tree_util.tree_leaves_with_path(output):
      entry = ''.join(f'.{_key_name(key)}' for key in keys)
      if _is_feature(leaf, batch_size):
        name = f'{path}{call}{entry}'
        features[name], paths[name] = leaf, path
  return features, paths


def select(
  features: Features,
  names: Sequence[str],
  paths: Mapping[str, str] | None = None,
) -> dict[str, jax.Array]:
  """Selects features by name, or all of a named layer, in the given order.

  `paths` are those of `name_features`; without them, names are of features
  alone. A ValueError for an unknown name lists all features.
  """
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


def _is_feature(leaf: Any, batch_size: int) -> bool:
  return (
    hasattr(leaf, 'dtype')
    and jnp.issubdtype(leaf.dtype, jnp.floating)
    and leaf.ndim > 0
    and leaf.shape[0] == batch_size
  )


def _key_name(key: Any) -> str:
  """Returns `0` for a tuple's entry, `hidden` for a dictionary's or field."""
  return jax.tree_util.keystr((key,), simple=True)
