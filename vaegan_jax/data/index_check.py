"""The first reading of all examples of a store, for its index."""

import functools
import hashlib
import os
import pathlib
from typing import Any

import numpy as np

from vaegan_jax.data import array_shapes, arrays, decode, no_data, slices
from vaegan_jax.data.crops import find_empty
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.reading import (
  MAX_DAMAGED,
  NoData,
  UnreadableKind,
  check_all,
  warn_of_skipped,
)
from vaegan_jax.data.store import Store
from vaegan_jax.errors import UserError, describe_error


class Check:
  """The first reading of all examples."""

  def __init__(self, store: Store, data: DataConfig, report: pathlib.Path):
    self._store, self._data, self._report = store, data, report
    self._counts = no_data.Counts()
    self._damaged, self._unreadable = {}, {}
    self._num_empty, self._skipped = 0, []
    self._first_unreadable = None
    self._kinds = {}  # {kind: [count, first number]}
    self._misfit = None  # The first error for wrong channels or a wrong shape.
    self._lengths = None  # The least, on each axis.
    self._crops = {}  # Facts of arrays that crops are taken from, by number.

  def index(self) -> dict[str, Any]:
    """Returns the content of the index.

    Raises:
      UserError: too many examples are damaged, or they are not alike.
    """
    content, numbers = hashlib.sha256(), range(len(self._store))
    inspect = functools.partial(_inspect, self._store, self._data)
    for number, (digest, found) in check_all(
      numbers, inspect, self._store.noun
    ):
      content.update(digest)
      if isinstance(found, Exception):
        self._note_error(number, found)
      else:
        self._note(number, *found)
    self._check_skipped()
    (kind, _), *others = sorted(
      self._kinds.items(), key=lambda item: -item[1][0]
    )
    if others:
      raise self._differ(kind, *others)
    location = pathlib.Path(self._store.location)
    folder = os.stat(location if location.is_dir() else location.parent)
    shape = self._lengths if kind and None in kind.shape else kind and kind[1]
    return {
      'folder': [folder.st_dev, folder.st_ino],
      'content_hash': content.hexdigest()[:16],
      'dtype': kind.dtype if kind else '',
      'shape': list(shape or ()),
      'sample_rate': kind.sample_rate if kind else 0,
      'damaged': self._damaged | self._unreadable,
      'first_unreadable': self._first_unreadable,
      'num_empty': self._num_empty,
      'no_data': self._counts.to_json(),
      'crops': self._crops,
      'skipped': sorted(self._skipped),
    }

  def _note(self, number: int, kind, shape, missing, facts) -> None:
    self._counts.add(*missing)
    if facts:
      self._crops[number] = facts
    self._kinds.setdefault(kind, [0, number])[0] += 1
    if len(self._kinds) == 1:
      self._lengths = tuple(map(min, shape, self._lengths or shape))

  def _note_error(self, number: int, error: Exception) -> None:
    self._skipped.append(number)
    if isinstance(error, NoData):
      self._num_empty += 1
    elif isinstance(error, UnreadableKind):
      self._unreadable[self._store.describe(number)] = str(error)
      if self._first_unreadable is None:
        self._first_unreadable = number
    else:
      is_misfit = isinstance(error, UserError)
      reason = describe_error((is_misfit and error.__cause__) or error)
      self._damaged[self._store.describe(number)] = reason
      if is_misfit:
        self._misfit = self._misfit or error

  def _check_skipped(self) -> None:
    store, count = self._store, len(self._store)
    bad = self._damaged or self._unreadable
    where = f'data.path={store.location!r}'
    if self._misfit and not self._kinds:
      raise self._misfit
    if not self._kinds or len(self._damaged) > MAX_DAMAGED * count:
      if not bad:
        raise UserError(
          f'{where} has {count:,} {store.noun}, none of which holds data, or '
          'not enough: name another file or folder, or take more no data, such '
          'as --config.data.max_nodata=0.5'
        )
      name, reason = next(iter(bad.items()))
      told = (
        f'{where} has {count:,} {store.noun}, of which {len(bad):,} cannot be '
        f'read, such as {name} ({reason})'
      )
      if self._damaged:
        told += ': at most one in ten may be damaged, so repair or remove them'
      raise UserError(told)
    for skipped, why in (
      (self._damaged, 'damaged'),
      (self._unreadable, 'not readable'),
    ):
      all_of_them = f'{count} {store.noun} in {store.location}'
      warn_of_skipped(skipped, why, all_of_them, self._report)

  def _differ(self, kind, *others) -> UserError:
    store = self._store
    number = sum(count for _, (count, _) in others)
    other, (_, first) = others[0]
    remedy = 'remove or convert these'
    if self._differ_in_length(kind, other):
      remedy += ', or take crops of each, --config.data.crop=random'
    return UserError(
      f'data.path={store.location!r} has {self._kinds[kind][0]:,} '
      f'{store.noun} of {kind}, and {number:,} that differ, such as '
      f'{store.describe(first)} ({other}): all must be alike, so {remedy}'
    )

  def _differ_in_length(
    self, kind: array_shapes.Kind, other: array_shapes.Kind
  ) -> bool:
    data, shapes = self._data, kind.shape + other.shape
    if kind[::2] != other[::2] or None in shapes:
      return False
    try:
      for shape in (kind.shape, other.shape):
        array = np.broadcast_to(np.uint8(0), shape)
        arrays.channels_last(
          array, data.channels, len(data.read_shape), data.axes
        )
    except ValueError:
      return False
    return True


