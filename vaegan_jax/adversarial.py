"""What the critic is trained on, and what it tells the autoencoder.

Each objective is two small pure functions of logits, per example: one for the
critic and one for the autoencoder's optional adversarial term. A new objective
is one more entry in `OBJECTIVES`. Below them, the critic's regularisers.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Objective:
  """A pair of losses that play against each other.

  Attributes:
    critic_loss: (logits_real [B], logits_fake [B]) -> [B].
    adversarial_loss: (logits_fake [B]) -> [B], for the autoencoder.
  """

  critic_loss: Callable[[jax.Array, jax.Array], jax.Array]
  adversarial_loss: Callable[[jax.Array], jax.Array]


def hinge_critic_loss(
  logits_real: jax.Array, logits_fake: jax.Array
) -> jax.Array:
  """The critic's loss of the geometric GAN (arXiv 1705.02894, eq. 19).

  The margin is 1 on both sides; an image outside its margin adds nothing.

  Args:
    logits_real: [B] for photographs.
    logits_fake: [B] for reconstructions.

  Returns:
    [B], non-negative; 2 for a critic that says 0 to everything.
  """
  return nn.relu(1.0 - logits_real) + nn.relu(1.0 + logits_fake)


def negated_logits(logits_fake: jax.Array) -> jax.Array:
  """The generator's loss of the geometric GAN (arXiv 1705.02894, eq. 20).

  It is the Wasserstein GAN's too (arXiv 1701.07875, algorithm 1).

  Args:
    logits_fake: [B] for reconstructions.

  Returns:
    [B]; lower is more like a photograph.
  """
  return -logits_fake


def wasserstein_critic_loss(
  logits_real: jax.Array, logits_fake: jax.Array
) -> jax.Array:
  """Minus the Wasserstein GAN's estimate (arXiv 1701.07875, eq. 3).

  It estimates a distance only if the critic is Lipschitz: by `clip_weights`,
  as in that paper, or by `gradient_penalty`.

  Args:
    logits_real: [B] for photographs.
    logits_fake: [B] for reconstructions.

  Returns:
    [B], of any sign; lower separates better.
  """
  return logits_fake - logits_real


def cross_entropy_critic_loss(
  logits_real: jax.Array, logits_fake: jax.Array
) -> jax.Array:
  """The first GAN's: the odds of being real are exp(logit) (arXiv 1406.2661).

  Args:
    logits_real: [B] for photographs.
    logits_fake: [B] for reconstructions.

  Returns:
    [B], non-negative; 2 log 2 for a critic that says 0 to everything.
  """
  return jax.nn.softplus(-logits_real) + jax.nn.softplus(logits_fake)


def minimax_adversarial_loss(logits_fake: jax.Array) -> jax.Array:
  """log(1 - D), the loss of the first GAN's minimax game (arXiv 1406.2661, 1).

  Its gradient vanishes where the critic is sure.

  Args:
    logits_fake: [B] for reconstructions.

  Returns:
    [B], at most 0.
  """
  return -jax.nn.softplus(logits_fake)


def non_saturating_adversarial_loss(logits_fake: jax.Array) -> jax.Array:
  """-log D, which that paper trains with instead (arXiv 1406.2661, sec. 3).

  Args:
    logits_fake: [B] for reconstructions.

  Returns:
    [B], non-negative.
  """
  return jax.nn.softplus(-logits_fake)


def least_squares_critic_loss(
  logits_real: jax.Array, logits_fake: jax.Array
) -> jax.Array:
  """Squared distance from 1 and from 0 (arXiv 1611.04076, eq. 2 and 9).

  Args:
    logits_real: [B] for photographs.
    logits_fake: [B] for reconstructions.

  Returns:
    [B], non-negative.
  """
  return 0.5 * ((logits_real - 1.0) ** 2 + logits_fake**2)


def least_squares_adversarial_loss(logits_fake: jax.Array) -> jax.Array:
  """Squared distance from 1 (arXiv 1611.04076, eq. 9).

  Args:
    logits_fake: [B] for reconstructions.

  Returns:
    [B], non-negative.
  """
  return 0.5 * (logits_fake - 1.0) ** 2


_WASSERSTEIN = Objective(wasserstein_critic_loss, negated_logits)

# The two Wasserstein objectives differ in what keeps the critic Lipschitz,
# which `configs/default.py` sets with the name.
OBJECTIVES = {
  'geometric': Objective(hinge_critic_loss, negated_logits),
  'wasserstein': _WASSERSTEIN,
  'wasserstein_gp': _WASSERSTEIN,
  'vanilla': Objective(cross_entropy_critic_loss, minimax_adversarial_loss),
  'non_saturating': Objective(
    cross_entropy_critic_loss, non_saturating_adversarial_loss
  ),
  'least_squares': Objective(
    least_squares_critic_loss, least_squares_adversarial_loss
  ),
}


def squared_gradient_norm(
  critic: Callable[[jax.Array], jax.Array], x: jax.Array
) -> jax.Array:
  """The squared length of the critic's gradient at each image.

  To be differentiated with respect to what `critic` closes over (once). With
  g the gradient, the derivative of |g|^2 is twice that of <g, v> with v = g
  held constant, and <g, v> is a directional derivative: forward mode computes
  it with the critic's own convolutions. Differentiating a gradient would turn
  them into dilated ones, which measured five times slower on a CPU.

  Args:
    critic: (images [B, H, W, C]) -> logits [B], each of its own image alone.
    x: [B, H, W, C].

  Returns:
    [B], non-negative.
  """
  direction = jax.lax.stop_gradient(jax.grad(lambda x: critic(x).sum())(x))
  _, slope = jax.jvp(critic, (x,), (direction,))
  return 2.0 * slope - jax.lax.stop_gradient(slope)


def r1_penalty(
  critic: Callable[[jax.Array], jax.Array], x: jax.Array
) -> jax.Array:
  """Half the squared gradient at photographs (arXiv 1801.04406, eq. 9).

  Args:
    critic: (images [B, H, W, C]) -> logits [B].
    x: [B, H, W, C] photographs.

  Returns:
    [B], non-negative; the weight is that paper's gamma.
  """
  return 0.5 * squared_gradient_norm(critic, x)


def gradient_penalty(
  critic: Callable[[jax.Array], jax.Array],
  x: jax.Array,
  x_recon: jax.Array,
  mix: jax.Array,
) -> jax.Array:
  """Squared difference of the gradient's length from 1 (arXiv 1704.00028, 3).

  Taken on the straight line between a photograph and a reconstruction.

  Args:
    critic: (images [B, H, W, C]) -> logits [B].
    x: [B, H, W, C] photographs.
    x_recon: [B, H, W, C] reconstructions.
    mix: [B] uniform in [0, 1]; 1 is the photograph.

  Returns:
    [B], non-negative; the weight is that paper's lambda.
  """
  mix = mix[:, None, None, None]
  norm2 = squared_gradient_norm(critic, mix * x + (1.0 - mix) * x_recon)
  # The root has no derivative at 0: an exactly flat critic gets none.
  safe = jnp.where(norm2 > 0, norm2, 1.0)
  norm = jnp.where(norm2 > 0, jnp.sqrt(safe), 0.0)
  return (norm - 1.0) ** 2


def lecam_penalty(
  logits_real: jax.Array,
  logits_fake: jax.Array,
  average_real: jax.Array,
  average_fake: jax.Array,
) -> jax.Array:
  """Holds the logits near the other side's past (arXiv 2104.03310, eq. 3).

  Args:
    logits_real: [B] for photographs.
    logits_fake: [B] for reconstructions.
    average_real: [] moving average of the photographs' logits.
    average_fake: [] of the reconstructions'.

  Returns:
    [B], non-negative.
  """
  return (
    nn.relu(logits_real - average_fake) ** 2
    + nn.relu(average_real - logits_fake) ** 2
  )
