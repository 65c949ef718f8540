"""The devices of this process; only this file uses `jax.pmap` and its axis."""

import collections
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import jax
import numpy as np

from vaegan_jax.runtime.progress import track

_READ_AHEAD = 2  # Batches.
AXIS = 'batch'  # The device axis of `pmap`.

# Mean and sum of a tree over all devices; within `parallelize`.
pmean = functools.partial(jax.lax.pmean, axis_name=AXIS)
psum = functools.partial(jax.lax.psum, axis_name=AXIS)


def index() -> jax.Array:
  """Returns the index of this device, [] int32; within `parallelize`."""
  return jax.lax.axis_index(AXIS)


def parallelize(update: Callable) -> Callable:
  """Compiles (state, images [K B, H, W, C]) -> (state, metrics []).

  The result, for all devices, takes images [D, K B, H, W, C] uint8, and a state
  without a device axis, whose buffers are donated: do not use it afterwards.
  """
  return jax.pmap(
    update,
    axis_name=AXIS,
    in_axes=(None, 0),
    out_axes=(None, None),
    donate_argnums=0,
  )


def replicate(state: Any) -> Any:
  """Copies a state to every device, as a `parallelize`d function returns it.

  Such a function would otherwise compile twice: for the original placement and
  for its own. All processes must pass the same state.
  """
  state = jax.tree.map(_addressable, state)
  return jax.device_put(state, _sharding(jax.sharding.PartitionSpec()))


def share_out(batch: np.ndarray) -> jax.Array:
  """Shards a batch over the D local devices.

  It is [D B, ...] for a function without `AXIS`, or [D, ...] for one with it,
  as `parallelize` returns.
  """
  return jax.device_put(batch, _sharding(jax.sharding.PartitionSpec(AXIS)))


def shareable(batch_size: int) -> int:
  """Rounds a batch size up to a multiple of the local devices."""
  number = jax.local_device_count()
  return -(-batch_size // number) * number


def map_batches(
  function: Callable[[Any], Any],
  examples: Any,
  *,
  batch_size: int,
  what: str,
  indices: Sequence[int] | None = None,
  part_size: int = 0,
  poll: Callable[[], None] | None = None,
) -> Iterator[tuple[np.ndarray, Any]]:
  """Applies a function to examples, in batches that all local devices share.

  A thread reads the next batches meanwhile. The last batch is filled up with
  the first examples, so that there is one shape to compile.

  Args:
    function: compiled function of a batch on the devices; `replicate` its other
      arguments. It returns a tree of arrays [B, ...].
    examples: sequence that maps an array of indices to arrays [B, ...] or a
      tree of them.
    batch_size: examples in a batch, rounded up to a multiple of the devices.
    what: the name of the work on the line of progress: 'Encoding'.
    indices: which examples; None: all.
    part_size: no batch crosses a multiple of it, counted in `indices`; 0: any.
    poll: called before each batch; it may raise an exception to end the work.

  Yields:
    The indices [b] of each batch, and the function's results for them in NumPy.
  """
  indices = np.asarray(range(len(examples)) if indices is None else indices)
  size = shareable(batch_size)
  part_size = part_size or max(len(indices), 1)
  batches = [
    indices[first : min(first + size, start + part_size)]
    for start in range(0, len(indices), part_size)
    for first in range(start, min(start + part_size, len(indices)), size)
  ]

  def read(batch):
    padding = np.resize(indices, size - len(batch))
    return examples[np.concatenate([batch, padding])]

  computed = None  # One batch is computed while the last one is fetched.
  read_batches = zip(batches, _read_ahead(read, batches), strict=True)
  for batch, read_batch in track(read_batches, what, len(batches)):
    if poll:
      poll()
    last, computed = computed, (batch, function(share_out(read_batch)))
    if last:
      yield _fetch(*last)
  if computed:
    yield _fetch(*computed)


def _read_ahead(read: Callable, batches: Sequence) -> Iterator:
  """Yields `read(batch)` for each batch, computed in a thread."""
  pending = collections.deque()
  with futures.ThreadPoolExecutor(1) as pool:
    try:
      for batch in batches:
        pending.append(pool.submit(read, batch))
        if len(pending) > _READ_AHEAD:
          yield pending.popleft().result()
      while pending:
        yield pending.popleft().result()
    finally:
      pool.shutdown(cancel_futures=True)


def _fetch(indices: np.ndarray, results: Any) -> tuple[np.ndarray, Any]:
  """Copies results to the host, without the padding."""
  results = jax.device_get(results)
  return indices, jax.tree.map(lambda leaf: leaf[: len(indices)], results)


def _addressable(leaf: Any) -> Any:
  """Returns this process's copy of an array that many processes hold."""
  whole = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
  return leaf if whole else leaf.addressable_data(0)


def _sharding(spec: jax.sharding.PartitionSpec) -> jax.sharding.NamedSharding:
  mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))
  return jax.sharding.NamedSharding(mesh, spec)
