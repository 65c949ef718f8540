"""LPIPS (arXiv 1801.03924, v0.1): VGG16, and how much each channel counts.

One network for the judge that no run was trained against and for the rival that
is trained on it. Axes: B images, H height, W width, C channels.
"""

import os
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vaegan_jax.losses import distances
from vaegan_jax.models.pretrained.vgg import (
  LPIPS_LAYERS,
  VGG,
  load_lpips_weights,
  load_vgg,
)

MIN_SIDE = 64  # Pixels.


class LPIPS(nn.Module):
  """VGG16 as LPIPS (arXiv 1801.03924, eq. 1, v0.1) looks through it.

  Its layers are scaled so that the plain squared distance, summed over their
  channels and averaged over their places, is LPIPS: that of
  `perceptual_distance` with `layers=LPIPS_LAYERS` and `reduction='spatial'`.
  Pictures with a side below 64 are enlarged to it, bilinear: the factors were
  fitted to patches of 64 pixels, and of a smaller picture the last layer has
  next to nothing left.
  """

  @property
  def layer_names(self) -> tuple[str, ...]:
    """`LPIPS_LAYERS`; those of VGG itself are `vgg/conv1_1`, ..."""
    return LPIPS_LAYERS

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Runs every layer.

    Args:
      x: [B, H, W, C] in [-1, 1], colour (C = 3) or grey (C = 1), of any size.
      train: as a critic takes it; changes nothing.

    Returns:
      The last layer, [B, H', W', 512] float32.

    Raises:
      ValueError: x is no such images.
    """
    features = VGG(16, name='vgg').features(enlarge(x))
    for layer in LPIPS_LAYERS:
      scaled = _Scaled(name=layer)(features[layer])
    return scaled


class _Scaled(nn.Module):
  """Channel vectors of length 1, times the root of LPIPS's factors."""

  @nn.compact
  def __call__(self, feature: jax.Array) -> jax.Array:
    scale = self.param('scale', nn.initializers.ones, feature.shape[-1:])
    return scale * distances.to_unit_length(feature.astype(jnp.float32))


def enlarge(images: jax.Array) -> jax.Array:
  """Enlarges pictures with a side below 64 pixels until it has 64, bilinear.

  Args:
    images: [B, H, W, C].

  Returns:
    [B, H', W', C], of the same aspect.
  """
  batch, height, width, channels = images.shape
  scale = MIN_SIDE / min(height, width)
  if scale <= 1:
    return images
  sides = round(scale * height), round(scale * width)
  return jax.image.resize(images, (batch, *sides, channels), 'bilinear')


def load_lpips(
  path: str | os.PathLike, heads: str | os.PathLike
) -> dict[str, Any]:
  """Reads the variables of `LPIPS`.

  Args:
    path: of torchvision's file of VGG16.
    heads: see `load_lpips_weights`.

  Returns:
    {'params': {'vgg': {layer: ...}, layer: {'scale': [C]}}}, numpy, float32.

  Raises:
    UserError: a file is damaged or of another network.
  """
  params = {'vgg': load_vgg(path, 16)['params']}
  factors = load_lpips_weights(heads)
  for layer, factor in zip(LPIPS_LAYERS, factors, strict=True):
    params[layer] = {'scale': np.sqrt(factor)}
  return {'params': params}
