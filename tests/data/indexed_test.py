"""The index of stored examples: when it is made, and what it keeps."""

import types

import numpy as np
import pytest

from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.decode import UnreadableKind
from vaegan_jax.data.indexed import IndexedDataset
from vaegan_jax.data.store import Store, hash_names, hash_numbers
from vaegan_jax.errors import UserError


class Numbers(Store):
  """Arrays of one number each, in memory."""

  def __init__(self, location, values):
    self.location, self.values, self.reads = str(location), values, 0

  def state(self):
    return len(self.values)

  def __len__(self):
    return len(self.values)

  def read(self, number):
    self.reads += 1
    if isinstance(self.values[number], Exception):
      raise self.values[number]
    return np.full((2, 2), self.values[number], np.float32)


@pytest.fixture
def open_store(tmp_path):
  def open_one(store):
    data = DataConfig('numbers', data_dir=str(tmp_path / 'data'))
    return IndexedDataset('numbers', store, data)

  return open_one


def numbers_of(dataset):
  return np.sort(np.concatenate(list(dataset._numbers.values())))


def test_a_later_start_reads_nothing(tmp_path, open_store):
  store = Numbers(tmp_path, list(range(30)))
  first = open_store(store)
  assert store.reads == 30
  again = open_store(store)
  assert store.reads == 30
  assert again.content_hash == first.content_hash
  assert again.counts == first.counts == {'train': 24, 'test': 6}
  for path in tmp_path.rglob('index.json'):
    path.write_text(path.read_text()[:-3])
  assert open_store(store).content_hash == first.content_hash
  assert store.reads == 60  # A damaged index is made again.


def test_a_library_that_is_there_now_is_used(tmp_path, open_store):
  values = list(range(30))
  values[4] = UnreadableKind('it is XYZ, which needs xyz')
  store = Numbers(tmp_path, values)
  assert 4 not in numbers_of(open_store(store))
  assert 4 not in numbers_of(open_store(store))
  assert store.reads == 31  # Only that one is tried.
  store.values[4] = 4.0
  assert 4 in numbers_of(open_store(store))


def test_copies_of_an_earlier_state_are_removed(tmp_path, open_store, capsys):
  store = Numbers(tmp_path, list(range(30)))
  before = open_store(store).cache_dir
  store.values += [30.0]
  after = open_store(store).cache_dir
  assert not before.exists() and after.exists()
  assert 'Removed' in capsys.readouterr().out


def test_few_examples_have_two_splits(tmp_path, open_store):
  for count in (2, 3, 8):
    counts = open_store(
      Numbers(tmp_path / str(count), list(range(count)))
    ).counts
    assert counts['train'] and counts['test']
    assert sum(counts.values()) == count
  with pytest.raises(UserError, match="no example for the split 'train'"):
    open_store(Numbers(tmp_path / '1', [1.0]))


def test_equal_hashes_share_a_split(tmp_path, open_store):
  store = Numbers(tmp_path, list(range(40)))
  groups = [f'patient {number // 4}' for number in range(40)]
  store.hashes = types.MethodType(lambda self: hash_names(groups), store)
  sides = [set(n // 4) for n in open_store(store)._numbers.values()]
  assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 10


def test_the_same_values_in_other_splits_are_other_data(tmp_path, open_store):
  hashes = []
  for number, border in enumerate((20, 10)):
    store = Numbers(tmp_path / str(number), list(range(30)))
    numbers = np.arange(30)
    store.splits = {'train': numbers[:border], 'test': numbers[border:]}
    hashes.append(open_store(store).content_hash)
  assert hashes[0] != hashes[1]


def test_hashes_of_numbers_never_change():
  """Runs of earlier versions hold out the same examples."""
  hashes = hash_numbers(60)
  held_out = np.flatnonzero(hashes % np.uint64(10) == 0)
  assert held_out.tolist() == [1, 5, 7, 9, 23, 26, 40, 42, 57]
  assert hash_numbers(1)[0] == 0xE220A8397B1DCDAF  # SplitMix64's first of 0.
