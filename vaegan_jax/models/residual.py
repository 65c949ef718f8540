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

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.models import blocks
from vaegan_jax.models.residual_blocks import Forms, Level, Middle, group_norm


class _Network(blocks.Network, kw_only=True):
  """The levels that both halves have."""

  num_res_blocks: int = 1  # Blocks per level; one more in a decoder of 'ldm'.
  attention_levels: Sequence[int] = ()  # Those with attention.
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
    """Whether the layout is latent-diffusion's."""
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
    return blocks.to_latent(x, self.size, flat=self.flat, dtype=self.dtype)

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
    conv = functools.partial(blocks.Conv, dtype=self.dtype)
    if self.is_ldm and self.quant_convs:
      one, size = (1,) * (latents.ndim - 2), latents.shape[-1]
      latents = conv(size, one, name='post_quant')(latents)
    x = blocks.from_latent(
      latents,
      self.widths[-1],
      flat_space=self.flat_space,
      kernel_size=self.kernel_size,
      dtype=self.dtype,
    )
    num_axes = x.ndim - 2
    x = self._apply_middle(x)
    for level in reversed(range(len(self.widths))):
      x = self._apply_level(x, level, self.num_res_blocks + self.is_ldm)
      if level:
        up = f'up_{level}', self.level_strides[level - 1]
        x = blocks.upsample_layer(x.shape[-1], num_axes, self.dtype, *up)(x)
    x = self._apply_norm(x)
    channels = self.channels * self.patch_size**num_axes
    x = conv(channels, (self.kernel_size,) * num_axes, name='to_image')(x)
    x = blocks.from_patches(x, self.patch_size).astype(jnp.float32)
    return x if self.is_ldm else nn.tanh(x)
