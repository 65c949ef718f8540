"""The layout 'tiny': the small autoencoder of diffusers' AutoencoderTiny.

It is TAESD (github.com/madebyollin/taesd): convolutions of kernel size 3 and
ReLU alone, without norms, of one width. Level 0 has one block, the others have
`num_res_blocks`. Its images are in [0, 1] inside, and its latents are bounded
by 3 before they are decoded. See `pretrained/diffusers_tiny.py`.
Axes: B batch, S two axes of space, C channels, Z entries of a latent.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.models import blocks

_BOUND = 3.0


class Block(nn.Module):
  """Three convolutions, added to the input."""

  dtype: Any = None  # The convolutions'; None: float32.

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x: [B, *S, C] to the same shape."""
    h = x
    for i in range(3):
      h = nn.relu(h) if i else h
      h = _conv(x.shape[-1], self.dtype, f'conv_{i}')(h)
    return nn.relu(h + x)


class _Network(blocks.Network, kw_only=True):
  """The levels that both halves have; all have one width."""

  num_res_blocks: int  # Blocks of each level but the first.
  num_unstrided = 1
  flat = False

  @nn.nowrap
  def _apply_level(self, x: jax.Array, level: int) -> jax.Array:
    block = nn.remat(Block) if self.remat else Block
    for i in range(self.num_res_blocks if level else 1):
      x = block(self.dtype, name=f'level_{level}_{i}')(x)
    return x


class Encoder(_Network):
  """Levels of blocks, halved in between, then the latent."""

  size: int  # Z.

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps x: [B, *S, C] to [B, *(S / factor), Z] float32."""
    del train
    x = _conv(self.width, self.dtype, 'conv_0')((x + 1) / 2)
    for level in range(len(self.widths)):
      if level:
        x = blocks.Conv(
          self.width,
          (3, 3),
          strides=2,
          padding=((1, 1), (1, 1)),
          use_bias=False,
          dtype=self.dtype,
          name=f'down_{level}',
        )(x)
      x = self._apply_level(x, level)
    return _conv(self.size, self.dtype, 'conv_out')(x).astype(jnp.float32)


class Decoder(_Network):
  """The mirror of the encoder, with the same numbering of levels."""

  channels: int

  @nn.compact
  def __call__(self, latents: jax.Array, train: bool = False) -> jax.Array:
    """Maps latents: [B, *S, Z] to unbounded images [B, *S', C] float32."""
    del train
    x = jnp.tanh(latents / _BOUND) * _BOUND
    x = nn.relu(_conv(self.width, self.dtype, 'conv_0')(x))
    for level in reversed(range(len(self.widths))):
      x = self._apply_level(x, level)
      if level:
        x = blocks.upsample_layer(
          self.width, 2, self.dtype, f'up_{level}', use_bias=False
        )(x)
    x = _conv(self.channels, self.dtype, 'conv_out')(x)
    return x.astype(jnp.float32) * 2 - 1


def _conv(features: int, dtype: Any, name: str) -> nn.Conv:
  return blocks.Conv(features, (3, 3), dtype=dtype, name=name)
