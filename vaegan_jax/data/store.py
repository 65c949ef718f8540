"""The protocol of stored examples, and helpers to read them by number."""

import bisect
import collections
import contextlib
import hashlib
import importlib
import itertools
import os
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vaegan_jax.data.reading import Declared
from vaegan_jax.data.split_names import numbers_of
from vaegan_jax.errors import UserError, describe_error


class Store:
  """The examples of a source by number, in the order of the files."""

  noun = 'examples'  # For messages.
  location: str  # The file or folder.
  options: tuple[Any, ...] = ()  # Values of fields that select the examples.
  feature = 'image'  # The name of the selected part of each example.
  # The numbers of each split, if the files declare them.
  splits: Mapping[str, np.ndarray] = types.MappingProxyType({})
  are_photos = False  # Whether files are images to resize, not arrays.
  lengths_vary = False  # Whether arrays may differ in shape.

  def state(self) -> Any:
    """Returns what changes with the files: their names, sizes and times."""
    raise NotImplementedError

  def scan(self) -> Any:
    """Returns what takes long to find, as JSON, which the index keeps."""
    return None

  def load(self, found: Any) -> None:
    """Takes the result of `scan`; nothing else is called before it."""

  def __len__(self) -> int:
    raise NotImplementedError

  def read(self, number: int) -> bytes | np.ndarray | Declared:
    """Returns an example: the bytes of a file, or an array.

    Raises:
      NoData: it was never written.
      Exception: it is damaged.
    """
    raise NotImplementedError

  def is_in_place(self, number: int) -> bool:
    """Returns whether an array can be read by slices, by `open`."""
    return False

  def open(self, number: int) -> Any:
    """Opens an array that `is_in_place`, as `slices.Values`."""
    raise NotImplementedError

  def close(self) -> None:
    """Releases memory and files; `read` opens them again."""

  def describe(self, number: int) -> str:
    """Returns a name of an example for messages."""
    return f'example {number:,}'

  def hashes(self) -> np.ndarray:
    """Returns hashes [N] uint64, of which one in ten is held out.

    They must not change when the files get more examples. Examples with equal
    hashes share a split.
    """
    return hash_numbers(len(self))

  def report(self) -> list[str]:
    """Returns sentences about the files for the terminal."""
    return []


class SplitStore(Store):
  """Examples in one part (an array, a table) for each split, or for all."""

  def use_parts(self, parts: Mapping[str, Any]) -> None:
    """Numbers the examples of the parts by split; '' stands for all."""
    lengths = [len(part) for part in parts.values()]
    self._parts, self._lengths = parts, Parts(lengths)
    if len(parts) > 1:
      self.splits = numbers_of(np.repeat([*parts], lengths))

  def __len__(self) -> int:
    return len(self._lengths)

  def close(self) -> None:
    for part in self._parts.values():
      part.close()

  def find(self, number: int) -> tuple[str, int]:
    """Returns the split of an example, and its number within that."""
    part, row = self._lengths.find(number)
    return list(self._parts)[part], row


class Parts:
  """The lengths of parts, whose items are numbered from the first on."""

  def __init__(self, lengths: Iterable[int]):
    self._ends = list(itertools.accumulate(lengths))

  def __len__(self) -> int:
    return self._ends[-1]

  def find(self, number: int) -> tuple[int, int]:
    """Returns the part of an item, and its number within that."""
    part = bisect.bisect_right(self._ends, number)
    return part, int(number) - (self._ends[part - 1] if part else 0)


class Recent:
  """Keeps the values that were read last, each read by one thread once."""

  def __init__(self, most: int = 2):
    self._most, self._kept = most, collections.OrderedDict()
    self._lock = threading.Lock()

  def get(self, key: Any, read: Callable[[], Any]) -> Any:
    """Returns the value of a key, which `read` returns if it is not kept."""
    with self._lock:
      if key not in self._kept:
        self._kept[key] = read()
        if len(self._kept) > self._most:
          self._kept.popitem(last=False)
      return self._kept[key]

  def clear(self) -> None:
    """Releases all values."""
    with self._lock:
      self._kept.clear()


class Blocks:
  """Rows that are read with their neighbours, because they share chunks.

  The last blocks are kept. In the order of the file, each is read once.
  """

  LIMIT = 2**29  # Bytes of a block, and of all that are kept but one.

  def __init__(
    self,
    read: Callable[[int, int], Any],
    length: int,
    rows: int,
    row_bytes: int,
  ):
    """Reads nothing yet.

    Args:
      read: returns the rows from `first` to `end`.
      length, rows: the numbers of all rows, and of those of a chunk.
      row_bytes: the size of a row.
    """
    self._read, self._length = read, length
    self.rows = max(1, min(rows, self.LIMIT // max(row_bytes, 1), length))
    most = self.LIMIT // max(self.rows * row_bytes, 1)
    self._recent = Recent(max(2, min(64, most)))

  def clear(self) -> None:
    """Releases the blocks that are kept."""
    self._recent.clear()

  def __getitem__(self, number: int) -> Any:
    block, row = divmod(number, self.rows)
    first = block * self.rows
    end = min(first + self.rows, self._length)
    return self._recent.get(block, lambda: self._read(first, end))[row]


def hash_numbers(count: int) -> np.ndarray:
  """Returns a fixed hash [count] uint64 of each number (SplitMix64)."""
  with np.errstate(over='ignore'):
    x = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(
      0x9E3779B97F4A7C15
    )
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hash_names(names: Sequence[str]) -> np.ndarray:
  """Returns a hash [N] uint64 of each name."""
  digests = (hashlib.sha256(os.fsencode(name)).digest() for name in names)
  return np.array([int.from_bytes(d[:8]) for d in digests], np.uint64)


def import_reader(module: str, path: str, what: str, package: str = '') -> Any:
  """Imports an optional library, or raises a UserError.

  Args:
    module: its name.
    path, what: the file that needs it, and what it is: 'an HDF5 file'.
    package: the name to install, if it differs.
  """
  try:
    return importlib.import_module(module)
  except ImportError as error:
    raise UserError(
      f'data.path={path!r} is {what}, which needs {module}: pip install '
      f'{package or module}'
    ) from error


@contextlib.contextmanager
def reporting_damage(what: str) -> Iterator[None]:
  """Reports errors of libraries, which raise nearly anything, as damage."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    raise UserError(
      f'{what} cannot be read ({describe_error(error)}): it may be truncated, '
      'so copy or write it again'
    ) from error


def read_start(path: str | os.PathLike, size: int) -> bytes:
  """Returns the first bytes of a file; b'' if there are none, as in a pipe."""
  try:  # Without O_NONBLOCK, opening a pipe waits for its writer.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 'rb') as file:
      return file.read(size) or b''
  except OSError:
    return b''


def stat_of(path: str | os.PathLike) -> tuple[int, int]:
  """Returns the size and the time of the last change of a file."""
  status = os.stat(path)
  return status.st_size, status.st_mtime_ns


def check_unchanged(path: str | os.PathLike, state: tuple[int, int]) -> None:
  """Raises an OSError if `stat_of` a file is no longer `state`."""
  if stat_of(path) != state:
    raise OSError('it has changed since the start')
