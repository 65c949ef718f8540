"""Variables as tensors by name, as exports hold them, and what names them."""

import hashlib
from collections.abc import Mapping
from typing import Any

import flax
import numpy as np


def to_tensors(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """{'autoencoder.params.encoder.block_0...kernel': array} of variables."""
  flat = flax.traverse_util.flatten_dict(variables, sep='.')
  return {name: np.asarray(value) for name, value in flat.items()}


def from_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Undoes `to_tensors`; networks without `batch_stats` have them empty."""
  variables = flax.traverse_util.unflatten_dict(tensors, sep='.')
  return {name: {'batch_stats': {}} | own for name, own in variables.items()}


def digest(tensors: Mapping[str, np.ndarray]) -> str:
  """The SHA-256 of tensors and their names, in hexadecimal digits."""
  whole = hashlib.sha256()
  for name in sorted(tensors):
    array = tensors[name]
    whole.update(f'{name} {array.dtype.name} {array.shape} '.encode())
    whole.update(array.tobytes())
  return whole.hexdigest()
