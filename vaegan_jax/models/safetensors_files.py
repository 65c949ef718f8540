"""Reads and writes safetensors files, which any language reads.

The format is eight bytes for the length of a JSON header, that header, and the
tensors' raw little-endian bytes.
"""

import json
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
import safetensors
from jax.numpy import dtype  # NumPy's, which knows bfloat16 by name.
from safetensors.numpy import save

_DTYPES = {
  **{f'F{bits}': dtype(f'float{bits}') for bits in (16, 32, 64)},
  **{f'I{bits}': dtype(f'int{bits}') for bits in (8, 16, 32, 64)},
  **{f'U{bits}': dtype(f'uint{bits}') for bits in (8, 16, 32, 64)},
  'BF16': dtype('bfloat16'),
  'BOOL': dtype('bool'),
  'C64': dtype('complex64'),
}


def write(
  file: BinaryIO, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
  """Writes tensors, of any strides, by name."""
  # Version 0.8.0 of the library writes the memory of any other order as it is.
  arrays = {name: np.asarray(a, order='C') for name, a in tensors.items()}
  file.write(save(arrays, dict(metadata)))


def read(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Reads a whole file's content.

  Returns:
    {name: tensor}, in the order of their names, and the metadata.

  Raises:
    ValueError: the file is damaged, or has a dtype that NumPy does not have.
  """
  try:
    found = dict(safetensors.deserialize(content))
  except safetensors.SafetensorError as error:
    raise ValueError(f'it is not a whole safetensors file: {error}') from error
  tensors = {}
  for name, tensor in sorted(found.items()):  # The library's order is random.
    code = tensor['dtype']
    if code not in _DTYPES:
      raise ValueError(
        f'{name[:80]!r} has the dtype {code}; known: {[*_DTYPES]}'
      )
    tensors[name] = np.ndarray(tensor['shape'], _DTYPES[code], tensor['data'])
  # `deserialize` checks the header, but does not return its metadata.
  header = json.loads(content[8 : 8 + int.from_bytes(content[:8], 'little')])
  return tensors, header.get('__metadata__') or {}
