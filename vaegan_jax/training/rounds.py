"""Long rounds of critic steps, for which the autoencoder waits.

The authors of the Wasserstein GAN train the critic for longer before each of
the first 25 generator steps, and before every 500th, counted from 0
(github.com/martinarjovsky/WassersteinGAN). Here a longer round is a number of
updates, `rounds`, of which the last alone moves the autoencoder.
"""

_FIRST, _EVERY = 25, 500
_UNTIL_NEXT = _EVERY - _FIRST  # Moves between the first rounds and the next.


def updates_in_round(long_round_steps: int, num_critic_steps: int) -> int:
  """How many updates make a long round, at least 1.

  Args:
    long_round_steps: critic steps in it, 0 or a multiple of the next.
    num_critic_steps: critic steps in an update.
  """
  return max(long_round_steps // num_critic_steps, 1)


def moves_autoencoder(step: int, rounds: int) -> bool:
  """Whether the autoencoder moves at a step, from 1.

  Args:
    step: which update.
    rounds: updates in a long round, at least 1.

  Returns:
    True for every update where `rounds` is 1.
  """
  return int(num_moves(step, rounds)) > int(num_moves(step - 1, rounds))


def num_moves(step, rounds: int):
  """How often the autoencoder has moved after a step.

  Args:
    step: updates done; a number, or [] int32 under trace.
    rounds: updates in a long round, at least 1.

  Returns:
    Of the same type: `step` itself where `rounds` is 1.
  """
  if rounds == 1:
    return step
  first = _FIRST * rounds
  # Within the cycle of a long round and 499 updates, the first wait.
  full, within = divmod(step - first - _UNTIL_NEXT, _EVERY - 1 + rounds)
  in_cycle = (within - rounds + 1) * (within >= rounds)
  early = step // rounds
  steady = _FIRST + (step - first)
  late = _EVERY + full * _EVERY + in_cycle
  is_early, is_late = step <= first, step > first + _UNTIL_NEXT
  return (
    early * is_early + steady * (1 - is_early) * (1 - is_late) + late * is_late
  )
