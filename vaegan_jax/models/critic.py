"""The critic, which separates photographs from reconstructions.

Its blocks are the layers of the perceptual distance: `block_0`, `block_1`, ...
in forward order. By default it has neither BatchNorm nor dropout, since an
image's features would depend on its batch or on chance.
Axes: B batch, S the axes of space, C channels.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.models import blocks


class ResidualDownBlock(nn.Module):
  """A residual block of the critic: two convolutions, the second of stride 2.

  The shortcut is the mean over squares and a 1x1 convolution (as in arXiv
  1912.04958, section 4.1). The output is taken after its activation. Without a
  norm it is proportional to the contrast of the input.

  Attributes:
    features: channels of the output.
    norm: 'none', 'group', 'instance' or 'batch'.
    spectral_norm: whether every kernel is normalised; see
      `blocks.maybe_spectral_norm`.
    dtype: the convolutions'; None: that of x.
  """

  features: int
  norm: str = 'none'
  spectral_norm: bool = False
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps x: [B, *S, C] to [B, *(S / 2), features] float32."""
    num_axes, channels = x.ndim - 2, x.shape[-1]
    normalized = functools.partial(
      blocks.maybe_spectral_norm, on=self.spectral_norm, train=train
    )
    conv = functools.partial(nn.Conv, dtype=self.dtype)
    first = conv(channels, (3,) * num_axes, name='conv_0')
    second = blocks.downsample_conv(
      self.features, num_axes, self.dtype, name='conv_1'
    )
    shortcut = conv(
      self.features, (1,) * num_axes, use_bias=False, name='shortcut'
    )
    h = blocks.Norm(self.norm)(normalized(first)(x), train)
    h = normalized(second)(nn.leaky_relu(h, blocks.LEAKY_SLOPE))
    h = blocks.Norm(self.norm)(h, train)
    skip = normalized(shortcut)(blocks.halve_image(x))
    # The sum of two that vary alike varies twice as much.
    h = (blocks.at_least_float32(h) + skip) * math.sqrt(0.5)
    return nn.leaky_relu(h, blocks.LEAKY_SLOPE)


class Critic(nn.Module):
  """Down-blocks, then one layer to the logits.

  With several scales, each has a critic of its own (arXiv 1711.11585, section
  3.2). `scale_1` gets the image's means over squares of 2x2, `scale_2` the
  means of those. Their layers are `scale_1/block_0` and so on.

  Attributes:
    width: channels of the first block, before its multiplier.
    channel_multipliers: one per block, in forward order. A residual critic has
      one more, the first, for the layer before its blocks.
    norm: 'none', 'group', 'instance' or 'batch'.
    spectral_norm: whether every kernel is divided by its largest singular value
      as a matrix; see `blocks.maybe_spectral_norm`.
    head: 'dense', one logit per image, which ties a trained critic to one image
      size; 'patch', one per position of the last block (arXiv 1611.07004,
      section 3.2.2); or 'none', which returns the last block's feature.
    num_scales: number of critics; above 1 the head is 'patch' or 'none'.
    network: 'plain' or 'residual', the kind of its blocks.
    dtype: the convolutions'; None: that of x.
  """

  width: int
  channel_multipliers: Sequence[int]
  norm: str = 'none'
  spectral_norm: bool = False
  head: str = 'dense'
  num_scales: int = 1
  network: str = 'plain'
  dtype: Any = None

  @property
  def num_halvings(self) -> int:
    """The power of 2 that must divide each image size."""
    return len(self._block_names) + self.num_scales - 1

  @property
  def layer_names(self) -> tuple[str, ...]:
    """The layers of the perceptual distance, in forward order."""
    scales = ['', *(f'scale_{i}/' for i in range(1, self.num_scales))]
    return tuple(f'{s}{name}' for s in scales for name in self._block_names)

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Computes the logits of images.

    Args:
      x: [B, *S, C] in [-1, 1].
      train: whether norms use and update the batch's own moments.

    Returns:
      Logits, positive means real: [B], or a map [B, *S'] if the head is
      'patch'. With several scales it is [B, *S', num_scales]. Smaller maps are
      repeated, so that each scale counts alike in the mean.
    """
    maps = [self._one_scale(x, train)]
    for scale in range(1, self.num_scales):
      x = blocks.halve_image(x)
      coarse = self.clone(parent=self, name=f'scale_{scale}', num_scales=1)
      maps.append(_repeat(coarse(x, train), 2**scale, x.ndim - 2))
    return jnp.stack(maps, axis=-1) if len(maps) > 1 else maps[0]

  @property
  def _block_names(self) -> list[str]:
    num_blocks = len(self.channel_multipliers) - (self.network == 'residual')
    return [f'block_{i}' for i in range(num_blocks)]

  def _one_scale(self, x, train):
    """Computes the logits of one scale; called within `__call__`."""
    names, block = self._block_names, blocks.DownBlock
    widths = [self.width * m for m in self.channel_multipliers]
    if self.network == 'residual':
      block = ResidualDownBlock
      kernel_size = (3,) * (x.ndim - 2)
      conv = blocks.Conv(
        widths[0], kernel_size, dtype=self.dtype, name='from_image'
      )
      x = blocks.maybe_spectral_norm(conv, self.spectral_norm, train)(x)
      x = nn.leaky_relu(x, blocks.LEAKY_SLOPE)
    for name, features in zip(names, widths[-len(names) :], strict=True):
      x = block(features, self.norm, self.spectral_norm, self.dtype, name=name)(
        x, train
      )
    if self.head == 'none':
      return x
    x = blocks.at_least_float32(x)
    if self.head == 'dense':
      x = x.reshape(x.shape[0], -1)
    dense = blocks.maybe_spectral_norm(nn.Dense(1), self.spectral_norm, train)
    return dense(x)[..., 0]


def _repeat(logits: jax.Array, times: int, num_axes: int) -> jax.Array:
  """Repeats each entry of a map along every axis of space."""
  for axis in range(1, num_axes + 1):
    logits = jnp.repeat(logits, times, axis)
  return logits
