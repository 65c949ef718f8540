"""Folders in a bucket, `gs://...`, and the checked copies of them here.

Owns how such a folder is listed, copied and filled. A file of a copy counts
only if its size and CRC32C are those that the bucket has for it, whoever copied
it and whatever became of him; all of them are looked at each time. Prepared
data is none without its `dataset_info.json`, which comes last both ways.
"""

import base64
import contextlib
import errno
import fcntl
import hashlib
import os
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from typing import Any, BinaryIO, NamedTuple

from vaegan_jax.data.image_files import describe_error
from vaegan_jax.errors import UserError

LAST_FILE = 'dataset_info.json'  # Of prepared data.
_NUM_CONNECTIONS = 10  # As many as Google's client keeps open.
_RETRY_SECONDS = 60  # For one request, until the bucket counts as unreachable.
_REPORT_SECONDS = 5
_CHUNK = 2**20  # Bytes read at once.
_MAX_USED = 0.95  # Of a disk's free bytes: full, it breaks checkpoints, too.


def in_bucket(path: str) -> bool:
  """Whether a path, which may be empty, is of a bucket."""
  return path.startswith('gs://')


def local_folder(url: str, copies: str) -> pathlib.Path:
  """Where the copy of a bucket's folder is.

  Args:
    url: 'gs://bucket/some/folder'.
    copies: the folder of all copies.

  Raises:
    UserError: the URL has no bucket, or a part that no path on a disk can have.
  """
  parts = url.removeprefix('gs://').rstrip('/').split('/')
  if not _is_relative(parts):
    raise UserError(
      f'{url!r} is no folder of a bucket; it must be one such as '
      '"gs://my-bucket/photos".'
    )
  return pathlib.Path(copies, *parts)


class _Object(NamedTuple):
  size: int  # Bytes.
  crc32c: str  # In base64, as Google Cloud Storage tells it.


