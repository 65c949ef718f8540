"""Builds a run's updates from plain settings: every option is chosen here.

Nothing is traced or compiled until an update is called.
"""

import functools
from collections.abc import Callable, Collection, Mapping

import flax.linen as nn
import jax
import optax

from vaegan_jax.losses.adversarial import Objective
from vaegan_jax.losses.reconstruction import (
  LossConfig,
  create_reconstruction_losses,
)
from vaegan_jax.runtime import devices
from vaegan_jax.training import kl_rate, layer_sizes
from vaegan_jax.training.autoencode import create_autoencode
from vaegan_jax.training.critic_step import CriticConfig, create_critic_step
from vaegan_jax.training.loss_weights import create_combine_losses
from vaegan_jax.training.random_inputs import create_random_inputs
from vaegan_jax.training.step_kinds import StepKind, num_autoencoder_steps
from vaegan_jax.training.update import (
  Parts,
  create_critic_update,
  create_update,
)
from vaegan_jax.training.wrappers import Update, averaging, skipping_non_finite

_PLAIN_CRITIC = CriticConfig(r1_weight=0.0)


def create_updates(
  modules: Mapping[str, nn.Module],
  optimizers: Mapping[str, optax.GradientTransformation],
  loss: LossConfig,
  *,
  objective: Objective | None,
  order: str,
  ema_decay: float,
  critic_config: CriticConfig = _PLAIN_CRITIC,
  **options,
) -> Callable[[StepKind], Update]:
  """Creates the updates of a run over this process's devices.

  Args:
    modules: 'autoencoder' and, if there is one, 'critic'.
    optimizers: one for each trained module.
    objective: the critic's objective; None: it is frozen, or there is none.
    order: one of `names.UPDATE_ORDERS`.
    ema_decay: decay of the averaged autoencoder; see `wrappers.averaging`.
    **options: `seed`, `preprocess`, `num_flips`, `crop_margin`, `masked` and
      `num_chunks` of `create_random_inputs`, `max_grad_norm` of
      `create_critic_step`, and `trained_parts` of `create_train_state`.

  Returns:
    (kind) -> its update, on images [D, K B, H, W, C] of any type; each is built
    once, and compiled at its first call. `step_kind` gives the kind of a step.
  """
  parts = create_parts(
    modules,
    optimizers,
    loss,
    objective=objective,
    critic_config=critic_config,
    **options,
  )
  num_steps = functools.partial(
    num_autoencoder_steps, warmups=critic_config.warmups
  )

  @functools.cache
  def update_of(kind):
    update = create_critic_update(parts, kind.regularize_critic)
    if kind.train_autoencoder:
      update = create_update(parts, kind.regularize_critic, order)
      update = averaging(update, ema_decay, num_steps, parts.trained)
    return devices.parallelize(skipping_non_finite(update))

  return update_of


def create_parts(
  modules: Mapping[str, nn.Module],
  optimizers: Mapping[str, optax.GradientTransformation],
  loss: LossConfig,
  *,
  objective: Objective | None,
  critic_config: CriticConfig,
  seed: int,
  preprocess: Callable[..., jax.Array],
  num_flips: int = 1,
  crop_margin: int = 0,
  masked: bool = False,
  max_grad_norm: float = 0.0,
  trained_parts: Collection[str] | None = None,
  num_chunks: int = 1,
) -> Parts:
  """Creates the parts of an update; the arguments are `create_updates`'s."""
  autoencoder = modules['autoencoder'].over(devices.AXIS)
  return Parts(
    random_inputs=create_random_inputs(
      preprocess,
      seed=seed,
      autoencoder=autoencoder,
      num_microbatches=critic_config.num_steps if objective else 1,
      with_prior=critic_config.prior_fakes and objective is not None,
      num_flips=num_flips,
      crop_margin=crop_margin,
      masked=masked,
      num_chunks=num_chunks,
    ),
    autoencode=create_autoencode(
      autoencoder,
      split=objective is not None and loss.separates_adversarial,
      to_encoder=loss.adversarial_to_encoder,
      with_half=loss.equivariance_weight > 0,
      train_encoder=trained_parts is None,
    ),
    step_critic=_create_step_critic(
      modules,
      optimizers,
      objective,
      critic_config,
      max_grad_norm=max_grad_norm,
      num_chunks=num_chunks,
    ),
    reconstruction_losses=create_reconstruction_losses(
      modules.get('critic'),
      objective and objective.adversarial_loss,
      loss,
      axis_name=devices.AXIS,
    ),
    combine_losses=create_combine_losses(loss),
    follow=functools.partial(_follow, loss.rate),
    optimizer=optimizers['autoencoder'],
    trained=trained_parts,
    pmean=devices.pmean,
    psum=devices.psum,
    num_chunks=num_chunks,
  )


def _follow(rate, averages, metrics, moments):
  """Returns the averages that change with what a step has measured."""
  steered = kl_rate.steer(averages, metrics, rate)
  return layer_sizes.follow(averages, moments) | steered


def _create_step_critic(
  modules, optimizers, objective, critic_config, **options
):
  """Returns the critic's step; it changes nothing if none is trained."""
  if objective is None:
    return lambda critic, inputs, decoded, regularize: (critic, {})
  step_critic = create_critic_step(
    modules['critic'],
    objective.critic_loss,
    optimizers['critic'],
    critic_config,
    devices.pmean,
    **options,
  )
  if critic_config.num_steps > 1:  # Steps of one kind share one trace.
    step_critic = jax.jit(step_critic, static_argnums=3)
  return step_critic
