"""Files written whole or not at all, and whether a folder can be written."""

import os
import time

import numpy as np
from etils import epath
from PIL import Image

from vaegan_jax.errors import UserError


def check_writable(workdir: epath.PathLike) -> None:
  """Fails early if a folder cannot be made or written; makes nothing.

  Args:
    workdir: a folder that need not exist, on a disk or in a bucket.

  Raises:
    UserError: it, or the nearest folder above it, is a file or read-only, or
      the bucket does not take and give back an object.
  """
  path = epath.Path(workdir)
  if '://' in os.fspath(path):
    _check_bucket(path)
    return
  while not path.exists() and path != path.parent:
    path = path.parent
  if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
    raise UserError(
      f'--workdir={workdir} cannot be written, because {path} is not a folder '
      'or is read-only: name another, such as --workdir=runs/first'
    )


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


def write_text(path: epath.Path, text: str) -> None:
  """Writes a file whole or not at all, and its folder if need be."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(path.name + '.tmp')
  temporary.write_text(text)
  temporary.replace(path)


def save_png(path: epath.PathLike, image: np.ndarray) -> None:
  """Writes a PNG whole or not at all, and makes its folder.

  Args:
    path: where; any path that etils knows, a bucket's included.
    image: [H, W, 3] uint8.

  Raises:
    OSError: the file cannot be written.
  """
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(path.name + '.tmp')
  try:
    with temporary.open('wb') as file:
      Image.fromarray(image).save(file, format='PNG', optimize=True)
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)
