"""What all discrete latents share: tokens, codes, and how they are used.

The interface is that of `latents.py`. The entries of a vector are cut into
tokens of `code_dim` entries each, and every token becomes one of K codes.
Gradients pass the rounding unchanged (straight-through, arXiv 1308.3432). All
of it is float32. How often each code comes is a moving average in the
collection `batch_stats`, which is averaged over the devices as BatchNorm's is.
Axes: B batch, S axes of space, Z entries, T tokens of an example.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.models.latents.base import Latent, Stats

DECAY = 0.99  # Of the moving averages.
DEAD_SHARE = 0.1  # A code with less of its fair share than this is dead.


class Codes(Latent):
  """What all discrete latents share.

  A kind has `_to_indices(tokens)`, and `_to_codes(indices)`, [..., code_dim].

  Attributes:
    size: Z, entries of an example's vector, or of each place's.
  """

  @property
  def code_dim(self) -> int:
    """Entries of a token."""
    raise NotImplementedError

  @property
  def codebook_size(self) -> int:
    """K."""
    raise NotImplementedError

  @nn.nowrap
  def num_tokens(self, space: tuple[int, ...]) -> int:
    """T, of an example whose latent has these sides; () if it is flat."""
    return math.prod(space) * self.size // self.code_dim

  @nn.nowrap
  def draw_prior(
    self, key: jax.Array, places: jax.Array, space: tuple[int, ...]
  ) -> jax.Array:
    """Codes, each as likely as all others; [B, *S, Z / code_dim] int32."""
    shape = (*space, self.size // self.code_dim)
    return jax.vmap(
      lambda i: jax.random.randint(
        jax.random.fold_in(key, i), shape, 0, self.codebook_size
      )
    )(places)

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
    """Its `rate` in bits [B], of a code of one length, and `indices` [B, T]."""
    indices = encoded['indices']
    indices = indices.reshape(indices.shape[0], -1)
    rate = jnp.full(len(indices), self._num_bits(indices))
    return {'rate': rate, 'indices': indices}

  @nn.nowrap
  def _num_bits(self, indices: jax.Array) -> float:
    """Of the codes of one example."""
    return indices[0].size * math.log2(self.codebook_size)

  def setup(self):
    self.usage = self.variable(
      'batch_stats', 'usage', jnp.zeros, (self.codebook_size,)
    )

  def _tokens(self, h: jax.Array) -> jax.Array:
    """[B, *S, Z / code_dim, code_dim]."""
    return h.reshape(*h.shape[:-1], -1, self.code_dim)

  def _follow(self, indices: jax.Array, train: bool) -> tuple[jax.Array, Stats]:
    """Counts the codes.

    Returns how often each of K comes in this batch, as a multiple of its fair
    share, and the stats, which are of the steps before this one.
    """
    usage = self.usage
    stats = describe_usage(usage.value)
    stats['rate'] = jnp.float32(self._num_bits(indices))
    shares = (
      jnp.zeros(self.codebook_size)
      .at[indices.reshape(-1)]
      .add(self.codebook_size / indices.size)
    )
    if train and not self.is_initializing():
      usage.value = DECAY * usage.value + (1 - DECAY) * shares
    return shares, stats


def describe_usage(counts: jax.Array) -> Stats:
  """How a codebook is used.

  Args:
    counts: [K], of any sum.

  Returns:
    `perplexity`, as many codes used alike would have that entropy; `usage`, the
    share of codes that come a tenth as often as if all came alike, at least;
    `largest_share`, of the code that comes most. Each [].
  """
  shares = counts / jnp.maximum(counts.sum(), 1e-8)
  entropy = -jnp.sum(shares * jnp.log(jnp.maximum(shares, 1e-12)))
  return {
    'perplexity': jnp.exp(entropy),
    'usage': jnp.mean(shares * len(counts) >= DEAD_SHARE),
    'largest_share': shares.max(),
  }


def pass_through(tokens: jax.Array, codes: jax.Array) -> jax.Array:
  """The codes, with the gradient of the tokens."""
  return tokens + jax.lax.stop_gradient(codes - tokens)
