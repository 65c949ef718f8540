"""The critic, which separates photographs from reconstructions.

Its blocks are the layers of the perceptual distance: `block_0`, `block_1`, ...
in forward order. By default it has neither BatchNorm nor dropout, since an
image's features would depend on its batch or on chance.
Axes: B batch, S the axes of space, C channels.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vaegan_jax.models import blocks
from vaegan_jax.models import views as views_lib


class ResidualDownBlock(nn.Module):
  """A residual block of the critic: two convolutions, the second of stride 2.

  The shortcut is the mean over squares and a 1x1 convolution (as in arXiv
  1912.04958, section 4.1). The output is taken after its activation. Without a
  norm it is proportional to the contrast of the input.
  """

  features: int  # Channels of the output.
  norm: str = 'none'  # Kind of `blocks.Norm`.
  spectral_norm: bool = False  # See `blocks.maybe_spectral_norm`.
  dtype: Any = None  # The convolutions'; None: that of x.
  num_axes: int = 0  # The last axes of space, which are halved; 0: all.

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps x: [B, *S, C] to [B, *(S / 2), features] float32."""
    num_axes, channels = self.num_axes or x.ndim - 2, x.shape[-1]
    normalized = functools.partial(
      blocks.maybe_spectral_norm, on=self.spectral_norm, train=train
    )
    conv = functools.partial(nn.Conv, dtype=self.dtype)
    first = conv(channels, (3,) * num_axes, name='conv_0')
    second = blocks.downsample_conv(
      self.features, num_axes, self.dtype, name='conv_1'
    )
    shortcut = conv(
      self.features, (1,) * num_axes, use_bias=False, name='shortcut'
    )
    h = blocks.Norm(self.norm)(normalized(first)(x), train)
    h = normalized(second)(nn.leaky_relu(h, blocks.LEAKY_SLOPE))
    h = blocks.Norm(self.norm)(h, train)
    skip = normalized(shortcut)(blocks.halve_image(x, num_axes))
    # The sum of two that vary alike varies twice as much.
    h = (blocks.at_least_float32(h) + skip) * math.sqrt(0.5)
    return nn.leaky_relu(h, blocks.LEAKY_SLOPE)


