"""One trainer at a time in a workdir: a second is refused, a dead one is not.

Owns `<workdir>/lock`. On a disk the kernel keeps the lock, so that it ends with
the process, however that dies; what the file says only names the holder. A
bucket has no locks: there a thread of the holder writes the file again and
again, and whoever finds it watches whether it changes. No clock is ever
compared with another, and no process is looked for by its number, which means
nothing in another container.
"""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging
from etils import epath

from vaegan_jax.errors import UserError, unwritable

_BEAT_SECONDS = 10.0  # Between two writes of a holder, on a bucket.
_WATCH_SECONDS = 30.0  # Without one, until its holder counts as dead.
_SETTLE_SECONDS = (
  2.0  # Until the last of several that came at once has written.
)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_held = set()  # Workdirs that this process holds.


@contextlib.contextmanager
def hold(workdir: epath.PathLike) -> Iterator[None]:
  """A context in which no other process holds the workdir.

  It makes the workdir if need be and, if nothing else is written there, removes
  it again. Within a context of the same workdir and process it does nothing. A
  disk without locks costs one warning.

  Args:
    workdir: local or `gs://...`.

  Raises:
    UserError: another process holds it, or it cannot be written.
  """
  workdir = epath.Path(workdir)
  on_bucket = '://' in os.fspath(workdir)
  key = os.fspath(workdir if on_bucket else workdir.resolve())
  if key in _held:
    yield
    return
  lock = _object_lock if on_bucket else _file_lock
  with lock(workdir):
    _held.add(key)
    try:
      yield
    finally:
      _held.remove(key)


def _me() -> dict[str, Any]:
  return {'host': socket.gethostname(), 'pid': os.getpid()}


def _in_use(workdir: epath.Path, holder: Mapping[str, Any] | None) -> UserError:
  holder = holder or {}
  return UserError(
    f'--workdir={workdir} is being trained by process '
    f'{holder.get("pid", "(unknown)")} on {holder.get("host", "(unknown)")}: '
    'stop that one, or name another folder, such as --workdir=runs/second'
  )


def _read(path: epath.Path) -> dict[str, Any] | None:
  """Returns what the lock says; {} if that is no JSON, None if it is absent."""
  try:
    content = json.loads(path.read_text())
  except FileNotFoundError:
    return None
  except ValueError:
    return {}
  return content if isinstance(content, dict) else {}


# On a disk.


@contextlib.contextmanager
def _file_lock(workdir: epath.Path) -> Iterator[None]:
  path = workdir / 'lock'
  made = [p for p in (workdir, *workdir.parents) if not p.exists()]
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    descriptor = _open_locked(path)
  except BlockingIOError as error:
    raise _in_use(workdir, _read(path)) from error
  except OSError as error:
    raise unwritable(workdir, error) from error
  try:
    with contextlib.suppress(OSError):  # A full disk: it locks all the same.
      os.ftruncate(descriptor, 0)
      os.pwrite(descriptor, json.dumps(_me()).encode(), 0)
    yield
  finally:
    with contextlib.suppress(OSError):
      path.unlink()  # Before the lock ends: nobody else's is removed.
    os.close(descriptor)
    with contextlib.suppress(OSError):  # One is not empty: there was a run.
      for folder in made:
        os.rmdir(folder)


def _open_locked(path: epath.Path) -> int:
  """Returns a descriptor of the file at `path`, locked.

  Raises:
    BlockingIOError: another process has it.
  """
  while True:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
      # The last holder may have removed the file since it was opened here.
      if os.path.samestat(os.fstat(descriptor), os.stat(path)):
        return descriptor
    except FileNotFoundError:
      pass
    except OSError as error:
      if error.errno in _NO_LOCKS:
        logging.warning(
          '%s cannot be locked (%s): see to it that one process trains there.',
          path,
          error,
        )
        return descriptor
      os.close(descriptor)
      raise
    os.close(descriptor)


# On a bucket.


@contextlib.contextmanager
def _object_lock(workdir: epath.Path) -> Iterator[None]:
  path = workdir / 'lock'
  _wait_until_free(workdir, path)
  mine = _me() | {'token': secrets.token_hex(8)}
  path.write_text(json.dumps(mine | {'beat': 0}))
  time.sleep(_SETTLE_SECONDS)
  if not _is_mine(holder := _read(path), mine):
    raise _in_use(workdir, holder)  # It came at the same time.
  done = threading.Event()
  thread = threading.Thread(target=_beat, args=(path, mine, done), daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
    # Not ours to mend at the end of a run: the file counts as dead soon.
    with contextlib.suppress(Exception):
      if _is_mine(_read(path), mine):
        path.unlink()


def _is_mine(holder, mine) -> bool:
  return holder is not None and holder.get('token') == mine['token']


def _wait_until_free(workdir: epath.Path, path: epath.Path) -> None:
  """Returns when there is no holder, or none that lives.

  Raises:
    UserError: one lives.
  """
  seen = _read(path)
  if seen is None:
    return
  print(
    f'{path} is there: watching for {_WATCH_SECONDS:g} s whether process '
    f'{seen.get("pid")} on {seen.get("host")} still trains ...',
    flush=True,
  )
  deadline = time.monotonic() + _WATCH_SECONDS
  while time.monotonic() < deadline:
    time.sleep(_BEAT_SECONDS / 10)
    now = _read(path)
    if now is None:
      return
    if now != seen:
      raise _in_use(workdir, now or seen)


def _beat(path: epath.Path, mine: dict, done: threading.Event) -> None:
  """Shows until `done` that the holder lives; ends the process if it lost."""
  for beat in itertools.count(1):
    if done.wait(_BEAT_SECONDS):
      return
    try:
      holder = _read(path)
      if holder and not _is_mine(holder, mine):
        logging.error(
          'Process %s on %s has taken %s: this one was silent for too long, '
          'and stops.',
          holder.get('pid'),
          holder.get('host'),
          path,
        )
        os.kill(os.getpid(), signal.SIGTERM)  # Training saves, and ends.
        return
      path.write_text(json.dumps(mine | {'beat': beat}))
    except Exception as error:  # Of the network: the next beat may get through.
      logging.warning('Writing %s failed: %s', path, error)
