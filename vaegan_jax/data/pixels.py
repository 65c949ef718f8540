"""Preprocessing on the device: values become floats in [-1, 1].

It needs only JAX, so that a finished model preprocesses its images as training
did, without the data. Photographs are uint8; arrays have any dtype and units of
their own.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

# 'dtype' for photographs, from 0 to 255; or the values that become -1 and 1.
ValueRange = str | tuple[float, float]


def to_float(
  images: jax.Array, value_range: ValueRange = 'dtype', mid_side: bool = False
) -> jax.Array:
  """Maps values to [-1, 1].

  Args:
    images: [..., C] uint8 or, with a pair, of any type; NaN stays NaN.
    value_range: 'dtype': 0 and 255 become -1 and 1; or the pair of values that
      do, outside of which values are clipped.
    mid_side: whether two channels, left and right, become mid and side.

  Returns:
    [..., C] float32.
  """
  images = jnp.asarray(images, jnp.float32)
  if value_range == 'dtype':
    return images / 127.5 - 1.0
  low, high = value_range
  x = jnp.clip((images - low) / ((high - low) / 2) - 1, -1, 1)
  return mid_side_of(x) if mid_side else x


def mid_side_of(x: jax.Array) -> jax.Array:
  """Maps left and right [..., 2] to half their sum and half the difference."""
  return left_right(x) / 2


def left_right(x: jax.Array) -> jax.Array:
  """Maps mid and side [..., 2] to left and right, their sum and difference."""
  mid, side = x[..., :1], x[..., 1:]
  return jnp.concatenate([mid + side, mid - side], -1)


def to_values(
  x: jax.Array, value_range: ValueRange = 'dtype', mid_side: bool = False
) -> jax.Array:
  """Inverts `to_float`, except for its clipping.

  Args:
    x: [..., C] in [-1, 1], or slightly outside.
    value_range, mid_side: see `to_float`.

  Returns:
    [..., C] float32 in the units of the data.
  """
  low, high = (0.0, 255.0) if value_range == 'dtype' else value_range
  x = left_right(x) if mid_side else x
  return (jnp.asarray(x, jnp.float32) + 1) * ((high - low) / 2) + low


@jax.jit
def fill(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Fills no data smoothly from the valid values around it.

  Each channel is averaged over ever larger squares of valid values, which are
  enlarged again where there are none (the pyramid of Gortler et al., "The
  Lumigraph", 1996). So no edge appears where a swath of no data begins.

  Args:
    x: [B, *S, C] float32, NaN where no data.

  Returns:
    x without NaN, a channel without any value being 0; and which values are
    valid, [B, *S, C] bool.
  """
  valid = ~jnp.isnan(x)
  return _interpolate(jnp.where(valid, x, 0), valid), valid


def _interpolate(x: jax.Array, valid: jax.Array) -> jax.Array:
  """Returns x with values in place of its zeros where it is not valid."""
  space = x.shape[1:-1]
  if max(space) == 1:
    return x
  square = (1, *[2] * len(space), 1)
  sums, counts = (
    jax.lax.reduce_window(v, 0.0, jax.lax.add, square, square, 'SAME')
    for v in (x, valid.astype(x.dtype))
  )
  rough = _interpolate(sums / jnp.maximum(counts, 1), counts > 0)
  for axis, size in enumerate(space, start=1):
    rough = jax.lax.slice_in_dim(_double(rough, axis), 0, size, axis=axis)
  return jnp.where(valid, x, rough)


def _double(x: jax.Array, axis: int) -> jax.Array:
  """Doubles an axis by linear interpolation."""
  size = x.shape[axis]
  before, after = (
    jnp.take(x, np.clip(np.arange(size) + step, 0, size - 1), axis)
    for step in (-1, 1)
  )
  pairs = jnp.stack([0.75 * x + 0.25 * n for n in (before, after)], axis + 1)
  return pairs.reshape(*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])


def random_crop(
  images: jax.Array, firsts: jax.Array, *, shape: Sequence[int]
) -> jax.Array:
  """Crops each image.

  Args:
    images: [B, *S, C], of any dtype.
    firsts: [B, n] integers, the first index on each axis; n may exceed the
      axes of S.
    shape: S'.

  Returns:
    [B, *S', C].
  """
  num_axes, channels = len(shape), images.shape[-1]

  def cut(image, first):
    start = (*first[:num_axes], 0)
    return jax.lax.dynamic_slice(image, start, (*shape, channels))

  return jax.vmap(cut)(images, firsts)


def random_flip(images: jax.Array, flip: jax.Array, axis: int = 1) -> jax.Array:
  """Mirrors the images [B, *S, C] whose bit in `flip` [B] is set.

  `axis` is an axis of S, horizontal by default.
  """
  flip = flip.reshape(-1, *[1] * (images.ndim - 1))
  return jnp.where(flip, jnp.flip(images, axis + 1), images)