class Critic(nn.Module):
  """Down-blocks, then one layer to the logits.

  With several scales, each has a critic of its own (arXiv 1711.11585, section
  3.2). `scale_1` gets the image's means over squares of 2x2, `scale_2` the
  means of those. Their layers are `scale_1/block_0` and so on. Sounds have
  other views too, each with a critic of its own (see `views.py`), whose layers
  are `stft_512/block_0` or `period_3/block_0`.
  """

  width: int  # Channels of the first block, before its multiplier.
  # One per block, in forward order. A residual critic has one more, the first,
  # for the layer before its blocks.
  channel_multipliers: Sequence[int]
  norm: str = 'none'  # Kind of `blocks.Norm`.
  spectral_norm: bool = False  # See `blocks.maybe_spectral_norm`.
  # 'dense', one logit per image, which ties a trained critic to one image size;
  # 'patch', one per position of the last block (arXiv 1611.07004, section
  # 3.2.2); or 'none', which returns the last block's feature.
  head: str = 'dense'
  # Number of critics of the view 'wave', the example itself; above 1 the head
  # is 'patch' or 'none'.
  num_scales: int = 1
  network: str = 'plain'  # Kind of the blocks; or 'residual'.
  dtype: Any = None  # The convolutions'; None: that of x.
  # Some of `names.VIEWS`; with others than 'wave' the head is 'patch'.
  views: Sequence[str] = ('wave',)
  stft_windows: Sequence[int] = (1024, 512, 256)  # In samples, a critic each.
  # Shares of the frequencies at which each spectrum is cut into bands, which
  # then have a critic each.
  stft_bands: Sequence[float] = ()
  periods: Sequence[int] = (2, 3, 5, 7, 11)  # In samples, one critic each.
  num_axes: int = 0  # The last axes of space, which are convolved; 0: all.
  patch_size: int = 1  # Side of the squares that are channels, at each scale.

  @property
  def num_halvings(self) -> int:
    """The power of 2 that must divide each side, in patches."""
    return len(self._block_names) + self.num_scales - 1

  @property
  def layer_names(self) -> tuple[str, ...]:
    """The layers of the perceptual distance, in forward order."""
    parts = [f'{name}/' for name in views_lib.names_of(*self._of_sounds)]
    if 'wave' in self.views:
      scales = [f'scale_{i}/' for i in range(1, self.num_scales)]
      parts = ['', *scales, *parts]
    return tuple(f'{p}{name}' for p in parts for name in self._block_names)

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Computes the logits of images.

    Args:
      x: [B, *S, C] in [-1, 1].
      train: whether norms use and update the batch's own moments.

    Returns:
      Logits, positive means real: [B], or a map [B, *S'] if the head is
      'patch'. With several scales it is [B, *S', num_scales], and with other
      views [B, T', number of critics], in the order of time. Smaller maps are
      repeated, so that each critic counts alike in the mean.
    """
    sound, maps = x, []
    if 'wave' in self.views:
      maps.append(self._one_scale(x, train))
      for scale in range(1, self.num_scales):
        x = blocks.halve_image(x)
        coarse = self._part(f'scale_{scale}')
        maps.append(_repeat(coarse(x, train), 2**scale, x.ndim - 2))
    multiple = 2 ** len(self._block_names)
    for view in views_lib.views_of(sound, *self._of_sounds, multiple):
      part = self._part(view.name, view.num_axes, patch_size=1)
      logits = part(view.x, train)
      if view.num_axes == 1:  # Phases before time.
        logits = logits.swapaxes(1, 2)
      maps.append(logits.reshape(logits.shape[0], -1))
    if len(maps) == 1:
      return maps[0]
    length = max(logits.shape[1] for logits in maps)
    if any(logits.shape[1] < length for logits in maps):
      place = np.arange(length)  # Entries are repeated, in their order.
      maps = [logits[:, place * logits.shape[1] // length] for logits in maps]
    return jnp.stack(maps, axis=-1)

  def _part(self, name: str, num_axes: int = 0, **fields) -> nn.Module:
    """Returns the critic of one view or scale, within `__call__`."""
    fields |= {'parent': self, 'name': name, 'num_axes': num_axes}
    return self.clone(num_scales=1, views=('wave',), **fields)

  @property
  def _of_sounds(self) -> tuple[Sequence, ...]:
    return self.views, self.stft_windows, self.stft_bands, self.periods

  @property
  def _block_names(self) -> list[str]:
    num_blocks = len(self.channel_multipliers) - (self.network == 'residual')
    return [f'block_{i}' for i in range(num_blocks)]

  def _one_scale(self, x, train):
    """Computes the logits of one scale; called within `__call__`."""
    names, block = self._block_names, blocks.DownBlock
    widths = [self.width * m for m in self.channel_multipliers]
    x = blocks.to_patches(x, self.patch_size)
    if self.network == 'residual':
      block = ResidualDownBlock
      kernel_size = (3,) * (self.num_axes or x.ndim - 2)
      conv = blocks.Conv(
        widths[0], kernel_size, dtype=self.dtype, name='from_image'
      )
      x = blocks.maybe_spectral_norm(conv, self.spectral_norm, train)(x)
      x = nn.leaky_relu(x, blocks.LEAKY_SLOPE)
    options = self.norm, self.spectral_norm, self.dtype, self.num_axes
    for name, features in zip(names, widths[-len(names) :], strict=True):
      x = block(features, *options, name=name)(x, train)
    if self.head == 'none':
      return x
    x = blocks.at_least_float32(x)
    if self.head == 'dense':
      x = x.reshape(x.shape[0], -1)
    dense = blocks.maybe_spectral_norm(nn.Dense(1), self.spectral_norm, train)
    return dense(x)[..., 0]


def _repeat(logits: jax.Array, times: int, num_axes: int) -> jax.Array:
  """Repeats each entry of a map along every axis of space."""
  for axis in range(1, num_axes + 1):
    logits = jnp.repeat(logits, times, axis)
  return logits
