"""The plain encoder and decoder: a stack of blocks.

Axes: B batch, S the axes of space, C channels, Z entries of a latent.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.models import blocks
from vaegan_jax.models.spectral_mask import SpectralMask


class Encoder(nn.Module):
  """Down-blocks, then one layer to the latent's input.

  Attributes:
    size: entries that the latent takes, per image or per position.
    flat: whether an image has one latent vector, not one per position.
    width: channels of the first block, before its multiplier.
    channel_multipliers: one per block, in forward order.
    norm: 'none', 'group', 'instance' or 'batch'.
    dtype: the convolutions'; None: that of x.
    remat: whether the gradient recomputes the blocks instead of storing them.
    strides: by which each block divides the axes, in forward order; (): 2 each.
    activation: 'own', leaky ReLU, or 'snake'.
    patch_size: side of the squares of pixels that are channels of the input.
  """

  size: int
  flat: bool
  width: int
  channel_multipliers: Sequence[int]
  norm: str = 'none'
  dtype: Any = None
  remat: bool = False
  strides: Sequence[int] = ()
  activation: str = 'own'
  patch_size: int = 1

  @property
  def factor(self) -> int:
    """The downsampling factor of the latent's map, along each axis."""
    return self.patch_size * math.prod(self._strides)

  @property
  def _strides(self) -> tuple[int, ...]:
    return blocks.strides_of(self.strides, len(self.channel_multipliers))

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps x: [B, *S, C] to [B, size] or [B, *(S / factor), size]."""
    block = maybe_remat(blocks.DownBlock, self.remat)
    options = {'dtype': self.dtype, 'activation': self.activation}
    x = blocks.to_patches(x, self.patch_size)
    for i, stride in enumerate(self._strides):
      features = self.width * self.channel_multipliers[i]
      options |= {'stride': stride, 'name': f'block_{i}'}
      x = block(features, self.norm, **options)(x, train)
    return blocks.to_latent(x, self.size, flat=self.flat, dtype=self.dtype)


class Decoder(nn.Module):
  """One layer to the smallest feature map, then up-blocks, then the image.

  The blocks mirror the encoder's; the last two have the encoder's first width.

  Attributes:
    channels: C.
    flat_space: spatial shape of the smallest map if the latent is flat; (): the
      latent is a map.
    width, channel_multipliers, norm, dtype, remat, strides, activation,
      patch_size: as the encoder's.
    kernel_size: of the first and the last convolution.
    spectral_mask: window of the mask of a sound's spectra; 0: none.
    spectral_noise: whether the mask adds noise.
  """

  channels: int
  flat_space: tuple[int, ...]
  width: int
  channel_multipliers: Sequence[int]
  norm: str = 'none'
  dtype: Any = None
  remat: bool = False
  strides: Sequence[int] = ()
  activation: str = 'own'
  patch_size: int = 1
  kernel_size: int = 3
  spectral_mask: int = 0
  spectral_noise: bool = False

  @nn.compact
  def __call__(self, latents: jax.Array, train: bool = False) -> jax.Array:
    """Maps latents: [B, Z] or [B, *S, Z] to images [B, *S', C] in [-1, 1]."""
    block = maybe_remat(blocks.UpBlock, self.remat)
    widths = [self.width * m for m in self.channel_multipliers]
    x = blocks.from_latent(
      latents,
      widths[-1],
      flat_space=self.flat_space,
      kernel_size=self.kernel_size,
      dtype=self.dtype,
    )
    x = blocks.activate(x, self.activation, blocks.leaky_relu)
    first = x
    strides = blocks.strides_of(self.strides, len(widths))
    options = {'dtype': self.dtype, 'activation': self.activation}
    for i, features in enumerate([*reversed(widths[:-1]), widths[0]]):
      options |= {'stride': strides[-1 - i], 'name': f'block_{i}'}
      x = block(features, self.norm, **options)(x, train)
    sides = (self.kernel_size,) * (x.ndim - 2)
    channels = self.channels * self.patch_size ** len(sides)
    to_image = blocks.Conv(channels, sides, dtype=self.dtype, name='to_image')
    x = blocks.from_patches(to_image(x), self.patch_size)
    x = nn.tanh(x.astype(jnp.float32))
    if self.spectral_mask:
      mask = SpectralMask(
        self.spectral_mask, self.spectral_noise, self.dtype, name='mask'
      )
      x = jnp.clip(mask(x, first), -1, 1)
    return x


def maybe_remat(block: type[nn.Module], remat: bool) -> type[nn.Module]:
  """Wraps a block that is called as (x, train) in `nn.remat`, if asked to."""
  return nn.remat(block, static_argnums=2) if remat else block
