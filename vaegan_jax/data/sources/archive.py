"""Tar archives of WebDataset, and zips, whose files are read in place."""

import collections
import itertools
import os
import pathlib
import zipfile

from vaegan_jax.data import archives
from vaegan_jax.data.source_bases import StoreSource
from vaegan_jax.data.split_names import find_file_split, numbers_of, splits_of
from vaegan_jax.data.store import Recent, Store, hash_names, stat_of
from vaegan_jax.errors import UserError

_IMAGES = (
  *('jpg', 'jpeg', 'jpe', 'jfif', 'png', 'webp', 'bmp', 'gif', 'tif', 'tiff'),
  *('ppm', 'pgm', 'avif', 'heic', 'heif', 'jp2'),
)
_ARRAYS = ('npy', 'npz', 'tif', 'tiff', 'png', 'wav', 'flac')
_OPEN_AT_ONCE = 64  # Zips, whose directories are in memory.
_MAX_LISTED = 8  # Kinds of files in a message.


class Archives(Store):
  """The members of one kind, in all archives."""

  def __init__(self, path, data):
    """Finds the archives; `data` is a `DataConfig`."""
    self.location, self._wanted = path, data.feature.lower()
    self.are_photos = not data.shape
    self.options = (self._wanted,)
    self._paths = _find_archives(self.location)
    self._zips = Recent(_OPEN_AT_ONCE)

  def state(self):
    return [
      (os.path.relpath(path, self.location), *stat_of(path))
      for path in self._paths
    ]

  def scan(self):
    """Returns [archive, *member] of all examples; see `Store.scan`."""
    members = [
      (number, member)
      for number, path in enumerate(self._paths)
      for member in archives.list_members(path)
    ]
    suffixes = self._choose(members)
    return [[n, *m] for n, m in members if m.suffix in suffixes]

  def load(self, found):
    self._members = [(n, archives.Member(*member)) for n, *member in found]
    suffixes = {member.suffix for _, member in self._members}
    self.feature = ', '.join(sorted(suffixes))
    names = [os.path.relpath(path, self.location) for path in self._paths]
    by_archive = [find_file_split(name) for name in names]
    if 'train' in by_archive and all(by_archive) and len(set(by_archive)) > 1:
      splits = [by_archive[number] for number, _ in self._members]
    else:
      splits = splits_of([member.name for _, member in self._members])
    self.splits = numbers_of(splits)

  def __len__(self):
    return len(self._members)

  def read(self, number):
    archive, member = self._members[number]
    path = self._paths[archive]
    if member.offset >= 0:
      return archives.read_tar(path, member)
    opened = self._zips.get(archive, lambda: zipfile.ZipFile(path))
    return archives.read_zip(opened, member.name)

  def close(self):
    self._zips.clear()

  def describe(self, number):
    """Returns the name of the file, and of its archive."""
    archive, member = self._members[number]
    return f'{member.name!r} in {os.path.basename(self._paths[archive])}'

  def hashes(self):
    """Returns hashes of keys, so that other archives move no example."""
    return hash_names([member.key for _, member in self._members])

  def report(self):
    count = len(self) - sum(map(len, self.splits.values()))
    lines = [
      f'data.feature: the files {self.feature} of {len(self._paths):,} '
      'archives are read in place.'
    ]
    if self.splits and count:
      lines.append(f'{count:,} are outside the folders of splits and not used.')
    return lines

  def _choose(self, members):
    """Returns the suffixes of the examples; each example has one of them."""
    kinds = collections.Counter(member.suffix for _, member in members)
    if self._wanted in kinds:
      return [self._wanted]
    images, other = (
      [s for s in kinds if s.rpartition('.')[2] in known]
      for known in (_IMAGES, _ARRAYS)
    )
    if self.are_photos and other and not images:
      raise UserError(
        f'data.shape=() is for images, and data.path={self.location!r} has '
        f'arrays or sounds ({", ".join(other)}): for example, '
        '--config.data.shape="(64, 64)"'
      )
    usable = images if self.are_photos else other
    if usable and not self._wanted and _has_single_files(members, set(usable)):
      return usable
    most = kinds.most_common(_MAX_LISTED)
    listed = ', '.join(f'{suffix!r} ({count:,})' for suffix, count in most)
    if not usable:
      raise UserError(
        f'data.path={self.location!r} has no images and no arrays, but '
        f'{listed or "nothing"}: name other archives'
      )
    raise UserError(
      f'data.feature={self._wanted!r} must be one of the kinds of files in '
      f'data.path={self.location!r}, which are {listed}, from the first dot of '
      'a name in a .tar and from the last in a .zip: for example, '
      f'--config.data.feature={usable[0]}'
    )


def _has_single_files(members, suffixes):
  """Returns whether each example has at most one file of these kinds."""
  examples = itertools.groupby(members, lambda item: (item[0], item[1].key))
  return all(
    sum(member.suffix in suffixes for _, member in example) < 2
    for _, example in examples
  )


def _find_archives(location):
  """Returns the archives, sorted.

  Raises:
    UserError: no archives are found.
  """
  if os.path.isfile(location):
    return [location]
  paths = sorted(
    str(path)
    for path in pathlib.Path(location).rglob('*')
    if path.suffix.lower() in archives.SUFFIXES and path.name[0] != '.'
  )
  if not paths:
    raise UserError(
      f'data.path={location!r} must be a .tar, a .zip, or a folder of them, '
      'and has none: name another, such as "~/shards"'
    )
  return paths


class Source(StoreSource):
  """Images, or arrays and sounds if `data.shape` is set."""

  store = Archives
  holds_arrays = None
  path_is = 'a .tar, a .zip, or a folder of them'
  has_features = True
  converts_profiles = True