def _inspect(store: Store, data: DataConfig, number: int) -> tuple[bytes, Any]:
  """Returns a hash of an example, and its error or arguments of `_note`."""
  try:
    value = store.read(number)
    if isinstance(value, bytes):
      digest = hashlib.sha256(value).digest()
      if store.are_photos:
        decode.read_image(value)
        return digest, (None, (), (0, 1), None)
    stored = arrays.stored_of(value, data.reading)
    array, rate = stored.values, stored.sample_rate
    arrays.check_finite(array)
    missing, facts = _count_missing(data, stored)
    if not isinstance(value, bytes):
      whole = np.ascontiguousarray(array)
      digest = hashlib.sha256(repr((whole.dtype, whole.shape)).encode())
      digest.update(whole.data.cast('B'))
      if stored.missing is not None:
        digest.update(np.packbits(stored.missing))
      digest = digest.digest()
  except Exception as error:  # Libraries raise nearly anything.
    # A traceback would keep the arrays of its frames in memory.
    return b'\0' * 32, error.with_traceback(None)
  shape = array.shape
  if store.lengths_vary or data.crop == 'random':
    shape = (None,) * len(shape)
  elif rate:
    shape = (None, *shape[1:])
  kind = array_shapes.Kind(array.dtype.name, shape, rate)
  return digest, (kind, array.shape, missing, facts)


def _count_missing(
  data: DataConfig, stored: arrays.Stored
) -> tuple[tuple[int, int], Any]:
  """Returns the numbers of values of no data and of all, and facts of crops.

  These are the `space`, `nodata` and `empty` of `slices.Facts`. Raises a
  UserError for an array of which no crop can be taken.
  """
  if data.crop != 'random':
    return array_shapes.count_missing(stored, data), None
  shape, stored = data.read_shape, slices.marked(stored, data.reading)
  stored = stored._replace(axes=data.axes or stored.axes)
  try:
    whole = slices.Sliced(stored, data)
    empty, *missing, _ = find_empty(whole, shape, data.max_nodata)
  except NoData:
    raise
  except ValueError:
    options = {'channels': data.channels, 'shape': shape, 'axes': stored.axes}
    array_shapes.check_shape(stored.values.shape, **options)
    raise
  return tuple(missing), (whole.space, stored.nodata, empty)


def is_unreadable(store: Store, data: DataConfig, number: int) -> bool:
  """Returns whether an example lacks the library that reads it."""
  return isinstance(_inspect(store, data, number)[1], UnreadableKind)
