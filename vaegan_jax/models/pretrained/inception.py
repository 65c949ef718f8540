"""The Inception of 2015, whose features the literature's FID uses.

Inception v3 (arXiv 1512.00567) as TensorFlow published it in December 2015, and
as the PyTorch port of FID converted it. The average pooling of the blocks A, C
and E does not count the padding, and the last block uses max-pooling. Layers
have the names of torchvision's `Inception3`, as in the port's file, which
`weights.py` reads without torch. Batch normalisation, with its constant
moments, is folded into the convolution before it.
Axes: B images, H height, W width, C channels.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vaegan_jax.errors import UserError
from vaegan_jax.models.pretrained import weights
from vaegan_jax.models.pretrained.weights import FilePath, State

NUM_FEATURES = 2048
MIN_SIDE = 75  # Halved five times, without padding, it leaves one position.
SIDE = 299  # The size of its training, and of FID.
URL = (
  'https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/'
  'pt_inception-2015-12-05-6726825d.pth'
)
_TITLE = 'the Inception of 2015'
_NUM_CLASSES = 1008  # The unused classifier.
_BN_EPSILON = 1e-3


average_pool = functools.partial(
  nn.avg_pool,
  window_shape=(3, 3),
  strides=(1, 1),
  padding='SAME',
  count_include_pad=False,
)
_max_pool = functools.partial(
  nn.max_pool, window_shape=(3, 3), strides=(1, 1), padding='SAME'
)
_halve = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2))

# A network is a sequence of steps: a convolution, a pooling, or a fork. The
# branches of a fork are such sequences, whose outputs are concatenated.
_Step = Callable[[jax.Array], jax.Array] | tuple[tuple, ...]


def _conv(
  name: str,
  features: int,
  kernel: tuple[int, int] = (1, 1),
  strides: int = 1,
  padding: str = 'SAME',
) -> _Step:
  """Returns a convolution, with the batch normalisation in it, and ReLU."""

  def step(x):
    conv = nn.Conv(features, kernel, strides, padding, dtype=x.dtype, name=name)
    return nn.relu(conv(x))

  return step


def _chain(name: str, *sizes: tuple[int, ...]) -> tuple[_Step, ...]:
  """Builds convolutions in a row, each (features, height, width, strides)."""
  steps = []
  for index, (features, *size) in enumerate(sizes, start=1):
    own = f'{name}_{index}' if len(sizes) > 1 else name
    height, width, strides = (*size, *(1, 1, 1)[len(size) :])
    padding = 'SAME' if strides == 1 else 'VALID'
    steps.append(_conv(own, features, (height, width), strides, padding))
  return tuple(steps)


def _block_a(name: str, pool_features: int) -> _Step:
  return (
    _chain(f'{name}.branch1x1', (64,)),
    _chain(f'{name}.branch5x5', (48,), (64, 5, 5)),
    _chain(f'{name}.branch3x3dbl', (64,), (96, 3, 3), (96, 3, 3)),
    (average_pool, *_chain(f'{name}.branch_pool', (pool_features,))),
  )


def _block_b(name: str) -> _Step:
  return (
    _chain(f'{name}.branch3x3', (384, 3, 3, 2)),
    _chain(f'{name}.branch3x3dbl', (64,), (96, 3, 3), (96, 3, 3, 2)),
    (_halve,),
  )


def _block_c(name: str, width: int) -> _Step:
  down, along = (width, 7, 1), (width, 1, 7)
  return (
    _chain(f'{name}.branch1x1', (192,)),
    _chain(f'{name}.branch7x7', (width,), along, (192, 7, 1)),
    _chain(f'{name}.branch7x7dbl', (width,), down, along, down, (192, 1, 7)),
    (average_pool, *_chain(f'{name}.branch_pool', (192,))),
  )


def _block_d(name: str) -> _Step:
  return (
    _chain(f'{name}.branch3x3', (192,), (320, 3, 3, 2)),
    _chain(
      f'{name}.branch7x7x3', (192,), (192, 1, 7), (192, 7, 1), (192, 3, 3, 2)
    ),
    (_halve,),
  )


def _block_e(name: str, pool: Callable[[jax.Array], jax.Array]) -> _Step:
  def split(branch):
    return (
      (_conv(f'{name}.{branch}a', 384, (1, 3)),),
      (_conv(f'{name}.{branch}b', 384, (3, 1)),),
    )

  return (
    _chain(f'{name}.branch1x1', (320,)),
    (_conv(f'{name}.branch3x3_1', 384), split('branch3x3_2')),
    (
      *_chain(f'{name}.branch3x3dbl', (448,), (384, 3, 3)),
      split('branch3x3dbl_3'),
    ),
    (pool, *_chain(f'{name}.branch_pool', (192,))),
  )


_NETWORK = (
  _conv('Conv2d_1a_3x3', 32, (3, 3), 2, 'VALID'),
  _conv('Conv2d_2a_3x3', 32, (3, 3), 1, 'VALID'),
  _conv('Conv2d_2b_3x3', 64, (3, 3)),
  _halve,
  _conv('Conv2d_3b_1x1', 80),
  _conv('Conv2d_4a_3x3', 192, (3, 3), 1, 'VALID'),
  _halve,
  _block_a('Mixed_5b', 32),
  _block_a('Mixed_5c', 64),
  _block_a('Mixed_5d', 64),
  _block_b('Mixed_6a'),
  _block_c('Mixed_6b', 128),
  _block_c('Mixed_6c', 160),
  _block_c('Mixed_6d', 160),
  _block_c('Mixed_6e', 192),
  _block_d('Mixed_7a'),
  _block_e('Mixed_7b', average_pool),
  _block_e('Mixed_7c', _max_pool),
)


class Inception(nn.Module):
  """The network up to the spatial mean of its last block."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns the features, in the dtype of x.

    Args:
      x: [B, H, W, C] in [-1, 1], colour (C = 3) or grey (C = 1); H and W at
        least 75, and 299 for FID: see `resize`.

    Returns:
      [B, 2048], not negative.

    Raises:
      ValueError: x has another shape.
    """
    if x.ndim != 4 or x.shape[3] not in (1, 3) or min(x.shape[1:3]) < MIN_SIDE:
      raise ValueError(
        f'Inception takes images [B, H, W, C] with C = 1 or 3 and sides of at '
        f'least {MIN_SIDE}, and not {list(x.shape)}'
      )
    x = jnp.broadcast_to(x, (*x.shape[:3], 3))
    return _run(_NETWORK, x).mean(axis=(1, 2))


def _run(steps: tuple[_Step, ...], x: jax.Array) -> jax.Array:
  """Applies the steps; called within a module's `__call__`."""
  for step in steps:
    if isinstance(step, tuple):
      x = jnp.concatenate([_run(branch, x) for branch in step], axis=-1)
    else:
      x = step(x)
  return x


