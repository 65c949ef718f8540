"""Widens the first and last layers of an autoencoder, with its weights kept.

New outputs of a layer begin as a new network's, and its old outputs ignore new
inputs: the reconstruction of the old channels is the same at first.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

# Layers whose outputs, and inputs, are means and then as many logvars.
_TWICE = (('encoder', 'conv_out'), ('encoder', 'to_latent'))
_TWICE_IN = (('encoder', 'to_latent'),)


def fields(model: Mapping[str, Any]) -> tuple[str, ...]:
  """Returns the fields that may grow; the size of codes is fixed."""
  widens = model['layout'] == 'ldm' and model['latent'] == 'gaussian'
  return ('data.channels', *['model.latent_dim'] * widens)


def widen(
  params: Mapping[str, Any], fresh: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns params in the shapes of a wider network.

  Args:
    params: those of the network with fewer channels or latent entries.
    fresh: those of the wider network, newly initialised.
  """
  old, new = map(traverse_util.flatten_dict, (params, fresh))
  widened = {}
  for path, value in new.items():
    value, kept = np.array(value), np.asarray(old[path])
    if value.shape != kept.shape:
      outputs = _places(kept.shape[-1], value.shape[-1], path[:-1] in _TWICE)
      if path[-1] == 'bias':
        value[outputs] = kept
      else:
        twice = path[:-1] in _TWICE_IN
        inputs = _places(kept.shape[-2], value.shape[-2], twice)
        value[..., outputs] = 0.0
        value[..., inputs[:, None], outputs] = kept
      kept = value
    widened[path] = kept
  return traverse_util.unflatten_dict(widened)


def _places(number: int, wider: int, twice: bool) -> np.ndarray:
  """Returns where the old channels are among the new."""
  if not twice:
    return np.arange(number)
  half = np.arange(number // 2)
  return np.concatenate([half, wider // 2 + half])
