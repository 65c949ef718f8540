"""Names of files that say how to split them: of folders, and of groups."""

import collections
import os
import re
from collections.abc import Collection, Sequence

import numpy as np

from vaegan_jax.errors import UserError

_WORDS = {
  'train': ('train', 'training', 'trn'),
  'test': ('test', 'testing', 'tst', 'holdout'),
  'validation': ('val', 'valid', 'validation', 'dev', 'eval', 'evaluation'),
}
_KIND_OF_WORD = {word: kind for kind, ws in _WORDS.items() for word in ws}
# 'Train', 'test_images', 'val2017'.
_SPLIT_NAME = re.compile(
  rf'({"|".join(_KIND_OF_WORD)})([-_ ]?(set|images?|imgs?|data|\d+))?', re.I
)
_TOKEN = re.compile(r'[A-Z]?[a-z]+|[A-Z]+')
_WORD = re.compile('|'.join(_KIND_OF_WORD), re.I)  # Fast, and misses none.
_TEST_EVERY = 10  # One file, group or example in this many is held out.
_REMEDY = (
  'name the folders of the splits "train", "test" and "validation" (at any '
  'depth) if they are splits'
)


def _kind(part: str) -> str:
  """Returns the split that a folder's own name stands for, or ''."""
  match = _SPLIT_NAME.fullmatch(part)
  return _KIND_OF_WORD[match[1].lower()] if match else ''


class NamedFolders:
  """The folders of a data set that are named like splits.

  They are splits if there is one to train with and another to hold out. The
  only kind that is held out is the split 'test', whatever its folder's name.
  A folder belongs to the topmost folder that is named like a split.
  """

  def __init__(self, names: Sequence[str]):
    self._names = names
    self._sizes = collections.Counter(map(os.path.dirname, names))
    found = {folder: _find_kind(folder) for folder in self._sizes}
    kinds = {kind for kind, _ in found.values() if kind}
    held_out = kinds - {'train'}
    # (split, its folder) by the folder of a file, without files that belong to
    # no split; {} if the folders are not splits.
    self.places = {}
    if 'train' in kinds and held_out:
      only = '' if len(held_out) > 1 else held_out.pop()
      self.places = {
        folder: ('test' if kind == only else kind, place)
        for folder, (kind, place) in found.items()
        if kind
      }

  def warnings(self, group_by: str = '') -> list[str]:
    """Returns sentences about what the names suggest and is not done."""
    if not self.places:
      return [*self._unused_folders(), *self._unused_file_names()]
    return [
      *self._outside(),
      *self._of_two_splits(),
      *self._shared_groups(group_by),
    ]

  def _unused_folders(self):
    found = [folder for folder in self._sizes if find_split(folder)[0]]
    if found:
      yield (
        f'{self._count(found)} are in folders that look like splits, such as '
        f'{self._example(found)!r}, and are not used as such, because there is '
        f'no folder to train with and another to hold out: {_REMEDY}'
      )

  def _unused_file_names(self):
    examples, number = {}, 0
    for name in self._names:
      kind, _ = find_split(os.path.splitext(os.path.basename(name))[0])
      if kind:
        number += 1
        examples.setdefault(kind, name)
    if 'train' in examples and len(examples) > 1:
      some = ' and '.join(repr(name) for name in examples.values())
      yield (
        f'{number:,} of {len(self._names):,} files have names that look like '
        f'splits, such as {some}, and are not split by them: move them to '
        'folders "train" and "test" if they are splits'
      )

  def _outside(self):
    outside = [folder for folder in self._sizes if folder not in self.places]
    if not outside:
      return
    similar = [folder for folder in outside if find_split(folder)[0]]
    hint = ''
    if similar:
      hint = (
        f'; {self._count(similar)} are in folders that look like splits, such '
        f'as {self._example(similar)!r}: {_REMEDY}'
      )
    yield (
      f'{self._count(outside)} are outside the folders of the splits and not '
      f'used, such as {self._example(outside)!r}{hint}'
    )

  def _of_two_splits(self):
    found = [
      f for f in self.places if len({*map(_kind, f.split('/'))} - {''}) > 1
    ]
    if found:
      yield (
        f'{self._count(found)} are in folders of two splits, such as '
        f'{self._example(found)!r}, and belong to the upper one'
      )

  def _shared_groups(self, group_by):
    if group_by in ('', 'folder'):  # A folder is in one split.
      return
    names = [n for n in self._names if os.path.dirname(n) in self.places]
    splits = collections.defaultdict(set)
    for name, key in group_keys(group_by, names).items():
      splits[key].add(self.places[os.path.dirname(name)][0])
    shared = [key for key, found in splits.items() if len(found) > 1]
    if shared:
      yield (
        f'{len(shared):,} of {len(splits):,} groups of '
        f'data.group_by={group_by!r} are in more than one split, such as '
        f'{shared[0]!r}: move the files, because folders decide here'
      )

  def _count(self, folders: Collection[str]) -> str:
    number = sum(self._sizes[folder] for folder in folders)
    return f'{number:,} of {len(self._names):,} files'

  def _example(self, folders: Collection[str]) -> str:
    folders = set(folders)
    return next(n for n in self._names if os.path.dirname(n) in folders)


