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
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.models import blocks

_EPSILON = 1e-6  # GroupNorm's epsilon, as in latent-diffusion.
# In a group of one channel, GroupNorm would divide away the channel's mean over
# the image: its brightness, before the decoder's last layer.
_MIN_GROUP_SIZE = 4


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


class Forms(NamedTuple):
  """Options that all blocks of a network share."""

  num_groups: int = 0  # Number of groups of the norms; see `group_norm`.
  dtype: Any = None  # The products'; None: float32.
  activation: str = 'own'  # Swish; or 'snake'.
  kernel_size: int = 3
  remat: bool = False  # True: the gradient recomputes the blocks.


class ResidualBlock(nn.Module):
  """Norm, activation and a convolution, twice, added to the input."""

  features: int  # Where they change, the input passes a 1x1 convolution.
  forms: Forms = Forms()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x: [B, *S, C] to [B, *S, features] float32."""
    num_axes, forms = x.ndim - 2, self.forms
    conv = functools.partial(nn.Conv, self.features, dtype=forms.dtype)
    kernel_size = (forms.kernel_size,) * num_axes
    activate = functools.partial(
      blocks.activate, kind=forms.activation, own=nn.swish
    )
    h = activate(group_norm(x, forms.num_groups, 'norm_0'))
    h = conv(kernel_size, name='conv_0')(h)
    h = activate(group_norm(h, forms.num_groups, 'norm_1'))
    h = conv(kernel_size, kernel_init=nn.initializers.zeros, name='conv_1')(h)
    if x.shape[-1] != self.features:
      x = conv((1,) * num_axes, name='shortcut')(x)
    return x.astype(jnp.float32) + h.astype(jnp.float32)


class Attention(nn.Module):
  """Self-attention over all N positions of a map (arXiv 1706.03762, eq. 1).

  One head, with a norm before it, added to the input. The softmax is float32.
  """

  forms: Forms = Forms()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x: [B, *S, C] to the same shape, float32."""
    channels = x.shape[-1]
    dense = functools.partial(nn.Dense, channels, dtype=self.forms.dtype)
    positions = group_norm(x, self.forms.num_groups, 'norm')
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
  """The residual blocks at one size of the feature maps."""

  features: int  # Channels of the output.
  num_blocks: int
  attention: bool = False  # True: attention follows each of them.
  forms: Forms = Forms()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x: [B, *S, C] to [B, *S, features] float32."""
    block, attention = _maybe_remat(self.forms)
    for i in range(self.num_blocks):
      x = block(self.features, self.forms, name=f'block_{i}')(x)
      if self.attention:
        x = attention(self.forms, name=f'attention_{i}')(x)
    return x


class Middle(nn.Module):
  """Two residual blocks at the smallest size, with attention between them."""

  attention: bool = True
  forms: Forms = Forms()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x: [B, *S, C] to the same shape, float32."""
    block, attention = _maybe_remat(self.forms)
    x = block(x.shape[-1], self.forms, name='block_0')(x)
    if self.attention:
      x = attention(self.forms, name='attention')(x)
    return block(x.shape[-1], self.forms, name='block_1')(x)


def _maybe_remat(forms: Forms) -> tuple[type[nn.Module], type[nn.Module]]:
  modules = ResidualBlock, Attention
  return tuple(map(nn.remat, modules)) if forms.remat else modules


