"""The residual encoder and decoder: levels of blocks, with optional attention.

Two layouts. 'own' halves by convolutions of kernel size 4, has as many blocks
in the decoder as in the encoder, and decodes to [-1, 1]. 'ldm' is
latent-diffusion's (arXiv 2112.10752), layer by layer, so that weights can be
exchanged with it; see `pretrained/diffusers.py`.

A block starts with its norm and activation (arXiv 1603.05027): GroupNorm (arXiv
1803.08494) and swish (arXiv 1710.05941). Its last layer starts at zero, so that
a new block is the identity (arXiv 1706.02677). Convolutions compute in `dtype`,
all else in float32.
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

_EPSILON = 1e-6  # GroupNorm's epsilon, as in latent-diffusion.
# In a group of one channel, GroupNorm would divide away the channel's mean over
# the image: its brightness, before the decoder's last layer.
_MIN_GROUP_SIZE = 4


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
      the smallest size.
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

  @property
  def factor(self) -> int:
    """The downsampling factor of the latent's map, along each axis."""
    return math.prod(self._strides)

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
    if self.middle_attention:
      x = Middle(*options, name='middle')(x)
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
      activation, kernel_size: as the encoder's.
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
    if self.middle_attention:
      x = Middle(*options, name='middle')(x)
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
    x = conv(self.channels, (self.kernel_size,) * num_axes, name='to_image')(x)
    x = x.astype(jnp.float32)
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


def group_norm(x: jax.Array, num_groups: int, name: str) -> jax.Array:
  """Applies GroupNorm in float32, within a module's `__call__`.

  num_groups 0 means the most groups, up to 32, with at least four channels
  each, or one group.
  """
  if not num_groups:
    most = max(x.shape[-1] // _MIN_GROUP_SIZE, 1)
    num_groups = math.gcd(math.gcd(blocks.MAX_GROUPS, most), x.shape[-1])
  return nn.GroupNorm(
    num_groups, epsilon=_EPSILON, dtype=jnp.float32, name=name
  )(x)


class ResidualBlock(nn.Module):
  """Norm, activation and a convolution, twice, added to the input.

  Attributes:
    features: channels of the output. Where they change, the input passes a 1x1
      convolution.
    num_groups: number of groups of its norms; see `group_norm`.
    dtype: the convolutions'; None: float32.
    activation, kernel_size: as `Encoder`'s.
  """

  features: int
  num_groups: int = 0
  dtype: Any = None
  activation: str = 'own'
  kernel_size: int = 3

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x: [B, *S, C] to [B, *S, features] float32."""
    num_axes = x.ndim - 2
    conv = functools.partial(nn.Conv, self.features, dtype=self.dtype)
    kernel_size = (self.kernel_size,) * num_axes
    activate = functools.partial(
      blocks.activate, kind=self.activation, own=nn.swish
    )
    h = activate(group_norm(x, self.num_groups, 'norm_0'))
    h = conv(kernel_size, name='conv_0')(h)
    h = activate(group_norm(h, self.num_groups, 'norm_1'))
    h = conv(kernel_size, kernel_init=nn.initializers.zeros, name='conv_1')(h)
    if x.shape[-1] != self.features:
      x = conv((1,) * num_axes, name='shortcut')(x)
    return x.astype(jnp.float32) + h.astype(jnp.float32)


class Attention(nn.Module):
  """Self-attention over all N positions of a map (arXiv 1706.03762, eq. 1).

  One head, with a norm before it, added to the input.

  Attributes:
    num_groups: number of groups of its norm; see `group_norm`.
    dtype: the products'; None: float32. The softmax is float32.
  """

  num_groups: int = 0
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x: [B, *S, C] to the same shape, float32."""
    channels = x.shape[-1]
    dense = functools.partial(nn.Dense, channels, dtype=self.dtype)
    positions = group_norm(x, self.num_groups, 'norm')
    positions = positions.reshape(x.shape[0], -1, channels)
    query, key, value = (
      dense(name=name)(positions) for name in ('query', 'key', 'value')
    )
    scores = jnp.einsum(
      'bnc,bmc->bnm', query, key, preferred_element_type=jnp.float32
    )
    weights = nn.softmax(scores * channels**-0.5, axis=-1)
    h = jnp.einsum('bnm,bmc->bnc', weights.astype(value.dtype), value)
    h = dense(kernel_init=nn.initializers.zeros, name='out')(h)
    return x.astype(jnp.float32) + h.reshape(x.shape).astype(jnp.float32)


class Level(nn.Module):
  """The residual blocks at one size of the feature maps.

  Attributes:
    features: channels of the output.
    num_blocks: number of blocks.
    attention: whether attention follows each of them.
    num_groups, dtype, activation, kernel_size: as `ResidualBlock`'s.
    remat: whether the gradient recomputes the blocks instead of storing them.
  """

  features: int
  num_blocks: int
  attention: bool = False
  num_groups: int = 0
  dtype: Any = None
  activation: str = 'own'
  kernel_size: int = 3
  remat: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x: [B, *S, C] to [B, *S, features] float32."""
    block, attention = _maybe_remat(self.remat)
    options = self.num_groups, self.dtype
    forms = self.activation, self.kernel_size
    for i in range(self.num_blocks):
      x = block(self.features, *options, *forms, name=f'block_{i}')(x)
      if self.attention:
        x = attention(*options, name=f'attention_{i}')(x)
    return x


class Middle(nn.Module):
  """Attention between two residual blocks, at the smallest size.

  Attributes:
    num_groups, dtype, activation, kernel_size, remat: as `Level`'s.
  """

  num_groups: int = 0
  dtype: Any = None
  activation: str = 'own'
  kernel_size: int = 3
  remat: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x: [B, *S, C] to the same shape, float32."""
    block, attention = _maybe_remat(self.remat)
    options = self.num_groups, self.dtype
    forms = x.shape[-1], *options, self.activation, self.kernel_size
    x = block(*forms, name='block_0')(x)
    x = attention(*options, name='attention')(x)
    return block(*forms, name='block_1')(x)


def _maybe_remat(remat: bool) -> tuple[type[nn.Module], type[nn.Module]]:
  """Returns the block and attention, wrapped in `nn.remat` if asked to."""
  modules = ResidualBlock, Attention
  return tuple(map(nn.remat, modules)) if remat else modules
