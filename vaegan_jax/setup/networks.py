"""The networks of a run: made as a configuration says, or restored.

Serves training, evaluation and everything that opens a finished run.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Container

import flax.linen as nn
import jax
import ml_collections

from vaegan_jax import models
from vaegan_jax.config.migrations import upgrade
from vaegan_jax.config.shapes import example_shape, spatial_shape
from vaegan_jax.errors import UserError
from vaegan_jax.losses.adversarial import OBJECTIVES
from vaegan_jax.runtime.checkpoints import Checkpoints
from vaegan_jax.training import optimizers as optimizers_lib
from vaegan_jax.training.critic_step import CriticConfig
from vaegan_jax.training.train_state import TrainState, create_train_state


def create_networks(
  config: ml_collections.ConfigDict,
) -> tuple[dict, dict, Callable[..., TrainState]]:
  """What a configuration says of the networks; nothing is computed yet.

  Args:
    config: with the fields of `configs/default.py`.

  Returns:
    The modules and the optimisers by name, and what creates the state before
    step 1; it takes the keyword `pretrained` of `create_train_state`.
  """
  modules = models.create_modules(
    with_critic=config.objective in OBJECTIVES,
    space=spatial_shape(config.data),
    channels=config.data.channels,
    model=config.model,
    critic=config.critic,
  )
  trained = [name for name in modules if not models.is_frozen(modules[name])]
  schedules = create_schedules(config, trained)
  optimizers = optimizers_lib.create_optimizers(
    schedules, optimizers_lib.OptimizerConfig(**config.optimizer)
  )
  create_state = functools.partial(
    create_train_state,
    modules,
    optimizers,
    seed=config.seed,
    image_shape=example_shape(config.data),
  )
  return modules, optimizers, create_state


def create_schedules(
  config: ml_collections.ConfigDict, trained: Collection[str]
) -> dict[str, optimizers_lib.Schedule]:
  """Creates the learning rate of each trained network.

  Args:
    config: of the run.
    trained: names of its networks that have an optimizer.
  """
  critic = critic_config(config, trained)
  return optimizers_lib.create_schedules(
    trained,
    optimizers_lib.OptimizerConfig(**config.optimizer),
    num_train_steps=config.num_train_steps,
    num_critic_steps=critic.num_steps,
    critic_warmup_updates=critic.warmup_updates,
  )


def critic_config(
  config: ml_collections.ConfigDict, trained: Container[str]
) -> CriticConfig:
  """Returns the settings of the critic's training.

  Args:
    config: of the run.
    trained: names of its networks that have an optimizer; without a critic
      among them the settings are the defaults.
  """
  if 'critic' not in trained:
    return CriticConfig()
  names = [field.name for field in dataclasses.fields(CriticConfig)]
  return CriticConfig(**{name: config.critic[name] for name in names})


def restore_networks(
  config: ml_collections.ConfigDict, workdir: str
) -> tuple[dict[str, nn.Module], TrainState, int]:
  """Restores a run's newest whole checkpoint.

  Args:
    config: of the run.
    workdir: of the run.

  Returns:
    Its modules by name, their state, and the step.

  Raises:
    UserError: there is no whole checkpoint, or it is of another network.
  """
  modules, _, create_state = create_networks(config)
  restored = Checkpoints(workdir).restore(
    jax.eval_shape(create_state),
    config=config.to_dict(),
    # Only the networks must be those of the checkpoint.
    free_fields=(*set(config) - {'model', 'critic'}, 'critic.weights'),
    upgrade=upgrade,
    initial=create_state,
    quarantine=False,
  )
  if restored is None:
    raise UserError(
      f'--workdir={workdir} has no checkpoint: train it first, with '
      f'--mode=train --workdir={workdir}'
    )
  return modules, *restored
