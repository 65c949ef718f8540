"""What is done around an update: each a function from update to update."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from vaegan_jax.training.train_state import TrainState

Metrics = dict[str, jax.Array]
# (state, images [K B, H, W, C] uint8) -> (state after the step, metrics []).
Update = Callable[[TrainState, jax.Array], tuple[TrainState, Metrics]]


def averaging(
  update: Update,
  decay: float,
  num_moves: Callable[[jax.Array], jax.Array] = lambda step: step,
) -> Update:
  """Keeps an exponential average of the autoencoder's weights.

  Its horizon grows with the first moves, so that the initial weights are soon
  forgotten: the decay is at most (1 + n) / (10 + n) at the n-th.

  Args:
    update: that moves the autoencoder.
    decay: of the average, after the first moves; 0: the last weights.
    num_moves: (step) -> how often the autoencoder has moved by then.

  Returns:
    The same update, after which `ema_params` have moved too.
  """

  def averaged(state, images):
    new, metrics = update(state, images)
    moves = num_moves(new.step)
    bounded = jnp.minimum(decay, (1.0 + moves) / (10.0 + moves))
    ema_params = optax.incremental_update(
      new.networks['autoencoder'].params, state.ema_params, 1.0 - bounded
    )
    return new.replace(ema_params=ema_params), metrics

  return averaged


def skipping_non_finite(update: Update) -> Update:
  """Takes a step only if its losses and gradients are finite.

  Args:
    update: whose metrics have every loss, and the length of every gradient.

  Returns:
    The same update, but that one with a value that is not finite changes only
    the step and the number of skipped ones, the metric `skipped_in_a_row`.
  """

  def checked(state, images):
    new, metrics = update(state, images)
    # A non-finite gradient norm means a non-finite gradient somewhere.
    ok = functools.reduce(
      jnp.logical_and,
      (
        jnp.isfinite(v)
        for k, v in metrics.items()
        if k.endswith(('loss', 'norm'))
      ),
    )
    num_skipped = jnp.where(ok, 0, state.num_skipped + 1)
    kept = jax.tree.map(functools.partial(jnp.where, ok), new, state)
    kept = kept.replace(step=new.step, num_skipped=num_skipped)
    return kept, metrics | {'skipped_in_a_row': num_skipped}

  return checked
