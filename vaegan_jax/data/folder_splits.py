"""Rules that split the files of a folder: by folders, groups, content or name.

`data.folder_rules` and `data.group_by` choose the rule. Sorted names of the
same files always give the same splits.
"""

import hashlib
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from vaegan_jax.data.split_names import NamedFolders, group_keys, hold_out
from vaegan_jax.errors import UserError

_FIRST_TEST_FOLDERS = ('test', 'validation', 'val')

Splits = dict[str, list[str]]  # Names by split.


class ByName:
  """Holds out every tenth name, as the first version did."""

  marker = ''  # Separates fingerprints of the same files under other rules.
  warnings: Sequence[str] = ()  # Sentences about the names, for the user.
  _reason = 'held out, every tenth by name'

  def covers(self, name: str) -> bool:
    """Returns whether a file is in any split."""
    return True

  def split(self, names: list[str], digests: Mapping[str, bytes]) -> Splits:
    """Splits sorted names, whose contents have these hashes."""
    test = self._hold_out(names, digests)
    return {'train': sorted(set(names) - set(test)), 'test': test}

  def origin(self, split: str, names: Sequence[str]) -> str:
    """Describes where the files `names` of a split come from."""
    return self._reason if split == 'test' else 'not held out'

  def _hold_out(self, names, digests) -> list[str]:
    return names[::10]


class ByContent(ByName):
  """Holds out about one file in ten, by a hash of its content."""

  marker = 'rules 2'
  _reason = 'held out by a hash of their content'

  def __init__(self, warnings: Sequence[str] = ()):
    self.warnings = warnings

  def _hold_out(self, names, digests) -> list[str]:
    return _held_out(names, digests, but_one=False)


class ByGroup(ByContent):
  """Holds out about one group of files in ten, by a hash of the group's key."""

  def __init__(self, names: Collection[str], group_by: str, warnings=()):
    """Groups names; raises a UserError if all or none are one group."""
    self._keys = group_keys(group_by, names)
    self._group_by = group_by
    self.marker = f'rules 3, groups {group_by!r}'
    self.warnings = [*warnings]
    ungrouped = [name for name in names if name not in self._keys]
    if ungrouped:
      self.warnings.append(
        f'data.group_by={group_by!r} does not match {len(ungrouped):,} of '
        f'{len(names):,} names, such as {ungrouped[0]!r}; each of these files '
        'is a group of its own'
      )
    if not ungrouped and len(set(self._keys.values())) == 1:
      raise UserError(
        f'data.group_by={group_by!r} puts all {len(names):,} files of '
        'data.path into one group, and a split needs two or more: for example, '
        '--config.data.group_by="^[^/]+" for the folders at the top, or '
        '--config.data.group_by= for no groups'
      )

  def origin(self, split: str, names: Sequence[str]) -> str:
    number = len({self._keys.get(name, name) for name in names})
    which = 'held out' if split == 'test' else 'not held out'
    return f'in {number:,} groups of data.group_by={self._group_by!r}, {which}'

  def _hold_out(self, names, digests) -> list[str]:
    hashes = {
      name: hashlib.sha256(repr(key).encode()).digest()
      for name, key in self._keys.items()
    }
    return _held_out(names, {**digests, **hashes}, but_one=True)


def _held_out(
  names: list[str], hashes: Mapping[str, bytes], but_one: bool
) -> list[str]:
  numbers = [int.from_bytes(hashes[name][:8]) for name in names]
  held = hold_out(np.array(numbers, np.uint64), but_one)
  return [name for name, is_held in zip(names, held, strict=True) if is_held]


class ByFolder(ByName):
  """Takes splits from folders, and ignores files elsewhere."""

  def __init__(
    self, places: Mapping[str, tuple[str, str]], warnings: Sequence[str] = ()
  ):
    """Takes (split, its folder) by the folder of a file."""
    self._places, self.warnings = places, warnings
    found = {split for split, _ in places.values()}
    order = ('train', 'test', 'validation')
    self._splits = [split for split in order if split in found | {*order[:2]}]

  def covers(self, name: str) -> bool:
    return os.path.dirname(name) in self._places

  def split(self, names: list[str], digests: Mapping[str, bytes]) -> Splits:
    splits = {split: [] for split in self._splits}
    for name in names:
      splits[self._places[os.path.dirname(name)][0]].append(name)
    return splits

  def origin(self, split: str, names: Sequence[str]) -> str:
    first, *others = sorted({f for s, f in self._places.values() if s == split})
    number = f' and {len(others):,} other folders' if others else ''
    return f'in {first!r}{number}'


def choose_rule(
  root: pathlib.Path, rules: int, names: list[str], group_by: str = ''
) -> ByName:
  """Chooses how the files of a folder, with sorted names, are split.

  Raises:
    UserError: `group_by`, which rules 3 read, does not suit the names.
  """
  if rules < 3:
    folders = _first_split_folders(root)
    parents = {os.path.dirname(name) for name in names}
    tops = {parent: parent.partition('/')[0] for parent in parents}
    places = {p: (folders[t], t) for p, t in tops.items() if t in folders}
    if folders:
      return ByFolder(places)
    return ByName() if rules == 1 else ByContent()
  named = NamedFolders(names)
  warnings = named.warnings(group_by)
  if named.places:
    return ByFolder(named.places, warnings)
  if group_by and names:
    return ByGroup(names, group_by, warnings)
  return ByContent(warnings)


def _first_split_folders(root: pathlib.Path) -> dict[str, str]:
  """Returns {folder: split} by rules 1 and 2; {} if one is missing."""
  if not (root / 'train').is_dir():
    return {}
  for folder in _FIRST_TEST_FOLDERS:
    if (root / folder).is_dir():
      return {'train': 'train', folder: 'test'}
  return {}