def _find_kind(folder: str) -> tuple[str, str]:
  """Returns (split, its folder) of the topmost folder named like one."""
  parts = folder.split('/')
  for number, part in enumerate(parts, 1):
    if _kind(part):
      return _kind(part), '/'.join(parts[:number])
  return '', ''


def group_keys(
  group_by: str, names: Collection[str]
) -> dict[str, str | tuple[str | None, ...]]:
  """Returns the key of each file's group, by its name.

  Args:
    group_by: 'folder', for files in one folder; or a regular expression, whose
      groups, or else its whole match, is the key.
    names: names relative to the folder.

  Returns:
    The keys, without names that the expression does not match.

  Raises:
    UserError: the expression matches no name.
  """
  if group_by == 'folder':
    return {name: os.path.dirname(name) for name in names}
  matches = ((name, re.search(group_by, name)) for name in names)
  keys = {name: m.groups() or m[0] for name, m in matches if m}
  if keys:
    return keys
  raise UserError(
    f'data.group_by={group_by!r} matches none of the {len(names):,} names in '
    f'data.path, such as {next(iter(names))!r}: for example, '
    '--config.data.group_by=folder'
  )


def find_split(name: str) -> tuple[str, str]:
  """Returns the split that a word in 'x_train' or 'train/x' names, and 'x'.

  The split is 'train', 'test' or 'validation'; or '', with the whole name.
  """
  tokens = _TOKEN.finditer(name) if _WORD.search(name) else ()
  for match in tokens:
    if kind := _KIND_OF_WORD.get(match[0].lower()):
      rest = name[: match.start()] + name[match.end() :]
      return kind, re.sub(r'[\W_]+', '_', rest).strip('_')
  return '', name


def find_file_split(relative: str) -> str:
  """Returns the split that a file's name or else its folder names, or ''."""
  folder, name = os.path.split(relative)
  return find_split(os.path.splitext(name)[0])[0] or find_split(folder)[0]


def splits_of(names: Sequence[str]) -> list[str]:
  """Returns the split that the folders of each file name, or ''."""
  places = NamedFolders(names).places
  return [places.get(os.path.dirname(name), ('',))[0] for name in names]


def hold_out(hashes: np.ndarray, but_one: bool = True) -> np.ndarray:
  """Returns which of some hashes [N] uint64 are held out: one in ten.

  If none is, the smallest is; with `but_one` also if all would be.
  """
  held = hashes % np.uint64(_TEST_EVERY) == 0
  if (but_one and held.all()) or not held.any():
    held = hashes == hashes.min(initial=2**64 - 1)
  return held


def numbers_of(splits: Sequence[str]) -> dict[str, np.ndarray]:
  """Returns the numbers of the examples of each split; '' is none."""
  found = np.asarray(splits)
  return {
    split: np.flatnonzero(found == split)
    for split in dict.fromkeys(found.tolist())
    if split
  }
