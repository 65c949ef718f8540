"""Steers the KL weight so that the run's own KL meets a rate.

The weight is a Lagrange multiplier of the rate (arXiv 1810.00597): it rises
while the KL is above the rate and falls while it is below. As in arXiv
2004.05988 it follows the error and the error's sum. Here its logarithm does, so
that the same gains suit distances and examples of any size. The weight is among
`TrainState.averages`.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

NAME = 'kl_weight'  # Among the averages, and as a metric.
_ERROR = 'kl_error'  # Of the last step, among the averages.
# How far the weight's logarithm moves for the error in every step, and once for
# a change of it. The KL follows its weight in some hundred steps: without the
# second both would swing.
_GAIN, _DAMPING = 0.02, 1.0
_MAX_ERROR = 1.0
_MIN_KL = 1e-6  # Of the first steps, whose KL may be 0.


def create(rate: float, kl_weight: float) -> dict[str, float]:
  """Returns the averages {name: initial value} that steer to a rate.

  Args:
    rate: in bits an example; 0: nothing is steered, and there are none.
    kl_weight: the weight of the first step.
  """
  # A run begins with hardly any KL, so the first error is no change.
  return {NAME: kl_weight, _ERROR: -_MAX_ERROR} if rate else {}


def steer(
  averages: Mapping[str, jax.Array],
  metrics: Mapping[str, jax.Array],
  rate: float,
) -> dict[str, jax.Array]:
  """Moves the weight by the error of the last step's KL.

  Args:
    averages: averages of a state; without a weight nothing is steered.
    metrics: {'kl': [] in nats an example, over all devices, ...}.
    rate: in bits an example.

  Returns:
    The changed averages.
  """
  if NAME not in averages:
    return {}
  ratio = jnp.maximum(metrics['kl'], _MIN_KL) / (rate * math.log(2))
  error = jnp.clip(jnp.log(ratio), -_MAX_ERROR, _MAX_ERROR)
  move = _GAIN * error + _DAMPING * (error - averages[_ERROR])
  return {NAME: averages[NAME] * jnp.exp(move), _ERROR: error}
