"""Checks that updates and evaluations fit in memory, before anything compiles.

The estimate of an update is a lower bound: the state and the gradients of the
largest network. On a CPU, where XLA recomputes nothing, it includes the results
of convolutions and matrix products, which their gradients need. XLA may still
run out of memory; that is reported as a user's mistake too.
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
# Files with a container's limit.
_GROUP_LIMITS = ('memory.max', 'memory/memory.limit_in_bytes')


def check_memory(
  modules: Mapping[str, nn.Module],
  state: TrainState,
  shape: tuple[int, int, int],
  batch_size: int,
) -> None:
  """Refuses an update that cannot fit in a device's memory.

  Args:
    state: arrays or their shapes.
    shape: (*S, C) of an example.
    batch_size: images that a device computes at once.

  Raises:
    UserError: it needs more than there is.
  """
  on_cpu = jax.local_devices()[0].platform == 'cpu'
  parts = {
    'the state': _num_bytes(state),
    'gradients': max(_num_bytes(n.params) for n in state.networks.values()),
    f'activations of {batch_size:,} images': sum(
      _kept_bytes(module, state.networks[name].variables, shape, batch_size)
      for name, module in modules.items()
    )
    if on_cpu
    else 0,
  }
  needed, available = sum(parts.values()), _available()
  if needed > available:
    listed = ', '.join(f'{n / 1e9:,.1f} {name}' for name, n in parts.items())
    raise UserError(
      f'An update needs at least {needed / 1e9:,.1f} GB of memory on each '
      f'device ({listed}), which has {available / 1e9:,.1f}: raise '
      'optimizer.accumulate_steps, or lower batch_size, data.image_size, '
      'model.width, model.codebook_size or critic.width, as in '
      '--config.batch_size=16'
    )


def check_features(
  num_examples: int, num_pictures: int, num_features: int
) -> None:
  """Refuses a Frechet distance whose features exceed the machine's memory.

  Args:
    num_examples: examples of an evaluation.
    num_pictures: of each example: one, or as many as it has bands.
    num_features: features of a picture; 0 without a Frechet distance.

  Raises:
    UserError: they need more than there is.
  """
  # Float32 of originals, of two kinds of reconstructions, and a copy.
  needed = 4 * 4 * num_examples * num_pictures * num_features
  available = _machine_memory()
  if needed > available:
    fewer = max(int(num_examples * available / needed) // 2, 2)
    raise UserError(
      f'evaluation.features_weights needs {needed / 1e9:,.1f} GB of memory for '
      f'{num_features:,} features of {num_examples:,} examples with '
      f'{num_pictures:,} pictures each, and the machine has '
      f'{available / 1e9:,.1f}: evaluate fewer, such as '
      f'--config.data.eval_split="test[:{fewer}]", or compute no Frechet '
      'distance, --config.evaluation.features_weights='
    )


def _num_bytes(tree: Any) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _kept_bytes(module, variables, shape, batch_size) -> int:
  """Counts the products of one forward pass, without computing them."""
  x = jax.ShapeDtypeStruct((batch_size, *shape), jnp.float32)
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
  """Returns the bytes of one device; CPU devices share the machine's."""
  devices = jax.local_devices()
  stats = devices[0].memory_stats() or {}
  if 'bytes_limit' in stats:
    return stats['bytes_limit']
  return _machine_memory() // len(devices)


def _machine_memory() -> int:
  """Returns the bytes of the machine, or of its container."""
  limits = [os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')]
  for name in _GROUP_LIMITS:
    with contextlib.suppress(OSError, ValueError):  # 'max' is no limit.
      limits.append(int(Path('/sys/fs/cgroup', name).read_text()))
  return min(limits)


@contextlib.contextmanager
def reporting_exhaustion(sizes: Mapping[str, Any]) -> Iterator[None]:
  """Reports exhausted memory within the context as a user's mistake.

  Raises:
    UserError: XLA or Python ran out of memory.
  """
  try:
    yield
  except Exception as error:  # XLA's errors differ in their text alone.
    exhausted = 'RESOURCE_EXHAUSTED' in str(error)
    if not exhausted and not isinstance(error, MemoryError):
      raise
    reason = str(error).strip().partition('\n')[0][:200] or 'of Python'
    listed = ', '.join(f'{name}={value}' for name, value in sizes.items())
    raise UserError(
      f'There is too little memory ({reason}) for {listed or "this"}: lower '
      'one '
      'of them, as in --config.batch_size=16, or use more devices'
    ) from error
