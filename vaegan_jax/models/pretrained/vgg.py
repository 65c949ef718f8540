"""The convolutions of VGG16 and VGG19 (arXiv 1409.1556), and their weights.

Their layers are named as in style transfer (arXiv 1508.06576): `conv3_2` is the
second convolution of the third block, *after* its ReLU. The weights come from
torchvision's files, which `weights.py` reads without torch.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vaegan_jax.errors import UserError
from vaegan_jax.models.pretrained import weights
from vaegan_jax.models.pretrained.weights import FilePath, State
from vaegan_jax.names import VGG_CONVOLUTIONS

# By depth, the convolutions in each block.
CONVS = {int(name[3:]): convs for name, convs in VGG_CONVOLUTIONS.items()}
WIDTHS = (64, 128, 256, 512, 512)
MIN_SIDE = 16  # Halved four times, it leaves the last block one position.
IMAGENET_MEAN = (0.485, 0.456, 0.406)  # Red, green and blue, in [0, 1].
IMAGENET_STD = (0.229, 0.224, 0.225)

LPIPS_LAYERS = ('conv1_2', 'conv2_2', 'conv3_3', 'conv4_3', 'conv5_3')

URLS = {
  16: 'https://download.pytorch.org/models/vgg16-397923af.pth',
  19: 'https://download.pytorch.org/models/vgg19-dcbb9e9d.pth',
}


class ConvReLU(nn.Module):
  """3x3 convolution that keeps height and width, then ReLU."""

  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x: [B, H, W, C] to [B, H, W, features], in the dtype of x."""
    return nn.relu(nn.Conv(self.features, (3, 3), padding=1, dtype=x.dtype)(x))


