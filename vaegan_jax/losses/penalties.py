"""Penalties on the critic's gradient and on its logits, for any objective.

Pure functions, which return non-negative values per example, [B]. A new one is
a function here, and a line in `training/critic_step.py`. Here `critic` maps
images [B, *S, C] to logits [B], each from its own image alone. A map of logits
is averaged first, by `adversarial.mean_over_map`.
Axes: B batch, S the axes of space, C channels.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

Critic = Callable[[jax.Array], jax.Array]


def squared_gradient_norm(critic: Critic, x: jax.Array) -> jax.Array:
  """Computes the squared norm of the critic's gradient at images x.

  It can be differentiated (once) with respect to what `critic` closes over.
  With g the gradient, the derivative of |g|^2 is twice that of <g, v> with
  v = g held constant. <g, v> is a directional derivative, which forward mode
  computes with the critic's own convolutions. Differentiating a gradient would
  need dilated ones, which were five times slower on a CPU.
  """
  direction = jax.lax.stop_gradient(jax.grad(lambda x: critic(x).sum())(x))
  _, slope = jax.jvp(critic, (x,), (direction,))
  return 2.0 * slope - jax.lax.stop_gradient(slope)


def r1_penalty(critic: Critic, x: jax.Array) -> jax.Array:
  """Computes R1, half the squared gradient norm (arXiv 1801.04406, eq. 9).

  x are photographs; the weight is that paper's gamma.
  """
  return 0.5 * squared_gradient_norm(critic, x)


def gradient_penalty(
  critic: Critic, x: jax.Array, x_recon: jax.Array, interpolation: jax.Array
) -> jax.Array:
  """Computes (gradient norm - 1)^2 (arXiv 1704.00028, eq. 3).

  Args:
    critic: see the module.
    x: [B, *S, C] photographs.
    x_recon: [B, *S, C] reconstructions.
    interpolation: [B] in [0, 1], the position between the two; 1 is the
      photograph. It is sampled uniformly.

  Returns:
    [B]; the weight is that paper's lambda.
  """
  weight = interpolation.reshape(-1, *[1] * (x.ndim - 1))
  norm2 = squared_gradient_norm(critic, weight * x + (1.0 - weight) * x_recon)
  # The root has no derivative at 0, so a constant critic gets none.
  safe = jnp.where(norm2 > 0, norm2, 1.0)
  norm = jnp.where(norm2 > 0, jnp.sqrt(safe), 0.0)
  return (norm - 1.0) ** 2


def lecam_penalty(
  logits_real: jax.Array,
  logits_fake: jax.Array,
  average_real: jax.Array,
  average_fake: jax.Array,
) -> jax.Array:
  """Computes LeCam's penalty on the logits (arXiv 2104.03310, eq. 3).

  Args:
    logits_real: [B] for photographs.
    logits_fake: [B] for reconstructions.
    average_real: [] moving average of the photographs' logits.
    average_fake: [] of the reconstructions'.

  Returns:
    [B].
  """
  return (
    nn.relu(logits_real - average_fake) ** 2
    + nn.relu(average_real - logits_fake) ** 2
  )
