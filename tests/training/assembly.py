"""Updates over all devices, from their options."""

import functools

from vaegan_jax.losses.reconstruction import LossConfig
from vaegan_jax.runtime import devices
from vaegan_jax.training.build import compose_update, create_parts
from vaegan_jax.training.step_kinds import Turn

PLAIN = Turn(moves=True, lazy=(False,))  # Of one critic step, without R1.


def parallel_updates(
  modules,
  optimizers,
  loss,
  *,
  order='alternating',
  ema_decay=0.5,
  updates_in_round=1,
  **options,
):
  """Returns (turn) -> the update that does it; nothing is compiled yet.

  `loss` are the fields of a LossConfig; the options are those of
  `create_parts`.
  """
  parts = create_parts(modules, optimizers, LossConfig(**loss), **options)

  @functools.cache
  def update_of(turn):
    return devices.parallelize(
      compose_update(
        parts,
        turn,
        order=order,
        ema_decay=ema_decay,
        updates_in_round=updates_in_round,
      )
    )

  return update_of
