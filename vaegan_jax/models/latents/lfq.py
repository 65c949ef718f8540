"""Lookup-free quantisation: the sign of every entry is a bit.

Axes: B batch, S axes of space, Z entries, G bits of a group.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vaegan_jax.models.latents.base import Losses, Stats
from vaegan_jax.models.latents.codes import Codes, straight_through

_MAX_GROUP_BITS = 9  # The entropy sums over the 2^9 values of a group.


class LFQ(Codes):
  """Lookup-free quantisation (arXiv 2310.05737): the signs are the code."""

  code_dim: int = 8  # Bits of a token; K is two to that power.
  # Axis of the devices that share a batch, over which the codes' entropy is
  # taken; None: the batch is on one device.
  axis_name: str | None = None

  @property
  def codebook_size(self) -> int:
    """K, the number of codes."""
    return 2**self.code_dim

  def __call__(
    self, h: jax.Array, noise: None = None, train: bool = False
  ) -> tuple[jax.Array, Losses, Stats]:
    """See `base.py`; its losses are `commitment` and `entropy`.

    The entropy loss (equation 5 there) is low if each token's code is certain
    and all codes are equally frequent, in nats per token.
    """
    del noise
    tokens = self._tokens(h)
    signs = jnp.where(tokens > 0, 1.0, -1.0)
    _, stats = self._count(self._to_indices(signs), train)
    axes = range(1, tokens.ndim)
    losses = {
      'commitment': jnp.square(tokens - signs).mean(axes),
      'entropy': self._entropy(tokens, train),
    }
    return straight_through(tokens, signs).reshape(h.shape), losses, stats

  def _to_codes(self, indices: jax.Array) -> jax.Array:
    bits = indices[..., None] >> np.arange(self.code_dim) & 1
    return 2.0 * bits.astype(jnp.float32) - 1.0

  def _to_indices(self, tokens):
    bits = (tokens > 0).astype(jnp.int32)
    return jnp.sum(bits << np.arange(self.code_dim), axis=-1)

  def _entropy(self, tokens, train):
    """Computes a token's entropy minus that of the mean over all tokens; [B].

    A bit is 1 with the probability of a softmax over the squared distances to
    -1 and 1. The second entropy is summed over groups of bits, so that there
    are never 2^bits values. Groups are treated as independent, so it is an
    upper bound.
    """
    probs = nn.sigmoid(4.0 * tokens)
    own = _binary_entropy(probs).sum(-1).mean(range(1, tokens.ndim - 1))
    common = 0.0
    for first in range(0, self.code_dim, _MAX_GROUP_BITS):
      joint = _joint(probs[..., first : first + _MAX_GROUP_BITS])
      mean = joint.reshape(-1, joint.shape[-1]).mean(0)
      if train and self.axis_name is not None:
        # The value over all devices, with this device's gradient: the mean of
        # the devices' gradients is the gradient of the whole.
        over_all = jax.lax.pmean(jax.lax.stop_gradient(mean), self.axis_name)
        mean += over_all - jax.lax.stop_gradient(mean)
      common -= jnp.sum(mean * jnp.log(mean + 1e-10))
    return own - common


def _binary_entropy(probs):
  return -sum(p * jnp.log(p + 1e-10) for p in (probs, 1 - probs))


def _joint(probs: jax.Array) -> jax.Array:
  """Maps probabilities of independent bits [..., G] to values' [..., 2^G]."""
  joint = jnp.ones((*probs.shape[:-1], 1))
  for bit in range(probs.shape[-1]):
    p = probs[..., bit : bit + 1]
    joint = jnp.concatenate([joint * (1 - p), joint * p], axis=-1)
  return joint
