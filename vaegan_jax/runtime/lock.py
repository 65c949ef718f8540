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

  Args:
    workdir: local or `gs://...`.

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
  lock.acquire()
  done = threading.Event()
  thread = threading.Thread(target=lock.keep, args=(done,), daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
    lock.release()


class _BucketLock:
  """The object `lock` of a workdir in a bucket, and its last generation."""

  def __init__(self, workdir: str):
    from google.api_core.exceptions import NotFound, PreconditionFailed
    from google.cloud import storage
    from google.cloud.storage.retry import DEFAULT_RETRY

    self._retry = DEFAULT_RETRY.with_timeout(_WATCH_SECONDS)
    self._lost_race, self._absent = PreconditionFailed, NotFound
    self._workdir = workdir
    bucket, _, prefix = workdir.removeprefix('gs://').partition('/')
    self._bucket = storage.Client().bucket(bucket)
    self._name = f'{prefix.rstrip("/")}/lock'.lstrip('/')
    self._me = _create_holder() | {'token': secrets.token_hex(8)}
    self._generation = 0  # 0: the object does not exist.
    self._beat = 0

  def acquire(self) -> None:
    """Writes the object, once no other holder is alive.

    Raises:
      UserError: another holder is alive, or writes at the same time.
    """
    holder, generation = self._read()
    if generation:
      print(
        f'{self._workdir}/lock exists: watching for {_WATCH_SECONDS:g} s '
        f'whether process {holder.get("pid")} on {holder.get("host")} still '
        'trains ...',
        flush=True,
      )
      deadline = time.monotonic() + _WATCH_SECONDS
      while generation and time.monotonic() < deadline:
        time.sleep(_BEAT_SECONDS / 10)
        now, last = self._read()
        if last not in (0, generation):
          raise _in_use(self._workdir, now)
        generation = last
    self._generation = generation
    if holder := self._write():
      raise _in_use(self._workdir, holder)

  def keep(self, done: threading.Event) -> None:
    """Writes regularly until `done`; stops the process if the lock is lost."""
    while not done.wait(_BEAT_SECONDS):
      try:
        if holder := self._write():
          logging.error(
            'Process %s on %s has taken %s/lock, because this process did not '
            'write it for too long. This process stops.',
            holder.get('pid'),
            holder.get('host'),
            self._workdir,
          )
          os.kill(os.getpid(), signal.SIGTERM)  # Training saves and ends.
          return
      except Exception as error:  # Of the network: the next may get through.
        logging.warning('Writing %s/lock failed: %s', self._workdir, error)

  def release(self) -> None:
    """Removes the object, unless another process has taken it."""
    # An error is harmless here: the lock soon counts as abandoned.
    with contextlib.suppress(Exception):
      blob = self._bucket.blob(self._name)
      blob.delete(if_generation_match=self._generation, retry=self._retry)

  def _read(self) -> tuple[dict[str, Any], int]:
    """Returns the holder and the generation; {} and 0 without an object."""
    blob = self._bucket.blob(self._name)
    try:
      return _parse(blob.download_as_bytes()), blob.generation
    except self._absent:
      return {}, 0

  def _write(self) -> dict[str, Any] | None:
    """Replaces the last generation; returns the holder of any other."""
    content = json.dumps(self._me | {'beat': self._beat})
    self._beat += 1
    blob = self._bucket.blob(self._name)
    try:
      blob.upload_from_string(
        content, if_generation_match=self._generation, retry=self._retry
      )
    except self._lost_race:
      holder, generation = self._read()
      # Its own, if only the answer to an earlier attempt was lost.
      if generation and holder.get('token') != self._me['token']:
        return holder or {'pid': '(unknown)'}
      self._generation = generation
      return None if generation else self._write()
    self._generation = blob.generation
    return None
