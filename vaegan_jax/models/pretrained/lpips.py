"""LPIPS (arXiv 1801.03924, v0.1): a network with a weight for each channel.

In VGG16 it serves as an evaluation metric and as a frozen critic to train
against, in AlexNet as a second metric.
Axes: B images, H height, W width, C channels.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vaegan_jax.losses import distances
from vaegan_jax.models.pretrained import alexnet, vgg, weights
from vaegan_jax.models.pretrained.weights import FilePath, State

MIN_SIDE = 64  # Pixels.
LAYERS = {'vgg16': vgg.LPIPS_LAYERS, 'alexnet': alexnet.LAYERS}


class LPIPS(nn.Module):
  """A network with the layers of LPIPS (arXiv 1801.03924, eq. 1, v0.1).

  Its layers are scaled so that LPIPS is `perceptual_distance` with
  `layers=LAYERS[network]` and `reduction='spatial'`. Images with a side below
  64 are enlarged to it, bilinear: the weights were fitted to patches of 64
  pixels, and a smaller image leaves the last layer almost nothing.
  """

  network: str = 'vgg16'  # Or 'alexnet'.

  @property
  def layer_names(self) -> tuple[str, ...]:
    """`LAYERS[network]`; VGG's own layers are `vgg/conv1_1`, ..."""
    return LAYERS[self.network]

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Runs every layer.

    Args:
      x: [B, H, W, C] in [-1, 1], colour (C = 3) or grey (C = 1), of any size.
      train: has no effect; critics take it.

    Returns:
      The last layer, [B, H', W', C'] float32.

    Raises:
      ValueError: x has another shape or dtype.
    """
    if self.network == 'alexnet':
      trunk = alexnet.AlexNet(name='alexnet')
    else:
      trunk = vgg.VGG(16, name='vgg')
    features = trunk.features(enlarge(x))
    for layer in self.layer_names:
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


def load_lpips(path: FilePath, heads: FilePath) -> dict[str, Any]:
  """Reads the variables of `LPIPS`.

  Returns:
    {'params': {'vgg': {layer: ...}, layer: {'scale': [C]}}}, numpy, float32.

  Raises:
    UserError: a file is damaged or holds another network.
  """
  return to_variables(
    (path, weights.read_state_dict(path)),
    (heads, weights.read_state_dict(heads)),
    'vgg16',
  )


def to_variables(
  trunk: tuple[FilePath, State], heads: tuple[FilePath, State], network: str
) -> dict[str, Any]:
  """Converts two state dicts, each with its path, to variables of `LPIPS`."""
  if network == 'alexnet':
    params = {'alexnet': alexnet.to_variables(*trunk)['params']}
  else:
    params = {'vgg': vgg.to_variables(*trunk, 16)['params']}
  factors = vgg.to_lpips_weights(*heads, network)
  for layer, factor in zip(LAYERS[network], factors, strict=True):
    params[layer] = {'scale': np.sqrt(factor)}
  return {'params': params}
