"""Blocks: the convolution, norm and activation that every network stacks.

A block's output is taken *after* its activation, so a captured feature is
what the next layer really sees. Written over one to three axes of space.
Axes: B batch, S the axes of space, C channels.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.models.convolving import convolve
from vaegan_jax.models.doubling import double_and_convolve
from vaegan_jax.models.halving import halve

# Flax's layer, with the names and initial values of its parameters.
Conv = functools.partial(nn.Conv, conv_general_dilated_cls=lambda: convolve)
NORMS = ('none', 'group', 'instance', 'batch')
LEAKY_SLOPE = 0.2
MAX_GROUPS = 32


def at_least_float32(x: jax.Array) -> jax.Array:
  """The same, if it was of fewer bits in float32."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


class Norm(nn.Module):
  """A norm: by a group of channels, by each (instance), by the batch, or none.

  Attributes:
    kind: 'none', 'group', 'instance' or 'batch'. GroupNorm (arXiv 1803.08494)
      takes the most groups, up to 32, that divide the channels. InstanceNorm
      (arXiv 1607.08022) has no parameters. BatchNorm (arXiv 1502.03167)
      normalises over the images of one device; its running averages are in the
      collection `batch_stats`.
  """

  kind: str = 'none'

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
    raise ValueError(f'norm is {self.kind!r}; known: {NORMS}')


def spectrally(layer: nn.Module, on: bool, train: bool) -> Callable:
  """A layer with a normalised kernel (arXiv 1802.05957), if it is on.

  Reshaped to [inputs of one output, outputs], the kernel has largest singular
  value 1, and so has a dense layer. A convolution has it at one place alone:
  patches overlap, and over a whole image its own is larger. In a `DownBlock` a
  pixel is in up to four patches, which makes it 2 at most.

  One step of power iteration in training; its vectors are in `batch_stats`.
  """
  if not on:
    return layer
  return functools.partial(nn.SpectralNorm(layer), update_stats=train)


def convolution(
  features: int,
  taps: int,
  num_axes: int,
  function: Callable[[jax.Array, jax.Array], Any],
  dtype: Any = None,
  name: str | None = None,
) -> nn.Conv:
  """A convolution's parameters in Flax's names, at work in an equal form.

  Args:
    features: channels of the output.
    taps: of the kernel, on each axis.
    num_axes: of space.
    function: (x, kernel [taps, ..., C, features]) -> what the layer gives,
      but for the bias.
    dtype: that it computes in; None: that of x and the kernel.
    name: of the layer; None: Flax gives it one.
  """
  return nn.Conv(
    features,
    (taps,) * num_axes,
    dtype=dtype,
    conv_general_dilated_cls=lambda: (
      lambda x, kernel, *_, **__: function(x, kernel)
    ),
    name=name,
  )


class DownBlock(nn.Module):
  """Halves every axis of space: 4x4 convolution of stride 2, norm, leaky ReLU.

  Attributes:
    features: channels of the output.
    norm: 'none', 'group', 'instance' or 'batch'.
    spectral_norm: whether the kernel is normalised, as `spectrally` says.
    dtype: that the convolution computes in; None: that of x.
  """

  features: int
  norm: str = 'none'
  spectral_norm: bool = False
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps x: [B, *S, C] to [B, *(S / 2), features]."""
    conv = convolution(self.features, 4, x.ndim - 2, halve, self.dtype)
    x = spectrally(conv, self.spectral_norm, train)(x)
    x = Norm(self.norm)(x, train)
    return nn.leaky_relu(x, LEAKY_SLOPE)


class UpBlock(nn.Module):
  """Doubles all axes of space: nearest neighbour, 3x3 convolution, norm, ReLU.

  Resizing first gives every output pixel the same number of taps, which a
  strided transposed convolution does not (its checkerboard:
  https://distill.pub/2016/deconv-checkerboard).
  """

  features: int
  norm: str = 'none'
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps x: [B, *S, C] to [B, *(2 S), features]."""
    num_axes = x.ndim - 2
    conv = convolution(
      self.features, 3, num_axes, double_and_convolve, self.dtype
    )
    x = conv(x)
    x = Norm(self.norm)(x, train)
    return nn.leaky_relu(x, LEAKY_SLOPE)


def to_latent(
  x: jax.Array, size: int, *, flat: bool, dtype: Any = None
) -> jax.Array:
  """The last layer of an encoder; called within its `__call__`.

  Args:
    x: [B, *S, C] its smallest feature map.
    size: entries that the latent takes, of the image or of each place.
    flat: whether one latent is of the whole image.
    dtype: that the convolution computes in.

  Returns:
    [B, size] if it is flat, else [B, *S, size]; float32.
  """
  if flat:
    return nn.Dense(size)(x.reshape(x.shape[0], -1).astype(jnp.float32))
  conv = Conv(size, (1,) * (x.ndim - 2), dtype=dtype, name='to_latent')
  return conv(x).astype(jnp.float32)


def from_latent(
  latents: jax.Array,
  features: int,
  *,
  flat_space: tuple[int, ...],
  dtype: Any = None,
) -> jax.Array:
  """The first layer of a decoder; called within its `__call__`.

  Args:
    latents: [B, Z] or [B, *S, Z].
    features: channels of its smallest feature map.
    flat_space: S of that map, where the latent is flat; (): it is a map.
    dtype: that the convolution computes in.

  Returns:
    [B, *S, features].
  """
  if not flat_space:
    num_axes = latents.ndim - 2
    return Conv(features, (3,) * num_axes, dtype=dtype, name='from_latent')(
      latents
    )
  x = nn.Dense(math.prod(flat_space) * features)(latents)
  return x.reshape(-1, *flat_space, features)
