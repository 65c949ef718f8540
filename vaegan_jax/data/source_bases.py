"""Bases of sources: of a `Store` of examples, and of computed ones."""

from collections.abc import Callable
from typing import Any

import numpy as np

from vaegan_jax.data.source import Dataset, Source
from vaegan_jax.data.store import Store


class StoreSource(Source):
  """A source whose examples are those of a `Store`, in `data.path`."""

  store: Callable[[str, Any], Store]  # (path on a disk, `DataConfig`) -> store.
  path = 'required'
  has_rules = False
  has_crops = True

  @classmethod
  def open(cls, data: Any, *, fill_bucket: bool = False) -> Dataset:
    from vaegan_jax.data.data_config import expand_path
    from vaegan_jax.data.folder import local_path
    from vaegan_jax.data.indexed import IndexedDataset

    store = cls.store(expand_path(local_path(data)), data)
    return IndexedDataset(data.name, store, data)


class SyntheticSource(Source):
  """A source that computes examples from their number."""

  holds_arrays = True
  name: str
  generate: Callable[[int], np.ndarray]  # Always the same for a number.
  sample_rate = 0  # Samples per second, of sounds.
  # Size of the copy that TFDS stored, for the fingerprint; 0 for arrays, whose
  # size is computed.
  num_bytes = 0

  @classmethod
  def open(cls, data: Any, *, fill_bucket: bool = False) -> Dataset:
    from vaegan_jax.data.synthetic import SyntheticDataset

    return SyntheticDataset(cls, data.local_dir)
