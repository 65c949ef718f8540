"""LPIPS (arXiv 1801.03924, v0.1): a network with a weight for each channel.

In VGG16 it serves as an evaluation metric and as a frozen critic to train
against, in AlexNet (arXiv 1404.5997) as a second metric. The weights are in
torchvision's files, and the factors of the channels in those of the authors.
Axes: B images, H height, W width, C channels.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vaegan_jax.errors import UserError
from vaegan_jax.losses import distances
from vaegan_jax.models.pretrained import vgg, weights
from vaegan_jax.models.pretrained.weights import FilePath, State

MIN_SIDE = 64  # Pixels.
LAYERS = {
  'vgg16': vgg.LPIPS_LAYERS,
  # `conv1` is the first convolution, after its ReLU.
  'alexnet': ('conv1', 'conv2', 'conv3', 'conv4', 'conv5'),
}
ALEXNET_URL = 'https://download.pytorch.org/models/alexnet-owt-7be5be79.pth'
_ALEXNET_SIDE = 63  # It leaves the last layers 3 positions.
_ALEXNET_WIDTHS = (64, 192, 384, 256, 256)
_KERNELS = (11, 5, 3, 3, 3)
_INDICES = (0, 3, 6, 8, 10)  # Torchvision's, of `features`.
_URL = (
  'https://github.com/richzhang/PerceptualSimilarity/raw/master/'
  'lpips/weights/v0.1/'
)
# By network: the title of the heads, their file, their widths.
_HEADS = {
  'vgg16': ('VGG', 'vgg.pth', vgg.WIDTHS),
  'alexnet': ('AlexNet', 'alex.pth', _ALEXNET_WIDTHS),
}


class AlexNet(nn.Module):
  """Five convolutions; max-pooling follows the first two."""

  @nn.compact
  def features(self, x: jax.Array) -> dict[str, jax.Array]:
    """Returns {layer: [B, H', W', C']} in forward order.

    Args:
      x: [B, H, W, C] in [-1, 1], colour (C = 3) or grey (C = 1); H and W at
        least 63.

    Raises:
      ValueError: x has another shape or dtype.
    """
    x, features = vgg.normalize(x, 'AlexNet', _ALEXNET_SIDE), {}
    for i, name in enumerate(LAYERS['alexnet']):
      if i in (1, 2):
        x = nn.max_pool(x, (3, 3), (2, 2))
      conv = nn.Conv(
        _ALEXNET_WIDTHS[i],
        (_KERNELS[i],) * 2,
        strides=1 if i else 4,
        padding=_KERNELS[i] // 2 if i else 2,
        name=name,
      )
      x = features[name] = nn.relu(conv(x))
    return features


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
      trunk = AlexNet(name='alexnet')
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
    params = {'alexnet': _alexnet_params(*trunk)}
  else:
    params = {'vgg': vgg.to_variables(*trunk, 16)['params']}
  factors = to_factors(*heads, network)
  for layer, factor in zip(LAYERS[network], factors, strict=True):
    params[layer] = {'scale': np.sqrt(factor)}
  return {'params': params}


def _alexnet_params(path: FilePath, state: State) -> dict[str, Any]:
  """Converts torchvision's state dict, whose classifier is ignored."""
  shapes, channels = {}, 3
  for index, width, size in zip(
    _INDICES, _ALEXNET_WIDTHS, _KERNELS, strict=True
  ):
    shapes[f'features.{index}.weight'] = (width, channels, size, size)
    shapes[f'features.{index}.bias'] = (width,)
    channels = width
  features = {n: a for n, a in state.items() if n.startswith('features.')}
  title = "torchvision's AlexNet"
  tensors = weights.select(path, features, shapes, title, ALEXNET_URL)
  indices = dict(zip(LAYERS['alexnet'], _INDICES, strict=True))
  return vgg.convolutions(tensors, indices)


def to_factors(
  path: FilePath, state: State, network: str
) -> tuple[np.ndarray, ...]:
  """Converts the factors of LPIPS for each channel of its layers.

  Args:
    path: path of the file, for messages: `lpips/weights/v0.1/vgg.pth` in its
      authors' repository, or `alex.pth` beside it.
    state: {name: tensor} in the file.
    network: 'vgg16' or 'alexnet'.

  Returns:
    Five vectors [C], float32, in forward order.

  Raises:
    UserError: the file holds another network, or a factor is negative.
  """
  name, file, widths = _HEADS[network]
  title, url = f"LPIPS's {name} weights", _URL + file
  shapes = {
    f'lin{i}.model.1.weight': (1, width, 1, 1) for i, width in enumerate(widths)
  }
  # A file of the whole LPIPS holds the network too, and these factors twice.
  state = {name: a for name, a in state.items() if name in shapes} or state
  tensors = weights.select(path, state, shapes, title, url)
  for name, tensor in tensors.items():
    if tensor.min() < 0:
      raise UserError(
        f'{path} does not hold {title}, because {name} has {tensor.min()} and '
        f'a distance needs at least 0: download {url}.'
      )
  return tuple(tensor.reshape(-1) for tensor in tensors.values())
