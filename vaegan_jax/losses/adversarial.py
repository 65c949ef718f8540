"""Objectives: the critic's loss and the autoencoder's adversarial loss.

Each objective is two small pure functions. `critic_loss` takes the logits of
photographs and of reconstructions, [B, *S] each, and `adversarial_loss` those
of reconstructions. Both return a loss per logit, [B, *S]. A new objective is an
entry in `OBJECTIVES` and its name in `names.py`. The penalties, which work with
any objective, are in `penalties.py`.

A critic may return a map of logits per example. The example's loss is then the
`mean_over_map` of its entries' losses.
Axes: B batch, S the axes of a map; none with one logit per example.
"""

import dataclasses
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.losses import masks


@dataclasses.dataclass(frozen=True)
class Objective:
  """A pair of opposed losses."""

  # (logits_real [B, *S], logits_fake [B, *S]) -> [B, *S].
  critic_loss: Callable[[jax.Array, jax.Array], jax.Array]
  # (logits_fake [B, *S]) -> [B, *S], for the autoencoder.
  adversarial_loss: Callable[[jax.Array], jax.Array]
  # Loss below which the critic separates nearly all images, and its gradient
  # vanishes; see `training/health_checks.py`.
  separated_loss: float
  undecided_loss: float  # Smallest loss with one logit for all images.


def mean_over_map(
  values: jax.Array, where: jax.Array | None = None
) -> jax.Array:
  """Averages logits, or their losses, per example: [B, *S] to [B].

  `where` are the included examples [B] or positions [B, *S] of the images; maps
  may have a last axis of 1 then.
  """
  if where is None:
    return jnp.mean(values, axis=range(1, values.ndim))
  if values.ndim <= where.ndim:
    values = values[..., None]
  weights = masks.position_weights(where, values)
  return masks.mean(values, weights, tuple(range(1, values.ndim)))


def hinge_critic_loss(
  logits_real: jax.Array, logits_fake: jax.Array
) -> jax.Array:
  """Computes the geometric GAN's critic loss (arXiv 1705.02894, eq. 19).

  The margin is 1 on both sides; beyond it the loss is 0. Logits of 0 cost 2.
  """
  return nn.relu(1.0 - logits_real) + nn.relu(1.0 + logits_fake)


def negated_logits(logits_fake: jax.Array) -> jax.Array:
  """Computes the geometric GAN's generator loss (arXiv 1705.02894, eq. 20).

  The Wasserstein GAN has the same (arXiv 1701.07875, algorithm 1).
  """
  return -logits_fake


def wasserstein_critic_loss(
  logits_real: jax.Array, logits_fake: jax.Array
) -> jax.Array:
  """Negates the Wasserstein GAN's estimate (arXiv 1701.07875, eq. 3).

  It estimates a distance only if the critic is Lipschitz. That paper clips the
  critic's weights; `penalties.gradient_penalty` is the alternative.
  """
  return logits_fake - logits_real


def cross_entropy_critic_loss(
  logits_real: jax.Array, logits_fake: jax.Array
) -> jax.Array:
  """Computes the first GAN's critic loss (arXiv 1406.2661, eq. 1).

  The odds of being real are exp(logit). Logits of 0 cost 2 log 2.
  """
  return jax.nn.softplus(-logits_real) + jax.nn.softplus(logits_fake)


def minimax_adversarial_loss(logits_fake: jax.Array) -> jax.Array:
  """Computes the minimax game's log(1 - D) (arXiv 1406.2661, eq. 1).

  It is at most 0. Its gradient vanishes where the critic is certain.
  """
  return -jax.nn.softplus(logits_fake)


def non_saturating_adversarial_loss(logits_fake: jax.Array) -> jax.Array:
  """Computes -log D, which that paper trains with (arXiv 1406.2661, sec. 3)."""
  return jax.nn.softplus(-logits_fake)


def least_squares_critic_loss(
  logits_real: jax.Array, logits_fake: jax.Array
) -> jax.Array:
  """Computes squared distances from 1 and 0 (arXiv 1611.04076, eq. 2 and 9)."""
  return 0.5 * ((logits_real - 1.0) ** 2 + logits_fake**2)


def least_squares_adversarial_loss(logits_fake: jax.Array) -> jax.Array:
  """Computes the squared distance from 1 (arXiv 1611.04076, eq. 9)."""
  return 0.5 * (logits_fake - 1.0) ** 2


# Without a margin, a good critic's loss falls on below zero.
_WASSERSTEIN = Objective(
  wasserstein_critic_loss, negated_logits, -math.inf, 0.0
)
# A hundredth of a margin, or of a nat: all but a few images are separated.
_SEPARATED, _LOG_4 = 0.01, 2 * math.log(2)

# The two Wasserstein objectives differ in how the critic is kept Lipschitz,
# which the configuration sets with the name.
OBJECTIVES = {
  'geometric': Objective(hinge_critic_loss, negated_logits, _SEPARATED, 2.0),
  'wasserstein': _WASSERSTEIN,
  'wasserstein_gp': _WASSERSTEIN,
  'vanilla': Objective(
    cross_entropy_critic_loss, minimax_adversarial_loss, _SEPARATED, _LOG_4
  ),
  'non_saturating': Objective(
    cross_entropy_critic_loss,
    non_saturating_adversarial_loss,
    _SEPARATED,
    _LOG_4,
  ),
  # Half a squared distance: the logits are within a tenth of their targets.
  'least_squares': Objective(
    least_squares_critic_loss, least_squares_adversarial_loss, 0.005, 0.25
  ),
}
