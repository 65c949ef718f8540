"""From plain settings to the update of one device: what is on, and what is not.

Every option is a choice made here, before anything is traced.
"""

import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import optax

from vaegan_jax.losses.adversarial import Objective
from vaegan_jax.losses.reconstruction import (
  LossConfig,
  create_reconstruction_losses,
)
from vaegan_jax.runtime import devices
from vaegan_jax.training import rounds
from vaegan_jax.training.autoencode import create_autoencode
from vaegan_jax.training.critic_step import CriticConfig, create_critic_step
from vaegan_jax.training.loss_weights import create_weigh
from vaegan_jax.training.random_inputs import create_draw
from vaegan_jax.training.step_kinds import Turn
from vaegan_jax.training.update import (
  Parts,
  create_critic_update,
  create_update,
)
from vaegan_jax.training.wrappers import (
  Update,
  averaging,
  skipping_non_finite,
)

_PLAIN_CRITIC = CriticConfig()


def compose_update(
  parts: Parts,
  turn: Turn,
  *,
  order: str,
  ema_decay: float,
  updates_in_round: int = 1,
) -> Update:
  """Builds an update of a run for one device, with all that is around it.

  `devices.parallelize` runs it on all devices.

  Args:
    parts: from `create_parts`.
    turn: what it does; `turns.turn_of` says which one a step takes.
    order: one of `update.ORDERS`.
    ema_decay: of the averaged autoencoder; see `wrappers.averaging`.
    updates_in_round: in a long round of critic steps, where the last alone
      moves the autoencoder; see `training/rounds.py`.

  Returns:
    The update.
  """
  if not turn.moves:
    return skipping_non_finite(create_critic_update(parts, lazy=turn.lazy))
  return skipping_non_finite(
    averaging(
      create_update(parts, order=order, lazy=turn.lazy),
      ema_decay,
      functools.partial(rounds.num_moves, rounds=updates_in_round),
    )
  )


def create_parts(
  modules: Mapping[str, nn.Module],
  optimizers: Mapping[str, optax.GradientTransformation],
  loss: LossConfig,
  *,
  objective: Objective | None,
  seed: int,
  preprocess: Callable[..., jax.Array],
  num_flips: int = 1,
  crop_margin: int = 0,
  critic_config: CriticConfig = _PLAIN_CRITIC,
  max_grad_norm: float = 0.0,
) -> Parts:
  """Builds what an update is made of.

  Args:
    modules: 'autoencoder' and, if there is one, 'critic'.
    optimizers: one for each module that is trained.
    loss: what the autoencoder minimises.
    objective: the critic's; None: it is frozen, or there is none.
    seed, preprocess, num_flips, crop_margin: see `create_draw`.
    critic_config: how it is trained.
    max_grad_norm: of the critic's loss; the autoencoder's optimiser cuts too.

  Returns:
    The parts.
  """
  autoencoder = modules['autoencoder'].over(devices.AXIS)
  step_critic = _create_step_critic(
    modules, optimizers, objective, critic_config, max_grad_norm
  )
  adversarial_loss = objective and objective.adversarial_loss
  return Parts(
    draw=create_draw(
      preprocess,
      seed=seed,
      autoencoder=autoencoder,
      num_parts=critic_config.num_steps if objective else 1,
      with_prior=critic_config.prior_fakes and objective is not None,
      num_flips=num_flips,
      crop_margin=crop_margin,
    ),
    autoencode=create_autoencode(
      autoencoder,
      split=objective is not None and loss.separates_adversarial,
      to_encoder=loss.adversarial_to_encoder,
    ),
    step_critic=step_critic,
    judge=create_reconstruction_losses(
      modules.get('critic'), adversarial_loss, loss, axis_name=devices.AXIS
    ),
    weigh=create_weigh(loss),
    optimizer=optimizers['autoencoder'],
    pmean=devices.pmean,
  )


def _create_step_critic(
  modules, optimizers, objective, critic_config, max_grad_norm
):
  """The critic's step, if it is trained."""
  step_critic = _keep_critic
  if objective is not None:
    step_critic = create_critic_step(
      modules['critic'],
      objective.critic_loss,
      optimizers['critic'],
      critic_config,
      devices.pmean,
      max_grad_norm=max_grad_norm,
    )
  if critic_config.num_steps > 1:  # All of a kind share one trace.
    step_critic = jax.jit(step_critic, static_argnums=3)
  return step_critic


def _keep_critic(critic, draw, x_fakes, lazy):
  """The critic's step where it is frozen, or there is none."""
  del draw, x_fakes, lazy
  return critic, {}
