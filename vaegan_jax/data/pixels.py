"""What the device does to pixels: those of the host become floats in [-1, 1].

It needs JAX alone, so that a finished model prepares its images just as its
training did, without the data. Photographs are uint8; arrays are of any type,
and in units of their own.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

# 'dtype' of photographs, whose values are 0 to 255; or what becomes -1 and 1.
ValueRange = str | tuple[float, float]


def to_float(images: jax.Array, value_range: ValueRange = 'dtype') -> jax.Array:
  """Maps values to [-1, 1].

  Args:
    images: [..., C] uint8 or, with a pair, of any type.
    value_range: 'dtype': 0 and 255 become -1 and 1; or a pair of what does, and
      what is beyond is cut.

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
  """Undoes `to_float`, but for what it has cut.

  Args:
    x: [..., C] in [-1, 1], which may leave it.
    value_range: as `to_float` takes it.

  Returns:
    [..., C] float32 in the data's own units.
  """
  low, high = (0.0, 255.0) if value_range == 'dtype' else value_range
  return (jnp.asarray(x, jnp.float32) + 1) * ((high - low) / 2) + low


def random_crop(
  images: jax.Array, firsts: jax.Array, *, sides: Sequence[int]
) -> jax.Array:
  """Cuts a part out of each image.

  Args:
    images: [B, *S, C], of any type.
    firsts: [B, n] whole numbers, n at least the axes of S: where each begins.
    sides: S'.

  Returns:
    [B, *S', C].
  """
  num_axes, channels = len(sides), images.shape[-1]

  def cut(image, first):
    start = (*first[:num_axes], 0)
    return jax.lax.dynamic_slice(image, start, (*sides, channels))

  return jax.vmap(cut)(images, firsts)


def random_flip(images: jax.Array, flip: jax.Array, axis: int = 1) -> jax.Array:
  """Mirrors the images whose own bit is set, left and right if not told else.

  Args:
    images: [B, *S, C], of any type.
    flip: [B] bool.
    axis: of the space S.

  Returns:
    [B, *S, C].
  """
  flip = flip.reshape(-1, *[1] * (images.ndim - 1))
  return jnp.where(flip, jnp.flip(images, axis + 1), images)
