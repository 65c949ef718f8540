"""Wrappers of an update: each a function from update to update."""

import functools
from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp
import optax

from vaegan_jax.training.train_state import TrainState, select

Metrics = dict[str, jax.Array]
# (state, images [K B, H, W, C] uint8) -> (state after the step, metrics []).
Update = Callable[[TrainState, jax.Array], tuple[TrainState, Metrics]]


def averaging(
  update: Update,
  decay: float,
  num_steps: Callable[[jax.Array], jax.Array] = lambda step: step,
  parts: Collection[str] | None = None,
) -> Update:
  """Keeps an exponential moving average of the autoencoder's weights.

  The decay at the autoencoder's n-th step is at most (1 + n) / (10 + n), so
  that the initial weights are soon forgotten.

  Args:
    update: an update that trains the autoencoder.
    decay: decay of the average after the first steps; 0: the last weights.
    num_steps: (step) -> number of autoencoder steps up to it.
    parts: names of the autoencoder's parts that are trained; None: all. The
      others keep their bits.

  Returns:
    The same update, which also updates `ema_params`.
  """

  def averaged(state, images):
    new, metrics = update(state, images)
    number = num_steps(new.step)
    bounded = jnp.minimum(decay, (1.0 + number) / (10.0 + number))
    ema_params = optax.incremental_update(
      select(new.networks['autoencoder'].params, parts),
      select(state.ema_params, parts),
      1.0 - bounded,
    )
    if parts is not None:
      ema_params = {**state.ema_params, **ema_params}
    return new.replace(ema_params=ema_params), metrics

  return averaged


def skipping_non_finite(update: Update) -> Update:
  """Skips a step of which any metric is not finite.

  Every metric is checked. The losses and gradient norms among them show a
  non-finite gradient; metrics are averaged, so all devices decide alike.

  Returns:
    The same update, except that a skipped step changes only `step` and
    `num_skipped`, which is also the metric `skipped_in_a_row`.
  """

  def checked(state, images):
    new, metrics = update(state, images)
    # One reduction: XLA would repeat a chain of scalars for every parameter.
    ok = jnp.isfinite(jnp.stack([*metrics.values()])).all()
    num_skipped = jnp.where(ok, 0, state.num_skipped + 1)
    kept = jax.tree.map(functools.partial(jnp.where, ok), new, state)
    kept = kept.replace(step=new.step, num_skipped=num_skipped)
    return kept, metrics | {'skipped_in_a_row': num_skipped}

  return checked
