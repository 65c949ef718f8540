"""Whether an update has memory enough, told before anything compiles.

What is told is a lower bound: the state, the gradients of the largest network,
and on a CPU, for which XLA computes nothing twice, what the convolutions and
matrix products give, which their gradients need. Of more than that XLA alone
knows; what it says then becomes a sentence too.
"""

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.errors import UserError
from vaegan_jax.training.train_state import TrainState

_KEPT = ('conv_general_dilated', 'dot_general')
# What a container may have.
_GROUP_LIMITS = ('memory.max', 'memory/memory.limit_in_bytes')


def check_memory(
  modules: Mapping[str, nn.Module],
  state: TrainState,
  image_shape: tuple[int, int, int],
  batch_size: int,
) -> None:
  """Refuses what cannot fit in a device's memory.

  Args:
    modules: the networks, by name.
    state: of them, arrays or their shapes.
    image_shape: (H, W, C).
    batch_size: images on each device.

  Raises:
    UserError: it cannot; with the sizes.
  """
  on_cpu = jax.local_devices()[0].platform == 'cpu'
  parts = {
    'the state': _num_bytes(state),
    'gradients': max(_num_bytes(n.params) for n in state.networks.values()),
    f'what is kept of {batch_size:,} images': sum(
      _kept_bytes(modules[name], network.variables, image_shape, batch_size)
      for name, network in state.networks.items()
    )
    if on_cpu
    else 0,
  }
  needed, available = sum(parts.values()), _available()
  if needed > available:
    told = ', '.join(f'{n / 1e9:,.1f} {name}' for name, n in parts.items())
    raise UserError(
      f'An update needs at least {needed / 1e9:,.1f} GB of memory on each '
      f'device ({told}), which has {available / 1e9:,.1f}: lower batch_size, '
      'data.image_size, model.width, model.codebook_size or critic.width, as '
      'in --config.batch_size=16'
    )


def _num_bytes(tree: Any) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _kept_bytes(module, variables, image_shape, batch_size) -> int:
  """Of the products in one pass forward; nothing is computed."""
  x = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32)
  return _product_bytes(jax.make_jaxpr(module.apply)(variables, x).jaxpr)


def _product_bytes(jaxpr) -> int:
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name in _KEPT:
      total += sum(
        math.prod(out.aval.shape) * out.aval.dtype.itemsize
        for out in equation.outvars
      )
    for value in equation.params.values():
      inner = getattr(value, 'jaxpr', value)
      total += _product_bytes(inner) if hasattr(inner, 'eqns') else 0
  return total


def _available() -> int:
  """Bytes of one device; those of a CPU share the machine's, or container's."""
  devices = jax.local_devices()
  stats = devices[0].memory_stats() or {}
  if 'bytes_limit' in stats:
    return stats['bytes_limit']
  limits = [os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')]
  for name in _GROUP_LIMITS:
    with contextlib.suppress(OSError, ValueError):  # 'max' is no limit.
      limits.append(int(Path('/sys/fs/cgroup', name).read_text()))
  return min(limits) // len(devices)


@contextlib.contextmanager
def telling_exhaustion(sizes: Mapping[str, Any]) -> Iterator[None]:
  """A context in which too little memory is a user's mistake.

  Args:
    sizes: {field: value} of what the memory goes to.

  Raises:
    UserError: there was too little, for XLA or for Python.
  """
  try:
    yield
  except Exception as error:  # XLA's errors are told apart by their text.
    exhausted = 'RESOURCE_EXHAUSTED' in str(error)
    if not exhausted and not isinstance(error, MemoryError):
      raise
    reason = str(error).strip().partition('\n')[0][:200] or 'of Python'
    told = ', '.join(f'{name}={value}' for name, value in sizes.items())
    raise UserError(
      f'There is too little memory ({reason}) for {told or "this"}: lower one '
      'of them, as in --config.batch_size=16, or use more devices'
    ) from error
