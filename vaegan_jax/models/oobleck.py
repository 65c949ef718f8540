"""The layout 'oobleck': the autoencoder of sounds of Stable Audio.

It is that of diffusers' AutoencoderOobleck (arXiv 2404.10301), layer by layer:
levels of three residual units with dilated convolutions and snake activations.
See `pretrained/diffusers_oobleck.py`.
Axes: B batch, T samples, C channels, Z entries of a latent.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.models import blocks

_DILATIONS = (1, 3, 9)
_MIN_STD = 1e-4
_Snake = functools.partial(blocks.Snake, separate=True)


class Unit(nn.Module):
  """A dilated convolution and one of size 1, added to the input.

  Attributes:
    dilation: distance between the kernel's positions.
    dtype: the convolutions'; None: float32.
  """

  dilation: int
  dtype: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x: [B, T, C] to the same shape."""
    conv = functools.partial(blocks.Conv, x.shape[-1], dtype=self.dtype)
    h = _Snake(name='snake_0')(x)
    h = conv((7,), kernel_dilation=self.dilation, name='conv_0')(h)
    h = _Snake(name='snake_1')(h)
    return x + conv((1,), name='conv_1')(h)


class Level(nn.Module):
  """Three units, and a convolution that divides or enlarges the time axis.

  Attributes:
    features: channels of the output.
    stride: by which the axis is divided or enlarged, an even number.
    enlarge: whether it is enlarged, before the units.
    dtype, remat: as those of `residual.Encoder`.
  """

  features: int
  stride: int
  enlarge: bool
  dtype: Any = None
  remat: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x: [B, T, C] to [B, T', features]."""
    if self.enlarge:
      return self._apply_units(self._resize(x))
    return self._resize(self._apply_units(x))

  @nn.nowrap
  def _apply_units(self, x):
    unit = nn.remat(Unit) if self.remat else Unit
    for i, dilation in enumerate(_DILATIONS):
      x = unit(dilation, self.dtype, name=f'unit_{i}')(x)
    return x

  @nn.nowrap
  def _resize(self, x):
    """Convolves with kernel size 2 s and stride s, or its transpose."""
    size, pad = 2 * self.stride, self.stride // 2
    strided = {'strides': self.stride, 'padding': [(pad, pad)]}
    if self.enlarge:
      pad = size - 1 - pad
      strided = {'input_dilation': self.stride, 'padding': [(pad, pad)]}
    x = _Snake(name='snake')(x)
    return blocks.Conv(
      self.features, (size,), dtype=self.dtype, name='resize', **strided
    )(x)


class Encoder(nn.Module):
  """A convolution, levels that divide the time axis, and the latent's input.

  Attributes:
    size: 2 Z.
    width, channel_multipliers, strides, dtype, remat: as those of
      `residual.Encoder`.
  """

  size: int
  width: int
  channel_multipliers: Sequence[int]
  strides: Sequence[int]
  dtype: Any = None
  remat: bool = False
  flat = False

  @property
  def factor(self) -> int:
    """The downsampling factor of the latent's map."""
    return math.prod(self.strides)

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps x: [B, T, C] to means and log variances [B, T / factor, 2 Z]."""
    del train
    conv = functools.partial(blocks.Conv, dtype=self.dtype)
    first, *widths = (self.width * m for m in self.channel_multipliers)
    x = conv(first, (7,), name='conv_0')(x)
    for level, width in enumerate(widths):
      x = Level(
        width,
        self.strides[level],
        False,
        self.dtype,
        self.remat,
        name=f'level_{level + 1}',
      )(x)
    x = conv(self.size, (3,), name='conv_out')(_Snake(name='snake')(x))
    mean, scale = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    logvar = 2 * jnp.log(nn.softplus(scale) + _MIN_STD)
    return jnp.concatenate([mean, logvar], axis=-1)


class Decoder(nn.Module):
  """The mirror of the encoder, whose levels are counted as the encoder's are.

  Attributes:
    channels: C.
    width, channel_multipliers, strides, dtype, remat: as the encoder's.
  """

  channels: int
  width: int
  channel_multipliers: Sequence[int]
  strides: Sequence[int]
  dtype: Any = None
  remat: bool = False

  @nn.compact
  def __call__(self, latents: jax.Array, train: bool = False) -> jax.Array:
    """Maps latents: [B, T, Z] to unbounded sounds [B, T', C] float32."""
    del train
    conv = functools.partial(blocks.Conv, dtype=self.dtype)
    widths = [self.width * m for m in self.channel_multipliers]
    x = conv(widths[-1], (7,), name='conv_0')(latents)
    for level in reversed(range(len(self.strides))):
      x = Level(
        widths[level],
        self.strides[level],
        True,
        self.dtype,
        self.remat,
        name=f'level_{level + 1}',
      )(x)
    x = _Snake(name='snake')(x)
    x = conv(self.channels, (7,), use_bias=False, name='conv_out')(x)
    return x.astype(jnp.float32)


def create(
  channels: int, size: int, model: Mapping[str, Any], dtype: Any
) -> tuple[Encoder, Decoder]:
  """Builds both networks from the fields of `config.model`."""
  fields = {
    'width': model['width'],
    'channel_multipliers': model['channel_multipliers'],
    'strides': blocks.strides_of(model['strides'], model['depth']),
    'dtype': dtype,
    'remat': model['remat'],
  }
  return Encoder(size, **fields), Decoder(channels, **fields)
