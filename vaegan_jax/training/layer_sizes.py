"""Sizes of the distance's layers in the data, as moving averages.

One batch may be nearly silent. Divided by its own size, it would outweigh all
others, so the distance takes a share of these sizes as the least. They are
among `TrainState.averages`.
"""

from collections.abc import Mapping

import jax
import optax

_PREFIX = 'size/'
_DECAY = 0.99


def from_averages(averages: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Returns the sizes {layer: []} that are among the averages of a state."""
  return {
    name.removeprefix(_PREFIX): value
    for name, value in averages.items()
    if name.startswith(_PREFIX)
  }


def to_averages(sizes: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Names sizes {layer: []} as averages of a state."""
  return {f'{_PREFIX}{layer}': size for layer, size in sizes.items()}


def follow(
  averages: Mapping[str, jax.Array],
  moments: Mapping[str, Mapping[str, jax.Array]],
) -> dict[str, jax.Array]:
  """Returns the sizes among the averages of a state, moved towards a batch's.

  The moments are those of the reconstruction losses, over all devices.
  """
  old = from_averages(averages)
  batch = moments.get('sizes', {})
  new = {name: batch[name] for name in old}
  return to_averages(optax.incremental_update(new, old, 1.0 - _DECAY))