class VGG(nn.Module):
  """Five blocks of convolutions with pooling after each."""

  depth: int  # 16 or 19.
  # [B, H, W, C] -> [B, H', W', C], half the size; None: the maximum of 2x2
  # squares.
  pool: Callable[[jax.Array], jax.Array] | None = None

  def __post_init__(self):
    _check_depth(self.depth)
    super().__post_init__()

  @property
  def layer_names(self) -> tuple[str, ...]:
    """`conv1_1`, `conv1_2`, `conv2_1`, ... in forward order."""
    return tuple(_indices(self.depth))

  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Runs every block, in the dtype of x.

    Args:
      x: [B, H, W, C] in [-1, 1], colour (C = 3) or grey (C = 1); H and W at
        least 16.
      train: has no effect; critics take it.

    Returns:
      [B, H // 32, W // 32, 512], empty if a side is below 32.

    Raises:
      ValueError: x has another shape or dtype.
    """
    return max_pool(self.features(x)[self.layer_names[-1]])

  @nn.compact
  def features(self, x: jax.Array) -> dict[str, jax.Array]:
    """Returns {layer: [B, H', W', C']} in forward order; see `__call__`."""
    x, features = normalize(x, 'VGG', MIN_SIDE), {}
    for block, num_convs in enumerate(CONVS[self.depth]):
      x = (self.pool or max_pool)(x) if block else x
      for conv in range(num_convs):
        name = f'conv{block + 1}_{conv + 1}'
        x = features[name] = ConvReLU(WIDTHS[block], name=name)(x)
    return features


def max_pool(x: jax.Array) -> jax.Array:
  """Max-pools 2x2 squares; an odd side loses its last row or column.

  The gradient of `nn.max_pool` scatters, which GPUs do in no fixed order.

  Maps x: [B, H, W, C] to [B, H // 2, W // 2, C].
  """
  batch, height, width, channels = x.shape
  height, width = height // 2, width // 2
  x = x[:, : 2 * height, : 2 * width]
  return x.reshape(batch, height, 2, width, 2, channels).max((2, 4))


def load_vgg(path: FilePath, depth: int) -> dict[str, Any]:
  """Reads the variables of `VGG(depth)` from torchvision's file.

  Returns:
    See `to_variables`.

  Raises:
    UserError: the file is damaged or holds another network.
    ValueError: the depth is neither 16 nor 19.
  """
  _check_depth(depth)
  return to_variables(path, weights.read_state_dict(path), depth)


def to_variables(path: FilePath, state: State, depth: int) -> dict[str, Any]:
  """Converts torchvision's state dict to variables of `VGG(depth)`.

  Args:
    path: path of the file, for messages.
    state: {name: tensor} in the file; the classifier is ignored.
    depth: 16 or 19.

  Returns:
    {'params': {layer: {'Conv_0': {'kernel', 'bias'}}}}, numpy, float32.

  Raises:
    UserError: the file holds another network.
  """
  features = {n: a for n, a in state.items() if n.startswith('features.')}
  for other in CONVS:
    if other != depth and features.keys() == _shapes(other).keys():
      raise UserError(
        f'{path} holds VGG{other} and not VGG{depth}: set the depth to {other} '
        f'or download {URLS[depth]}.'
      )
  title = f"torchvision's VGG{depth}"
  tensors = weights.select(path, features, _shapes(depth), title, URLS[depth])
  convs = convolutions(tensors, _indices(depth))
  return {'params': {name: {'Conv_0': conv} for name, conv in convs.items()}}


def convolutions(tensors: State, indices: Mapping[str, int]) -> dict[str, Any]:
  """Returns {layer: {'kernel', 'bias'}} of those at indices of `features`."""
  return {
    # From [O, I, H, W] to Flax's [H, W, I, O].
    layer: {
      'kernel': np.array(
        tensors[f'features.{index}.weight'].transpose(2, 3, 1, 0), order='C'
      ),
      'bias': tensors[f'features.{index}.bias'],
    }
    for layer, index in indices.items()
  }


def _check_depth(depth: int) -> None:
  if depth not in CONVS:
    raise ValueError(f'the depth of VGG is {depth!r}; known: {list(CONVS)}')


def normalize(x: jax.Array, network: str, min_side: int) -> jax.Array:
  """Normalises x [B, H, W, 1 or 3] in [-1, 1] by ImageNet's moments.

  Raises:
    ValueError: x has another shape or dtype, or a side below `min_side`.
  """
  if (
    x.ndim != 4
    or x.shape[3] not in (1, 3)
    or min(x.shape[1:3]) < min_side
    or not jnp.issubdtype(x.dtype, jnp.floating)
  ):
    raise ValueError(
      f'{network} takes floating-point images [B, H, W, C] with C = 1 or 3 and '
      f'sides of at least {min_side}, and not {x.dtype}{list(x.shape)}'
    )
  mean = 2 * np.array(IMAGENET_MEAN) - 1  # For values in [-1, 1].
  std = 2 * np.array(IMAGENET_STD)
  # Broadcasting turns one channel into three.
  return (x - mean.astype(x.dtype)) / std.astype(x.dtype)


def _indices(depth: int) -> dict[str, int]:
  """Returns torchvision's {'conv1_1': 0, 'conv1_2': 2, 'conv2_1': 5, ...}."""
  indices, index = {}, 0
  for block, num_convs in enumerate(CONVS[depth]):
    for conv in range(num_convs):
      indices[f'conv{block + 1}_{conv + 1}'] = index
      index += 2  # The ReLU counts,
    index += 1  # and the max-pooling.
  return indices


def _shapes(depth: int) -> dict[str, tuple[int, ...]]:
  """Returns torchvision's {'features.0.weight': (64, 3, 3, 3), ...}."""
  shapes, channels = {}, 3
  for layer, index in _indices(depth).items():
    width = WIDTHS[int(layer[len('conv')]) - 1]
    shapes[f'features.{index}.weight'] = (width, channels, 3, 3)
    shapes[f'features.{index}.bias'] = (width,)
    channels = width
  return shapes
