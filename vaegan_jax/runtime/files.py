"""Atomic writes of files, and a check that a folder can be written."""

import contextlib
import json
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from vaegan_jax.errors import UserError


def check_writable(
  workdir: epath.PathLike, *folders: str, flag: str = 'workdir'
) -> None:
  """Checks that a folder can be made and written; leaves nothing there.

  `folders` in it will be written, too, and `flag` names it in messages.

  Raises:
    UserError: one, or the nearest existing folder above it, is a file or
      read-only, or the bucket does not store an object.
  """
  path = epath.Path(workdir)
  if '://' in os.fspath(path):
    _check_bucket(path, flag)
    return
  for folder in (path, *(path / name for name in folders)):
    while not folder.exists() and folder != folder.parent:
      folder = folder.parent
    try:
      # `os.access` is wrong for some disks.
      with tempfile.TemporaryFile(dir=folder):
        pass
    except OSError as error:
      raise UserError(
        f'--{flag}={workdir} cannot be written, because {folder} is not a '
        f'folder or is read-only ({error.strerror}): fix that, or name '
        f'another, such as --{flag}=runs/first'
      ) from error


def _check_bucket(path: epath.Path, flag: str) -> None:
  # One per process: all check at the same time.
  probe = path / f'.probe-{os.getpid()}-{time.time_ns()}'
  try:
    # Orbax needs it for buckets, but does not require it.
    import google.cloud.storage  # noqa: F401

    probe.write_text('x')
    probe.unlink()
  except Exception as error:  # TensorFlow's errors have no common class.
    raise UserError(
      f'--{flag}={path} cannot be written ({error}): make sure that the '
      'bucket exists, that you may write to it (gcloud auth '
      'application-default login) and that google-cloud-storage is installed'
    ) from error


@contextlib.contextmanager
def replacing(path: epath.PathLike) -> Iterator[epath.Path]:
  """Replaces a file atomically, and makes its folder.

  If several processes write it at the same time, the last file wins.

  Yields:
    A unique temporary path in the same folder, to be written in the context.

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


def write_bytes(path: epath.PathLike, content: bytes) -> None:
  """Writes a file atomically, and makes its folder."""
  with replacing(path) as temporary:
    temporary.write_bytes(content)


def write_text(path: epath.PathLike, text: str) -> None:
  """Writes a text as `write_bytes` does, in UTF-8."""
  write_bytes(path, text.encode())  # The locale may be ASCII.


def write_json(
  path: epath.PathLike, content: Any, *, allow_nan: bool = True
) -> None:
  """Writes indented JSON as `write_text` does."""
  write_text(path, json.dumps(content, indent=2, allow_nan=allow_nan) + '\n')


def save_png(path: epath.PathLike, image: np.ndarray) -> None:
  """Writes [H, W, 3] uint8 as a PNG, as `replacing` does.

  Raises:
    OSError: the file cannot be written.
  """
  with replacing(path) as temporary, temporary.open('wb') as file:
    Image.fromarray(image).save(file, format='PNG')
