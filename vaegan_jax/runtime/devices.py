"""The devices of this process: the one place that names their axis.

Everything here is `jax.pmap`; another way to run on many devices is a change of
this file alone.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

AXIS = 'batch'  # The device axis of `pmap`.

# (tree) -> its mean, and its sum, over all devices; within `parallelize`.
pmean = functools.partial(jax.lax.pmean, axis_name=AXIS)
psum = functools.partial(jax.lax.psum, axis_name=AXIS)


def index() -> jax.Array:
  """Which device this is, [] int32; within `parallelize`."""
  return jax.lax.axis_index(AXIS)


def parallelize(update: Callable) -> Callable:
  """Runs an update on every device; the state has no device axis.

  Args:
    update: (state, images [K B, H, W, C]) -> (state, metrics []).

  Returns:
    (state, images [D, K B, H, W, C] uint8) -> (state, metrics []). The given
    state's buffers are reused (donated): do not touch it afterwards.
  """
  return jax.pmap(
    update,
    axis_name=AXIS,
    in_axes=(None, 0),
    out_axes=(None, None),
    donate_argnums=0,
  )


def replicate(state: Any) -> Any:
  """Puts a state where `parallelize`'s function leaves it: on every device.

  From anywhere else its first call would compile for that place, and its
  second call once more. Each of several processes puts its own there, which
  must be the same.
  """
  return jax.device_put(state, _sharding(jax.sharding.PartitionSpec()))


def share_out(batch: np.ndarray) -> jax.Array:
  """Puts a part of a batch on each device.

  Args:
    batch: [D B, ...], with B examples for each of this process's D devices, for
      a function without `AXIS`; or [D, ...], for one with it.
  """
  return jax.device_put(batch, _sharding(jax.sharding.PartitionSpec(AXIS)))


def shareable(batch_size: int) -> int:
  """The next size of a batch that this process's devices share evenly."""
  number = jax.local_device_count()
  return -(-batch_size // number) * number


def _sharding(spec: jax.sharding.PartitionSpec) -> jax.sharding.NamedSharding:
  mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))
  return jax.sharding.NamedSharding(mesh, spec)
