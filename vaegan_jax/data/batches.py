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
  batches = _Batches(
    images,
    seed,
    batch_size,
    num_devices,
    num_parts,
    process_index,
    process_count,
  )
  return iter(batches[start_step:].map(place).to_iter_dataset(_PREFETCH))


class _Batches(grain.MapDataset):
  """The batches of all steps, by number from 0.

  The order of an epoch is a permutation by NumPy. It is several times faster
  than grain's shuffle, whose order has also changed between releases.
  """

  def __init__(
    self,
    images,
    seed,
    batch_size,
    num_devices,
    num_parts,
    process_index,
    process_count,
  ):
    super().__init__()
    self._images = images
    self._seed = seed
    self._batch_size = batch_size
    self._num_devices = num_devices
    self._num_parts = num_parts
    self._local_size = batch_size // process_count
    self._offset = process_index * self._local_size
    self._order = functools.lru_cache(maxsize=2)(self._permute)

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.slice(index)
    parts = np.arange(index * self._num_parts, (index + 1) * self._num_parts)
    firsts = parts * self._batch_size + self._offset
    sequence = firsts[:, None] + np.arange(self._local_size)
    # [K, D, B] to [D, K, B]: a device has its share of every microbatch.
    sequence = sequence.reshape(self._num_parts, self._num_devices, -1)
    sequence = sequence.transpose(1, 0, 2).reshape(-1)
    epochs, places = np.divmod(sequence, len(self._images))
    indices = np.empty_like(places)
    for epoch in np.unique(epochs):
      chosen = epochs == epoch
      indices[chosen] = self._order(int(epoch))[places[chosen]]
    if isinstance(self._images, Crops):
      batch = self._images.at_random(indices, self._seed, sequence)
    else:
      batch = self._images[indices]
    return batch.reshape(self._num_devices, -1, *batch.shape[1:])

  def _permute(self, epoch: int) -> np.ndarray:
    rng = np.random.default_rng((self._seed, epoch))
    return rng.permutation(len(self._images))
