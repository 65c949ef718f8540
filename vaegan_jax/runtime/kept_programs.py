"""Keeps compiled programs on disk, so that a resumed run starts in seconds."""

import os
import tempfile
from pathlib import Path

import jax

_FOLDER = 'compiled'  # Within a workdir.


def keep_programs(workdir: str) -> None:
  """Makes JAX keep what it compiles, if it compiles for an accelerator.

  A run of several processes, or in a bucket, keeps it in its workdir: all
  processes read it there, and it is there after the machine is gone. Any other
  command keeps it in the user's cache, which all runs share, or in the workdir
  if that cannot be written.

  On a CPU nothing is kept. A program of one CPU may end the process on another,
  and on some machines JAX reports an error for each program that it reads and
  compiles it again (github.com/jax-ml/jax/issues/38445). A folder that the user
  names (JAX_COMPILATION_CACHE_DIR) is used as it is.
  """
  if jax.config.jax_compilation_cache_dir or jax.default_backend() == 'cpu':
    return
  folder = f'{workdir}/{_FOLDER}'
  if jax.process_count() == 1 and '://' not in workdir:
    folder = _user_folder() or folder
  jax.config.update('jax_compilation_cache_dir', folder)
  # These caches of a GPU's compiler cannot lie in a bucket, and hold nothing
  # that a kept program needs.
  jax.config.update('jax_persistent_cache_enable_xla_caches', 'none')


def _user_folder() -> str:
  """Returns the folder in the user's cache; '' if it cannot be written."""
  try:
    root = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    folder = Path(root, 'vaegan_jax', _FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      return str(folder)
  except (OSError, RuntimeError):  # No home, no room, or no permission.
    return ''
