"""The plain encoder and decoder: a stack of blocks, and nothing beside it.

Axes: B batch, S the axes of space, C channels, Z entries of a latent.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.models import blocks


class Encoder(nn.Module):
  """Down-blocks, then one layer to what the latent takes.

  Attributes:
    size: entries that the latent takes, of the image or of each place.
    flat: whether one latent is of the whole image; else there is one a place.
    width: channels of the first block, before its multiplier.
    channel_multipliers: one a block, in forward order.
    norm: 'none', 'group', 'instance' or 'batch'.
    dtype: that the convolutions compute in; None: that of x.
    remat: whether its blocks are computed again for the gradient, and not kept.
  """

  size: int
  flat: bool
  width: int
  channel_multipliers: Sequence[int]
  norm: str = 'none'
  dtype: Any = None
  remat: bool = False

  @property
  def factor(self) -> int:
    """How many times smaller a side of the latent's map is."""
    return 2 ** len(self.channel_multipliers)

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps x: [B, *S, C] to [B, size] or [B, *(S / factor), size]."""
    block = kept_or_not(blocks.DownBlock, self.remat)
    for i, multiplier in enumerate(self.channel_multipliers):
      features = self.width * multiplier
      x = block(features, self.norm, dtype=self.dtype, name=f'block_{i}')(
        x, train
      )
    return blocks.to_latent(x, self.size, flat=self.flat, dtype=self.dtype)


class Decoder(nn.Module):
  """One layer to the smallest feature map, then up-blocks, then the image.

  The blocks mirror the encoder's; the last two have the encoder's first width.

  Attributes:
    channels: C.
    flat_space: sides of the smallest map, of a flat latent; (): it is a map.
    width, channel_multipliers, norm, dtype, remat: as the encoder's.
  """

  channels: int
  flat_space: tuple[int, ...]
  width: int
  channel_multipliers: Sequence[int]
  norm: str = 'none'
  dtype: Any = None
  remat: bool = False

  @nn.compact
  def __call__(self, latents: jax.Array, train: bool = False) -> jax.Array:
    """Maps latents: [B, Z] or [B, *S, Z] to images [B, *S', C] in [-1, 1]."""
    block = kept_or_not(blocks.UpBlock, self.remat)
    widths = [self.width * m for m in self.channel_multipliers]
    x = blocks.from_latent(
      latents, widths[-1], flat_space=self.flat_space, dtype=self.dtype
    )
    x = nn.leaky_relu(x, blocks.LEAKY_SLOPE)
    for i, features in enumerate([*reversed(widths[:-1]), widths[0]]):
      x = block(features, self.norm, dtype=self.dtype, name=f'block_{i}')(
        x, train
      )
    to_image = blocks.Conv(
      self.channels, (3,) * (x.ndim - 2), dtype=self.dtype, name='to_image'
    )
    return nn.tanh(to_image(x).astype(jnp.float32))


def kept_or_not(block: type[nn.Module], remat: bool) -> type[nn.Module]:
  """A block called as (x, train), whose insides are perhaps not kept."""
  return nn.remat(block, static_argnums=2) if remat else block
