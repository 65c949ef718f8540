"""Layers and blocks of all trained networks: convolution, norm, activation.

A block's output is taken *after* its activation, so a captured feature is the
next layer's input. All work over one to three axes of space.
Axes: B batch, S the axes of space, C channels.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax import names
from vaegan_jax.models.conv import conv, upsample_conv

LEAKY_SLOPE = 0.2
MAX_GROUPS = 32

# Flax's layers, with the names and initial values of their parameters.
Conv = functools.partial(nn.Conv, conv_general_dilated_cls=lambda: conv)
_UpsampleConv = functools.partial(
  nn.Conv,
  conv_general_dilated_cls=lambda: (
    lambda x, kernel, *_, **__: upsample_conv(x, kernel)
  ),
)


def downsample_conv(
  features: int,
  num_axes: int,
  dtype: Any = None,
  name: str | None = None,
  stride: int = 2,
) -> nn.Conv:
  """Builds the convolution that divides each axis by its stride.

  The kernel has twice that size, as in EnCodec (arXiv 2210.13438).
  """
  return Conv(
    features,
    (2 * stride,) * num_axes,
    strides=stride,
    padding=((stride // 2, stride - stride // 2),) * num_axes,
    dtype=dtype,
    name=name,
  )


def upsample_layer(
  features: int,
  num_axes: int,
  dtype: Any = None,
  name: str | None = None,
  stride: int = 2,
  use_bias: bool = True,
) -> nn.Conv:
  """Builds the layer that enlarges each axis by its stride, then convolves."""
  kernel_size = (2 * stride - 1,) * num_axes  # Padded by zeros, 'SAME'.
  return _UpsampleConv(
    features, kernel_size, use_bias=use_bias, dtype=dtype, name=name
  )


def strides_of(strides: Sequence[int], depth: int) -> tuple[int, ...]:
  """Returns the strides of `depth` levels; () means 2 each."""
  return tuple(strides) or (2,) * depth


class Network(nn.Module, kw_only=True):
  """An encoder, or the decoder that mirrors it; all have these fields.

  Levels are counted in the encoder's order.
  """

  width: int  # Channels, before the multipliers.
  channel_multipliers: Sequence[int]  # One per level.
  strides: Sequence[int] = ()  # Factors between the levels; (): 2 each.
  activation: str = 'own'  # Or 'snake'.
  patch_size: int = 1  # Side of the squares of pixels that are channels.
  dtype: Any = None  # The convolutions'; None: that of their input.
  remat: bool = False  # True: the gradient recomputes the blocks.
  num_unstrided = 0  # Levels at the size of the input.

  @property
  def widths(self) -> list[int]:
    """The channels of each level."""
    return [self.width * m for m in self.channel_multipliers]

  @property
  def level_strides(self) -> tuple[int, ...]:
    """The factors by which the levels divide the axes of space."""
    depth = len(self.channel_multipliers) - self.num_unstrided
    return strides_of(self.strides, depth)

  @property
  def factor(self) -> int:
    """The downsampling factor of the latent's map, along each axis."""
    return self.patch_size * math.prod(self.level_strides)


class Snake(nn.Module):
  """Computes x + sin^2(a x) / a, a periodic activation (arXiv 2006.08195).

  Each channel has its own a, kept as a logarithm, as in BigVGAN (arXiv
  2206.04658). It starts at 1.
  """

  separate: bool = False  # True: the divisor is another number than a.

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x: [B, *S, C] to the same shape and dtype."""
    log_scale = self.param('log_scale', nn.initializers.zeros, x.shape[-1:])
    scale, wide = jnp.exp(log_scale), at_least_float32(x)
    divisor = scale
    if self.separate:
      log_divisor = self.param(
        'log_divisor', nn.initializers.zeros, x.shape[-1:]
      )
      divisor = jnp.exp(log_divisor)
    return (wide + _sine(scale * wide) ** 2 / divisor).astype(x.dtype)


def _sine(x: jax.Array) -> jax.Array:
  """Computes the sine or its negative, within 2e-5 for |x| to 50.

  A polynomial within half a turn: XLA's own sine, which CPUs do not vectorize,
  takes most of an update.
  """
  x -= math.pi * jnp.round(x / math.pi)
  total, square = 0.0, x * x
  for power in (11, 9, 7, 5, 3, 1):
    sign = 1 if power % 4 == 1 else -1
    total = total * square + sign / math.factorial(power)
  return x * total


def leaky_relu(x: jax.Array) -> jax.Array:
  """Computes the leaky ReLU of the plain networks."""
  return nn.leaky_relu(x, LEAKY_SLOPE)


def activate(x: jax.Array, kind: str, own: Callable) -> jax.Array:
  """Applies 'snake' or a network's own activation, within a `__call__`."""
  return Snake()(x) if kind == 'snake' else own(x)


def at_least_float32(x: jax.Array) -> jax.Array:
  """Casts x to float32 if its dtype has fewer bits."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Norm(nn.Module):
  """Normalisation by groups of channels, by channel (instance) or by batch.

  GroupNorm (arXiv 1803.08494) uses the most groups, up to 32, that divide the
  channels. InstanceNorm (arXiv 1607.08022) has no parameters. BatchNorm (arXiv
  1502.03167) normalises over the images of one device, with running averages in
  the collection `batch_stats`.
  """

  kind: str = 'none'  # Or 'group', 'instance', 'batch'.

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps x: [B, *S, C] to the same shape."""
    if self.kind == 'none':
      return x
    if self.kind == 'group':
      return nn.GroupNorm(num_groups=math.gcd(MAX_GROUPS, x.shape[-1]))(x)
    if self.kind == 'instance':
      return nn.InstanceNorm(epsilon=1e-5, use_bias=False, use_scale=False)(x)
    if self.kind == 'batch':
      return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
    raise ValueError(f'norm is {self.kind!r}; known: {names.NORMS}')


