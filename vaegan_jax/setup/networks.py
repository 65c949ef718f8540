"""Builds the networks that a configuration describes, or restores them."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Container, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import ml_collections
import optax

from vaegan_jax import models
from vaegan_jax.config.migrations import upgrade
from vaegan_jax.config.settings import settings
from vaegan_jax.config.shapes import example_shape
from vaegan_jax.errors import UserError
from vaegan_jax.runtime.checkpoints import Checkpoints
from vaegan_jax.setup.modules import (
  Variables,
  create_modules,
  size_shapes,
  sizes_function,
  trained_parts,
  variable_shapes,
)
from vaegan_jax.training import kl_rate, layer_sizes
from vaegan_jax.training import optimizers as optimizers_lib
from vaegan_jax.training.critic_step import CriticConfig
from vaegan_jax.training.train_state import TrainState, create_train_state


def create_networks(
  config: ml_collections.ConfigDict,
) -> tuple[
  dict[str, nn.Module],
  dict[str, optax.GradientTransformation],
  Callable[..., TrainState],
]:
  """Builds the modules and optimisers of a run; computes nothing yet.

  Returns:
    The modules by name, the optimisers of those that are trained, and a
    function that creates the state before step 1. It takes the keyword
    `pretrained` of `create_train_state`.
  """
  modules = create_modules(config)
  trained = [name for name in modules if not models.is_frozen(modules[name])]
  schedules = create_schedules(config, trained)
  optimizers = optimizers_lib.create_optimizers(
    schedules, settings(optimizers_lib.OptimizerConfig, config.optimizer)
  )
  create_state = functools.partial(
    create_train_state,
    modules,
    optimizers,
    seed=config.seed,
    image_shape=example_shape(config.data),
    measure_sizes=sizes_function(config, modules),
    averages=kl_rate.create(config.loss.rate, config.loss.kl_weight),
    trained_parts=trained_parts(config),
    keep_start=config.loss.drift_weight > 0,
  )
  return modules, optimizers, create_state


def create_schedules(
  config: ml_collections.ConfigDict, trained: Collection[str]
) -> dict[str, optimizers_lib.Schedule]:
  """Creates the learning rate of each trained network."""
  return optimizers_lib.create_schedules(
    trained,
    settings(optimizers_lib.OptimizerConfig, config.optimizer),
    critic_config(config, trained),
    config.num_train_steps,
  )


def critic_config(
  config: ml_collections.ConfigDict, trained: Container[str]
) -> CriticConfig:
  """Returns the settings of the critic's training."""
  if 'critic' not in trained:
    return CriticConfig(r1_weight=0.0)
  found = settings(CriticConfig, config.critic)
  if config.model.train == 'none':
    found = dataclasses.replace(found, warmup_steps=config.num_train_steps)
  return found


class RestoredNetworks(NamedTuple):
  """Networks of a checkpoint, without the optimisers' state."""

  modules: dict[str, nn.Module]
  variables: dict[str, Variables]  # Variables of the last step.
  # Params of the autoencoder, averaged over the steps.
  ema_params: Mapping[str, Any]
  step: int
  # Sizes of the distance's layers in the data, if the run follows them.
  sizes: Mapping[str, jax.Array]

  @property
  def inference_variables(self) -> dict[str, Variables]:
    """The variables for inference; see `train_state.inference_variables`."""
    autoencoder = {**self.variables['autoencoder'], 'params': self.ema_params}
    found = {**self.variables, 'autoencoder': autoencoder}
    if self.sizes and 'critic' in found:
      found['layer_sizes'] = self.sizes
    return found


def restore_networks(
  config: ml_collections.ConfigDict, workdir: str
) -> RestoredNetworks:
  """Restores the networks of a run's newest undamaged checkpoint.

  The optimisers' state is not read, and nothing on disk changes.

  Raises:
    UserError: there is no undamaged checkpoint, or it has another network.
  """
  modules = create_modules(config)
  networks = variable_shapes(config, modules)
  template = {
    'networks': networks,
    'ema_params': networks['autoencoder']['params'],
  }
  if sizes := size_shapes(config, modules):
    template['averages'] = layer_sizes.to_averages(sizes)
  restored = Checkpoints(workdir).restore(
    template,
    config=config.to_dict(),
    # Only the networks must be those of the checkpoint.
    free_fields=(*set(config) - {'model', 'critic'}, 'critic.weights'),
    upgrade=upgrade,
    partial=True,
    quarantine=False,
  )
  if restored is None:
    raise UserError(
      f'--workdir={workdir} has no checkpoint: train it first, with '
      f'--mode=train --workdir={workdir}'
    )
  state, step = restored
  return RestoredNetworks(
    modules,
    state['networks'],
    state['ema_params'],
    step,
    layer_sizes.from_averages(state.get('averages', {})),
  )
