"""Blocks with a way around them, and self-attention.

The autoencoder's blocks begin with their norm and activation (arXiv
1603.05027), which are GroupNorm (arXiv 1803.08494) and swish (arXiv
1710.05941), and at first change nothing: their last layer begins with zeros
(arXiv 1706.02677). Convolutions compute in `dtype`, all else in float32.
Written over one to three axes of space.
Axes: B batch, S the axes of space, C channels, N places of a map.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.models import blocks
from vaegan_jax.models.halving import halve

_EPSILON = 1e-6  # Of GroupNorm: latent-diffusion's.
# Of a group of one, GroupNorm would divide away what that channel says of a
# whole image: its brightness, before the decoder's last layer.
_MIN_GROUP_SIZE = 4


def normalize_and_activate(
  x: jax.Array, num_groups: int, name: str
) -> jax.Array:
  """GroupNorm, then swish; called within a module's `__call__`.

  Args:
    x: [B, *S, C].
    num_groups: see `group_norm`.
    name: of the norm.

  Returns:
    [B, *S, C] float32.
  """
  return nn.swish(group_norm(x, num_groups, name))


def group_norm(x: jax.Array, num_groups: int, name: str) -> jax.Array:
  """GroupNorm alone.

  Args:
    x: [B, *S, C].
    num_groups: by which C is divisible; 0: the most, up to 32, of at least four
      channels each, or one.
    name: of the norm.

  Returns:
    [B, *S, C] float32.
  """
  if not num_groups:
    most = max(x.shape[-1] // _MIN_GROUP_SIZE, 1)
    num_groups = math.gcd(math.gcd(blocks.MAX_GROUPS, most), x.shape[-1])
  return nn.GroupNorm(
    num_groups, epsilon=_EPSILON, dtype=jnp.float32, name=name
  )(x)


class ResidualBlock(nn.Module):
  """Twice norm, swish and a 3x3 convolution, added to what came in.

  Attributes:
    features: channels of the output. Where they change, what came in passes a
      1x1 convolution.
    num_groups: of its norms; see `group_norm`.
    dtype: that the convolutions compute in; None: float32.
  """

  features: int
  num_groups: int = 0
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x: [B, *S, C] to [B, *S, features] float32."""
    num_axes = x.ndim - 2
    conv = functools.partial(nn.Conv, self.features, dtype=self.dtype)
    taps = (3,) * num_axes
    h = normalize_and_activate(x, self.num_groups, 'norm_0')
    h = conv(taps, name='conv_0')(h)
    h = normalize_and_activate(h, self.num_groups, 'norm_1')
    h = conv(taps, kernel_init=nn.initializers.zeros, name='conv_1')(h)
    if x.shape[-1] != self.features:
      x = conv((1,) * num_axes, name='shortcut')(x)
    return x.astype(jnp.float32) + h.astype(jnp.float32)


class Attention(nn.Module):
  """Every place of a map looks at all others (arXiv 1706.03762, eq. 1).

  One head, with a norm before it, added to what came in.

  Attributes:
    num_groups: of its norm; see `group_norm`.
    dtype: that the products compute in; None: float32. The softmax is float32.
  """

  num_groups: int = 0
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x: [B, *S, C] to the same shape, float32."""
    channels = x.shape[-1]
    dense = functools.partial(nn.Dense, channels, dtype=self.dtype)
    places = group_norm(x, self.num_groups, 'norm')
    places = places.reshape(x.shape[0], -1, channels)
    query, key, value = (
      dense(name=name)(places) for name in ('query', 'key', 'value')
    )
    scores = jnp.einsum(
      'bnc,bmc->bnm', query, key, preferred_element_type=jnp.float32
    )
    weights = nn.softmax(scores * channels**-0.5, axis=-1)
    h = jnp.einsum('bnm,bmc->bnc', weights.astype(value.dtype), value)
    h = dense(kernel_init=nn.initializers.zeros, name='out')(h)
    return x.astype(jnp.float32) + h.reshape(x.shape).astype(jnp.float32)


class Level(nn.Module):
  """The residual blocks of one side of the feature maps.

  Attributes:
    features: channels of the output.
    num_blocks: how many.
    attention: whether attention follows each of them.
    num_groups, dtype: as `ResidualBlock`'s.
    remat: whether the blocks are computed again for the gradient, not kept.
  """

  features: int
  num_blocks: int
  attention: bool = False
  num_groups: int = 0
  dtype: Any = None
  remat: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x: [B, *S, C] to [B, *S, features] float32."""
    block, attention = _kept_or_not(self.remat)
    how = self.num_groups, self.dtype
    for i in range(self.num_blocks):
      x = block(self.features, *how, name=f'block_{i}')(x)
      if self.attention:
        x = attention(*how, name=f'attention_{i}')(x)
    return x


class Middle(nn.Module):
  """Attention between two residual blocks, at the smallest side.

  Attributes:
    num_groups, dtype, remat: as `Level`'s.
  """

  num_groups: int = 0
  dtype: Any = None
  remat: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x: [B, *S, C] to the same shape, float32."""
    block, attention = _kept_or_not(self.remat)
    how = self.num_groups, self.dtype
    x = block(x.shape[-1], *how, name='block_0')(x)
    x = attention(*how, name='attention')(x)
    return block(x.shape[-1], *how, name='block_1')(x)


class ResidualDownBlock(nn.Module):
  """A critic's: two convolutions, the second of stride 2, and a way around.

  That is the mean over squares and a 1x1 convolution (as in arXiv 1912.04958,
  section 4.1). The output is taken after its activation, and without a norm it
  grows and shrinks with the contrast of what comes in.

  Attributes:
    features: channels of the output.
    norm: 'none', 'group', 'instance' or 'batch'.
    spectral_norm: whether every kernel is normalised; see `blocks.spectrally`.
    dtype: that the convolutions compute in; None: that of x.
  """

  features: int
  norm: str = 'none'
  spectral_norm: bool = False
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps x: [B, *S, C] to [B, *(S / 2), features] float32."""
    num_axes, channels = x.ndim - 2, x.shape[-1]
    spectrally = functools.partial(
      blocks.spectrally, on=self.spectral_norm, train=train
    )
    conv = functools.partial(nn.Conv, dtype=self.dtype)
    first = conv(channels, (3,) * num_axes, name='conv_0')
    second = blocks.convolution(
      self.features, 4, num_axes, halve, self.dtype, name='conv_1'
    )
    shortcut = conv(
      self.features, (1,) * num_axes, use_bias=False, name='shortcut'
    )
    h = blocks.Norm(self.norm)(spectrally(first)(x), train)
    h = spectrally(second)(nn.leaky_relu(h, blocks.LEAKY_SLOPE))
    h = blocks.Norm(self.norm)(h, train)
    around = spectrally(shortcut)(halve_image(x))
    # Of two that vary alike the sum varies twice as much.
    h = (blocks.at_least_float32(h) + around) * math.sqrt(0.5)
    return nn.leaky_relu(h, blocks.LEAKY_SLOPE)


def halve_image(x: jax.Array) -> jax.Array:
  """Means over squares: x [B, *S, C] to [B, *(S / 2), C]."""
  square = (2,) * (x.ndim - 2)
  return nn.avg_pool(x, square, square)


def _kept_or_not(remat: bool) -> tuple[type[nn.Module], type[nn.Module]]:
  """A block and attention, whose insides are perhaps not kept."""
  modules = ResidualBlock, Attention
  return tuple(map(nn.remat, modules)) if remat else modules
