"""From a run's configuration to its updates, over this process's devices."""

import dataclasses
from collections.abc import Callable, Mapping

import flax.linen as nn
import ml_collections
import optax

from vaegan_jax.data import batches
from vaegan_jax.experiment import rounds
from vaegan_jax.experiment.networks import updates_in_round
from vaegan_jax.losses.adversarial import OBJECTIVES
from vaegan_jax.losses.reconstruction import LossConfig
from vaegan_jax.training import devices
from vaegan_jax.training.assemble import compose_updates, create_parts
from vaegan_jax.training.critic_step import CriticConfig
from vaegan_jax.training.wrappers import Update


def create_updates(
  config: ml_collections.ConfigDict,
  modules: Mapping[str, nn.Module],
  optimizers: Mapping[str, optax.GradientTransformation],
) -> tuple[Update, Update | None]:
  """The updates of a run, over this process's devices; nothing is compiled.

  Args:
    config: of the run.
    modules: its networks, by name.
    optimizers: of those that are trained.

  Returns:
    Those of `compose_updates`, on [D, K B, H, W, C] uint8.
  """

  def preprocess(images, flip):
    flip = flip & config.data.random_flip
    return batches.to_float(batches.random_flip(images, flip))

  recipe = [field.name for field in dataclasses.fields(CriticConfig)]
  trains_critic = 'critic' in optimizers
  parts = create_parts(
    modules,
    optimizers,
    LossConfig(**config.loss),
    objective=OBJECTIVES[config.objective] if trains_critic else None,
    seed=config.seed,
    preprocess=preprocess,
    critic_config=CriticConfig(**{k: config.critic[k] for k in recipe}),
    max_grad_norm=config.optimizer.max_grad_norm,
  )
  updates = compose_updates(
    parts,
    order=config.update_order,
    ema_decay=config.ema_decay,
    updates_in_round=updates_in_round(config, optimizers),
  )
  return tuple(update and devices.parallelize(update) for update in updates)


def create_chooser(
  config: ml_collections.ConfigDict,
  modules: Mapping[str, nn.Module],
  optimizers: Mapping[str, optax.GradientTransformation],
) -> Callable[[int], Update]:
  """The updates of a run as a function: (step) -> the one that it takes.

  Args:
    config: of the run.
    modules: its networks, by name.
    optimizers: of those that are trained.

  Returns:
    That function, of steps from 1.
  """
  update, waiting = create_updates(config, modules, optimizers)
  in_round = updates_in_round(config, optimizers)

  def choose(step):
    moves = rounds.moves_autoencoder(step, in_round)
    return update if moves else waiting

  return choose
