"""Continuous latents, and the interface that all latents have.

A latent is a vector per example (flat), or one per position of a map. It is a
module called as

    latents, losses, stats = latent(h, noise, train)

    h         [B, *S, num_inputs] of the encoder, float32; S is () if flat
    noise     from `sample_noise`; None: deterministic, and nothing is learnt
    latents   [B, *S, Z] for the decoder
    losses    {name: [B]}, each with a weight in `config.loss`
    stats     {name: []}, for the log and the health checks

and also has

    num_inputs       entries of its input, per example or per position
    is_random        whether it samples
    sample_noise     the random input of a training step
    sample_prior     the random input of `from_prior`
    from_prior       -> latents
    encode           h -> {name: array}, all that is known of the latent
    measure          what `encode` returned -> {name: [B, ...]}; `rate` in bits

The discrete ones are built on `codes.py`.
Axes: B batch, S axes of space, Z entries.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

Losses = dict[str, jax.Array]
Stats = dict[str, jax.Array]

# Bounds of a log variance, as in latent-diffusion: its exponential overflows
# from 89 on. Trained posteriors are below 1, the prior's, so that the slope of
# the KL is bounded from 5 on, at 74 an entry.
_MIN_LOGVAR, _MAX_LOGVAR, _STEEP_LOGVAR = -30.0, 20.0, 5.0


class Latent(nn.Module):
  """A latent without randomness, whose prior is standard normal."""

  size: int  # Z.
  is_random = False

  @property
  def num_inputs(self) -> int:
    """The number of encoder outputs per latent: `size`."""
    return self.size

  @nn.nowrap
  def sample_noise(self, key, indices, num_examples, space) -> None:
    """Returns None: it needs no noise."""

  @nn.nowrap
  def sample_prior(
    self, key: jax.Array, indices: jax.Array, space: tuple[int, ...]
  ) -> jax.Array:
    """Samples the prior, [B, *S, Z].

    `indices`, [B] int32, are the examples' in the whole batch. Each has its own
    key, so that one device and many sample the same.
    """
    shape = (*space, self.size)
    return jax.vmap(
      lambda i: jax.random.normal(jax.random.fold_in(key, i), shape)
    )(indices)

  def from_prior(self, prior: jax.Array) -> jax.Array:
    """Returns what `sample_prior` returned."""
    return prior


class Gaussian(Latent):
  """A normal distribution per entry, reparameterised (arXiv 1312.6114)."""

  is_random = True

  @property
  def num_inputs(self) -> int:
    """The number of encoder outputs: a mean and a log variance per entry."""
    return 2 * self.size

  def __call__(
    self, h: jax.Array, noise: jax.Array | None = None, train: bool = False
  ) -> tuple[jax.Array, Losses, Stats]:
    """See the module; its loss is the `kl`, its noise standard normal."""
    del train
    mean, logvar = self._moments(h)
    kl = gaussian_kl(mean, logvar)
    latents = mean
    if noise is not None:
      latents = mean + jnp.exp(0.5 * logvar) * noise
    return latents, {'kl': kl}, {'rate': kl.mean() / math.log(2)}

  @nn.nowrap
  def sample_noise(
    self,
    key: jax.Array,
    indices: jax.Array,
    num_examples: int,
    space: tuple[int, ...],
  ) -> jax.Array:
    """Samples a standard normal, [B, *S, Z]; see `sample_prior`."""
    del num_examples
    return self.sample_prior(key, indices, space)

  def encode(self, h: jax.Array) -> dict[str, jax.Array]:
    """Maps h to `latents`, which are `mean`, and `logvar`, [B, *S, Z]."""
    mean, logvar = self._moments(h)
    return {'latents': mean, 'mean': mean, 'logvar': logvar}

  @nn.nowrap
  def _moments(self, h):
    mean, logvar = jnp.split(h, 2, axis=-1)
    return mean, bound_logvar(logvar)

  @nn.nowrap
  def measure(self, encoded: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Computes `kl` in nats and, the same in bits, `rate`, [B] each."""
    kl = gaussian_kl(encoded['mean'], encoded['logvar'])
    return {'kl': kl, 'rate': kl / math.log(2)}


class Deterministic(Latent):
  """The encoder's output itself, without a loss: no variational latent.

  It has no prior; samples come from a standard normal instead.
  """

  def __call__(
    self, h: jax.Array, noise: None = None, train: bool = False
  ) -> tuple[jax.Array, Losses, Stats]:
    """See the module; it has no loss, and its rate is unknown."""
    del noise, train
    return h, {}, {}

  def encode(self, h: jax.Array) -> dict[str, jax.Array]:
    """Returns h as the `latents`, [B, *S, Z]."""
    return {'latents': h}

  @nn.nowrap
  def measure(self, encoded: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns {}: the rate of unbounded real numbers is unknown."""
    del encoded
    return {}


def bound_logvar(logvar: jax.Array) -> jax.Array:
  """Clips a log variance to [-30, 20], with a gradient outside too.

  Beyond the bounds the gradient of the KL leads back. Above 5 the gradient
  shrinks as the variance grows: one batch with a huge KL would otherwise fill
  Adam's second moment for thousands of steps.
  """
  value = jax.lax.stop_gradient(jnp.clip(logvar, _MIN_LOGVAR, _MAX_LOGVAR))
  slope = jnp.exp(jnp.minimum(_STEEP_LOGVAR - value, 0.0))
  # In range these add 0 and multiply by 1: no bit changes.
  return value + slope * (logvar - jax.lax.stop_gradient(logvar))


def gaussian_kl(mean: jax.Array, logvar: jax.Array) -> jax.Array:
  """Computes the KL of N(mean, exp(logvar)) from the standard normal, in nats.

  arXiv 1312.6114, appendix B, summed over an example's entries.

  Maps mean and logvar, [B, *S, Z] each, to [B], non-negative.
  """
  axes = tuple(range(1, mean.ndim))
  return 0.5 * jnp.sum(jnp.exp(logvar) + mean**2 - 1.0 - logvar, axis=axes)
