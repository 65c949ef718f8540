"""The sources whose examples are those of a `Store`."""

from collections.abc import Callable
from typing import Any

from vaegan_jax.data import source
from vaegan_jax.data.store import Store


class StoreSource(source.Source):
  """A source whose examples are those of a store, in `data.path`.

  Attributes:
    store: (path on a disk, the run's `DataConfig`) -> the examples.
  """

  store: Callable[[str, Any], Store]
  path = 'required'
  has_rules = False
  has_crops = True

  @classmethod
  def open(cls, data: Any, *, fill_bucket: bool = False) -> source.Dataset:
    from vaegan_jax.data.data_config import expand_path
    from vaegan_jax.data.folder import local_path
    from vaegan_jax.data.indexed import IndexedDataset

    store = cls.store(expand_path(local_path(data)), data)
    return IndexedDataset(data.name, store, data)
