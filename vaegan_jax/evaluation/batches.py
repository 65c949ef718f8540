"""Batches of examples with their indices, and of the values that are found."""

import numpy as np

from vaegan_jax.data.split import Images


class WithIndices:
  """Examples whose batches carry their indices: (images [B, ...], [B])."""

  def __init__(self, images: Images):
    self._images = images

  def __getitem__(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return self._images[indices], indices


def concatenate(batches) -> dict[str, np.ndarray]:
  """Joins the values [b, ...] of (indices, {name: values}), name by name."""
  parts = [values for _, values in batches]
  return {k: np.concatenate([p.pop(k) for p in parts]) for k in list(parts[0])}
