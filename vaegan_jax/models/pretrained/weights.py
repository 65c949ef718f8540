"""Reads pretrained weights, without torch and without running code.

Owns a file's path, checksum and format, and the check that it holds a network's
tensors. `torch_files.py` reads torch's own formats.
"""

import hashlib
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import BinaryIO

import jax.numpy as jnp
import numpy as np

from vaegan_jax.errors import UserError
from vaegan_jax.models import safetensors_files
from vaegan_jax.models.pretrained import torch_files

FilePath = str | os.PathLike
State = Mapping[str, np.ndarray]  # {name: tensor} of a file.

# Torch hub's convention: the SHA-256 of `vgg16-397923af.pth` starts with
# 397923af.
_CHECKSUM = re.compile(r'-([0-9a-f]{8,64})\.')


def read_state_dict(path: FilePath) -> dict[str, np.ndarray]:
  """Reads {name: tensor} from a torch or safetensors file.

  A checksum in the file's name (`vgg16-397923af.pth`) is checked.
  `{'state_dict': {...}}` is unwrapped.

  Args:
    path: path of the file, local; `~` and `$VARIABLES` are expanded.

  Returns:
    The tensors in the file's order (safetensors: sorted), in its dtypes. They
    may be read-only views of one buffer, with any strides: copy what you keep,
    and the rest is freed.

  Raises:
    UserError: the file cannot be read, is damaged, has another format or holds
      anything else than tensors.
  """
  path = pathlib.Path(os.path.expanduser(os.path.expandvars(path)))
  try:
    with path.open('rb') as f:
      size = os.fstat(f.fileno()).st_size
      _check_checksum(path, f)
      return _reader(f)(f, size)
  except UserError:
    raise
  except OSError as error:
    raise UserError(
      f'{path} cannot be read ({error.strerror or error}): give the path of a '
      '.pth, .pt or .safetensors file.'
    ) from error
  except Exception as error:  # The errors of damage have no common class.
    reason = str(error) if type(error) is ValueError else repr(error)
    raise UserError(
      f'{path} is not a state dict that can be read, because {reason[:300]}: '
      'download it again, or save a plain state dict, as '
      'torch.save(model.state_dict(), path) does.'
    ) from error


def select(
  path: FilePath,
  state: State,
  shapes: Mapping[str, tuple[int, ...]],
  title: str,
  url: str,
) -> dict[str, np.ndarray]:
  """Copies a network's tensors, if a file holds exactly those.

  Returns:
    The tensors in the order of `shapes`, float32.

  Raises:
    UserError: a tensor is missing, unexpected, of another shape or dtype, or
      not finite.
  """
  try:
    return exactly(state, shapes)
  except ValueError as error:
    raise UserError(
      f'{path} does not hold {title}, because {error}: download {url}.'
    ) from None


def exactly(
  state: State, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
  """Copies tensors, if those of `shapes` are all, in their order, as float32.

  Raises:
    ValueError: a tensor is missing, unexpected, of another shape or dtype, or
      not finite.
  """
  for name in shapes:
    if name not in state:
      some = ', '.join(list(state)[:3])[:80] or 'none at all'
      raise ValueError(f'it has no {name} and has {some!r}')
  for name in state:
    if name not in shapes:
      raise ValueError(
        f'it has {name[:80]!r}, which that network does not have'
      )
  return {name: _float32(name, state[name], shapes[name]) for name in shapes}


def _check_checksum(path: pathlib.Path, f: BinaryIO) -> None:
  expected = _CHECKSUM.search(path.name)
  if expected is None:
    return
  found = hashlib.file_digest(f, 'sha256').hexdigest()
  if not found.startswith(expected[1]):
    raise UserError(
      f'{path} should have the SHA-256 {expected[1]}... of its name and has '
      f'{found}: download it again, or rename it if those digits are no '
      'checksum.'
    )


def _reader(f: BinaryIO) -> Callable[[BinaryIO, int], dict[str, np.ndarray]]:
  """Returns the reader of the file's format, and rewinds the file."""
  f.seek(0)
  head = f.read(9)
  f.seek(0)
  if head[8:] == b'{':  # After 8 bytes for the length of its JSON.
    return lambda f, size: safetensors_files.read(f.read(size))[0]
  if head.startswith(b'PK\x03\x04'):
    return torch_files.read_zip
  if head.startswith(b'\x80'):  # A pickle of protocol 2 or later.
    return torch_files.read_legacy
  raise ValueError(
    f'it begins with {head!r}, as no .pth, .pt or .safetensors file does'
  )


def _float32(name: str, array: np.ndarray, shape: tuple) -> np.ndarray:
  """Returns a copy; raises a ValueError if it cannot be this tensor."""
  if array.shape != shape:
    raise ValueError(f'{name} is {list(array.shape)} and not {list(shape)}')
  if not jnp.issubdtype(array.dtype, jnp.floating):
    raise ValueError(f'{name} is {array.dtype} and not float32')
  with np.errstate(over='ignore'):  # Checked below.
    array = np.array(array, np.float32)
  if not np.isfinite(array).all():
    raise ValueError(f'{name} has numbers that are not finite')
  return array
