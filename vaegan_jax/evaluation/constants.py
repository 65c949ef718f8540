"""Constant pictures: a grid in their reconstructions is the networks' own.

Axes: N examples; S, one to three of space; C channels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

_LEVELS = (-0.9, -0.5, 0.1, 0.5, 0.9)
_MOST_COLORS = 8


def constant_examples(shape: Sequence[int]) -> np.ndarray:
  """Returns constant examples of a shape (*S, C): five levels, up to 8 colours.

  In each colour every C'th channel is bright, where C' is the number of colours
  and at most C. They are [N, *S, C] float32 in [-1, 1], a view without memory
  of its own.
  """
  *space, channels = shape
  colors = np.repeat(np.float32(_LEVELS)[:, None], channels, axis=1)
  number = min(channels, _MOST_COLORS) if channels > 1 else 0
  bright = [np.arange(channels) % number == i for i in range(number)]
  tinted = [np.where(b, np.float32(0.7), np.float32(-0.3)) for b in bright]
  colors = np.stack([*colors, *tinted])
  colors = colors.reshape(-1, *[1] * len(space), channels)
  return np.broadcast_to(colors, (len(colors), *shape))


@jax.jit
def energies(x: jax.Array) -> jax.Array:
  """Computes the energy off the mean of each channel, and all energy, [N, 2].

  Values of x [N, *S, C] beyond [-1, 1] are clipped.
  """
  x = jnp.clip(x.astype(jnp.float32), -1, 1)
  space, axes = tuple(range(1, x.ndim - 1)), tuple(range(1, x.ndim))
  off = x - x.mean(axis=space, keepdims=True)
  parts = [jnp.sum(jnp.square(part), axis=axes) for part in (off, x)]
  return jnp.stack(parts, axis=-1)
