"""The kinds of compiled updates, as a function of the step's number.

Work of some steps only is compiled into an update of its own. A branch inside
one update would compute the same, but on a CPU convolutions inside a branch are
many times slower.

The critic warm-up follows the authors of the Wasserstein GAN, who train the
critic for longer before each of the first 25 generator steps and before every
500th (github.com/martinarjovsky/WassersteinGAN). Here a warm-up is a number of
updates, of which only the last trains the autoencoder.
"""

import functools
from typing import NamedTuple

from vaegan_jax.training.critic_step import CriticConfig

# Autoencoder steps that each follow a warm-up, and how often one does later.
_FIRST, _EVERY = 25, 500
_UNTIL_NEXT = _EVERY - _FIRST


class StepKind(NamedTuple):
  """Kind of an update; each is compiled when a step first takes it."""

  # False for a critic warm-up, except its last update.
  train_autoencoder: bool
  # True for the critic steps that take the penalties of every n-th step.
  regularize_critic: tuple[bool, ...]


def step_kind(step: int, config: CriticConfig) -> StepKind:
  """Returns the kind of a step, the number of an update, from 1.

  With K critic steps an update, the first of this update is the run's critic
  step (step - 1) K + 1.
  """
  done = (step - 1) * config.num_steps
  count = functools.partial(num_autoencoder_steps, warmups=config.warmups)
  is_lazy = config.r1_weight > 0 and config.r1_every_steps > 1
  return StepKind(
    train_autoencoder=int(count(step)) > int(count(step - 1)),
    regularize_critic=tuple(
      is_lazy and (done + i) % config.r1_every_steps == 0
      for i in range(1, config.num_steps + 1)
    ),
  )


def num_autoencoder_steps(step, warmups: tuple[int, int]):
  """Returns how many of the first `step` updates trained the autoencoder.

  Args:
    step: number of updates, an int or a traced [] int32, as the result is.
    warmups: length of each critic warm-up, at least 1 (no warm-up), and number
      of updates before all others that train the critic alone.
  """
  warmup_updates, first_warmup = warmups
  if first_warmup:
    step = (step - first_warmup) * (step > first_warmup)
  if warmup_updates == 1:
    return step
  first = _FIRST * warmup_updates
  # A later cycle is one warm-up and then 499 updates that train both.
  cycle = _EVERY - 1 + warmup_updates
  num_cycles, within = divmod(step - first - _UNTIL_NEXT, cycle)
  in_cycle = (within - warmup_updates + 1) * (within >= warmup_updates)
  early = step // warmup_updates
  steady = _FIRST + (step - first)
  late = _EVERY + num_cycles * _EVERY + in_cycle
  is_early, is_late = step <= first, step > first + _UNTIL_NEXT
  return (
    early * is_early + steady * (1 - is_early) * (1 - is_late) + late * is_late
  )
