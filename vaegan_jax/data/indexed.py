"""Data sets whose examples are parts of files, which stay where they are.

A source describes its files as a `Store`. Each example is read once, when the
files are first seen. A small index keeps which cannot be used, and a hash of
all others. The order within a split is that of the files, which is the fastest
to read; `batches.py` shuffles.
"""

import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vaegan_jax.data import arrays, folder, no_data, slices
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.image_files import DAMAGED_FILE
from vaegan_jax.data.index_check import Check, is_unreadable
from vaegan_jax.data.source import Dataset
from vaegan_jax.data.split_names import hold_out
from vaegan_jax.data.store import Store
from vaegan_jax.errors import UserError


class IndexedDataset(Dataset):
  """The examples of a `Store`, of which each has been read once."""

  def __init__(self, name: str, store: Store, data: DataConfig):
    """Reads the index, or checks every example and writes the index.

    Raises:
      UserError: the examples cannot be used, or the index cannot be written.
    """
    self.name, self.store = name, store
    self.location, self._axes = store.location, data.axes
    self.cache_dir = place = _place(name, store, data)
    index = folder.read_index(place / folder.INDEX)
    if index is None or not _holds(index, store, data):
      found = store.scan()
      store.load(found)
      check = Check(store, data, place / DAMAGED_FILE)
      index = check.index() | {'found': found}
      store.close()
      folder.write_index(place, index, data.local_dir)
      folder.remove_older(place)
    self.feature = store.feature
    self._numbers = _split(store, index['skipped'])
    self._num_empty, self._max_nodata = index['num_empty'], data.max_nodata
    self._no_data = no_data.Counts(index.get('no_data'))
    self._crops = {int(n): f for n, f in index.get('crops', {}).items()}
    self.counts = {split: len(ns) for split, ns in self._numbers.items()}
    self.content_hash = _hash_splits(index['content_hash'], self._numbers)
    self.to_srgb = store.are_photos and data.converts_profiles
    if index['dtype']:
      self.dtype, self.shape = np.dtype(index['dtype']), tuple(index['shape'])
      self.sample_rate = index['sample_rate']

  def read(self, split: str, indices: Sequence[int]) -> list[Any]:
    numbers = self._numbers[split]
    return [self.store.read(int(numbers[index])) for index in indices]

  def whole(self, split: str, index: int) -> slices.Facts:
    number = int(self._numbers[split][index])
    space, nodata, empty = self._crops[number]
    in_place = self.store.is_in_place(number)
    return slices.Facts(tuple(space), in_place, nodata, empty)

  def open_whole(self, split: str, index: int) -> arrays.Stored:
    values = self.store.open(int(self._numbers[split][index]))
    return arrays.Stored(values, self._axes)

  def close(self) -> None:
    self.store.close()

  def describe(self, split: str, index: int) -> str:
    return self.store.describe(int(self._numbers[split][index]))

  def report(self, data: DataConfig) -> list[str]:
    counts = ', '.join(f'{n:,} {split}' for split, n in self.counts.items())
    how = 'as the files say' if self.store.splits else 'one in ten held out'
    line = f'data.path={self.location!r} has the {self.store.noun} {counts}'
    lines = [f'{line} ({how}).', *self.store.report()]
    lines += self._no_data.describe_missing(self.store.noun)
    if self._num_empty:
      lines.append(
        f'Skipped {self._num_empty:,} of {len(self.store):,} {self.store.noun} '
        f'with more no data than data.max_nodata={self._max_nodata:g}.'
      )
    return lines


def _place(name: str, store: Store, data: DataConfig) -> pathlib.Path:
  """Returns where the index is: per file, options, and state of the file."""

  def digest(value):
    return hashlib.sha256(os.fsencode(repr(value))).hexdigest()[:16]

  key = (os.path.realpath(store.location), store.are_photos, *store.options)
  if data.crop == 'random':
    key += (data.channels, data.read_shape, data.axes)
  if not store.are_photos:  # Decides which have too much no data.
    key += (data.channels, data.read_shape, *data.reading)
  folder = f'in-place-{digest(key)}'
  return pathlib.Path(data.local_dir, name, folder, digest(store.state()))


def _holds(index: Mapping[str, Any], store: Store, data: DataConfig) -> bool:
  """Loads a store, and returns whether its index still describes it."""
  store.load(index['found'])
  number = index['first_unreadable']  # Its library may be there now.
  return number is None or is_unreadable(store, data, number)


def _split(store: Store, skipped: Sequence[int]) -> dict[str, np.ndarray]:
  """Returns the numbers of each split, ascending, without the skipped ones."""
  splits = {split: np.asarray(ns) for split, ns in store.splits.items()}
  if not splits:
    splits = {'train': np.arange(len(store))}
  if 'train' not in splits and len(splits) == 1:
    splits = {'train': next(iter(splits.values()))}
  if len(splits) == 2 and 'train' in splits:
    (other,) = set(splits) - {'train'}
    splits = {'train': splits['train'], 'test': splits[other]}
  splits = {s: ns[~np.isin(ns, skipped)] for s, ns in splits.items()}
  if len(splits) == 1:
    numbers = splits['train']
    held = hold_out(store.hashes()[numbers])
    splits = {'train': numbers[~held], 'test': numbers[held]}
  for split, numbers in splits.items():
    if not len(numbers):
      raise UserError(
        f'data.path={store.location!r} leaves no example for the split '
        f'{split!r}: it must hold at least one example to train with and '
        'another to hold out'
      )
  return splits


def _hash_splits(content: str, numbers: Mapping[str, np.ndarray]) -> str:
  digest = hashlib.sha256(content.encode())
  for split, members in numbers.items():
    digest.update(split.encode() + np.asarray(members, '<i8').tobytes())
  return digest.hexdigest()[:16]
