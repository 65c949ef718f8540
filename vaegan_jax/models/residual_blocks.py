"""The blocks of the residual encoder and decoder.

A block starts with its norm and activation (arXiv 1603.05027): GroupNorm (arXiv
1803.08494) and swish (arXiv 1710.05941). Its last layer starts at zero, so that
a new block is the identity (arXiv 1706.02677). Convolutions compute in `dtype`,
all else in float32.
Axes: B batch, S the axes of space, C channels.
"""

import functools
import math
from typing import Any

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
  """Two residual blocks at the smallest size, with attention between them.

  Attributes:
    num_groups, dtype, activation, kernel_size, remat: as `Level`'s.
    attention: whether there is attention.
  """

  num_groups: int = 0
  dtype: Any = None
  activation: str = 'own'
  kernel_size: int = 3
  remat: bool = False
  attention: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x: [B, *S, C] to the same shape, float32."""
    block, attention = _maybe_remat(self.remat)
    options = self.num_groups, self.dtype
    forms = x.shape[-1], *options, self.activation, self.kernel_size
    x = block(*forms, name='block_0')(x)
    if self.attention:
      x = attention(*options, name='attention')(x)
    return block(*forms, name='block_1')(x)


def _maybe_remat(remat: bool) -> tuple[type[nn.Module], type[nn.Module]]:
  """Returns the block and attention, wrapped in `nn.remat` if asked to."""
  modules = ResidualBlock, Attention
  return tuple(map(nn.remat, modules)) if remat else modules
