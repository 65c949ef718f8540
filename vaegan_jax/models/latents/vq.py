"""Vector quantisation: a codebook learnt by moving averages.

Axes: B batch, S axes of space, Z entries, K codes, D entries of a code.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vaegan_jax.models.latents.base import Losses, Stats
from vaegan_jax.models.latents.codes import (
  DEAD_SHARE,
  DECAY,
  Codes,
  straight_through,
)

# The initial share of a replaced code: it dies after 69 steps without use.
_REPLACED_SHARE = 0.2


class VQ(Codes):
  """A learnt codebook (arXiv 1711.00937), of moving averages of its tokens.

  Appendix A.1 there, with counts over all devices. A dead code is replaced by a
  token of the whole batch, the same on all devices. The state is linear in a
  device's tokens: sums and counts, whose ratio is the code.
  """

  codebook_size: int = 512  # K.
  code_dim: int = 8  # Entries of a token.
  unit_codes: bool = False  # True: all have length 1 (arXiv 2110.04627).

  def setup(self):
    super().setup()
    shape = (self.codebook_size, self.code_dim)

    def initial():
      return jax.random.normal(self.make_rng('params'), shape)

    self.counts = self.variable('batch_stats', 'counts', jnp.zeros, shape[:1])
    self.sums = self.variable('batch_stats', 'sums', jnp.zeros, shape)
    self.candidates = self.variable('batch_stats', 'candidates', initial)

  def __call__(
    self, h: jax.Array, noise: dict | None = None, train: bool = False
  ) -> tuple[jax.Array, Losses, Stats]:
    """See `base.py`; its loss is the `commitment`, a mean over the entries.

    With noise, and in training, the codebook is updated.
    """
    codebook = self.codebook()
    tokens = self._normalize(self._tokens(h))
    indices = _nearest(tokens, codebook)
    codes = codebook[indices]
    shares, stats = self._count(indices, train)
    if train and noise is not None and not self.is_initializing():
      flat = jax.lax.stop_gradient(tokens.reshape(-1, self.code_dim))
      self._update(flat, indices.reshape(-1), shares, noise)
    commitment = jnp.square(tokens - codes).mean(range(1, tokens.ndim))
    latents = straight_through(tokens, codes).reshape(h.shape)
    return latents, {'commitment': commitment}, stats

  @nn.nowrap
  def sample_noise(
    self,
    key: jax.Array,
    indices: jax.Array,
    num_examples: int,
    space: tuple[int, ...],
  ) -> dict[str, jax.Array]:
    """Samples the tokens of the batch that may replace dead codes.

    Args:
      key: key of the step.
      indices: [B] int32 of this device's examples, in the whole batch.
      num_examples: in the whole batch.
      space: S.

    Returns:
      {'chosen': [K] int32, indices of this device's tokens, -1 for those of
      other devices; 'weight': [], the number of devices, which turns their mean
      into a sum}.
    """
    num_tokens = self.num_tokens(space)
    chosen = jax.random.randint(
      key, (self.codebook_size,), 0, num_examples * num_tokens
    )
    own = chosen - (indices[0] % num_examples) * num_tokens
    is_own = (own >= 0) & (own < len(indices) * num_tokens)
    return {
      'chosen': jnp.where(is_own, own, -1),
      'weight': jnp.float32(num_examples / len(indices)),
    }

  def _to_indices(self, tokens: jax.Array) -> jax.Array:
    return _nearest(self._normalize(tokens), self.codebook())

  def _to_codes(self, indices: jax.Array) -> jax.Array:
    return self.codebook()[indices]

  def codebook(self) -> jax.Array:
    """Returns the codes [K, code_dim], with candidates for dead ones."""
    names = 'counts', 'sums', 'candidates'
    state = {name: getattr(self, name).value for name in names}
    return self._normalize(codebook_of(state))

  def _update(self, tokens, indices, shares, noise):
    """Updates the averages with this device's tokens [N, D]."""
    counts, candidates = self.counts.value, self.candidates.value
    dead = counts < DEAD_SHARE
    # A code that was never used must be used now, or it dies again.
    first = jnp.where(counts > 0, _REPLACED_SHARE, DEAD_SHARE)
    old_counts = jnp.where(dead, first, counts)
    old_sums = jnp.where(
      dead[:, None], first[:, None] * candidates, self.sums.value
    )
    weight = self.codebook_size / len(tokens)
    sums = jnp.zeros_like(old_sums).at[indices].add(weight * tokens)
    self.counts.value = DECAY * old_counts + (1 - DECAY) * shares
    self.sums.value = DECAY * old_sums + (1 - DECAY) * sums
    # The tokens of other devices are 0 here, and the mean is the whole.
    chosen = noise['chosen']
    mine = tokens[jnp.maximum(chosen, 0)] * noise['weight']
    self.candidates.value = jnp.where(chosen[:, None] >= 0, mine, 0.0)

  def _normalize(self, vectors):
    if not self.unit_codes:
      return vectors
    squares = jnp.sum(vectors**2, axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(squares + 1e-8)


def state_of(codes: jax.Array) -> dict[str, jax.Array]:
  """Returns the state of a `VQ` that begins with codes [K, code_dim]."""
  counts = np.ones(len(codes), np.float32)
  return {
    'usage': np.zeros_like(counts),
    'counts': counts,
    'sums': codes,
    'candidates': codes,
  }


def codebook_of(state: dict[str, jax.Array]) -> jax.Array:
  """Returns the codes [K, code_dim] of such a state, without unit length."""
  dead = state['counts'] < DEAD_SHARE
  alive = state['sums'] / jnp.where(dead, 1.0, state['counts'])[:, None]
  return jnp.where(dead[:, None], state['candidates'], alive)


def _nearest(tokens: jax.Array, codebook: jax.Array) -> jax.Array:
  """Returns indices [...] of the codes [K, D] nearest to tokens [..., D]."""
  products = jnp.einsum(
    '...d,kd->...k', tokens, codebook, precision=jax.lax.Precision.HIGHEST
  )
  # The token's own length changes nothing.
  return jnp.argmin((codebook**2).sum(-1) - 2 * products, axis=-1)
