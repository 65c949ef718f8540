"""Folders in a bucket, `gs://...`, and their checked copies on this machine.

A file of a copy is valid only if its size and CRC32C are those in the bucket,
whoever copied it; every start checks all files. `dataset_info.json`, without
which prepared data is incomplete, is copied last in both directions.
"""

import base64
import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from vaegan_jax.errors import UserError, describe_error

LAST_FILE = 'dataset_info.json'  # The last file of prepared data.
_NUM_CONNECTIONS = 10  # The number that Google's client keeps open.
# Transferred together: an error, or SIGTERM, waits for the end of as much.
_FILES_TOGETHER, _BYTES_TOGETHER = 100, 2**30
_RETRY_SECONDS = 60  # For one request, until the bucket counts as unreachable.
_REPORT_SECONDS = 5
_CHUNK = 2**20  # Bytes read at once.
_MAX_USED = 0.95  # Share of the free bytes: a full disk breaks checkpoints.


def local_folder(url: str, copies: str) -> pathlib.Path:
  """Returns the folder in `copies` for the copy of 'gs://bucket/folder'.

  Raises:
    UserError: the URL has no bucket, or a part that cannot be a file's name.
  """
  if not is_folder(url):
    raise UserError(
      f'{url!r} is not a folder of a bucket; it must be one such as '
      '"gs://my-bucket/photos".'
    )
  return pathlib.Path(copies, *_parts(url))


def is_folder(url: str) -> bool:
  """Returns whether a URL has a bucket, and folders that a disk can have."""
  return url.startswith('gs://') and _is_relative(_parts(url))


class _Object(NamedTuple):
  size: int  # Bytes.
  crc32c: str  # In base64, as Google Cloud Storage has it.


