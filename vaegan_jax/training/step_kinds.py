"""Which of a run's compiled updates a step takes; the host chooses.

What comes on some steps only is traced into an update of its own. A branch in
one update would do the same, but on a CPU convolutions within a branch run many
times as slowly.
"""

from typing import NamedTuple

from vaegan_jax.training import rounds
from vaegan_jax.training.critic_step import CriticConfig


class Turn(NamedTuple):
  """What a step does; each kind is compiled when it first comes.

  Attributes:
    moves: whether the autoencoder moves, or waits in a long round of critic
      steps.
    lazy: for each critic step of the update, whether it takes the penalties
      that come on every n-th alone.
  """

  moves: bool
  lazy: tuple[bool, ...]


def turn_of(step: int, config: CriticConfig) -> Turn:
  """What a step does, from its number and nothing else.

  Args:
    step: which update, from 1.
    config: how the critic is trained.

  Returns:
    The turn; with K critic steps an update, (step - 1) K + 1 is the number of
    its first.
  """
  in_round = rounds.updates_in_round(config.long_round_steps, config.num_steps)
  done = (step - 1) * config.num_steps
  is_lazy = config.r1_weight > 0 and config.r1_every_steps > 1
  return Turn(
    moves=rounds.moves_autoencoder(step, in_round),
    lazy=tuple(
      is_lazy and (done + i) % config.r1_every_steps == 0
      for i in range(1, config.num_steps + 1)
    ),
  )
