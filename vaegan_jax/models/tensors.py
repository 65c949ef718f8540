"""Variables as named tensors, as exports hold them."""

import hashlib
from collections.abc import Mapping
from typing import Any

import flax
import numpy as np


def to_tensors(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Names variables: {'autoencoder.params.encoder.block_0...kernel': array}."""
  flat = flax.traverse_util.flatten_dict(variables, sep='.')
  return {name: np.asarray(value) for name, value in flat.items()}


def from_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Undoes `to_tensors`; networks without `batch_stats` get {}."""
  variables = flax.traverse_util.unflatten_dict(tensors, sep='.')
  return {name: {'batch_stats': {}} | own for name, own in variables.items()}


def digest(tensors: Mapping[str, np.ndarray]) -> str:
  """Returns the SHA-256 of tensors and their names, in hexadecimal digits."""
  sha256 = hashlib.sha256()
  for name in sorted(tensors):
    array = tensors[name]
    sha256.update(f'{name} {array.dtype.name} {array.shape} '.encode())
    sha256.update(array.tobytes())
  return sha256.hexdigest()
