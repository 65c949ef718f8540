"""What the critic is trained on, and what it tells the autoencoder.

Each objective is two small pure functions of logits, per example: one for the
critic and one for the autoencoder's optional adversarial term. A new objective
is one more entry in `OBJECTIVES`.
"""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax


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


def hinge_adversarial_loss(logits_fake: jax.Array) -> jax.Array:
  """The generator's loss of the geometric GAN (arXiv 1705.02894, eq. 20).

  Args:
    logits_fake: [B] for reconstructions.

  Returns:
    [B]; lower is more like a photograph.
  """
  return -logits_fake


OBJECTIVES = {
  'geometric': Objective(hinge_critic_loss, hinge_adversarial_loss),
}
