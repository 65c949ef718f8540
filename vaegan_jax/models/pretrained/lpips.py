"""LPIPS (arXiv 1801.03924, v0.1): VGG16 with a weight for each channel.

It serves as an evaluation metric and as a frozen critic to train against.
Axes: B images, H height, W width, C channels.
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
  """VGG16 with the layers of LPIPS (arXiv 1801.03924, eq. 1, v0.1).

  Its layers are scaled so that LPIPS is `perceptual_distance` with
  `layers=LPIPS_LAYERS` and `reduction='spatial'`. Images with a side below 64
  are enlarged to it, bilinear: the weights were fitted to patches of 64 pixels,
  and a smaller image leaves the last layer almost nothing.
  """

  @property
  def layer_names(self) -> tuple[str, ...]:
    """`LPIPS_LAYERS`; VGG's own layers are `vgg/conv1_1`, ..."""
    return LPIPS_LAYERS

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Runs every layer.

    Args:
      x: [B, H, W, C] in [-1, 1], colour (C = 3) or grey (C = 1), of any size.
      train: has no effect; critics take it.

    Returns:
      The last layer, [B, H', W', 512] float32.

    Raises:
      ValueError: x has another shape or dtype.
    """
    features = VGG(16, name='vgg').features(enlarge(x))
    for layer in LPIPS_LAYERS:
      scaled = _Scaled(name=layer)(features[layer])
    return scaled


class _Scaled(nn.Module):
  """Channel vectors of length 1, times the root of LPIPS's weights."""

  @nn.compact
  def __call__(self, feature: jax.Array) -> jax.Array:
    scale = self.param('scale', nn.initializers.ones, feature.shape[-1:])
    return scale * distances.to_unit_length(feature.astype(jnp.float32))


def enlarge(images: jax.Array) -> jax.Array:
  """Enlarges images whose shorter side is below 64 to 64 pixels, bilinear.

  Maps [B, H, W, C] to [B, H', W', C] with the same aspect ratio.
  """
  batch, height, width, channels = images.shape
  scale = MIN_SIDE / min(height, width)
  if scale <= 1:
    return images
  space = round(scale * height), round(scale * width)
  return jax.image.resize(images, (batch, *space, channels), 'bilinear')


def load_lpips(
  path: str | os.PathLike, heads: str | os.PathLike
) -> dict[str, Any]:
  """Reads the variables of `LPIPS`.

  Returns:
    {'params': {'vgg': {layer: ...}, layer: {'scale': [C]}}}, numpy, float32.

  Raises:
    UserError: a file is damaged or holds another network.
  """
  params = {'vgg': load_vgg(path, 16)['params']}
  factors = load_lpips_weights(heads)
  for layer, factor in zip(LPIPS_LAYERS, factors, strict=True):
    params[layer] = {'scale': np.sqrt(factor)}
  return {'params': params}
