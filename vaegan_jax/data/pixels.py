"""What the device does to pixels: uint8 on the host, floats in [-1, 1] here.

It needs JAX alone, so that a finished model prepares its images just as its
training did, without the data.
"""

import jax
import jax.numpy as jnp


def to_float(images: jax.Array) -> jax.Array:
  """Maps [..., H, W, C] uint8 in [0, 255] to float32 in [-1, 1]."""
  return jnp.asarray(images, jnp.float32) / 127.5 - 1.0


def random_flip(images: jax.Array, flip: jax.Array) -> jax.Array:
  """Mirrors left and right the images whose own bit is set.

  Args:
    images: [B, H, W, C], of any type.
    flip: [B] bool.

  Returns:
    [B, H, W, C].
  """
  return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)
