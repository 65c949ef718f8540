"""Preprocessing on the device: values become floats in [-1, 1].

It needs only JAX, so that a finished model preprocesses its images as training
did, without the data. Photographs are uint8; arrays have any dtype and units of
their own.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

# 'dtype' for photographs, from 0 to 255; or the values that become -1 and 1.
ValueRange = str | tuple[float, float]


def to_float(images: jax.Array, value_range: ValueRange = 'dtype') -> jax.Array:
  """Maps values to [-1, 1].

  Args:
    images: [..., C] uint8 or, with a pair, of any type.
    value_range: 'dtype': 0 and 255 become -1 and 1; or the pair of values that
      do, outside of which values are clipped.

  Returns:
    [..., C] float32.
  """
  images = jnp.asarray(images, jnp.float32)
  if value_range == 'dtype':
    return images / 127.5 - 1.0
  low, high = value_range
  x = (images - low) / ((high - low) / 2) - 1
  return jnp.clip(x, -1, 1)


def to_values(x: jax.Array, value_range: ValueRange = 'dtype') -> jax.Array:
  """Inverts `to_float`, except for its clipping.

  Args:
    x: [..., C] in [-1, 1], or slightly outside.
    value_range: see `to_float`.

  Returns:
    [..., C] float32 in the units of the data.
  """
  low, high = (0.0, 255.0) if value_range == 'dtype' else value_range
  return (jnp.asarray(x, jnp.float32) + 1) * ((high - low) / 2) + low


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
