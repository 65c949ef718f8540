"""Updates over all devices, from their options."""

from vaegan_jax.losses.reconstruction import LossConfig
from vaegan_jax.training import devices
from vaegan_jax.training.assemble import compose_updates, create_parts


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
  """Returns the update, and the one in which the autoencoder waits, or None.

  `loss` are the fields of a LossConfig; the options are those of
  `create_parts`. Nothing is compiled yet.
  """
  parts = create_parts(modules, optimizers, LossConfig(**loss), **options)
  updates = compose_updates(
    parts,
    order=order,
    ema_decay=ema_decay,
    updates_in_round=updates_in_round,
  )
  return tuple(u and devices.parallelize(u) for u in updates)
