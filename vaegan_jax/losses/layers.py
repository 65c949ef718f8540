"""The argument `layers`, and the names of features.

Owns the meaning of the argument `layers` and the names of the features that
`perceptual.capture_features` documents. A feature is [B, ..., C].
"""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import keystr

Features = Mapping[str, jax.Array]
# Names, module types, or (path, module) -> whether it is a layer.
Layers = Sequence[str] | type | tuple[type, ...] | Callable[[str, Any], bool]
IsLayer = Callable[[str, Any], bool]  # (path, module) -> whether to record it.


class Call(NamedTuple):
  """One call of a layer, in a list in forward order.

  A layer follows those inside it.
  """

  path: str  # Path of the layer.
  output: Any
  # Place, for each leaf of the output, to which a surrounding scan or vmap has
  # moved the first axis of what the layer returned: 0 if there was none.
  first_axes: list[int]


class Selection(NamedTuple):
  """The argument `layers`, interpreted."""

  names: list[str] | None  # Features to keep, in order; None: all recorded.
  is_layer: IsLayer  # Selection of the modules to record.
  is_exact: bool  # True: the user chose each layer, by name or predicate.


def selection(layers: Layers | None) -> Selection:
  """Interprets the argument `layers` of `capture_features`.

  Raises:
    ValueError: it has none of the documented forms.
  """
  if layers is None:
    return Selection(None, lambda path, module: True, False)
  if isinstance(layers, (str, type)):
    layers = (layers,)
  if callable(layers):
    return Selection(None, layers, True)
  try:
    layers = tuple(layers)
  except TypeError:
    raise ValueError(
      f'layers is {layers!r}; expected names of layers, module types, or a '
      'function (path, module) -> bool'
    ) from None
  if layers and all(isinstance(layer, type) for layer in layers):
    return Selection(
      None, lambda path, module: isinstance(module, layers), False
    )
  return Selection(list(layers), lambda path, module: True, True)


class Named(NamedTuple):
  """The features of recorded calls."""

  features: dict[str, jax.Array]  # {name: [B, ...]} in forward order.
  paths: dict[str, str]  # {name: path of its layer}.
  # {name: shape} of floating-point arrays whose first axis is not the batch's,
  # or may count the steps of a scan.
  omitted: dict[str, tuple]


def name_features(calls: Sequence[Call], batch_size: int) -> Named:
  """Names the features of recorded calls, as `capture_features` documents."""
  counts = collections.Counter(call.path for call in calls)
  seen = collections.Counter()
  found = Named({}, {}, {})
  for path, output, first_axes in calls:
    number = f':{seen[path]}' if counts[path] > 1 else ''
    seen[path] += 1
    leaves = jax.tree_util.tree_leaves_with_path(output)
    for (keys, leaf), axis in zip(leaves, first_axes, strict=True):
      if not _is_floating(leaf):
        continue
      entry = ''.join(f'.{keystr((key,), simple=True)}' for key in keys)
      name = f'{path}{number}{entry}'
      # The layer returned a batch, and the steps of a scan now stand before it.
      is_stacked = axis > 0 and leaf.shape[axis] == batch_size
      if leaf.shape[0] == batch_size and not is_stacked:
        found.features[name], found.paths[name] = leaf, path
      else:
        found.omitted[name] = leaf.shape
  return found


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


def _is_floating(leaf: Any) -> bool:
  return (
    hasattr(leaf, 'dtype')
    and jnp.issubdtype(leaf.dtype, jnp.floating)
    and leaf.ndim > 0
  )
