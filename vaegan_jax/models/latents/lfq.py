"""Lookup-free quantisation: the sign of every entry is a bit.

Axes: B batch, S axes of space, Z entries, G bits of a group.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vaegan_jax.models.latents.base import Losses, Stats
from vaegan_jax.models.latents.codes import Codes, pass_through

_MAX_GROUP_BITS = 9  # Over whose values the entropy is summed.


class LFQ(Codes):
  """Lookup-free quantisation (arXiv 2310.05737): the signs are the code.

  Attributes:
    code_dim: bits of a token; K is two to that power.
    axis_name: of the devices that share a batch, over which codes are to be
      used alike; None: it is all here.
  """

  code_dim: int = 10
  axis_name: str | None = None

  @property
  def codebook_size(self) -> int:
    """K."""
    return 2**self.code_dim

  def __call__(
    self, h: jax.Array, noise: None = None, train: bool = False
  ) -> tuple[jax.Array, Losses, Stats]:
    """See `latents.py`; its losses are `commitment` and `entropy`.

    The latter is low where every token is sure of its code, and all codes are
    used alike (equation 5 there), in nats a token.
    """
    del noise
    tokens = self._tokens(h)
    signs = jnp.where(tokens > 0, 1.0, -1.0)
    _, stats = self._follow(self._to_indices(signs), train)
    axes = range(1, tokens.ndim)
    losses = {
      'commitment': jnp.square(tokens - signs).mean(axes),
      'entropy': self._entropy(tokens, train),
    }
    return pass_through(tokens, signs).reshape(h.shape), losses, stats

  def _to_codes(self, indices: jax.Array) -> jax.Array:
    bits = indices[..., None] >> np.arange(self.code_dim) & 1
    return 2.0 * bits.astype(jnp.float32) - 1.0

  def _to_indices(self, tokens):
    bits = (tokens > 0).astype(jnp.int32)
    return jnp.sum(bits << np.arange(self.code_dim), axis=-1)

  def _entropy(self, tokens, train):
    """[B]: of a token's code, less that of the codes of all of them.

    A bit is 1 with the chance that a softmax over the squared distances to -1
    and 1 gives it. The second is taken in groups of bits, so that there never
    are 2^bits values; as bits of two groups are taken to be independent, it is
    an upper bound.
    """
    chances = nn.sigmoid(4.0 * tokens)
    own = _binary_entropy(chances).sum(-1).mean(range(1, tokens.ndim - 1))
    common = 0.0
    for first in range(0, self.code_dim, _MAX_GROUP_BITS):
      joint = _joint(chances[..., first : first + _MAX_GROUP_BITS])
      mean = joint.reshape(-1, joint.shape[-1]).mean(0)
      if train and self.axis_name is not None:
        # The value of all devices, with the gradient of this one: the mean of
        # their gradients is that of the whole.
        over_all = jax.lax.pmean(jax.lax.stop_gradient(mean), self.axis_name)
        mean += over_all - jax.lax.stop_gradient(mean)
      common -= jnp.sum(mean * jnp.log(mean + 1e-10))
    return own - common


def _binary_entropy(chances):
  return -sum(p * jnp.log(p + 1e-10) for p in (chances, 1 - chances))


def _joint(chances: jax.Array) -> jax.Array:
  """The chances of all values of independent bits: [..., 2^G] of [..., G]."""
  joint = jnp.ones((*chances.shape[:-1], 1))
  for bit in range(chances.shape[-1]):
    p = chances[..., bit : bit + 1]
    joint = jnp.concatenate([joint * (1 - p), joint * p], axis=-1)
  return joint
