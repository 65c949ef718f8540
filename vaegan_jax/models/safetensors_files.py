"""Tensors in one file that any language reads: the safetensors format.

Eight bytes for the length of a JSON header, that header, and the tensors' raw
little-endian bytes. It needs NumPy alone, in both directions; what others have
written, in more types, is read by `weights.py`.
"""

import json
import math
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

_DTYPES = {
  'F32': np.dtype('<f4'),
  'F64': np.dtype('<f8'),
  'I32': np.dtype('<i4'),
  'I64': np.dtype('<i8'),
  'U8': np.dtype('u1'),
  'BOOL': np.dtype('?'),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_METADATA = '__metadata__'  # Where the header has texts.
_MAX_HEADER = 2**27  # Bytes; the format's own limit is 100 MB.


def write(
  file: BinaryIO,
  tensors: Mapping[str, np.ndarray],
  metadata: Mapping[str, str],
) -> None:
  """Writes tensors, in the order of their names.

  Args:
    file: open for writing.
    tensors: by name.
    metadata: texts by name.

  Raises:
    KeyError: a tensor is of a type that is not written here.
  """
  header, offset = {_METADATA: dict(metadata)}, 0
  arrays = {name: np.asarray(tensors[name]) for name in sorted(tensors)}
  for name, array in arrays.items():
    header[name] = {
      'dtype': _CODES[array.dtype.newbyteorder('<')],
      'shape': list(array.shape),
      'data_offsets': [offset, offset + array.nbytes],
    }
    offset += array.nbytes
  encoded = json.dumps(header).encode()
  encoded += b' ' * (-len(encoded) % 8)  # The tensors begin aligned.
  file.write(len(encoded).to_bytes(8, 'little') + encoded)
  for array in arrays.values():
    file.write(array.astype(array.dtype.newbyteorder('<')).tobytes())


def read(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Reads what `write` has written.

  Args:
    content: of the whole file.

  Returns:
    {name: tensor}, read-only views of `content`, and the metadata.

  Raises:
    ValueError: it is damaged, or of a type that is not read here.
  """
  size = int.from_bytes(content[:8], 'little')
  if len(content) < 8 or size > min(_MAX_HEADER, len(content) - 8):
    raise ValueError(f'its {len(content)} bytes are not the whole file')
  try:
    header = json.loads(content[8 : 8 + size])
    metadata = header.pop(_METADATA, {})
    data = memoryview(content)[8 + size :]
    return {name: _view(data, **of) for name, of in header.items()}, metadata
  except (AttributeError, TypeError, KeyError, RecursionError) as error:
    raise ValueError(f'its header is damaged ({error!r})') from error


def _view(data, *, dtype, shape, data_offsets) -> np.ndarray:
  first, last = data_offsets
  kind = _DTYPES[dtype]
  if not 0 <= first <= last <= len(data):
    raise ValueError(f'its {len(data)} bytes of tensors are not all of them')
  if last - first != math.prod(shape) * kind.itemsize:
    raise ValueError(f'{last - first} bytes are no {dtype} of shape {shape}')
  return np.frombuffer(data[first:last], kind).reshape(shape)
