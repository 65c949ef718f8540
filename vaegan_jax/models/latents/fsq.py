"""Finite scalar quantisation: every entry is rounded to a few levels.

Axes: B batch, S axes of space, Z entries.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vaegan_jax.models.latents.base import Losses, Stats
from vaegan_jax.models.latents.codes import Codes, straight_through


class FSQ(Codes):
  """Finite scalar quantisation (arXiv 2309.15505): no codebook, no loss."""

  # Numbers of values of a token's entries, at least 3; K is their product.
  levels: Sequence[int] = (8, 6, 5)

  @property
  def code_dim(self) -> int:
    """Entries of a token, one for each number of levels."""
    return len(self.levels)

  @property
  def codebook_size(self) -> int:
    """K, the number of codes."""
    return math.prod(self.levels)

  def __call__(
    self, h: jax.Array, noise: None = None, train: bool = False
  ) -> tuple[jax.Array, Losses, Stats]:
    """See `base.py`; it has no loss."""
    del noise
    tokens = self._bound(self._tokens(h))
    rounded = jnp.round(tokens)
    _, stats = self._count(self._index(rounded), train)
    latents = straight_through(tokens, rounded) / self._halves
    return latents.reshape(h.shape), {}, stats

  def _to_indices(self, tokens: jax.Array) -> jax.Array:
    return self._index(jnp.round(self._bound(tokens)))

  def _to_codes(self, indices: jax.Array) -> jax.Array:
    digits = indices[..., None] // self._basis % np.array(self.levels)
    codes = (digits - self._halves) / self._halves
    return codes.astype(jnp.float32)

  def _bound(self, tokens):
    """Bounds tokens to a range in which rounding gives each level.

    With an even number of levels the centre lies between two of them. The slack
    keeps the outer levels reachable, and atanh finite from 3 levels on.
    """
    levels = np.array(self.levels, np.float32)
    half = (levels - 1) * (1 + 1e-3) / 2
    offset = np.where(levels % 2 == 0, 0.5, 0.0).astype(np.float32)
    shift = np.arctanh(offset / half)
    return jnp.tanh(tokens + shift) * half - offset

  def _index(self, rounded):
    digits = rounded.astype(jnp.int32) + self._halves
    return jnp.sum(digits * self._basis, axis=-1)

  @property
  def _halves(self):
    return np.array(self.levels, np.int32) // 2

  @property
  def _basis(self):
    return np.cumprod([1, *self.levels[:-1]], dtype=np.int32)
