"""The layout 'tiny': the small autoencoder of diffusers' AutoencoderTiny.

It is TAESD (github.com/madebyollin/taesd): convolutions of kernel size 3 and
ReLU alone, without norms, of one width. Level 0 has one block, the others have
`num_res_blocks`. Its images are in [0, 1] inside, and its latents are bounded
by 3 before they are decoded. See `pretrained/diffusers_tiny.py`.
Axes: B batch, S two axes of space, C channels, Z entries of a latent.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.models import blocks

_BOUND = 3.0


class Block(nn.Module):
  """Three convolutions, added to the input.

  Attributes:
    dtype: the convolutions'; None: float32.
  """

  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x: [B, *S, C] to the same shape."""
    h = x
    for i in range(3):
      h = nn.relu(h) if i else h
      h = _conv(x.shape[-1], self.dtype, f'conv_{i}')(h)
    return nn.relu(h + x)


class Encoder(nn.Module):
  """Levels of blocks, halved in between, then the latent.

  Attributes:
    size: Z.
    width: channels of all levels.
    depth: number of halvings.
    num_res_blocks: blocks of each level but the first.
    dtype, remat: as those of `residual.Encoder`.
  """

  size: int
  width: int
  depth: int
  num_res_blocks: int
  dtype: Any = None
  remat: bool = False
  flat = False

  @property
  def factor(self) -> int:
    """The downsampling factor of the latent's map, along each axis."""
    return 2**self.depth

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps x: [B, *S, C] to [B, *(S / factor), Z] float32."""
    del train
    x = _conv(self.width, self.dtype, 'conv_0')((x + 1) / 2)
    for level in range(self.depth + 1):
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
      x = _level(self, level, x)
    return _conv(self.size, self.dtype, 'conv_out')(x).astype(jnp.float32)


class Decoder(nn.Module):
  """The mirror of the encoder, with the same numbering of levels.

  Attributes:
    channels: C.
    width, depth, num_res_blocks, dtype, remat: as the encoder's.
  """

  channels: int
  width: int
  depth: int
  num_res_blocks: int
  dtype: Any = None
  remat: bool = False

  @nn.compact
  def __call__(self, latents: jax.Array, train: bool = False) -> jax.Array:
    """Maps latents: [B, *S, Z] to unbounded images [B, *S', C] float32."""
    del train
    x = jnp.tanh(latents / _BOUND) * _BOUND
    x = nn.relu(_conv(self.width, self.dtype, 'conv_0')(x))
    for level in reversed(range(self.depth + 1)):
      x = _level(self, level, x)
      if level:
        x = blocks.upsample_layer(
          self.width, 2, self.dtype, f'up_{level}', use_bias=False
        )(x)
    x = _conv(self.channels, self.dtype, 'conv_out')(x)
    return x.astype(jnp.float32) * 2 - 1


def create(
  channels: int, size: int, model: Mapping[str, Any], dtype: Any
) -> tuple[Encoder, Decoder]:
  """Builds both networks from the fields of `config.model`."""
  names = 'width', 'depth', 'num_res_blocks', 'remat'
  fields = {name: model[name] for name in names} | {'dtype': dtype}
  return Encoder(size, **fields), Decoder(channels, **fields)


def _conv(features: int, dtype: Any, name: str) -> nn.Conv:
  return blocks.Conv(features, (3, 3), dtype=dtype, name=name)


def _level(network: Encoder | Decoder, level: int, x: jax.Array) -> jax.Array:
  """Applies the blocks of a level, within a network's `__call__`."""
  block = nn.remat(Block) if network.remat else Block
  for i in range(network.num_res_blocks if level else 1):
    x = block(network.dtype, name=f'level_{level}_{i}')(x)
  return x
