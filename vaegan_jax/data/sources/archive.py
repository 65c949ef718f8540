"""Tar archives of WebDataset, and zips, whose files are read in place.

Nothing is unpacked. A tar is scanned once for the offsets of its members.
"""

import collections
import itertools
import os
import pathlib
import re
import tarfile
import zipfile
from collections.abc import Iterator
from typing import NamedTuple

from vaegan_jax.data import store
from vaegan_jax.data.reading import check_size
from vaegan_jax.data.source_bases import StoreSource
from vaegan_jax.data.split_names import find_file_split, numbers_of, splits_of
from vaegan_jax.errors import UserError

_IMAGES = (
  *('jpg', 'jpeg', 'jpe', 'jfif', 'png', 'webp', 'bmp', 'gif', 'tif', 'tiff'),
  *('ppm', 'pgm', 'avif', 'heic', 'heif', 'jp2'),
)
_ARRAYS = ('npy', 'npz', 'tif', 'tiff', 'png', 'wav', 'flac')
_OPEN_AT_ONCE = 64  # Zips, whose directories are in memory.
_MAX_LISTED = 8  # Kinds of files in a message.
_BLOCK = 512  # Bytes of a tar's header.
# WebDataset's: a key ends at the first dot of the file's name.
_WEBDATASET = re.compile(r'((?:.*/|)[^.]+)[.]([^/]*)', re.DOTALL)
_LAST_SUFFIX = re.compile(r'(.+)[.]([^/.]*)', re.DOTALL)
_META = re.compile(r'__[^/]*__($|/)')  # WebDataset and Macs write such files.
_COMPRESSED = {
  b'\x1f\x8b': 'gunzip',
  b'BZh': 'bunzip2',
  b'\xfd7zXZ': 'unxz',
  b'\x28\xb5\x2f\xfd': 'unzstd',
}


class Member(NamedTuple):
  """A file in an archive."""

  key: str  # Files with the same key are one example.
  suffix: str  # In lower case, 'jpg' or 'seg.png'.
  name: str  # Its path in the archive.
  offset: int  # Its first byte in a tar; -1 in a zip.
  size: int  # In bytes, unpacked.


class Archives(store.Store):
  """The members of one kind, in all archives."""

  def __init__(self, path, data):
    self.location, self._wanted = path, data.feature.lower()
    self.are_photos = not data.shape
    self.options = (self._wanted,)
    self._paths = _find_archives(self.location)
    self._zips = store.Recent(_OPEN_AT_ONCE)

  def state(self):
    return [
      (os.path.relpath(path, self.location), *store.stat_of(path))
      for path in self._paths
    ]

  def scan(self):
    """Returns [archive, *member] of all examples; see `store.Store.scan`."""
    members = [
      (number, member)
      for number, path in enumerate(self._paths)
      for member in list_members(path)
    ]
    suffixes = self._choose(members)
    return [[n, *m] for n, m in members if m.suffix in suffixes]

  def load(self, found):
    self._members = [(n, Member(*member)) for n, *member in found]
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
    if member.offset < 0:
      opened = self._zips.get(archive, lambda: zipfile.ZipFile(path))
      check_size(opened.getinfo(member.name).file_size)
      return opened.read(member.name)
    check_size(member.size)
    with open(path, 'rb') as file:
      data = os.pread(file.fileno(), member.size, member.offset)
    if len(data) != member.size:
      raise OSError(f'{len(data):,} of its {member.size:,} bytes are there')
    return data

  def close(self):
    self._zips.clear()

  def describe(self, number):
    archive, member = self._members[number]
    return f'{member.name!r} in {os.path.basename(self._paths[archive])}'

  def hashes(self):
    """Returns hashes of keys, so that other archives move no example."""
    return store.hash_names([member.key for _, member in self._members])

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
  if os.path.isfile(location):
    return [location]
  paths = sorted(
    str(path)
    for path in pathlib.Path(location).rglob('*')
    if path.suffix.lower() in ('.tar', '.zip') and path.name[0] != '.'
  )
  if not paths:
    raise UserError(
      f'data.path={location!r} must be a .tar, a .zip, or a folder of them, '
      'and has none: name another, such as "~/shards"'
    )
  return paths


def list_members(path: str) -> list[Member]:
  """Lists the files of an archive, in its order.

  Raises:
    UserError: it is truncated, encrypted, compressed as a whole, or has names
      that lead out of it.
  """
  with open(path, 'rb') as file:
    start = file.read(8)
  for magic, program in _COMPRESSED.items():
    if start.startswith(magic):
      raise UserError(
        f'{path!r} of data.path is compressed as a whole, so that '
        f'no example can be read alone: unpack it to a .tar by {program}'
      )
  list_all = _list_zip if start.startswith(b'PK') else _list_tar
  with store.reporting_damage(f'{path!r} of data.path'):
    members = list(list_all(path))
  for member in members:
    if member.name.startswith('/') or '..' in member.name.split('/'):
      raise UserError(
        f'{path!r} of data.path has a member whose name leads out of '
        f'it, {member.name!r}: write it again with relative names'
      )
  return members


def _list_zip(path: str) -> Iterator[Member]:
  with zipfile.ZipFile(path) as archive:
    for info in archive.infolist():
      if info.flag_bits & 1:
        raise UserError(
          f'{path!r} of data.path is encrypted: store it without a password'
        )
      match = _LAST_SUFFIX.fullmatch(info.filename)
      if match and not info.is_dir() and not _META.match(info.filename):
        key, suffix = match[1], match[2].lower()
        yield Member(key, suffix, info.filename, -1, info.file_size)


def _list_tar(path: str) -> Iterator[Member]:
  current, found = '', set()
  with tarfile.open(path, 'r:') as archive:
    for info in archive:
      archive.members = []  # It would keep all.
      match = _WEBDATASET.fullmatch(info.name)
      if not match or not info.isreg() or _META.match(info.name):
        continue
      if info.issparse():
        raise UserError(
          f'{path!r} has sparse members: write it without --sparse'
        )
      key, suffix = match[1], match[2].lower()
      if key != current:  # The same key further on is another example.
        current, found = key, set()
      if suffix in found:
        raise UserError(
          f'{path!r} of data.path has two files {info.name!r} of one '
          'example: write it again with one'
        )
      found.add(suffix)
      yield Member(key, suffix, info.name, info.offset_data, info.size)
    _check_end(path, archive.offset)


def _check_end(path: str, offset: int) -> None:
  """Checks the end mark: `tarfile` takes a truncated header for the end."""
  with open(path, 'rb') as file:
    file.seek(offset)
    block = file.read(_BLOCK)
    if len(block) < _BLOCK or any(block):
      raise UserError(
        f'{path!r} of data.path is truncated, as it lacks the end of a '
        'tar: copy or write it again'
      )
    while block := file.read(2**20):
      if any(block):
        raise UserError(
          f'{path!r} of data.path has more after its end, as tars that '
          'were joined by cat do: join them by tar --concatenate, or keep '
          'them apart'
        )


class Source(StoreSource):
  """Images, or arrays and sounds if `data.shape` is set."""

  store = Archives
  holds_arrays = None
  path_is = 'a .tar, a .zip, or a folder of them'
  has_features = True
  converts_profiles = True
