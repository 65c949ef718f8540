"""The one convolution that all trained networks are made of.

With three axes of space, XLA's own is 3 to 200 times as slow on a CPU as the
same products as a convolution over the last two, in which the taps of the first
axis are channels.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def convolve(
  x: jax.Array,
  kernel: jax.Array,
  strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  **options: Any,
) -> jax.Array:
  """What `jax.lax.conv_general_dilated` gives, up to rounding.

  Args:
    x: [B, *S, C].
    kernel: [*taps, C, F].
    strides: one an axis of space.
    padding: places before and after each, or 'SAME' or 'VALID'.
    **options: of `conv_general_dilated`: with three axes, no other than that it
      has by itself.

  Returns:
    [B, *S', F].
  """
  num_axes = x.ndim - 2
  if num_axes == 3 and jax.default_backend() == 'cpu':
    return _convolve_volumes(x, kernel, strides, padding)
  letters = 'DHW'[-num_axes:]
  layout = (f'N{letters}C', f'{letters}IO', f'N{letters}C')
  options = {'dimension_numbers': layout} | options
  return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def _convolve_volumes(x, kernel, strides, padding) -> jax.Array:
  """By slabs: each depth is an image, and so many more in the batch."""
  if isinstance(padding, str):
    padding = jax.lax.padtype_to_pads(
      x.shape[1:4], kernel.shape[:3], strides, padding
    )
  (stride, *strides), (ends, *padding) = strides, padding
  taps, channels, features = kernel.shape[0], *kernel.shape[-2:]
  depth = (x.shape[1] + sum(ends) - taps) // stride + 1

  def shifted(slabs):
    """The slabs that meet each tap, in the order of the taps."""
    slabs = jnp.pad(slabs, [(0, 0), ends, *[(0, 0)] * (slabs.ndim - 2)])
    last = stride * (depth - 1) + 1
    return [slabs[:, tap : tap + last : stride] for tap in range(taps)]

  def convolve_slabs(slabs, kernel):
    images = slabs.reshape(-1, *slabs.shape[2:])
    images = convolve(images, kernel, strides, padding)
    return images.reshape(*slabs.shape[:2], *images.shape[1:])

  # What there is less of is kept once for each tap.
  if features > channels or stride > 1:
    joined = jnp.concatenate(shifted(x), -1)
    return convolve_slabs(joined, jnp.concatenate(list(kernel), -2))
  joined = convolve_slabs(x, jnp.concatenate(list(kernel), -1))
  parts = shifted(joined)
  return sum(
    part[..., tap * features : (tap + 1) * features]
    for tap, part in enumerate(parts)
  )
