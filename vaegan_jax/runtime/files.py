"""Files written whole or not at all, and whether a folder can be written."""

import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import Iterator

import numpy as np
from etils import epath
from PIL import Image

from vaegan_jax.errors import UserError


def check_writable(workdir: epath.PathLike, *folders: str) -> None:
  """Fails early if a folder cannot be made or written; leaves nothing there.

  Args:
    workdir: a folder that need not exist, on a disk or in a bucket.
    *folders: in it, that need not exist and will be written too.

  Raises:
    UserError: one, or the nearest folder above it, is a file or read-only, or
      the bucket does not take and give back an object.
  """
  path = epath.Path(workdir)
  if '://' in os.fspath(path):
    _check_bucket(path)
    return
  for folder in (path, *(path / name for name in folders)):
    while not folder.exists() and folder != folder.parent:
      folder = folder.parent
    try:
      # To ask is not enough: the answer is not that of every disk.
      with tempfile.TemporaryFile(dir=folder):
        pass
    except OSError as error:
      raise UserError(
        f'--workdir={workdir} cannot be written, because {folder} is not a '
        f'folder or is read-only ({error.strerror}): mend that, or name '
        'another, such as --workdir=runs/first'
      ) from error


def _check_bucket(path: epath.Path) -> None:
  # One for each process: they ask at the same time.
  probe = path / f'.probe-{os.getpid()}-{time.time_ns()}'
  try:
    # Orbax asks it about the bucket, and does not bring it.
    import google.cloud.storage  # noqa: F401

    probe.write_text('x')
    probe.unlink()
  except Exception as error:  # TensorFlow's errors are of no common class.
    raise UserError(
      f'--workdir={path} cannot be written ({error}): see that the bucket '
      'exists, that you may write to it (gcloud auth application-default '
      'login) and that google-cloud-storage is installed'
    ) from error


@contextlib.contextmanager
def replacing(path: epath.PathLike) -> Iterator[epath.Path]:
  """A context that replaces a file, and makes its folder, whole or not at all.

  Several processes may do so at once: the last one's file stays.

  Args:
    path: where; any path that etils knows, a bucket's included.

  Yields:
    A path beside it, of nobody else's, to be written there.

  Raises:
    OSError: the file cannot be written.
  """
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f'{path.name}.{secrets.token_hex(8)}.tmp')
  try:
    yield temporary
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def write_text(path: epath.PathLike, text: str) -> None:
  """Writes a file whole or not at all, and its folder if need be."""
  with replacing(path) as temporary:
    temporary.write_bytes(text.encode())  # The locale may know less.


def save_png(path: epath.PathLike, image: np.ndarray) -> None:
  """Writes a PNG whole or not at all, and makes its folder.

  Args:
    path: where; any path that etils knows, a bucket's included.
    image: [H, W, 3] uint8.

  Raises:
    OSError: the file cannot be written.
  """
  with replacing(path) as temporary, temporary.open('wb') as file:
    Image.fromarray(image).save(file, format='PNG', optimize=True)