class BucketFolder:
  """A folder in a bucket.

  Attributes:
    folder: of its copy on this machine; it need not be there.
    files: {name relative to it: size and CRC32C}, as it was listed.
  """

  def __init__(self, url: str, copies: str, field: str):
    """Lists it.

    Args:
      url: 'gs://bucket/some/folder'.
      copies: the folder of all copies.
      field: of the configuration, that has led here, for errors.

    Raises:
      UserError: it cannot be listed, or has names that no file can have.
    """
    self.folder = local_folder(url, copies)
    self._url, self._field = url.rstrip('/'), field
    self._files_open = set()
    bucket, _, prefix = self._url.removeprefix('gs://').partition('/')
    self._prefix = prefix and f'{prefix}/'
    self._lock = pathlib.Path(
      copies, f'.lock-{hashlib.sha256(self._url.encode()).hexdigest()[:16]}'
    )
    with self._telling('be read'):
      from google.cloud import storage
      from google.cloud.storage.retry import DEFAULT_RETRY

      self._bucket = storage.Client().bucket(bucket)
      self._retry = DEFAULT_RETRY.with_timeout(_RETRY_SECONDS)
      self.refresh()

  @property
  def fingerprint(self) -> str:
    """A hash of all names and contents."""
    listing = repr(sorted(self.files.items()))
    return hashlib.sha256(listing.encode()).hexdigest()[:16]

  def refresh(self) -> None:
    """Looks again at what is in the bucket; raises as `__init__`."""
    with self._telling('be read'):
      blobs = self._bucket.list_blobs(
        prefix=self._prefix,
        fields='items(name,size,crc32c),nextPageToken',
        retry=self._retry,
      )
      self.files = {
        blob.name.removeprefix(self._prefix): _Object(blob.size, blob.crc32c)
        for blob in blobs
        if not blob.name.endswith('/')  # What stands for an empty folder.
      }
    for name in self.files:
      if not _is_relative(name.split('/')):
        raise UserError(
          f'{self._field} is {self._url!r}, in which there is {name!r}, which '
          'no file on a disk can be called; it must be renamed or removed.'
        )

  @contextlib.contextmanager
  def alone(self) -> Iterator[None]:
    """A context that one process of this machine at a time is in."""
    with contextlib.ExitStack() as stack:
      with self._telling('be copied'):
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        # The kernel lets go of it, however the process ends.
        lock = stack.enter_context(self._lock.open('w'))
        try:
          fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
          print(f'Waiting for a process that has {self._url} ...', flush=True)
          fcntl.flock(lock, fcntl.LOCK_EX)
      yield

  def copy(self, *, exactly: bool = False) -> pathlib.Path:
    """Makes the copy here as the bucket is, or finds that it is.

    Args:
      exactly: whether other files in the copy are removed.

    Returns:
      Its folder.

    Raises:
      UserError: there are no files, one cannot be read, or there is no room.
    """
    if not self.files:
      raise UserError(
        f'{self._field} is {self._url!r}, in which there is no file; it must '
        'be a folder such as "gs://my-bucket/photos".'
      )
    with self.alone(), self._telling('be copied'):
      there = [name for name in self.files if (self.folder / name).is_file()]
      whole = self._do('Checked', self._sizes(there), self._is_whole)
      missing = {name for name in self.files if not whole.get(name)}
      if missing:
        sizes = self._sizes(missing - {LAST_FILE})
        self._check_room(sum(sizes.values()))
        (self.folder / LAST_FILE).unlink(missing_ok=True)
        self._do('Copied', sizes, self._download)
        last = self._sizes({LAST_FILE} & set(self.files))
        self._do('Copied', last, self._download)
      if exactly:
        self._remove_others()
    return self.folder

  def fill(self, folder: os.PathLike, leave_out: str) -> None:
    """Stores the files of a local folder in the bucket.

    Args:
      folder: where they are.
      leave_out: how the names of those begin that stay here.

    Raises:
      UserError: the bucket cannot be written.
    """
    folder = pathlib.Path(folder)
    sizes = {
      path.relative_to(folder).as_posix(): path.stat().st_size
      for path in folder.rglob('*')
      if path.is_file() and not path.name.startswith(leave_out)
    }

    def upload(name):
      here = self._describe(folder / name)
      if self.files.get(name) == here:
        return
      blob = self._bucket.blob(self._prefix + name)
      with self._open(folder / name, 'rb') as file:
        blob.upload_from_file(file, size=here.size, retry=self._retry)
      if _Object(blob.size, blob.crc32c) != here:
        raise OSError(f'{name} has not arrived as it was sent')

    last = {LAST_FILE: sizes.pop(LAST_FILE)}
    with self._telling('be written'):
      self._do('Uploaded', sizes, upload)
      self._do('Uploaded', last, upload)
    self.refresh()

  def _sizes(self, names: Iterable[str]) -> dict[str, int]:
    return {name: self.files[name].size for name in names}

  def _is_whole(self, name: str) -> bool:
    path, wanted = self.folder / name, self.files[name]
    return path.stat().st_size == wanted.size and (
      self._describe(path) == wanted
    )

  def _download(self, name: str) -> None:
    path = self.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    # Hidden, so that it is no image; of a length that any disk takes.
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    partial = path.with_name(f'.copying-{digest}')
    with self._open(partial, 'wb') as file:
      self._bucket.blob(self._prefix + name).download_to_file(
        file, raw_download=True, checksum=None, retry=self._retry
      )
    if self._describe(partial) != self.files[name]:
      partial.unlink()
      raise OSError(f'{name} is not what the bucket has listed')
    os.replace(partial, path)

  def _describe(self, path: pathlib.Path) -> _Object:
    """Reads a whole file."""
    import google_crc32c

    checksum = google_crc32c.Checksum()
    with self._open(path, 'rb') as file:
      size = sum(map(len, checksum.consume(file, _CHUNK)))
    return _Object(size, base64.b64encode(checksum.digest()).decode())

  @contextlib.contextmanager
  def _open(self, path: pathlib.Path, mode: str) -> Iterator[BinaryIO]:
    """A context of an open file; how far it has got counts as progress."""
    with path.open(mode) as file:
      self._files_open.add(file)
      try:
        yield file
      finally:
        self._files_open.discard(file)

  def _check_room(self, needed: int) -> None:
    self.folder.mkdir(parents=True, exist_ok=True)
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

  def _do(
    self, done: str, sizes: Mapping[str, int], work: Callable[[str], Any]
  ) -> dict[str, Any]:
    """Works on several files at once, and says how far it is.

    Args:
      done: what it does to them, for the line on the terminal.
      sizes: bytes of each, by name.
      work: called with each name.

    Returns:
      {name: what the work returned}.
    """
    results, start = {}, time.monotonic()
    pool = futures.ThreadPoolExecutor(_NUM_CONNECTIONS)
    try:
      pending = {pool.submit(work, name): name for name in sizes}
      while pending:
        ready, _ = futures.wait(
          pending, _REPORT_SECONDS, return_when=futures.FIRST_EXCEPTION
        )
        results |= {pending.pop(each): each.result() for each in ready}
        self._report(done, sizes, results, time.monotonic() - start)
    finally:  # After an error, or SIGTERM, nobody waits for a large file.
      pool.shutdown(wait=False, cancel_futures=True)
      for file in tuple(self._files_open):
        file.close()
      pool.shutdown()
    return results

  def _report(self, done, sizes, results, seconds) -> None:
    total = sum(sizes.values())
    moved = sum(sizes[name] for name in results)
    for file in tuple(self._files_open):
      with contextlib.suppress(ValueError):  # It was closed just now.
        moved += file.tell()
    left = f'{seconds / moved * (total - moved):.0f}' if moved else '-'
    print(
      f'{done} {len(results):,} of {len(sizes):,} files, {moved / 1e6:,.1f} of '
      f'{total / 1e6:,.1f} MB, of {self._url}, {left} s remaining.',
      flush=True,
    )

  @contextlib.contextmanager
  def _telling(self, what: str) -> Iterator[None]:
    """A context whose errors are told in one sentence."""
    try:
      yield
    except UserError:
      raise
    except Exception as error:  # Of Google's client: of no common class.
      reason = re.sub(r'\b[A-Z]+ https?://\S+: ', '', describe_error(error))
      # Those of the network are OSErrors too, but have no number.
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


def _is_relative(parts: list[str]) -> bool:
  """Whether a path of these parts stays below where it begins."""
  return all(part not in ('', '.', '..') and '\0' not in part for part in parts)
