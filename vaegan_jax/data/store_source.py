"""The sources whose examples are those of a `Store`."""

from typing import Any

from vaegan_jax.data import source
from vaegan_jax.data.store import Store


class StoreSource(source.Source):
  """A source whose examples are those of a store, in `data.path`."""

  path = 'required'
  has_rules = False
  has_crops = True

  @classmethod
  def open_store(cls, path: str, data: Any) -> Store:
    """Opens the store at a path on a disk; `data` is a `DataConfig`."""
    raise NotImplementedError

  @classmethod
  def open(cls, data: Any, *, fill_bucket: bool = False) -> source.Dataset:
    """Opens the store; see `source.Source.open`."""
    from vaegan_jax.data.folder import local_path
    from vaegan_jax.data.indexed import IndexedDataset

    store = cls.open_store(local_path(data), data)
    return IndexedDataset(data.name, store, data)
