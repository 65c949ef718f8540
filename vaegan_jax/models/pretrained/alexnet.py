"""The convolutions of AlexNet (arXiv 1404.5997), for LPIPS as an evaluation.

The weights come from torchvision's file. `conv1` is the first convolution,
after its ReLU.
"""

from typing import Any

import flax.linen as nn
import jax
import numpy as np

from vaegan_jax.models.pretrained import weights
from vaegan_jax.models.pretrained.vgg import normalize
from vaegan_jax.models.pretrained.weights import FilePath, State

URL = 'https://download.pytorch.org/models/alexnet-owt-7be5be79.pth'
WIDTHS = (64, 192, 384, 256, 256)
LAYERS = ('conv1', 'conv2', 'conv3', 'conv4', 'conv5')
MIN_SIDE = 63  # It leaves the last layers 3 positions, and LPIPS has 64.
_KERNELS = (11, 5, 3, 3, 3)
_INDICES = (0, 3, 6, 8, 10)  # Torchvision's, of `features`.


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
    x, features = normalize(x, 'AlexNet', MIN_SIDE), {}
    for i, name in enumerate(LAYERS):
      if i in (1, 2):
        x = nn.max_pool(x, (3, 3), (2, 2))
      conv = nn.Conv(
        WIDTHS[i],
        (_KERNELS[i],) * 2,
        strides=1 if i else 4,
        padding=_KERNELS[i] // 2 if i else 2,
        name=name,
      )
      x = features[name] = nn.relu(conv(x))
    return features


def to_variables(path: FilePath, state: State) -> dict[str, Any]:
  """Converts torchvision's state dict to variables of `AlexNet`.

  Args:
    path: path of the file, for messages.
    state: {name: tensor} in the file; the classifier is ignored.

  Returns:
    {'params': {layer: {'kernel', 'bias'}}}, numpy, float32.

  Raises:
    UserError: the file holds another network.
  """
  shapes, channels = {}, 3
  for index, width, size in zip(_INDICES, WIDTHS, _KERNELS, strict=True):
    shapes[f'features.{index}.weight'] = (width, channels, size, size)
    shapes[f'features.{index}.bias'] = (width,)
    channels = width
  features = {n: a for n, a in state.items() if n.startswith('features.')}
  title = "torchvision's AlexNet"
  tensors = weights.select(path, features, shapes, title, URL)
  params = {}
  for name, index in zip(LAYERS, _INDICES, strict=True):
    kernel = tensors[f'features.{index}.weight'].transpose(2, 3, 1, 0)
    params[name] = {
      'kernel': np.array(kernel, order='C'),
      'bias': tensors[f'features.{index}.bias'],
    }
  return {'params': params}
