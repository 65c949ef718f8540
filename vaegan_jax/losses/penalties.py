"""What holds a critic back: penalties on its slope and on its logits.

Pure functions, per example, whatever the objective. A new one is a function
here, and a line in `training/critic_step.py`. The logits [B] are the critic's
verdicts: of one that gives a map of them, `adversarial.mean_over_map`.
Axes: B batch, S the axes of space, C channels.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


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
    critic: (images [B, *S, C]) -> logits [B], each of its own image alone.
    x: [B, *S, C].

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
    critic: (images [B, *S, C]) -> logits [B].
    x: [B, *S, C] photographs.

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
    critic: (images [B, *S, C]) -> logits [B].
    x: [B, *S, C] photographs.
    x_recon: [B, *S, C] reconstructions.
    mix: [B] uniform in [0, 1]; 1 is the photograph.

  Returns:
    [B], non-negative; the weight is that paper's lambda.
  """
  mix = mix.reshape(-1, *[1] * (x.ndim - 1))
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
