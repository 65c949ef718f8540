"""The residual encoder and decoder: levels of blocks, with optional attention.

Two layouts. 'own' halves by convolutions of kernel size 4, has as many blocks
in the decoder as in the encoder, and decodes to [-1, 1]. 'ldm' is
latent-diffusion's (arXiv 2112.10752), layer by layer, so that weights can be
exchanged with it; see `pretrained/diffusers.py`.

`residual_blocks.py` has the blocks.
Axes: B batch, S the axes of space, C channels, Z entries of a latent.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.models import blocks
from vaegan_jax.models.residual_blocks import Level, Middle, group_norm


class Encoder(nn.Module):
  """Levels of residual blocks, halved in between, then the latent's input.

  Attributes:
    size: entries that the latent takes, per image or per position.
    flat: whether an image has one latent vector, not one per position.
    width: channels, before the multipliers.
    channel_multipliers: one per level; the first has the image's own size.
    num_res_blocks: per level.
    attention_levels: levels, counted from 0, with attention after each block.
    middle_attention: whether two blocks with attention between them follow at
      the smallest size; 'ldm' always has the blocks.
    layout: 'own' or 'ldm'; see the module.
    num_groups: number of groups of the norms of 'ldm'; 0: 32, or the most that
      divide the width.
    quant_convs: whether 'ldm' has a 1x1 convolution on either side of the
      latent.
    dtype: the convolutions'; None: float32.
    remat: whether the gradient recomputes the blocks instead of storing them.
    strides: by which the axes are divided between levels, in forward order; ():
      2 each.
    activation: 'own', swish, or 'snake'.
    kernel_size: of the convolutions without a stride.
    patch_size: side of the squares of pixels that are channels of the input.
  """

  size: int
  flat: bool
  width: int
  channel_multipliers: Sequence[int]
  num_res_blocks: int = 1
  attention_levels: Sequence[int] = ()
  middle_attention: bool = False
  layout: str = 'own'
  num_groups: int = 0
  quant_convs: bool = True
  dtype: Any = None
  remat: bool = False
  strides: Sequence[int] = ()
  activation: str = 'own'
  kernel_size: int = 3
  patch_size: int = 1

  @property
  def factor(self) -> int:
    """The downsampling factor of the latent's map, along each axis."""
    return self.patch_size * math.prod(self._strides)

  @property
  def _strides(self) -> tuple[int, ...]:
    return blocks.strides_of(self.strides, len(self.channel_multipliers) - 1)

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps x: [B, *S, C] to [B, size] or [B, *(S / factor), size]."""
    del train
    kernel_size = (self.kernel_size,) * (x.ndim - 2)
    conv = functools.partial(blocks.Conv, dtype=self.dtype)
    widths = [self.width * m for m in self.channel_multipliers]
    num_groups = _num_groups(self)
    options = num_groups, self.dtype, self.activation, self.kernel_size
    options = *options, self.remat
    x = blocks.to_patches(x, self.patch_size)
    x = conv(widths[0], kernel_size, name='from_image')(x)
    for level, features in enumerate(widths):
      if level:
        stride = self._strides[level - 1]
        x = _downsample(
          x, self.layout, self.dtype, stride, name=f'down_{level}'
        )
      x = Level(
        features,
        self.num_res_blocks,
        level in self.attention_levels,
        *options,
        name=f'level_{level}',
      )(x)
    if self.middle_attention or self.layout == 'ldm':
      x = Middle(*options, self.middle_attention, name='middle')(x)
    x = group_norm(x, num_groups, 'norm')
    x = blocks.activate(x, self.activation, nn.swish)
    if self.layout == 'ldm':
      x = conv(self.size, kernel_size, name='conv_out')(x)
    if self.layout == 'ldm' and not self.quant_convs:
      return x.astype(jnp.float32)
    return blocks.to_latent(x, self.size, flat=self.flat, dtype=self.dtype)


class Decoder(nn.Module):
  """The smallest feature map, levels of residual blocks, then the image.

  It mirrors the encoder, and its levels are counted as the encoder's are.

  Attributes:
    channels: C.
    flat_space: spatial shape of the smallest map if the latent is flat; (): the
      latent is a map.
    width, channel_multipliers, num_res_blocks, attention_levels,
      middle_attention, layout, num_groups, quant_convs, dtype, remat, strides,
      activation, kernel_size, patch_size: as the encoder's.
  """

  channels: int
  flat_space: tuple[int, ...]
  width: int
  channel_multipliers: Sequence[int]
  num_res_blocks: int = 1
  attention_levels: Sequence[int] = ()
  middle_attention: bool = False
  layout: str = 'own'
  num_groups: int = 0
  quant_convs: bool = True
  dtype: Any = None
  remat: bool = False
  strides: Sequence[int] = ()
  activation: str = 'own'
  kernel_size: int = 3
  patch_size: int = 1

  @nn.compact
  def __call__(self, latents: jax.Array, train: bool = False) -> jax.Array:
    """Maps latents: [B, Z] or [B, *S, Z] to images [B, *S', C] float32.

    Images are in [-1, 1], except in the layout 'ldm', where nothing bounds
    them.
    """
    del train
    conv = functools.partial(blocks.Conv, dtype=self.dtype)
    is_ldm = self.layout == 'ldm'
    if is_ldm and self.quant_convs:
      one, size = (1,) * (latents.ndim - 2), latents.shape[-1]
      latents = conv(size, one, name='post_quant')(latents)
    widths = [self.width * m for m in self.channel_multipliers]
    num_groups = _num_groups(self)
    options = num_groups, self.dtype, self.activation, self.kernel_size
    options = *options, self.remat
    x = blocks.from_latent(
      latents,
      widths[-1],
      flat_space=self.flat_space,
      kernel_size=self.kernel_size,
      dtype=self.dtype,
    )
    num_axes = x.ndim - 2
    strides = blocks.strides_of(self.strides, len(widths) - 1)
    if self.middle_attention or self.layout == 'ldm':
      x = Middle(*options, self.middle_attention, name='middle')(x)
    for level in reversed(range(len(widths))):
      x = Level(
        widths[level],
        self.num_res_blocks + is_ldm,
        level in self.attention_levels,
        *options,
        name=f'level_{level}',
      )(x)
      if level:
        up = f'up_{level}', strides[level - 1]
        x = blocks.upsample_layer(x.shape[-1], num_axes, self.dtype, *up)(x)
    x = group_norm(x, num_groups, 'norm')
    x = blocks.activate(x, self.activation, nn.swish)
    channels = self.channels * self.patch_size**num_axes
    x = conv(channels, (self.kernel_size,) * num_axes, name='to_image')(x)
    x = blocks.from_patches(x, self.patch_size).astype(jnp.float32)
    return x if is_ldm else nn.tanh(x)


def _num_groups(network: Encoder | Decoder) -> int:
  """Returns latent-diffusion's one number of groups for all widths, or 0."""
  if network.layout == 'own':
    return 0
  return network.num_groups or math.gcd(blocks.MAX_GROUPS, network.width)


def _downsample(
  x: jax.Array, layout: str, dtype: Any, stride: int, *, name: str
) -> jax.Array:
  """Divides each axis; 'ldm' halves with kernel size 3, padded at the end."""
  num_axes, features = x.ndim - 2, x.shape[-1]
  if layout == 'own':
    return blocks.downsample_conv(features, num_axes, dtype, name, stride)(x)
  return blocks.Conv(
    features,
    (3,) * num_axes,
    strides=2,
    padding=((0, 1),) * num_axes,
    dtype=dtype,
    name=name,
  )(x)
