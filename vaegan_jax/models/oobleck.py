"""The layout 'oobleck': the autoencoder of sounds of Stable Audio.

It is that of diffusers' AutoencoderOobleck (arXiv 2404.10301), layer by layer:
levels of three residual units with dilated convolutions and snake activations.
See `pretrained/diffusers_oobleck.py`.
Axes: B batch, T samples, C channels, Z entries of a latent.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.models import blocks

_DILATIONS = (1, 3, 9)
_MIN_STD = 1e-4
_Snake = functools.partial(blocks.Snake, separate=True)


class Unit(nn.Module):
  """A dilated convolution and one of size 1, added to the input."""

  dilation: int  # Distance between the kernel's positions.
  dtype: Any = None  # The convolutions'; None: float32.

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x: [B, T, C] to the same shape."""
    conv = functools.partial(blocks.Conv, x.shape[-1], dtype=self.dtype)
    h = _Snake(name='snake_0')(x)
    h = conv((7,), kernel_dilation=self.dilation, name='conv_0')(h)
    h = _Snake(name='snake_1')(h)
    return x + conv((1,), name='conv_1')(h)


class Level(nn.Module):
  """Three units, and a convolution that divides or enlarges the time axis."""

  features: int  # Channels of the output.
  stride: int  # Factor of the axis, an even number.
  enlarge: bool  # True: the axis is enlarged, before the units.
  dtype: Any = None  # The convolutions'; None: float32.
  remat: bool = False  # True: the gradient recomputes the units.

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


class _Network(blocks.Network, kw_only=True):
  """The levels that both halves have; others of the fields are not read."""

  num_unstrided = 1
  flat = False

  @nn.nowrap
  def _apply_level(self, x: jax.Array, level: int, *, enlarge: bool):
    """Applies level 1, 2, ..., whose convolution has one of the strides."""
    features = self.widths[level - 1 if enlarge else level]
    stride, name = self.level_strides[level - 1], f'level_{level}'
    options = self.dtype, self.remat
    return Level(features, stride, enlarge, *options, name=name)(x)


class Encoder(_Network):
  """A convolution, levels that divide the time axis, and the latent's input."""

  size: int  # 2 Z.

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps x: [B, T, C] to means and log variances [B, T / factor, 2 Z]."""
    del train
    conv = functools.partial(blocks.Conv, dtype=self.dtype)
    x = conv(self.widths[0], (7,), name='conv_0')(x)
    for level in range(1, len(self.widths)):
      x = self._apply_level(x, level, enlarge=False)
    x = conv(self.size, (3,), name='conv_out')(_Snake(name='snake')(x))
    mean, scale = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    logvar = 2 * jnp.log(nn.softplus(scale) + _MIN_STD)
    return jnp.concatenate([mean, logvar], axis=-1)


class Decoder(_Network):
  """The mirror of the encoder, with the same numbering of levels."""

  channels: int

  @nn.compact
  def __call__(self, latents: jax.Array, train: bool = False) -> jax.Array:
    """Maps latents: [B, T, Z] to unbounded sounds [B, T', C] float32."""
    del train
    conv = functools.partial(blocks.Conv, dtype=self.dtype)
    x = conv(self.widths[-1], (7,), name='conv_0')(latents)
    for level in reversed(range(1, len(self.widths))):
      x = self._apply_level(x, level, enlarge=True)
    x = _Snake(name='snake')(x)
    x = conv(self.channels, (7,), use_bias=False, name='conv_out')(x)
    return x.astype(jnp.float32)
