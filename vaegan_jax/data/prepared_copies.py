"""The prepared copies of folders that change: of each, the newest is kept.

A folder that has changed is prepared anew, in a copy beside the one before.
`<copy>.json` says which folders a copy is of, a line for each. Whoever uses the
copy holds a shared lock on that file, which ends with the process, however that
dies: what is locked, or of another folder too, is not removed, nor what a
version without these files has left.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import shutil

from absl import logging

_held = {}  # Descriptors by path, for as long as this process lives.


def describe_source(root: pathlib.Path, rules: int) -> str:
  """Names a folder, and the rules that it is read by.

  A path alone does not: containers have other folders at the same one.

  Args:
    root: the folder.
    rules: as `ImageFiles` has them.
  """
  status = os.stat(root)
  source = {
    'path': os.path.realpath(root),
    'device': status.st_dev,
    'inode': status.st_ino,
    'rules': rules,
  }
  return json.dumps(source, sort_keys=True)


def hold(copy: pathlib.Path, source: str) -> None:
  """Marks a copy, which need not be there yet, as used by this process.

  On a disk without locks, or that is read-only, it does nothing.

  Args:
    copy: its folder.
    source: from `describe_source`.
  """
  path = copy.with_name(f'{copy.name}.json')
  with contextlib.suppress(OSError):
    if path not in _held:
      copy.parent.mkdir(parents=True, exist_ok=True)
      _held[path] = _open_locked(path)
    if source not in _read_lines(path):
      os.write(_held[path], f'{source}\n'.encode())  # At once, at its end.


def remove_older(copy: pathlib.Path, source: str) -> None:
  """Removes, and tells, the copies of earlier states of the same folder.

  Args:
    copy: the folder of today's, held.
    source: from `describe_source`.
  """
  for path in sorted(copy.parent.glob('*.json')):
    older = path.with_suffix('')
    if older == copy or _read_lines(path) != [source]:
      continue
    # Nothing is removed of what is in use, or on a disk without locks.
    with contextlib.suppress(OSError), path.open() as file:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      # As it is now: another process may have been here in between.
      same = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
      if same and _read_lines(path) == [source]:
        _remove(older)
        path.unlink()


def _remove(copy: pathlib.Path) -> None:
  # Under another name: half a copy must not be found in its place.
  removed = copy.with_suffix('.removed')
  try:
    if removed.exists():  # By a process that was killed meanwhile.
      shutil.rmtree(removed)
    if copy.exists():
      size = sum(p.stat().st_size for p in copy.rglob('*') if p.is_file())
      copy.rename(removed)
      shutil.rmtree(removed)
      print(
        f'Removed {copy}, prepared of an earlier state of the folder '
        f'({size / 2**20:,.0f} MiB).',
        flush=True,
      )
  except OSError as error:
    logging.warning('%s could not be removed (%s)', copy, error)
    raise


def _open_locked(path: pathlib.Path) -> int:
  while True:
    try:
      flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
      descriptor = os.open(path, flags, 0o666)
    except OSError as error:
      if error.errno not in (errno.EACCES, errno.EROFS):
        raise
      descriptor = os.open(path, os.O_RDONLY)  # Of somebody else.
    try:
      fcntl.flock(descriptor, fcntl.LOCK_SH)
      # Whoever held it before may have removed it with its copy.
      if os.path.samestat(os.fstat(descriptor), os.stat(path)):
        return descriptor
    except FileNotFoundError:
      pass
    except OSError:
      os.close(descriptor)
      raise
    os.close(descriptor)


def _read_lines(path: pathlib.Path) -> list[str]:
  try:
    return path.read_text().splitlines()
  except (OSError, ValueError):
    return []