def resize(images: jax.Array) -> jax.Array:
  """Resizes images to 299x299, as the PyTorch port of FID does.

  Bilinear, aligned at the pixels' centres, for any aspect ratio, without
  antialiasing. TensorFlow's resize of the first FIDs aligns the pixels' upper
  left corners, which shifts the image.

  Maps [B, H, W, C] to [B, 299, 299, C].
  """
  shape = (images.shape[0], SIDE, SIDE, images.shape[3])
  return jax.image.resize(images, shape, 'bilinear', antialias=False)


def is_inception(state: State) -> bool:
  """Returns whether a state dict {name: tensor} is this kind of network's."""
  return any(name.startswith('Mixed_') for name in state)


def to_variables(path: FilePath, state: State) -> dict[str, Any]:
  """Converts the PyTorch port's state dict to variables of `Inception`.

  Returns:
    {'params': {layer: {'kernel', 'bias'}}}, numpy, float32.

  Raises:
    UserError: the file holds another network, such as torchvision's own.
  """
  state = {  # Without the number of batches, which torch counts since 0.4.1.
    name: tensor
    for name, tensor in state.items()
    if not name.endswith('.num_batches_tracked')
  }
  shapes, kernels = {}, _kernel_shapes()
  for layer, (*size, inputs, features) in kernels.items():
    shapes[f'{layer}.conv.weight'] = (features, inputs, *size)
    for name in ('weight', 'bias', 'running_mean', 'running_var'):
      shapes[f'{layer}.bn.{name}'] = (features,)
  # The classifier distinguishes torchvision's own, which has 1000 classes.
  shapes['fc.weight'] = (_NUM_CLASSES, NUM_FEATURES)
  shapes['fc.bias'] = (_NUM_CLASSES,)
  tensors = weights.select(path, state, shapes, _TITLE, URL)
  return {'params': {name: _fold(path, name, tensors) for name in kernels}}


@functools.cache
def _kernel_shapes() -> dict[str, tuple[int, ...]]:
  """Returns the shape of each kernel, once: tracing them takes a second."""
  x = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
  params = jax.eval_shape(Inception().init, jax.random.key(0), x)['params']
  return {layer: leaves['kernel'].shape for layer, leaves in params.items()}


def _fold(path: FilePath, name: str, tensors: State) -> dict[str, np.ndarray]:
  """Folds batch normalisation into its convolution: {'kernel', 'bias'}."""
  kernel, weight, bias, mean, variance = (
    tensors[f'{name}.{tensor}'].astype(np.float64)
    for tensor in (
      *('conv.weight', 'bn.weight', 'bn.bias'),
      *('bn.running_mean', 'bn.running_var'),
    )
  )
  if variance.min() < 0:
    raise UserError(
      f'{path} does not hold {_TITLE}, because {name}.bn.running_var has '
      f'{variance.min():g} and is a variance: download {URL}.'
    )
  scale = weight / np.sqrt(variance + _BN_EPSILON)
  # From [O, I, H, W] to Flax's [H, W, I, O].
  kernel = (kernel * scale[:, None, None, None]).transpose(2, 3, 1, 0)
  folded = {'kernel': kernel, 'bias': bias - mean * scale}
  return {k: np.array(v, np.float32, order='C') for k, v in folded.items()}
