"""Data sets that are computed, with nothing to download or to read.

The modules `sources/drawn_*.py` hold one each. Their order and fingerprints are
those of the copies that earlier versions stored by TFDS.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vaegan_jax.data import arrays
from vaegan_jax.data.folder import tfds_order, tfds_size
from vaegan_jax.data.source import Dataset

# Examples by number: the first to train with, and the next held out.
COUNTS = {'train': 4000, 'test': 512}


class SyntheticDataset(Dataset):
  """Examples that a function computes from their number."""

  def __init__(self, source: Any, data_dir: str):
    """Opens a `SyntheticSource`; `data_dir` is the folder of decoded copies."""
    self.name = self.location = source.name
    self.sample_rate, self._generate = source.sample_rate, source.generate
    self.cache_dir = pathlib.Path(data_dir, self.name, self.version)
    num_bytes = source.num_bytes
    if source.holds_arrays:
      example = source.generate(0)
      self.shape, self.dtype = example.shape, example.dtype
      size = tfds_size(image=len(arrays.encode_npy(example)))
      num_bytes = sum(COUNTS.values()) * size
    self.num_bytes = _stored_bytes(self.cache_dir) or num_bytes
    self.counts, self._numbers, first = dict(COUNTS), {}, 0
    for split, count in COUNTS.items():
      keys = [str(first + index).encode() for index in range(count)]
      self._numbers[split] = [first + i for i in tfds_order(split, keys)]
      first += count

  def read(self, split: str, indices: Sequence[int]) -> list[np.ndarray]:
    numbers = self._numbers[split]
    return [self._generate(numbers[index]) for index in indices]


def _stored_bytes(folder: pathlib.Path) -> int:
  """Returns the size of what an earlier version stored; 0 if nothing."""
  # PNG files differ in size by the version of the library that wrote them.
  try:
    info = json.loads((folder / 'dataset_info.json').read_text())
    return sum(int(split['numBytes']) for split in info['splits'])
  except (OSError, ValueError, KeyError, TypeError):
    return 0
