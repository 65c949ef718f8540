"""The one way from a configuration to a training run.

Configurations are read here; lower layers take plain arguments.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np
import optax

from vaegan_jax.config.rules import flatten
from vaegan_jax.config.settings import settings
from vaegan_jax.config.shapes import example_shape
from vaegan_jax.config.validation import validate_new_run
from vaegan_jax.data import batches, pixels
from vaegan_jax.data.split import Images, whole_of
from vaegan_jax.evaluation.evaluator import Evaluator
from vaegan_jax.losses.adversarial import OBJECTIVES
from vaegan_jax.runtime import devices, distributed
from vaegan_jax.runtime.checkpoints import Checkpoints
from vaegan_jax.setup.data import load_data
from vaegan_jax.setup.data_identity import keep_rules, read_recorded
from vaegan_jax.setup.finished_run import create_evaluator
from vaegan_jax.setup.init_from import InitialWeights, read_initial_weights
from vaegan_jax.setup.memory import check_memory
from vaegan_jax.setup.modules import trained_parts
from vaegan_jax.setup.networks import (
  create_networks,
  create_schedules,
  critic_config,
)
from vaegan_jax.setup.updates import create_updates
from vaegan_jax.training.critic_step import CriticConfig
from vaegan_jax.training.health import HealthMonitor
from vaegan_jax.training.loop import Plan
from vaegan_jax.training.optimizers import Schedule, learning_rates
from vaegan_jax.training.step_kinds import StepKind, step_kind
from vaegan_jax.training.train_state import TrainState
from vaegan_jax.training.wrappers import Update


@dataclasses.dataclass(frozen=True)
class Run:
  """A training run; nothing is compiled or initialised yet."""

  config: ml_collections.ConfigDict  # With the range of the values settled.
  modules: dict[str, nn.Module]
  optimizers: dict[str, optax.GradientTransformation]
  create_state: Callable[..., TrainState]  # () -> the state before step 1.
  images: Images  # Training examples.
  evaluator: Evaluator  # Evaluator of held-out examples.
  updates: Callable[[StepKind], Update]  # Each compiles when first called.
  initial: InitialWeights | None = None  # Weights of another run to start from.
  # Record in the newest checkpoint of a resumed run.
  recorded: dict[str, Any] | None = None

  @functools.cached_property
  def template(self) -> TrainState:
    """Shapes and dtypes of the state."""
    return jax.eval_shape(self.create_state)

  @property
  def identity(self) -> dict[str, dict[str, Any]]:
    """The configuration and data that a checkpoint records with the state."""
    data = {
      'num_images': len(self.images),
      'fingerprint': self.images.fingerprint,
    }
    return {'config': self.config.to_dict(), 'data': data}

  @property
  def plan(self) -> Plan:
    """The number of steps, and when to evaluate, plot and save."""
    on_failure = self.config.health.on_failure
    return settings(Plan, self.config, on_failure=on_failure)

  def update_for(self, step: int) -> Update:
    """Returns the update that a step, from 1, takes."""
    return self.updates(step_kind(step, self._critic_config))

  def learning_rates(self, state: TrainState) -> dict[str, float]:
    """Returns the learning rate of each network's last step, by metric."""
    return learning_rates(self._schedules, state)

  # Read once: reading a ConfigDict takes a noticeable part of a short step.
  @functools.cached_property
  def _critic_config(self) -> CriticConfig:
    return critic_config(self.config, self.optimizers)

  @functools.cached_property
  def _schedules(self) -> dict[str, Schedule]:
    return create_schedules(self.config, self.optimizers)

  def create_monitor(self) -> HealthMonitor:
    """Creates the health checks of the run."""
    objective = OBJECTIVES.get(self.config.objective)
    return HealthMonitor(
      flatten(self.config),
      separated_loss=objective.separated_loss if objective else 0.0,
      undecided_loss=objective.undecided_loss if objective else 0.0,
    )

  def batches(self, start_step: int) -> Iterator[jax.Array]:
    """Yields this process's batches on its devices, without end."""
    config = self.config
    trains_critic = 'critic' in self.optimizers
    return batches.create_batches(
      whole_of(self.images),  # Crops are cut out of all of it.
      seed=config.seed,
      batch_size=config.batch_size,
      num_devices=jax.local_device_count(),
      num_parts=config.critic.num_steps if trains_critic else 1,
      start_step=start_step,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      place=devices.share_out,
    )

  def sample(self, num_values: int) -> Iterator[jax.Array]:
    """Yields batches [B, *S, C] in [-1, 1] of evenly spaced training examples.

    They have about `num_values` in total, and are at least 64, if the data has
    as many. None is mirrored.
    """
    number = max(64, num_values // math.prod(example_shape(self.config.data)))
    number = min(number, len(self.images))
    size = min(number, max(1, self.config.batch_size // jax.device_count()))
    data = self.config.data
    for first in range(0, number - size + 1, size):
      places = np.arange(first, first + size) * len(self.images) // number
      images = self.images[places]
      x = pixels.to_float(images, data.value_range, data.mid_side)
      yield pixels.fill(x)[0] if data.max_nodata else x


def setup(config: ml_collections.ConfigDict, workdir: str = '') -> Run:
  """Sets up a run, new or resumed. All processes must call this together.

  Mistakes are reported before anything compiles.

  Args:
    workdir: the run's folder. A run with checkpoints keeps its original rules
      for reading data; '': the run is new.

  Raises:
    UserError: the configuration is not valid for a new run, or its data, its
      weights or the run that it starts from cannot be used.
  """
  config, initial, recorded = _keep_or_begin(config, workdir)
  config, images, eval_images = load_data(config)
  modules, optimizers, create_state = create_networks(config)
  with distributed.together():
    evaluator = create_evaluator(
      config, modules, eval_images, num_images=config.num_eval_images
    )
  run = Run(
    config=config,
    modules=modules,
    optimizers=optimizers,
    create_state=create_state,
    images=images,
    evaluator=evaluator,
    updates=create_updates(config, modules, optimizers),
    initial=initial,
    recorded=recorded,
  )
  with distributed.together():
    check_memory(
      modules,
      run.template,
      example_shape(config.data),
      config.batch_size // jax.device_count(),
      config.optimizer.accumulate_steps,
      trained_parts(config),
    )
  return run


def _keep_or_begin(
  config: ml_collections.ConfigDict, workdir: str
) -> tuple[
  ml_collections.ConfigDict, InitialWeights | None, dict[str, Any] | None
]:
  """Returns a run's configuration, and what it starts or resumes from."""
  resumes = workdir and distributed.from_first(Checkpoints(workdir).steps)
  if not resumes:
    validate_new_run(config)
    return config, read_initial_weights(config), None
  if config.init_from:
    print(
      f'init_from={config.init_from!r} is not read again: the run resumes from '
      'its own checkpoint.',
      flush=True,
    )
  recorded = read_recorded(workdir)
  return keep_rules(config, workdir, recorded), None, recorded