class _Network(blocks.Network, kw_only=True):
  """The levels that both halves have."""

  num_res_blocks: int = 1  # Blocks per level; one more in a decoder of 'ldm'.
  attention_levels: Sequence[int] = ()  # Levels with attention.
  # True: two blocks with attention between them are at the smallest size; 'ldm'
  # always has the blocks.
  middle_attention: bool = False
  layout: str = 'own'  # Or 'ldm'; see the module.
  # Number of groups of the norms of 'ldm'; 0: 32, or the most that divide the
  # width.
  num_groups: int = 0
  quant_convs: bool = True  # True: 'ldm' has 1x1 convolutions at the latent.
  kernel_size: int = 3  # Size of the convolutions without a stride.
  num_unstrided = 1

  @property
  def is_ldm(self) -> bool:
    """True for the layout of latent-diffusion."""
    return self.layout == 'ldm'

  @property
  def forms(self) -> Forms:
    """The options of the blocks; 'ldm' has one number of groups for all."""
    num_groups = 0
    if self.is_ldm:
      num_groups = self.num_groups or math.gcd(blocks.MAX_GROUPS, self.width)
    own = self.activation, self.kernel_size, self.remat
    return Forms(num_groups, self.dtype, *own)

  @nn.nowrap
  def _apply_level(self, x: jax.Array, level: int, num_blocks: int):
    attention, name = level in self.attention_levels, f'level_{level}'
    features = self.widths[level]
    return Level(features, num_blocks, attention, self.forms, name=name)(x)

  @nn.nowrap
  def _apply_middle(self, x: jax.Array) -> jax.Array:
    if not (self.middle_attention or self.is_ldm):
      return x
    return Middle(self.middle_attention, self.forms, name='middle')(x)

  @nn.nowrap
  def _apply_norm(self, x: jax.Array) -> jax.Array:
    x = group_norm(x, self.forms.num_groups, 'norm')
    return blocks.activate(x, self.activation, nn.swish)


class Encoder(_Network):
  """Levels of residual blocks, halved in between, then the latent's input."""

  size: int  # Entries that the latent takes, per image or per position.
  flat: bool  # True: an image has one latent vector, and not one per position.

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps x: [B, *S, C] to [B, size] or [B, *(S / factor), size]."""
    del train
    kernel_size = (self.kernel_size,) * (x.ndim - 2)
    conv = functools.partial(blocks.Conv, dtype=self.dtype)
    x = blocks.to_patches(x, self.patch_size)
    x = conv(self.widths[0], kernel_size, name='from_image')(x)
    for level in range(len(self.widths)):
      if level:
        x = self._downsample(x, level)
      x = self._apply_level(x, level, self.num_res_blocks)
    x = self._apply_norm(self._apply_middle(x))
    if self.is_ldm:
      x = conv(self.size, kernel_size, name='conv_out')(x)
    if self.is_ldm and not self.quant_convs:
      return x.astype(jnp.float32)
    return blocks.to_latent(self, x)

  @nn.nowrap
  def _downsample(self, x: jax.Array, level: int) -> jax.Array:
    """Divides each axis; 'ldm' halves with kernel size 3, padded at the end."""
    num_axes, features, name = x.ndim - 2, x.shape[-1], f'down_{level}'
    if not self.is_ldm:
      stride = self.level_strides[level - 1]
      return blocks.downsample_conv(
        features, num_axes, self.dtype, name, stride
      )(x)
    return blocks.Conv(
      features,
      (3,) * num_axes,
      strides=2,
      padding=((0, 1),) * num_axes,
      dtype=self.dtype,
      name=name,
    )(x)


class Decoder(_Network):
  """The smallest feature map, levels of residual blocks, then the image."""

  channels: int
  # Spatial shape of the smallest map if the latent is flat; (): it is a map.
  flat_space: tuple[int, ...]

  @nn.compact
  def __call__(self, latents: jax.Array, train: bool = False) -> jax.Array:
    """Maps latents: [B, Z] or [B, *S, Z] to images [B, *S', C] float32.

    Images are in [-1, 1], except in the layout 'ldm', where nothing bounds
    them.
    """
    del train
    if self.is_ldm and self.quant_convs:
      one, size = (1,) * (latents.ndim - 2), latents.shape[-1]
      conv = blocks.Conv(size, one, dtype=self.dtype, name='post_quant')
      latents = conv(latents)
    x = self._apply_middle(blocks.from_latent(self, latents))
    num_axes = x.ndim - 2
    for level in reversed(range(len(self.widths))):
      x = self._apply_level(x, level, self.num_res_blocks + self.is_ldm)
      if level:
        up = f'up_{level}', self.level_strides[level - 1]
        x = blocks.upsample_layer(x.shape[-1], num_axes, self.dtype, *up)(x)
    x = blocks.to_image(self, self._apply_norm(x))
    return x if self.is_ldm else nn.tanh(x)
