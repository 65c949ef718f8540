"""The residual encoder and decoder: levels of blocks, attention where wanted.

Two layouts. 'own' is this house's: convolutions of 4 taps halve, the decoder
has as many blocks as the encoder, and its images are in [-1, 1]. 'ldm' is
latent-diffusion's (arXiv 2112.10752), layer by layer, so that weights may be
exchanged with it; see `diffusers.py`.
Axes: B batch, S the axes of space, C channels, Z entries of a latent.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.models import blocks
from vaegan_jax.models.doubling import double_and_convolve
from vaegan_jax.models.halving import halve
from vaegan_jax.models.residual_blocks import (
  Level,
  Middle,
  normalize_and_activate,
)

LAYOUTS = ('own', 'ldm')


class Encoder(nn.Module):
  """Levels of residual blocks, halved in between, then what the latent takes.

  Attributes:
    size: entries that the latent takes, of the image or of each place.
    flat: whether one latent is of the whole image; else there is one a place.
    width: channels, before the multipliers.
    channel_multipliers: one a level; the first is of the image's own side.
    num_res_blocks: of each level.
    attention_levels: those, from 0, whose blocks have attention after them.
    middle_attention: whether two more blocks stand at the smallest side, with
      attention between them.
    layout: 'own' or 'ldm'; see the module.
    dtype: that the convolutions compute in; None: float32.
    remat: whether its blocks are computed again for the gradient, and not kept.
  """

  size: int
  flat: bool
  width: int
  channel_multipliers: Sequence[int]
  num_res_blocks: int = 1
  attention_levels: Sequence[int] = ()
  middle_attention: bool = False
  layout: str = 'own'
  dtype: Any = None
  remat: bool = False

  @property
  def factor(self) -> int:
    """How many times smaller a side of the latent's map is."""
    return 2 ** (len(self.channel_multipliers) - 1)

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps x: [B, *S, C] to [B, size] or [B, *(S / factor), size]."""
    del train
    taps = (3,) * (x.ndim - 2)
    widths = [self.width * m for m in self.channel_multipliers]
    num_groups = _num_groups(self.layout, self.width)
    how = num_groups, self.dtype, self.remat
    x = blocks.Conv(widths[0], taps, dtype=self.dtype, name='from_image')(x)
    for level, features in enumerate(widths):
      if level:
        x = _halve(x, self.layout, self.dtype, name=f'down_{level}')
      x = Level(
        features,
        self.num_res_blocks,
        level in self.attention_levels,
        *how,
        name=f'level_{level}',
      )(x)
    if self.middle_attention:
      x = Middle(*how, name='middle')(x)
    x = normalize_and_activate(x, num_groups, 'norm')
    if self.layout == 'ldm':
      x = blocks.Conv(self.size, taps, dtype=self.dtype, name='conv_out')(x)
    return blocks.to_latent(x, self.size, flat=self.flat, dtype=self.dtype)


class Decoder(nn.Module):
  """The smallest feature map, levels of residual blocks, then the image.

  It mirrors the encoder, and its levels are counted as the encoder's are.

  Attributes:
    channels: C.
    flat_space: sides of the smallest map, of a flat latent; (): it is a map.
    width, channel_multipliers, num_res_blocks, attention_levels,
      middle_attention, layout, dtype, remat: as the encoder's.
  """

  channels: int
  flat_space: tuple[int, ...]
  width: int
  channel_multipliers: Sequence[int]
  num_res_blocks: int = 1
  attention_levels: Sequence[int] = ()
  middle_attention: bool = False
  layout: str = 'own'
  dtype: Any = None
  remat: bool = False

  @nn.compact
  def __call__(self, latents: jax.Array, train: bool = False) -> jax.Array:
    """Maps latents: [B, Z] or [B, *S, Z] to images [B, *S', C] float32.

    They are in [-1, 1], but of the layout 'ldm', where nothing holds them.
    """
    del train
    is_ldm = self.layout == 'ldm'
    if is_ldm:
      one, size = (1,) * (latents.ndim - 2), latents.shape[-1]
      latents = blocks.Conv(size, one, dtype=self.dtype, name='post_quant')(
        latents
      )
    widths = [self.width * m for m in self.channel_multipliers]
    num_groups = _num_groups(self.layout, self.width)
    how = num_groups, self.dtype, self.remat
    x = blocks.from_latent(
      latents, widths[-1], flat_space=self.flat_space, dtype=self.dtype
    )
    if self.middle_attention:
      x = Middle(*how, name='middle')(x)
    for level in reversed(range(len(widths))):
      x = Level(
        widths[level],
        self.num_res_blocks + is_ldm,
        level in self.attention_levels,
        *how,
        name=f'level_{level}',
      )(x)
      if level:
        x = _double(x, self.dtype, name=f'up_{level}')
    x = normalize_and_activate(x, num_groups, 'norm')
    taps = (3,) * (x.ndim - 2)
    to_image = blocks.Conv(
      self.channels, taps, dtype=self.dtype, name='to_image'
    )
    x = to_image(x).astype(jnp.float32)
    return x if is_ldm else nn.tanh(x)


def _num_groups(layout: str, width: int) -> int:
  """Of all GroupNorms: latent-diffusion has one number for all widths."""
  return math.gcd(blocks.MAX_GROUPS, width) if layout == 'ldm' else 0


def _halve(x: jax.Array, layout: str, dtype: Any, *, name: str) -> jax.Array:
  """A convolution of stride 2: of 4 taps, or of 3 and a pixel after them."""
  num_axes, features = x.ndim - 2, x.shape[-1]
  if layout == 'own':
    return blocks.convolution(features, 4, num_axes, halve, dtype, name)(x)
  return blocks.Conv(
    features,
    (3,) * num_axes,
    strides=2,
    padding=((0, 1),) * num_axes,
    dtype=dtype,
    name=name,
  )(x)


def _double(x: jax.Array, dtype: Any, *, name: str) -> jax.Array:
  """Nearest neighbour, then a 3x3 convolution."""
  num_axes, features = x.ndim - 2, x.shape[-1]
  return blocks.convolution(
    features, 3, num_axes, double_and_convolve, dtype, name
  )(x)
