"""The order of the training examples.

Examples keep their dtype here; `pixels.py` converts them to floats on the
device. The batch of a training step is a pure function of the seed, the step
and the process. So resuming costs the same at any step and repeats the bits.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np

from vaegan_jax.data.crops import Crops
from vaegan_jax.data.split import Images
from vaegan_jax.errors import UserError

_PREFETCH = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)


def create_batches(
  images: Images,
  *,
  seed: int,
  batch_size: int,
  num_devices: int,
  num_parts: int = 1,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
  place: Callable[[np.ndarray], Any] = lambda batch: batch,
) -> Iterator[Any]:
  """Yields this process's part of the training batches, without end.

  Each epoch is a new permutation of all images; batches cross the border of
  two epochs. Each of `Crops` is replaced by one from a random place. The parts
  of processes 0, 1, ... concatenate to the batch that a single process would
  get.

  Args:
    images: the training images.
    seed: determines the order.
    batch_size: images per microbatch, over all processes; a multiple of the
      number of their devices.
    num_devices: this process's devices (D).
    num_parts: microbatches per step (K), each divided over the devices.
    start_step: the last finished step; the first batch is for the next one.
    process_index: which process this is.
    process_count: the number of processes.
    place: moves a batch to the devices. A thread calls it, like the reading, up
      to 8 steps ahead, so that no step waits for its images.

  Returns:
    An iterator over [D, K B, *S, C], with B images of each microbatch for each
    device, one microbatch after the other, as `place` returns them.

  Raises:
    UserError: the devices cannot divide the batch evenly.
  """
  total_devices = num_devices * process_count
  if batch_size < 1 or batch_size % total_devices:
    raise UserError(
      f'batch_size is {batch_size}, which {total_devices} devices cannot share '
      f'evenly; use a multiple of {total_devices}, such as '
      f'{max(1, round(batch_size / total_devices)) * total_devices}.'
    )
  size = num_parts * batch_size

  def number(step: int) -> np.ndarray:
    numbers = np.arange(step * size, (step + 1) * size)
    numbers = numbers.reshape(num_parts, process_count, num_devices, -1)
    # [K, D, B] to [D, K, B]: a device has its share of every microbatch.
    numbers = numbers[:, process_index].swapaxes(0, 1)
    return numbers.reshape(num_devices, -1)

  order = functools.lru_cache(2)(functools.partial(_permute, images, seed))
  read = functools.partial(_read, images, seed, order)
  steps = grain.MapDataset.range(start_step, sys.maxsize)
  steps = steps.map(number).map(read).map(place)
  return iter(steps.to_iter_dataset(_PREFETCH))


def _permute(images: Images, seed: int, epoch: int) -> np.ndarray:
  # NumPy is several times faster than grain's shuffle, whose order has also
  # changed between releases.
  return np.random.default_rng((seed, epoch)).permutation(len(images))


def _read(
  images: Images,
  seed: int,
  order: Callable[[int], np.ndarray],
  numbers: np.ndarray,
) -> np.ndarray:
  """Reads examples by their numbers [D, N] in the whole training."""
  epochs, places = np.divmod(numbers.reshape(-1), len(images))
  indices = np.empty_like(places)
  for epoch in np.unique(epochs):
    chosen = epochs == epoch
    indices[chosen] = order(int(epoch))[places[chosen]]
  if isinstance(images, Crops):
    batch = images.at_random(indices, seed, numbers.reshape(-1))
  else:
    batch = images[indices]
  return batch.reshape(*numbers.shape, *batch.shape[1:])