def maybe_spectral_norm(layer: nn.Module, on: bool, train: bool) -> Callable:
  """Wraps a layer in spectral normalisation (arXiv 1802.05957), if it is on.

  The kernel, reshaped to [inputs of one output, outputs], gets largest singular
  value 1, and so does a dense layer. A convolution has norm 1 at one position
  only. Patches overlap, so over a whole image its norm is larger: at most 2 in
  a `DownBlock`, where a pixel is in up to four patches.

  Training runs one step of power iteration; its vectors are in `batch_stats`.
  """
  if not on:
    return layer
  return functools.partial(nn.SpectralNorm(layer), update_stats=train)


class DownBlock(nn.Module):
  """Divides each axis of space: strided convolution, norm, activation."""

  features: int  # Channels of the output.
  norm: str = 'none'  # Kind of `Norm`.
  spectral_norm: bool = False  # See `maybe_spectral_norm`.
  dtype: Any = None  # The convolution's; None: that of x.
  num_axes: int = 0  # The last axes of space, which are divided; 0: all.
  stride: int = 2  # Divisor of each axis; the kernel has twice that size.
  activation: str = 'own'  # Leaky ReLU; or 'snake'.

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps x: [B, *S, C] to [B, *(S / stride), features]."""
    num_axes = self.num_axes or x.ndim - 2
    layer = downsample_conv(
      self.features, num_axes, self.dtype, stride=self.stride
    )
    x = maybe_spectral_norm(layer, self.spectral_norm, train)(x)
    x = Norm(self.norm)(x, train)
    return activate(x, self.activation, leaky_relu)


class UpBlock(nn.Module):
  """Enlarges each axis by nearest neighbour: convolution, norm, activation.

  Resizing first avoids the checkerboard of a strided transposed convolution
  (https://distill.pub/2016/deconv-checkerboard). The fields are `DownBlock`'s.
  """

  features: int
  norm: str = 'none'
  dtype: Any = None
  stride: int = 2  # Factor of each axis; the kernel has size 2 stride - 1.
  activation: str = 'own'

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps x: [B, *S, C] to [B, *(stride S), features]."""
    num_axes = x.ndim - 2
    layer = upsample_layer(
      self.features, num_axes, self.dtype, stride=self.stride
    )
    x = Norm(self.norm)(layer(x), train)
    return activate(x, self.activation, leaky_relu)


def halve_image(x: jax.Array, num_axes: int = 0) -> jax.Array:
  """Averages squares of 2 pixels an axis: x [B, *S, C] to [B, *(S / 2), C].

  `num_axes` are the last axes of space that are halved; 0: all.
  """
  square = (2,) * (num_axes or x.ndim - 2)
  return nn.avg_pool(x, square, square)


def to_patches(x: jax.Array, side: int) -> jax.Array:
  """Makes channels of squares of pixels: [B, *S, C] to [B, *(S / side), C'].

  C' is C times the number of pixels in a square, in their order.
  """
  if side == 1:
    return x
  pairs = [n for size in x.shape[1:-1] for n in (size // side, side)]
  places, pixels = range(1, len(pairs), 2), range(2, len(pairs) + 1, 2)
  squares = x.reshape(x.shape[0], *pairs, x.shape[-1]).transpose(
    0, *places, *pixels, -1
  )
  return squares.reshape(x.shape[0], *pairs[::2], -1)


def from_patches(x: jax.Array, side: int) -> jax.Array:
  """Inverts `to_patches`: [B, *S, C'] to [B, *(side S), C]."""
  if side == 1:
    return x
  space = x.shape[1:-1]
  squares = x.reshape(x.shape[0], *space, *[side] * len(space), -1)
  axes = range(1, len(space) + 1)
  pairs = [axis for i in axes for axis in (i, i + len(space))]
  squares = squares.transpose(0, *pairs, -1)
  return squares.reshape(x.shape[0], *(side * size for size in space), -1)


def to_latent(network: Network, x: jax.Array) -> jax.Array:
  """Applies an encoder's last layer to x [B, *S, C], within its `__call__`.

  Returns [B, size] if the network is `flat`, else [B, *S, size]; float32.
  """
  if network.flat:
    x = x.reshape(x.shape[0], -1).astype(jnp.float32)
    return nn.Dense(network.size)(x)
  sides = (1,) * (x.ndim - 2)
  layer = Conv(network.size, sides, dtype=network.dtype, name='to_latent')
  return layer(x).astype(jnp.float32)


def from_latent(network: Network, latents: jax.Array) -> jax.Array:
  """Applies a decoder's first layer, within its `__call__`.

  Maps latents [B, Z] or [B, *S, Z] to [B, *S, features]. The network's
  `flat_space` is S for a flat latent, and () for a map.
  """
  features, space = network.widths[-1], network.flat_space
  if not space:
    sides = (network.kernel_size,) * (latents.ndim - 2)
    layer = Conv(features, sides, dtype=network.dtype, name='from_latent')
    return layer(latents)
  x = nn.Dense(math.prod(space) * features)(latents)
  return x.reshape(-1, *space, features)


def to_image(network: Network, x: jax.Array) -> jax.Array:
  """Applies a decoder's last layer, within its `__call__`; float32."""
  sides = (network.kernel_size,) * (x.ndim - 2)
  channels = network.channels * network.patch_size ** len(sides)
  layer = Conv(channels, sides, dtype=network.dtype, name='to_image')
  return from_patches(layer(x), network.patch_size).astype(jnp.float32)
