"""The critic: tells photographs from reconstructions.

Its blocks are the layers of the perceptual distance: `block_0`, `block_1`, ...
in forward order. Neither BatchNorm nor dropout by default, because either
would make an image's features depend on its batch-mates or on chance.
Axes: B batch, S the axes of space, C channels.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.models import blocks
from vaegan_jax.models.residual_blocks import ResidualDownBlock, halve_image


class Critic(nn.Module):
  """Down-blocks, then one layer to the logits.

  With several scales there is a critic of its own for the image at each
  (arXiv 1711.11585, section 3.2): `scale_1` sees its means over squares of 2x2,
  `scale_2` the means of those, and their layers are `scale_1/block_0` and so
  on.

  Attributes:
    width: channels of the first block, before its multiplier.
    channel_multipliers: one a block, in forward order; before them, of a
      residual critic, one of the layer that the image passes first.
    norm: 'none', 'group', 'instance' or 'batch'.
    spectral_norm: whether every kernel is divided by the largest singular
      value that it has as a matrix; see `blocks.spectrally`.
    head: 'dense', one logit an image, which ties a trained critic to one image
      size; 'patch', one for each place of the last block (arXiv 1611.07004,
      section 3.2.2); or 'none', the last block's feature is returned.
    num_scales: how many critics; above 1 the head is 'patch' or 'none'.
    network: 'plain' or 'residual', the kind of its blocks.
    dtype: that the convolutions compute in; None: that of x.
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
    """By how many halvings a side of an image must be divisible."""
    return len(self._block_names) + self.num_scales - 1

  @property
  def layer_names(self) -> tuple[str, ...]:
    """The layers of the perceptual distance, in forward order."""
    scales = ['', *(f'scale_{i}/' for i in range(1, self.num_scales))]
    return tuple(f'{s}{name}' for s in scales for name in self._block_names)

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Judges images.

    Args:
      x: [B, *S, C] in [-1, 1].
      train: whether norms use and update the batch's own moments.

    Returns:
      Logits, positive means real: [B], or, of the head 'patch', a map [B, *S']
      of them, and with several scales [B, *S', num_scales], where those of
      fewer places are repeated, so that each scale counts alike in the mean.
    """
    maps = [self._judge(x, train)]
    for scale in range(1, self.num_scales):
      x = halve_image(x)
      coarse = self.clone(parent=self, name=f'scale_{scale}', num_scales=1)
      maps.append(_repeat(coarse(x, train), 2**scale, x.ndim - 2))
    return jnp.stack(maps, axis=-1) if len(maps) > 1 else maps[0]

  @property
  def _block_names(self) -> list[str]:
    num_blocks = len(self.channel_multipliers) - (self.network == 'residual')
    return [f'block_{i}' for i in range(num_blocks)]

  def _judge(self, x, train):
    """Of one scale; within `__call__`."""
    names, block = self._block_names, blocks.DownBlock
    widths = [self.width * m for m in self.channel_multipliers]
    if self.network == 'residual':
      block = ResidualDownBlock
      taps = (3,) * (x.ndim - 2)
      conv = blocks.Conv(widths[0], taps, dtype=self.dtype, name='from_image')
      x = blocks.spectrally(conv, self.spectral_norm, train)(x)
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
    dense = blocks.spectrally(nn.Dense(1), self.spectral_norm, train)
    return dense(x)[..., 0]


def _repeat(logits: jax.Array, times: int, num_axes: int) -> jax.Array:
  """Repeats each entry of a map along every axis of space."""
  for axis in range(1, num_axes + 1):
    logits = jnp.repeat(logits, times, axis)
  return logits