class BucketFolder:
  """A folder in a bucket, whose errors are `UserError`s."""

  def __init__(self, url: str, copies: str, field: str):
    """Lists the folder.

    Args:
      url: 'gs://bucket/some/folder'.
      copies: the folder of all copies.
      field: the configuration field of the URL, for error messages.
    """
    self.folder = local_folder(url, copies)  # Its copy, which need not exist.
    self._url, self._field = url.rstrip('/'), field
    bucket, _, prefix = self._url.removeprefix('gs://').partition('/')
    self._prefix = prefix and f'{prefix}/'
    digest = hashlib.sha256(self._url.encode()).hexdigest()[:16]
    self._lock = pathlib.Path(copies, f'.lock-{digest}')
    with self._explaining('be read'):
      from google.cloud import storage
      from google.cloud.storage.retry import DEFAULT_RETRY

      self._bucket = storage.Client().bucket(bucket)
      self._retry = DEFAULT_RETRY.with_timeout(_RETRY_SECONDS)
      self.refresh()

  def refresh(self) -> None:
    """Lists the bucket's files again."""
    with self._explaining('be read'):
      blobs = self._bucket.list_blobs(
        prefix=self._prefix,
        fields='items(name,size,crc32c),nextPageToken',
        retry=self._retry,
      )
      self.files = {  # By the name relative to the folder.
        blob.name.removeprefix(self._prefix): _Object(blob.size, blob.crc32c)
        for blob in blobs
        if not blob.name.endswith('/')  # A placeholder for an empty folder.
      }
    for name in self.files:
      if not _is_relative(name.split('/')):
        raise UserError(
          f'{self._field} is {self._url!r}, in which there is {name!r}, which '
          'no file on a disk can be called; it must be renamed or removed.'
        )

  @contextlib.contextmanager
  def alone(self) -> Iterator[None]:
    """A context for one process of this machine at a time."""
    with contextlib.ExitStack() as stack:
      with self._explaining('be copied'):
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        # The kernel releases it, however the process ends.
        lock = stack.enter_context(self._lock.open('w'))
        try:
          fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
          print(f'Waiting for a process that uses {self._url} ...', flush=True)
          fcntl.flock(lock, fcntl.LOCK_EX)
      yield

  def copy(self, *, exactly: bool = False) -> pathlib.Path:
    """Makes the copy on this machine equal to the bucket; returns its folder.

    With `exactly`, files that only the copy has are removed.
    """
    if not self.files:
      raise UserError(
        f'{self._field} is {self._url!r}, in which there is no file; it must '
        'be a folder such as "gs://my-bucket/photos".'
      )
    with self.alone(), self._explaining('be copied'):
      there = [name for name in self.files if (self.folder / name).is_file()]
      whole = set(there) - set(self._transfer('Checked', there, self._damaged))
      missing = [name for name in self.files if name not in whole]
      if missing:
        self._check_room(missing)
        (self.folder / LAST_FILE).unlink(missing_ok=True)
        files = [name for name in missing if name != LAST_FILE]
        self._transfer('Copied', files, self._download)
        last = {LAST_FILE} & set(self.files)
        self._transfer('Copied', list(last), self._download)
      if exactly:
        self._remove_others()
    return self.folder

  def fill(self, folder: os.PathLike, ignore: str) -> None:
    """Stores a local folder there, except names starting with `ignore`."""
    folder = pathlib.Path(folder)
    here = {
      path.relative_to(folder).as_posix(): describe(path)
      for path in folder.rglob('*')
      if path.is_file() and not path.name.startswith(ignore)
    }
    missing = [name for name in here if self.files.get(name) != here[name]]

    def upload(names):
      blobs = [self._bucket.blob(self._prefix + name) for name in names]
      files = [str(folder / name) for name in names]
      self._run('upload_many', zip(files, blobs, strict=True), 'upload_kwargs')
      for name, blob in zip(names, blobs, strict=True):
        if _Object(blob.size, blob.crc32c) != here[name]:
          raise OSError(f'{name} has not arrived as it was sent')

    sizes = {name: found.size for name, found in here.items()}
    with self._explaining('be written'):
      files = [name for name in missing if name != LAST_FILE]
      self._transfer('Uploaded', files, upload, sizes)
      self._transfer('Uploaded', [LAST_FILE], upload, sizes)
    self.refresh()

  def _damaged(self, names: Sequence[str]) -> list[str]:
    with futures.ThreadPoolExecutor(_NUM_CONNECTIONS) as pool:
      found = pool.map(describe, [self.folder / name for name in names])
    return [
      n for n, file in zip(names, found, strict=True) if file != self.files[n]
    ]

  def _download(self, names: Sequence[str]) -> None:
    pairs = []
    for name in names:
      path = self.folder / name
      path.parent.mkdir(parents=True, exist_ok=True)
      # A hidden name is not an example, and a digest fits every file system.
      digest = hashlib.sha256(name.encode()).hexdigest()[:16]
      partial = path.with_name(f'.copying-{digest}')
      pairs.append((self._bucket.blob(self._prefix + name), str(partial)))
    # The checksums are compared to those of the listing instead.
    options = {'raw_download': True, 'checksum': None}
    self._run('download_many', pairs, 'download_kwargs', **options)
    for name, (_, partial) in zip(names, pairs, strict=True):
      if describe(pathlib.Path(partial)) != self.files[name]:
        os.unlink(partial)
        raise OSError(f'{name} is not what the bucket has listed')
      os.replace(partial, self.folder / name)

  def _run(
    self, function: str, pairs: Iterable[Any], field: str, **options: Any
  ) -> None:
    from google.cloud.storage import transfer_manager

    getattr(transfer_manager, function)(
      list(pairs),
      worker_type=transfer_manager.THREAD,
      max_workers=_NUM_CONNECTIONS,
      raise_exception=True,
      **{field: options | {'retry': self._retry}},
    )

  def _check_room(self, names: Iterable[str]) -> None:
    self.folder.mkdir(parents=True, exist_ok=True)
    needed = sum(self.files[name].size for name in names)
    free = shutil.disk_usage(self.folder).free
    if needed > _MAX_USED * free:
      raise OSError(
        errno.ENOSPC,
        f'{needed / 1e6:,.1f} MB are to be copied, and there is room for '
        f'{free / 1e6:,.1f}',
      )

  def _remove_others(self) -> None:
    for path in list(self.folder.rglob('*')):
      name = path.relative_to(self.folder).as_posix()
      if name not in self.files and not path.is_dir():
        path.unlink()

  def _transfer(
    self,
    done: str,
    names: Sequence[str],
    work: Callable[[Sequence[str]], list[str] | None],
    sizes: dict[str, int] | None = None,
  ) -> list[str]:
    """Calls `work` with some files at a time; returns all that it returns."""
    sizes = sizes or {name: self.files[name].size for name in names}
    total = sum(sizes[name] for name in names)
    results, moved, start = [], 0, time.monotonic()
    next_report = start + _REPORT_SECONDS
    count = 0
    while count < len(names):
      some = names[count : count + _FILES_TOGETHER]
      ends = itertools.accumulate(sizes[name] for name in some)
      some = some[: 1 + sum(end <= _BYTES_TOGETHER for end in ends)]
      results += work(some) or []
      moved += sum(sizes[name] for name in some)
      now, count = time.monotonic(), count + len(some)
      if now >= next_report or count == len(names):
        next_report = now + _REPORT_SECONDS
        left = f'{(now - start) / moved * (total - moved):.0f}' if moved else 0
        print(
          f'{done} {count:,} of {len(names):,} files, {moved / 1e6:,.1f} of '
          f'{total / 1e6:,.1f} MB, of {self._url}, {left} s remaining.',
          flush=True,
        )
    return results

  @contextlib.contextmanager
  def _explaining(self, what: str) -> Iterator[None]:
    """A context that turns any error into a `UserError` with a remedy."""
    try:
      yield
    except UserError:
      raise
    except Exception as error:  # Google's client has no common class of them.
      reason = re.sub(r'\b[A-Z]+ https?://\S+: ', '', describe_error(error))
      # Errors of the network are OSErrors without a number.
      if getattr(error, 'errno', None) is not None:
        remedy = (
          f'see that {self.folder} can be written and has room, or name '
          'another place for copies, such as --config.data.copy_dir=/mnt/disk'
        )
      else:
        remedy = (
          'see that the bucket exists, that you may use it (gcloud auth '
          'application-default login) and that google-cloud-storage is '
          'installed'
        )
      raise UserError(
        f'{self._field} is {self._url!r}, which cannot {what} ({reason}); '
        f'{remedy}.'
      ) from error


def describe(path: pathlib.Path) -> _Object:
  """Returns the size and the CRC32C of a file."""
  import google_crc32c

  checksum = google_crc32c.Checksum()
  with path.open('rb') as file:
    size = sum(map(len, checksum.consume(file, _CHUNK)))
  return _Object(size, base64.b64encode(checksum.digest()).decode())


def _parts(url: str) -> list[str]:
  return url.removeprefix('gs://').rstrip('/').split('/')


def _is_relative(parts: list[str]) -> bool:
  """Returns whether a path with these parts stays below its start."""
  return all(part not in ('', '.', '..') and '\0' not in part for part in parts)
