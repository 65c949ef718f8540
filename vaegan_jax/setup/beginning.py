"""How a run begins: with which weights, and whether it may at all."""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import ml_collections
from jax.experimental import multihost_utils

from vaegan_jax import models
from vaegan_jax.config.shapes import example_shape
from vaegan_jax.config.validation import validate_new_run
from vaegan_jax.runtime import distributed
from vaegan_jax.runtime.checkpoints import Checkpoints
from vaegan_jax.setup import memory
from vaegan_jax.setup.data_identity import keep_rules
from vaegan_jax.setup.init_from import InitialWeights, read_initial_weights
from vaegan_jax.training.train_state import TrainState


def settle(
  config: ml_collections.ConfigDict, workdir: str, checkpoints: Checkpoints
) -> tuple[ml_collections.ConfigDict, InitialWeights | None]:
  """Looks at whether a run begins, and with what, or goes on.

  Args:
    config: of the run, valid.
    workdir: of the run.
    checkpoints: in it.

  Returns:
    The configuration, in which a run that goes on keeps the rules that it began
    with; and the weights of another run that this one begins with, if any.

  Raises:
    UserError: no run may begin like this, or the other run cannot be read.
  """
  if not distributed.from_first(checkpoints.steps):
    validate_new_run(config)
    return config, read_initial_weights(config)
  if config.init_from:
    print(
      f'init_from={config.init_from!r} is not read again: this run goes on '
      'with weights of its own.',
      flush=True,
    )
  return keep_rules(config, workdir), None


def check_memory(
  config: ml_collections.ConfigDict,
  modules: Mapping[str, nn.Module],
  state: TrainState,
) -> None:
  """Refuses what needs more memory than there is, before it is compiled.

  Args:
    config: of the run.
    modules: its networks, by name.
    state: of the shapes of its state.

  Raises:
    UserError: it does.
  """
  shape = example_shape(config.data)
  per_device = config.batch_size // jax.device_count()
  memory.check_memory(modules, state, shape, per_device)


def begin(
  config: ml_collections.ConfigDict,
  modules: Mapping[str, nn.Module],
  create_state: Callable[..., TrainState],
  initial: InitialWeights | None,
) -> tuple[TrainState, int]:
  """The state before the first update, the same bits in all processes.

  Args:
    config: of the run.
    modules: its networks, by name.
    create_state: from `create_networks`.
    initial: from `settle`.

  Returns:
    That state, and 0, the step it is of.

  Raises:
    UserError: a file of weights cannot be used.
  """
  with distributed.together():
    pretrained = models.load_pretrained(modules, config.critic.weights)
  if initial:
    state = create_state(pretrained=pretrained | initial.variables)
    state = state.replace(ema_params=initial.ema_params)
    print(initial.told, flush=True)
  else:
    state = create_state(pretrained=pretrained)
  if jax.process_count() > 1:  # Machines may compute it differently.
    state = multihost_utils.broadcast_one_to_all(state)
  return state, 0
