"""The plain encoder and decoder: a stack of blocks.

Axes: B batch, S the axes of space, C channels, Z entries of a latent.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.models import blocks
from vaegan_jax.models.spectral_mask import SpectralMask


class _Network(blocks.Network, kw_only=True):
  """The blocks that both halves have."""

  norm: str = 'none'  # Kind of `blocks.Norm`.

  @nn.nowrap
  def _block(self, block: type[nn.Module], i: int, features: int, stride: int):
    """Returns a block, which is called as (x, train)."""
    block = nn.remat(block, static_argnums=2) if self.remat else block
    options = {'dtype': self.dtype, 'activation': self.activation}
    options |= {'stride': stride, 'name': f'block_{i}'}
    return block(features, self.norm, **options)


class Encoder(_Network):
  """Down-blocks, one a level, then one layer to the latent's input."""

  size: int  # Entries that the latent takes, per image or per position.
  flat: bool  # True: an image has one latent vector, and not one per position.

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps x: [B, *S, C] to [B, size] or [B, *(S / factor), size]."""
    x = blocks.to_patches(x, self.patch_size)
    levels = zip(self.widths, self.level_strides, strict=True)
    for i, level in enumerate(levels):
      x = self._block(blocks.DownBlock, i, *level)(x, train)
    return blocks.to_latent(self, x)


class Decoder(_Network):
  """One layer to the smallest feature map, then up-blocks, then the image.

  The blocks mirror the encoder's; the last two have the encoder's first width.
  """

  channels: int
  # Spatial shape of the smallest map if the latent is flat; (): it is a map.
  flat_space: tuple[int, ...]
  kernel_size: int = 3  # Size of the first and the last convolution.
  spectral_mask: int = 0  # Window of the mask of a sound's spectra; 0: none.
  spectral_noise: bool = False  # True: the mask adds noise.

  @nn.compact
  def __call__(self, latents: jax.Array, train: bool = False) -> jax.Array:
    """Maps latents: [B, Z] or [B, *S, Z] to images [B, *S', C] in [-1, 1]."""
    x = blocks.from_latent(self, latents)
    x = first = blocks.activate(x, self.activation, blocks.leaky_relu)
    widths = self.widths
    levels = zip([widths[0], *widths[:-1]], self.level_strides, strict=True)
    for i, level in enumerate(reversed([*levels])):
      x = self._block(blocks.UpBlock, i, *level)(x, train)
    x = nn.tanh(blocks.to_image(self, x))
    if self.spectral_mask:
      mask = SpectralMask(
        self.spectral_mask, self.spectral_noise, self.dtype, name='mask'
      )
      x = jnp.clip(mask(x, first), -1, 1)
    return x
