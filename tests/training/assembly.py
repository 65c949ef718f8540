"""Updates over all devices, from the fields of a LossConfig."""

from vaegan_jax.losses.reconstruction import LossConfig
from vaegan_jax.training.build import create_updates
from vaegan_jax.training.step_kinds import StepKind

# One critic step, without R1.
PLAIN = StepKind(train_autoencoder=True, regularize_critic=(False,))


def parallel_updates(
  modules, optimizers, loss, *, order='alternating', ema_decay=0.5, **options
):
  """Returns (kind) -> its update; nothing is compiled yet."""
  return create_updates(
    modules,
    optimizers,
    LossConfig(**loss),
    order=order,
    ema_decay=ema_decay,
    **options,
  )
