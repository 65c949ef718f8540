"""A file with many examples: .npy, .npz, .mat, HDF5 or Zarr, read in place."""

import os
import pathlib

from vaegan_jax.data import containers
from vaegan_jax.data.source_bases import StoreSource
from vaegan_jax.data.split_names import find_split
from vaegan_jax.data.store import SplitStore, stat_of
from vaegan_jax.errors import UserError

_MAX_LISTED = 12  # Arrays in a message.


class ArrayFile(SplitStore):
  """The examples of an array, or of one array for each split."""

  def __init__(self, path: str, data):
    self.location = path
    self._axis = data.example_axis
    self.options = (data.feature, self._axis)
    self._data, self._files = data, _find_files(self.location)

  def state(self):
    names = []
    for path in self._files.values():
      if os.path.isdir(path):
        walk = os.walk(path)
        names += [os.path.join(top, n) for top, _, files in walk for n in files]
      else:
        names.append(path)
    return [(os.path.relpath(n, self.location), *stat_of(n)) for n in names]

  def load(self, found):
    """Opens the files, and selects an array for each split."""
    chosen = self._choose(
      [
        (split, entry)
        for split, path in self._files.items()
        for entry in containers.open_entries(path)
      ]
    )
    self.feature = find_split(next(iter(chosen.values())).name)[1]
    self.use_parts(
      {
        split: containers.Rows(entry, self._check_axis(entry))
        for split, entry in chosen.items()
      }
    )

  def read(self, number):
    split, row = self.find(number)
    return self._parts[split][row]

  def describe(self, number):
    split, row = self.find(number)
    name = self._parts[split].entry.name
    return f'{name}[{row}]' if name else f'array {row}'

  def report(self):
    lines = []
    for rows in self._parts.values():
      line = f'{rows.entry} is read in place'
      if rows.read_together > 1:
        line += f', {rows.read_together:,} examples at a time, which share '
        line += 'chunks of the file'
        if not self._data.cache_images:
          line += ': data.cache_images=true reads each chunk only once'
      lines.append(f'{line}.')
    return lines

  def _choose(self, entries):
    """Returns an entry by split; the split '' stands for all."""
    groups = {}
    for split, entry in entries:
      found, rest = find_split(entry.name)
      split = split or found  # A file's own name decides.
      group = groups.setdefault((rest, bool(split)), {})
      if split in group:  # Two names mean the same.
        group = groups.setdefault((entry.name, bool(split)), {})
      group[split] = entry
    fitting = [
      group
      for (name, _), group in groups.items()
      if all(map(self._is_usable, group.values()))
      and self._data.feature in ('', name, *(e.name for e in group.values()))
    ]
    if len(fitting) == 1:
      return fitting[0]
    raise self._no_choice([entry for _, entry in entries], fitting)

  def _is_usable(self, entry):
    """Returns whether an entry has examples, and not only labels."""
    shape, axis = entry.shape, self._axis
    if entry.problem or not -len(shape) <= axis < len(shape) or not shape[axis]:
      return False
    return sum(length > 1 for length in shape) > 1

  def _no_choice(self, entries, fitting):
    feature = self._data.feature
    named = [e for e in entries if feature in (e.name, find_split(e.name)[1])]
    if feature and named:  # The key is right, and its array is not.
      entries = named
    listed = ', '.join(map(str, entries[:_MAX_LISTED])) or 'nothing'
    if len(entries) > _MAX_LISTED:
      listed += f' and {len(entries) - _MAX_LISTED} more'
    if feature and (fitting or not named):
      problem = f'data.feature={feature!r} must be one array'
    elif fitting:
      problem = 'data.feature must select one array'
    else:
      return UserError(
        f'data.path={self.location!r} has no array with examples along '
        f'data.example_axis={self._axis} ({listed}): name another axis, array '
        'or file'
      )
    example = next(iter((fitting or [{'': entries[0]}])[0].values())).name
    return UserError(
      f'{problem} of data.path={self.location!r}, which has {listed}: for '
      f'example, --config.data.feature={example}'
    )

  def _check_axis(self, entry):
    """Returns the axis of the examples, if other axes do not fit better."""
    from vaegan_jax.data.array_shapes import example_axes

    channels, shape = self._data.channels, self._data.read_shape
    fits = example_axes(entry.shape, channels=channels, shape=shape)
    axis = self._axis % len(entry.shape)
    if not fits or axis in fits:
      return axis
    found = list(entry.shape[:axis] + entry.shape[axis + 1 :])
    raise UserError(
      f'data.example_axis={self._axis} takes {entry.shape[axis]:,} examples of '
      f'{found} from {entry} of data.path={self.location!r}, and they do not '
      f'hold {list(shape)} with data.channels={channels}: for example, '
      f'--config.data.example_axis={fits[-1]}'
    )


def _find_files(location):
  """Returns files by split; '' stands for all."""
  if not os.path.exists(location):
    raise UserError(
      f'data.path={location!r} does not exist: name a .npy, .npz, .mat, HDF5 '
      'or Zarr, such as "~/cells.h5"'
    )
  if os.path.isfile(location) or containers.is_zarr(location):
    return {'': location}
  paths = sorted(
    path
    for path in pathlib.Path(location).iterdir()
    if path.suffix.lower() in containers.SUFFIXES and path.name[0] != '.'
  )
  if len(paths) == 1:
    return {'': str(paths[0])}
  splits = {find_split(path.stem)[0]: str(path) for path in paths}
  if len(splits) == len(paths) and 'train' in splits and '' not in splits:
    return splits
  raise UserError(
    f'data.path={location!r} must be one file, or a folder with one for each '
    f'split, such as "train.h5" and "test.h5", and has {len(paths)} files '
    'with arrays: name one of them, or read a folder with one example in each '
    'file by --config.data.name=array_folder'
  )


class Source(StoreSource):
  """The examples along one axis of an array, in units of their own."""

  store = ArrayFile
  holds_arrays = True
  path_is = 'a file'
  has_features = True
