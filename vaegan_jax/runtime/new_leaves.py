"""Leaves of a state that an earlier version of the code had not.

A moving average or a counter that is new begins where it begins in a new run.
The weights of a network never do: what lacks those is another network.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vaegan_jax.runtime import checkpoint_meta

PyTree = Any
_WEIGHTS = {'params', 'ema_params'}


def new_leaves(
  was: Mapping[str, str], now: Mapping[str, str]
) -> dict[str, str]:
  """What is new in a state, and may begin anew.

  Args:
    was: {'averages/logits_real': 'float32[]', ...} of the checkpoint.
    now: of the state today.

  Returns:
    Those of `now` alone, without weights.
  """
  return {
    name: leaf
    for name, leaf in now.items()
    if name not in was and not _WEIGHTS & set(name.split('/'))
  }


def complete(saved: PyTree, template: PyTree, initial: PyTree) -> PyTree:
  """Puts saved leaves into the structure of today.

  Args:
    saved: leaves of the same names, in any structure.
    template: the structure.
    initial: a state of that structure, for what was not saved.

  Returns:
    The state, numpy arrays.
  """
  arrays = checkpoint_meta.named(initial) | checkpoint_meta.named(saved)
  names = checkpoint_meta.named(template)
  return jax.tree.unflatten(
    jax.tree.structure(template), [np.asarray(arrays[name]) for name in names]
  )
