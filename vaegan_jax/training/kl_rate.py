"""Steers the KL weight so that the run's own KL meets a rate.

The weight is a Lagrange multiplier of the rate (arXiv 1810.00597): it rises
while the KL is above the rate and falls while it is below. As in arXiv
2004.05988 it follows the error and the error's sum. Here its logarithm does, so
that the same gains suit distances and examples of any size, and the error is a
moving average's, as one batch's KL may be far off. Both are among
`TrainState.averages`.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

NAME = 'kl_weight'  # Among the averages, and as a metric.
_AVERAGE, _DECAY, _NONE_YET = 'kl_average', 0.95, -1.0
# How far the weight's logarithm moves for the error in every step, and once for
# a change of it. The KL follows its weight in some hundred steps: without the
# second both would swing.
_GAIN, _DAMPING = 0.02, 1.0
_MAX_ERROR = 1.0
_MIN_KL = 1e-6  # It may be 0.
# The most that one batch counts for, in rates. The average of an exploded KL
# would otherwise raise the weight for hundreds of steps.
_MAX_KL = 10.0


def create(rate: float, kl_weight: float) -> dict[str, float]:
  """Returns the averages {name: initial value} that steer to a rate.

  Args:
    rate: in bits an example; 0: nothing is steered, and there are none.
    kl_weight: the weight of the first step.
  """
  return {NAME: kl_weight, _AVERAGE: _NONE_YET} if rate else {}


def steer(
  averages: Mapping[str, jax.Array],
  metrics: Mapping[str, jax.Array],
  rate: float,
) -> dict[str, jax.Array]:
  """Returns the averages that change with the error of the KL.

  Args:
    averages: averages of a state; without a weight nothing is steered.
    metrics: {'kl': [] in nats an example, over all devices, ...}.
    rate: in bits an example.
  """
  if NAME not in averages:
    return {}

  def error(kl):
    ratio = jnp.maximum(kl, _MIN_KL) / (rate * math.log(2))
    return jnp.clip(jnp.log(ratio), -_MAX_ERROR, _MAX_ERROR)

  # The first error is not a change: the weights may be another run's.
  last = averages[_AVERAGE]
  new = jnp.minimum(metrics['kl'], _MAX_KL * rate * math.log(2))
  last = jnp.where(last == _NONE_YET, new, last)
  kl = optax.incremental_update(new, last, 1.0 - _DECAY)
  move = _GAIN * error(kl) + _DAMPING * (error(kl) - error(last))
  return {NAME: averages[NAME] * jnp.exp(move), _AVERAGE: kl}
