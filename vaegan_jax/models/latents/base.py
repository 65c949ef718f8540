"""Continuous latents, and the interface that all latents have.

A latent is what an autoencoder keeps of an example: a vector (flat), or one at
each place of a map. It is a module called as

    latents, losses, stats = latent(h, noise, train)

    h         [B, *S, num_inputs] of the encoder, float32; S is () if flat
    noise     from `draw_noise`; None: without chance, and nothing is learnt
    latents   [B, *S, Z] for the decoder
    losses    {name: [B]}, each with a weight in `config.loss`
    stats     {name: []}, what the log and the health of a run need

and has, beside it,

    num_inputs       entries that it takes, of an example or of each place
    is_random        whether it samples
    draw_noise       what chance gives the examples of a batch in training
    draw_prior       what `from_prior` makes latents of, as if encoded
    from_prior       -> latents
    encode           h -> {name: array}, all that is known of the latent
    measure          what `encode` gave -> {name: [B, ...]}, `rate` in bits

The discrete ones are built on `codes.py`.
Axes: B batch, S axes of space, Z entries.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

Losses = dict[str, jax.Array]
Stats = dict[str, jax.Array]


class Latent(nn.Module):
  """A latent without chance, whose prior is standard normal.

  Attributes:
    size: Z.
  """

  size: int
  is_random = False

  @property
  def num_inputs(self) -> int:
    """The entries themselves."""
    return self.size

  @nn.nowrap
  def draw_noise(self, key, places, num_examples, space) -> None:
    """Nothing is drawn."""

  @nn.nowrap
  def draw_prior(
    self, key: jax.Array, places: jax.Array, space: tuple[int, ...]
  ) -> jax.Array:
    """Samples of the prior, [B, *S, Z], of each example's own place.

    Args:
      key: of `jax.random`.
      places: [B] int32.
      space: S.
    """
    # Each by itself: a batch gets the same on one device and on many.
    shape = (*space, self.size)
    return jax.vmap(
      lambda i: jax.random.normal(jax.random.fold_in(key, i), shape)
    )(places)

  def from_prior(self, prior: jax.Array) -> jax.Array:
    """Returns what `draw_prior` gave."""
    return prior


class Gaussian(Latent):
  """A normal distribution of each entry, reparameterised (arXiv 1312.6114).

  Attributes:
    size: Z.
  """

  is_random = True

  @property
  def num_inputs(self) -> int:
    """The mean and the log variance of each entry."""
    return 2 * self.size

  def __call__(
    self, h: jax.Array, noise: jax.Array | None = None, train: bool = False
  ) -> tuple[jax.Array, Losses, Stats]:
    """See the module; its loss is the `kl`, its noise standard normal."""
    del train
    mean, logvar = jnp.split(h, 2, axis=-1)
    kl = gaussian_kl(mean, logvar)
    latents = mean
    if noise is not None:
      latents = mean + jnp.exp(0.5 * logvar) * noise
    return latents, {'kl': kl}, {'rate': kl.mean() / math.log(2)}

  @nn.nowrap
  def draw_noise(
    self,
    key: jax.Array,
    places: jax.Array,
    num_examples: int,
    space: tuple[int, ...],
  ) -> jax.Array:
    """Standard normal, [B, *S, Z]; see `draw_prior`."""
    del num_examples
    return self.draw_prior(key, places, space)

  def encode(self, h: jax.Array) -> dict[str, jax.Array]:
    """Maps h to `latents`, which are `mean`, and `logvar`, [B, *S, Z]."""
    mean, logvar = jnp.split(h, 2, axis=-1)
    return {'latents': mean, 'mean': mean, 'logvar': logvar}

  @nn.nowrap
  def measure(self, encoded: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Its `kl` in nats and, the same in bits, its `rate`, [B] each."""
    kl = gaussian_kl(encoded['mean'], encoded['logvar'])
    return {'kl': kl, 'rate': kl / math.log(2)}


class Plain(Latent):
  """What the encoder gives, and nothing that holds it: no variational latent.

  It has no prior; samples are of a standard normal for want of one.

  Attributes:
    size: Z.
  """

  def __call__(
    self, h: jax.Array, noise: None = None, train: bool = False
  ) -> tuple[jax.Array, Losses, Stats]:
    """See the module; it has no loss, and no rate is known."""
    del noise, train
    return h, {}, {}

  def encode(self, h: jax.Array) -> dict[str, jax.Array]:
    """Returns h as the `latents`, [B, *S, Z]."""
    return {'latents': h}

  @nn.nowrap
  def measure(self, encoded: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Of real numbers that nothing holds no rate is known."""
    del encoded
    return {}


def gaussian_kl(mean: jax.Array, logvar: jax.Array) -> jax.Array:
  """KL of N(mean, exp(logvar)) from the standard normal prior, in nats.

  arXiv 1312.6114, appendix B, summed over all of an example's entries.

  Args:
    mean: [B, *S, Z].
    logvar: [B, *S, Z].

  Returns:
    [B], non-negative.
  """
  axes = tuple(range(1, mean.ndim))
  return 0.5 * jnp.sum(jnp.exp(logvar) + mean**2 - 1.0 - logvar, axis=axes)
