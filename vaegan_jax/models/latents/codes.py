"""The base of all quantisers: tokens, codes and their usage.

The interface is that of `base.py`. The entries of a vector are cut into tokens
of `code_dim` entries each, and every token becomes one of K codes. Gradients
pass the rounding unchanged (straight-through, arXiv 1308.3432). All of it is
float32. The frequency of each code is a moving average in the collection
`batch_stats`, averaged over the devices as BatchNorm's are.
Axes: B batch, S axes of space, Z entries, T tokens of an example.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.models.latents.base import Latent, Stats

DECAY = 0.99  # Decay of the moving averages.
DEAD_SHARE = 0.1  # A code with less than this part of its fair share is dead.


class Codes(Latent):
  """The base class of quantisers.

  A kind has `code_dim`, the entries of a token, and `codebook_size`, K. It has
  `_to_indices(tokens)`, and `_to_codes(indices)`, [..., code_dim].
  """

  @nn.nowrap
  def num_tokens(self, space: tuple[int, ...]) -> int:
    """Returns T for a latent of this spatial shape; () if it is flat."""
    return math.prod(space) * self.size // self.code_dim

  @nn.nowrap
  def sample_prior(
    self, key: jax.Array, indices: jax.Array, space: tuple[int, ...]
  ) -> jax.Array:
    """Samples codes uniformly; [B, *S, Z / code_dim] int32."""
    shape = (*space, self.size // self.code_dim)
    return jax.vmap(
      lambda i: jax.random.randint(
        jax.random.fold_in(key, i), shape, 0, self.codebook_size
      )
    )(indices)

  def from_prior(self, prior: jax.Array) -> jax.Array:
    """Returns the codes' vectors, as `from_indices`."""
    return self.from_indices(prior)

  def from_indices(self, indices: jax.Array) -> jax.Array:
    """Maps indices [B, *S, Z / code_dim] to latents [B, *S, Z]."""
    codes = self._to_codes(indices)
    return codes.reshape(*indices.shape[:-1], self.size)

  def encode(self, h: jax.Array) -> dict[str, jax.Array]:
    """Maps h to `latents` [B, *S, Z] and `indices` [B, *S, Z / code_dim]."""
    indices = self._to_indices(self._tokens(h))
    return {'latents': self.from_indices(indices), 'indices': indices}

  @nn.nowrap
  def measure(self, encoded: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the fixed-length `rate` in bits [B], and `indices` [B, T]."""
    indices = encoded['indices']
    indices = indices.reshape(indices.shape[0], -1)
    rate = jnp.full(len(indices), self._num_bits(indices))
    return {'rate': rate, 'indices': indices}

  @nn.nowrap
  def _num_bits(self, indices: jax.Array) -> float:
    """Returns the bits of one example's codes."""
    return indices[0].size * math.log2(self.codebook_size)

  def setup(self):
    self.usage = self.variable(
      'batch_stats', 'usage', jnp.zeros, (self.codebook_size,)
    )

  def _tokens(self, h: jax.Array) -> jax.Array:
    """Cuts h into [B, *S, Z / code_dim, code_dim]."""
    return h.reshape(*h.shape[:-1], -1, self.code_dim)

  def _count(self, indices: jax.Array, train: bool) -> tuple[jax.Array, Stats]:
    """Counts the codes and, in training, updates their moving average.

    Returns each code's frequency in this batch, as a multiple of its fair
    share, and the stats, which cover the steps before this one.
    """
    usage = self.usage
    stats = codebook_metrics(usage.value)
    stats['rate'] = jnp.float32(self._num_bits(indices))
    shares = (
      jnp.zeros(self.codebook_size)
      .at[indices.reshape(-1)]
      .add(self.codebook_size / indices.size)
    )
    if train and not self.is_initializing():
      usage.value = DECAY * usage.value + (1 - DECAY) * shares
    return shares, stats


def codebook_metrics(counts: jax.Array, xp: Any = jnp) -> Stats:
  """Computes how evenly a codebook is used, in training and evaluation alike.

  Args:
    counts: [K], with any sum.
    xp: the module that computes, `jax.numpy` or `numpy`.

  Returns:
    `perplexity`, the number of equally frequent codes with the same entropy;
    `usage`, the share of codes at least a tenth as frequent as in a uniform
    distribution; `largest_share`, of the most frequent code. Each [].
  """
  shares = counts / xp.maximum(counts.sum(), 1e-8)
  entropy = -xp.sum(shares * xp.log(xp.maximum(shares, 1e-12)))
  return {
    'perplexity': xp.exp(entropy),
    'usage': xp.mean(shares * len(counts) >= DEAD_SHARE),
    'largest_share': shares.max(),
  }


def straight_through(tokens: jax.Array, codes: jax.Array) -> jax.Array:
  """Returns the codes, with the gradient of the tokens."""
  return tokens + jax.lax.stop_gradient(codes - tokens)
