"""Blocks: the convolution, norm and activation that every network stacks.

A block's output is taken *after* its activation, so a captured feature is
what the next layer really sees. Axes: B batch, H height, W width, C channels.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from vaegan_jax.models.doubling import double_and_convolve
from vaegan_jax.models.halving import halve

NORMS = ('none', 'group', 'batch')
LEAKY_SLOPE = 0.2
MAX_GROUPS = 32


class Norm(nn.Module):
  """No norm, GroupNorm (arXiv 1803.08494) or BatchNorm (arXiv 1502.03167).

  Attributes:
    kind: 'none', 'group' or 'batch'. GroupNorm takes the most groups, up to
      32, that divide the channels. BatchNorm normalises over the images of
      one device; its running averages are in the collection `batch_stats`.
  """

  kind: str = 'none'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps x: [B, H, W, C] to the same shape."""
    if self.kind == 'none':
      return x
    if self.kind == 'group':
      return nn.GroupNorm(num_groups=math.gcd(MAX_GROUPS, x.shape[-1]))(x)
    if self.kind == 'batch':
      return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
    raise ValueError(f'norm is {self.kind!r}; known: {NORMS}')


def spectrally(layer: nn.Module, on: bool, train: bool) -> Callable:
  """A layer with a normalised kernel (arXiv 1802.05957), if it is on.

  Reshaped to [inputs of one output, outputs], the kernel has largest singular
  value 1, and so has a dense layer. A convolution has it at one place alone:
  patches overlap, and over a whole image its own is larger. In a `DownBlock` a
  pixel is in up to four patches, which makes it 2 at most.

  One step of power iteration in training; its vectors are in `batch_stats`.
  """
  if not on:
    return layer
  return functools.partial(nn.SpectralNorm(layer), update_stats=train)


def convolution(
  features: int, taps: int, function: Callable[[jax.Array, jax.Array], Any]
) -> nn.Conv:
  """A convolution's parameters in Flax's names, at work in an equal form.

  Args:
    features: channels of the output.
    taps: of the kernel, on each axis.
    function: (x, kernel [taps, taps, C, features]) -> what the layer gives,
      but for the bias.
  """
  return nn.Conv(
    features,
    (taps, taps),
    conv_general_dilated_cls=lambda: (
      lambda x, kernel, *_, **__: function(x, kernel)
    ),
  )


class DownBlock(nn.Module):
  """Halves height and width: 4x4 convolution of stride 2, norm, leaky ReLU.

  Attributes:
    features: channels of the output.
    norm: 'none', 'group' or 'batch'.
    spectral_norm: whether the kernel is normalised, as `spectrally` says.
  """

  features: int
  norm: str = 'none'
  spectral_norm: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps x: [B, H, W, C] to [B, H / 2, W / 2, features]."""
    conv = convolution(self.features, 4, halve)
    x = spectrally(conv, self.spectral_norm, train)(x)
    x = Norm(self.norm)(x, train)
    return nn.leaky_relu(x, LEAKY_SLOPE)


class UpBlock(nn.Module):
  """Doubles height and width: nearest neighbour, 3x3 convolution, norm, ReLU.

  Resizing first gives every output pixel the same number of taps, which a
  strided transposed convolution does not (its checkerboard:
  https://distill.pub/2016/deconv-checkerboard).
  """

  features: int
  norm: str = 'none'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps x: [B, H, W, C] to [B, 2 H, 2 W, features]."""
    x = convolution(self.features, 3, double_and_convolve)(x)
    x = Norm(self.norm)(x, train)
    return nn.leaky_relu(x, LEAKY_SLOPE)
