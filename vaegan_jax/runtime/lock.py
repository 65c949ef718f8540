"""One trainer at a time in a workdir; the lock of a dead one is taken over.

Owns `<workdir>/lock`, which names the holder. On a disk the kernel keeps the
lock (`filelock`), so it ends with its process. A bucket has no locks: there a
thread of the holder writes the file again and again, each time only if the
object's generation is the one it wrote last, so that no write is lost. A file
that stays the same counts as abandoned. Clocks of machines are not compared,
and a process number means nothing in another container.
"""

import contextlib
import errno
import functools
import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import filelock
from absl import logging
from etils import epath

from vaegan_jax.errors import UserError, unwritable

_BEAT_SECONDS = 10.0  # Between two writes of a holder, in a bucket.
_WATCH_SECONDS = 30.0  # Without one, until its holder counts as dead.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_held = set()  # Workdirs that this process holds.


@contextlib.contextmanager
def hold(workdir: epath.PathLike) -> Iterator[None]:
  """Locks the workdir against other processes within the context.

  Makes the workdir if need be and, if nothing else is written there, removes
  it again. Within a context of the same workdir and process it does nothing. A
  disk without locks costs one warning.

  Raises:
    UserError: another process holds it, or it cannot be written.
  """
  workdir = epath.Path(workdir)
  in_bucket = '://' in os.fspath(workdir)
  key = os.fspath(workdir if in_bucket else workdir.resolve())
  if key in _held:
    yield
    return
  with _bucket_lock(key) if in_bucket else _file_lock(workdir):
    _held.add(key)
    try:
      yield
    finally:
      _held.remove(key)


def _create_holder() -> dict[str, Any]:
  return {'host': socket.gethostname(), 'pid': os.getpid()}


def _parse(content: str | bytes) -> dict[str, Any]:
  """Returns the holder that a lock's file names; {} if it is damaged."""
  try:
    holder = json.loads(content)
  except ValueError:
    return {}
  return holder if isinstance(holder, dict) else {}


def _in_use(workdir: Any, holder: Mapping[str, Any]) -> UserError:
  return UserError(
    f'--workdir={workdir} is being trained by process '
    f'{holder.get("pid", "(unknown)")} on {holder.get("host", "(unknown)")}: '
    'stop that one, or name another folder, such as --workdir=runs/second'
  )


@contextlib.contextmanager
def _file_lock(workdir: epath.Path) -> Iterator[None]:
  path = workdir / 'lock'
  made = [p for p in (workdir, *workdir.parents) if not p.exists()]
  # Not at once: the last holder may be removing the file.
  lock = filelock.FileLock(
    path, timeout=0.5, poll_interval=0.05, fallback_to_soft=False
  )
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    lock.acquire()
  except filelock.Timeout as error:
    holder = _parse(path.read_bytes()) if path.exists() else {}
    raise _in_use(workdir, holder) from error
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      raise unwritable(workdir, error) from error
    logging.warning(
      '%s cannot be locked (%s): make sure that only one process trains there.',
      path,
      error,
    )
  try:
    with contextlib.suppress(OSError):  # On a full disk the lock holds anyway.
      path.write_text(json.dumps(_create_holder()))
    yield
  finally:
    with contextlib.suppress(OSError):
      path.unlink()  # Before the lock ends, or it might be another's.
    lock.release()
    with contextlib.suppress(OSError):  # A folder that is not empty: it stays.
      for folder in made:
        os.rmdir(folder)


@contextlib.contextmanager
def _bucket_lock(workdir: str) -> Iterator[None]:
  lock = _BucketLock(workdir)
  lock.wait_until_free()
  if holder := lock.write():  # It came at the same time.
    raise _in_use(workdir, holder)
  done = threading.Event()
  thread = threading.Thread(target=lock.keep, args=(done,), daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
    lock.remove()


class _BucketLock:
  """The object `lock` of a workdir, written only over its last generation."""

  def __init__(self, workdir: str):
    from google.api_core import exceptions
    from google.cloud import storage
    from google.cloud.storage.retry import DEFAULT_RETRY

    self._workdir, self._exceptions = workdir, exceptions
    self._create_blob = functools.partial(
      storage.Blob.from_uri, f'{workdir}/lock', storage.Client()
    )
    self._retry = DEFAULT_RETRY.with_timeout(_WATCH_SECONDS)
    self._me = _create_holder() | {'token': secrets.token_hex(8)}
    self._generation = 0  # 0: the object does not exist.

  def wait_until_free(self) -> None:
    """Returns once no other holder writes; raises a UserError if one does."""
    holder, self._generation = self._read()
    if self._generation:
      print(
        f'{self._workdir}/lock exists: watching for {_WATCH_SECONDS:g} s '
        f'whether process {holder.get("pid")} on {holder.get("host")} still '
        'trains ...',
        flush=True,
      )
    deadline = time.monotonic() + _WATCH_SECONDS
    while self._generation and time.monotonic() < deadline:
      time.sleep(_BEAT_SECONDS / 10)
      last = self._generation
      holder, self._generation = self._read()
      if self._generation not in (0, last):
        raise _in_use(self._workdir, holder)

  def keep(self, done: threading.Event) -> None:
    """Writes regularly until `done`; stops the process if the lock is lost."""
    while not done.wait(_BEAT_SECONDS):
      try:
        if holder := self.write():
          logging.error(
            'Process %s on %s has taken %s/lock, because this process did not '
            'write it for too long. This process stops.',
            holder.get('pid'),
            holder.get('host'),
            self._workdir,
          )
          os.kill(os.getpid(), signal.SIGTERM)  # Training saves and ends.
          return
      except Exception as error:  # A network error: the next write may succeed.
        logging.warning('Writing %s/lock failed: %s', self._workdir, error)

  def write(self) -> dict[str, Any] | None:
    """Renews this lock; returns the holder if another process has it now."""
    content = json.dumps(self._me | {'time': time.time()})
    blob, last = self._create_blob(), self._generation
    try:
      blob.upload_from_string(
        content, if_generation_match=last, retry=self._retry
      )
      self._generation = blob.generation
    except self._exceptions.PreconditionFailed:
      holder, generation = self._read()
      # Its own, if only the answer to an earlier attempt was lost.
      if generation and holder.get('token') != self._me['token']:
        return holder or {'pid': '(unknown)'}
      self._generation = generation
      return None if generation else self.write()
    return None

  def remove(self) -> None:
    """Removes the object, unless another process has taken it."""
    # An error is harmless here: the lock soon counts as abandoned.
    with contextlib.suppress(Exception):
      last = self._generation
      self._create_blob().delete(if_generation_match=last, retry=self._retry)

  def _read(self) -> tuple[dict[str, Any], int]:
    """Returns the holder and the generation; {} and 0 without an object."""
    blob = self._create_blob()
    try:
      return _parse(blob.download_as_bytes()), blob.generation
    except self._exceptions.NotFound:
      return {}, 0
