"""LPIPS as a function of two batches of images."""

import os
from typing import Any

import jax
from flax import struct

from vaegan_jax.losses.perceptual import perceptual_distance
from vaegan_jax.models.pretrained.lpips import LPIPS, load_lpips


class LpipsDistance(struct.PyTreeNode):
  """LPIPS (arXiv 1801.03924, v0.1, VGG16), for arguments of `jax.jit`."""

  variables: Any  # Variables of `models.pretrained.lpips.LPIPS`.

  @jax.jit
  def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
    """Computes LPIPS of images; gradients reach y alone.

    Args:
      x: [B, H, W, C] references in [-1, 1], of any size, in colour or grey.
      y: the images to compare, of the same shape.

    Returns:
      [B] float32; 0 for equal images.

    Raises:
      ValueError: their shapes differ, or are not of images.
    """
    network = LPIPS()
    return perceptual_distance(
      network,
      self.variables,
      x,
      y,
      layers=network.layer_names,
      reduction='spatial',
    )


def load_distance(
  path: str | os.PathLike, heads: str | os.PathLike
) -> LpipsDistance:
  """Returns the `LpipsDistance` of two files; see `vaegan_jax.load_lpips`."""
  return LpipsDistance(jax.device_put(load_lpips(path, heads)))
