"""Reading somebody else's weights, without torch and without running code.

Owns what a file of weights is: its path, its checksum, its format, which is
told by the first bytes, and whether it holds what a network has. Torch's own
formats are read by `torch_files.py`, safetensors by the package of that name.
"""

import hashlib
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import BinaryIO

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from vaegan_jax.errors import UserError
from vaegan_jax.models.pretrained import torch_files

# Torch hub's convention: `vgg16-397923af.pth` begins its SHA-256 with 397923af.
_CHECKSUM = re.compile(r'-([0-9a-f]{8,64})\.')
# What safetensors calls each type.
_DTYPES = {
  'F64': np.dtype(np.float64),
  'F32': np.dtype(np.float32),
  'F16': np.dtype(np.float16),
  'BF16': np.dtype(ml_dtypes.bfloat16),
  'C64': np.dtype(np.complex64),
  'C128': np.dtype(np.complex128),
  'I64': np.dtype(np.int64),
  'I32': np.dtype(np.int32),
  'I16': np.dtype(np.int16),
  'I8': np.dtype(np.int8),
  'U8': np.dtype(np.uint8),
  'BOOL': np.dtype(np.bool_),
}


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads {name: tensor} from a torch or safetensors file.

  Where the file's name carries a checksum (`vgg16-397923af.pth`), it is
  checked. `{'state_dict': {...}}` is read as what it wraps.

  Args:
    path: of the file, local; `~` and `$VARIABLES` are expanded.

  Returns:
    The tensors in the file's order (safetensors has none: sorted), in its
    dtypes. They may be read-only views of one buffer, with any strides: copy
    what is kept, and the rest is freed.

  Raises:
    UserError: the file cannot be read, is damaged, is of another format or
      holds anything else than tensors.
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
  except Exception as error:  # What damage leads to has no common class.
    reason = str(error) if type(error) is ValueError else repr(error)
    raise UserError(
      f'{path} is not a state dict that can be read, because {reason[:300]}: '
      'download it again, or save a plain state dict, as '
      'torch.save(model.state_dict(), path) does.'
    ) from error


def select(
  path: str | os.PathLike,
  state: Mapping[str, np.ndarray],
  shapes: Mapping[str, tuple[int, ...]],
  title: str,
  url: str,
) -> dict[str, np.ndarray]:
  """Copies the tensors of a network, if a file's are just those.

  Args:
    path: of the file, to name it.
    state: {name: tensor}, what it holds.
    shapes: {name: shape}, what the network has.
    title: what the network is called.
    url: where its file is to be had.

  Returns:
    The tensors in the order of `shapes`, float32.

  Raises:
    UserError: a tensor is missing, too many, of another shape or type, or not
      finite.
  """
  try:
    for name in shapes:
      if name not in state:
        some = ', '.join(list(state)[:3])[:80] or 'none at all'
        raise ValueError(f'it has no {name} and has {some!r}')
    for name in state:
      if name not in shapes:  # Such as a layer more.
        raise ValueError(f'it has {name[:80]!r}, which that network has not')
    return {name: _float32(name, state[name], shapes[name]) for name in shapes}
  except ValueError as error:
    raise UserError(
      f'{path} does not hold {title}, because {error}: download {url}.'
    ) from None


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
  """Returns the reader of the file's format, and winds the file back."""
  f.seek(0)
  head = f.read(9)
  f.seek(0)
  if head[8:] == b'{':  # After 8 bytes for the length of its JSON.
    return _read_safetensors
  if head.startswith(b'PK\x03\x04'):
    return torch_files.read_zip
  if head.startswith(b'\x80'):  # A pickle of protocol 2 or later.
    return torch_files.read_legacy
  raise ValueError(
    f'it begins with {head!r}, as no .pth, .pt or .safetensors file does'
  )


def _read_safetensors(f: BinaryIO, size: int) -> dict[str, np.ndarray]:
  try:
    import safetensors  # Optional, so not at the top.
  except ImportError as error:
    raise UserError(
      f'{f.name} is a safetensors file, and the package that reads it is not '
      'installed: pip install safetensors.'
    ) from error
  arrays = {}
  # Not its `numpy.load`, which has no bfloat16.
  tensors = dict(safetensors.deserialize(f.read(size)))
  for name, tensor in sorted(tensors.items()):  # They come in random order.
    code, shape = tensor['dtype'], tensor['shape']
    if code not in _DTYPES:
      raise ValueError(
        f'{name[:80]!r} is of the type {code}; known: {[*_DTYPES]}'
      )
    arrays[name] = np.ndarray(shape, _DTYPES[code], tensor['data'])
  return arrays


def _float32(name: str, array: np.ndarray, shape: tuple) -> np.ndarray:
  """Returns a copy, or raises a ValueError that says what is wrong with it."""
  if array.shape != shape:
    raise ValueError(f'{name} is {list(array.shape)} and not {list(shape)}')
  if not jnp.issubdtype(array.dtype, jnp.floating):
    raise ValueError(f'{name} is {array.dtype} and not float32')
  with np.errstate(over='ignore'):  # Told right below.
    array = np.array(array, np.float32)
  if not np.isfinite(array).all():
    raise ValueError(f'{name} has numbers that are not finite')
  return array
