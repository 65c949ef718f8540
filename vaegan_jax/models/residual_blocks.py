"""The blocks of the residual encoder and decoder.

A block starts with its norm and activation (arXiv 1603.05027): GroupNorm (arXiv
1803.08494) and swish (arXiv 1710.05941). Its last layer starts at zero, so that
a new block is the identity (arXiv 1706.02677). Convolutions compute in `dtype`,
all else in float32.
Axes: B batch, S the axes of space, C channels.
"""

import functools
import math
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
