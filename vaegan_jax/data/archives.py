"""Lists the members of tar and zip archives, and reads them by number.

Nothing is unpacked. A tar is scanned once for the offsets of its members.
"""

import os
import re
import tarfile
import zipfile
from collections.abc import Iterator
from typing import NamedTuple

from vaegan_jax.data.reading import check_size
from vaegan_jax.data.store import reporting_damage
from vaegan_jax.errors import UserError

SUFFIXES = ('.tar', '.zip')
_BLOCK = 512  # Bytes of a tar's header.
# WebDataset's: a key ends at the first dot of the file's name.
_WEBDATASET = re.compile(r'((?:.*/|)[^.]+)[.]([^/]*)', re.DOTALL)
_LAST_SUFFIX = re.compile(r'(.+)[.]([^/.]*)', re.DOTALL)
_META = re.compile(r'__[^/]*__($|/)')  # Of WebDataset, and of a Mac.
_COMPRESSED = {
  b'\x1f\x8b': 'gunzip',
  b'BZh': 'bunzip2',
  b'\xfd7zXZ': 'unxz',
  b'\x28\xb5\x2f\xfd': 'unzstd',
}


class Member(NamedTuple):
  """A file in an archive.

  Attributes:
    key: of its example; files with the same key belong together.
    suffix: in lower case, 'jpg' or 'seg.png'.
    name: in the archive.
    offset: of its bytes; -1 in a zip.
    size: in bytes, unpacked.
  """

  key: str
  suffix: str
  name: str
  offset: int
  size: int


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
  with reporting_damage(f'{path!r} of data.path'):
    members = list(list_all(path))
  for member in members:
    if member.name.startswith('/') or '..' in member.name.split('/'):
      raise UserError(
        f'{path!r} of data.path has a member whose name leads out of '
        f'it, {member.name!r}: write it again with relative names'
      )
  return members


def read_zip(archive: zipfile.ZipFile, name: str) -> bytes:
  """Returns the content of a member.

  Raises:
    Exception: it is damaged, or too large.
  """
  size = archive.getinfo(name).file_size
  check_size(size)
  return archive.read(name)


def read_tar(path: str, member: Member) -> bytes:
  """Returns the content of a member of a tar.

  Raises:
    OSError: it is too large, or the file has become shorter.
  """
  check_size(member.size)
  with open(path, 'rb') as file:
    data = os.pread(file.fileno(), member.size, member.offset)
  if len(data) != member.size:
    raise OSError(f'{len(data):,} of its {member.size:,} bytes are there')
  return data


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
  """Raises a UserError if a tar has no end mark at the offset.

  `tarfile` mistakes a truncated header for the end.
  """
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
