"""Starts, saves, resumes and rolls back a run, through its checkpoints."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from vaegan_jax import models
from vaegan_jax.config.migrations import stamp, upgrade
from vaegan_jax.config.schema import resumable_fields
from vaegan_jax.errors import unwritable
from vaegan_jax.models.pretrained import diffusers_files
from vaegan_jax.runtime import distributed, lock
from vaegan_jax.runtime.checkpoints import Checkpoints
from vaegan_jax.runtime.files import check_writable, write_json
from vaegan_jax.setup.data_identity import may_have_grown, new_in_files
from vaegan_jax.setup.modules import sizes_function
from vaegan_jax.setup.run import Run
from vaegan_jax.training import layer_sizes
from vaegan_jax.training.critic_step import clip_weights
from vaegan_jax.training.health import Finding, last_healthy_step
from vaegan_jax.training.train_state import TrainState

_MAX_ROLLBACKS = 3
_SIZED_VALUES = 2**21  # In the examples that give the first sizes of layers.


@contextlib.contextmanager
def open_checkpoints(
  workdir: str, num_checkpoints: int
) -> Iterator[Checkpoints]:
  """Locks a workdir against other trainers, and opens its checkpoints.

  Raises:
    UserError: another run holds the workdir, it cannot be written, or not all
      processes see the same folder.
  """
  with contextlib.ExitStack() as stack:
    with distributed.together():
      check_writable(workdir, 'checkpoints')
      if distributed.is_first():
        stack.enter_context(lock.hold(workdir))
    distributed.check_shared(workdir)
    checkpoints = Checkpoints(workdir, max_to_keep=num_checkpoints)
    if jax.process_count() == 1:  # After an error no other would come to it.
      stack.callback(checkpoints.close)  # An error must not cost a save.
    yield checkpoints


@dataclasses.dataclass
class RunCheckpoints:
  """Checkpoints of one run, checked against its configuration and data."""

  run: Run
  workdir: str
  checkpoints: Checkpoints
  num_rollbacks: int = 0  # Number in this process.
  # True: its folder has more images than at the start.
  _grown: bool = dataclasses.field(default=False, init=False)

  def restore_or_init(self) -> tuple[TrainState, int]:
    """Returns the state to continue from, and its step; 0 for a new run.

    Raises:
      UserError: the newest checkpoint is of another run, all are damaged, or a
        file of weights cannot be used.
    """
    run = self.run
    self._grown = may_have_grown(
      run.config, self.workdir, run.identity['data'], run.recorded
    )
    return self._restore() or (init_state(run), 0)

  def _restore(self):
    identity = self.run.identity
    if self._grown:
      identity['data'] = None  # Not compared.
    return self.checkpoints.restore(
      self.run.template,
      free_fields=resumable_fields(self.run.config),
      upgrade=upgrade,
      initial=self.run.create_state,
      **identity,
    )

  def save(self, step: int, state: TrainState, *, finish: bool) -> bool:
    """Saves a step.

    A run of an earlier version stays recognizable as one, however often it is
    resumed: its checkpoints have no fields that files have set only since.

    Returns:
      True if it was started; with `finish`, True if it was written.

    Raises:
      UserError: three saves in a row failed.
    """
    identity = self.run.identity
    config = stamp(identity['config'])
    recorded = self.run.recorded
    for name in new_in_files(recorded['lacks']) if recorded else ():
      section, field = name.split('.')
      del config[section][field]
    started = self.checkpoints.save(
      step, state, config=config, data=identity['data']
    )
    if not finish:
      return started
    saved = self.checkpoints.wait() and started
    if not saved:
      print('The last checkpoint could not be written; see above.', flush=True)
    return saved

  def roll_back(self, finding: Finding) -> tuple[TrainState, int] | None:
    """Goes back to before a failure began, with fresh randomness.

    Returns:
      The state and its step; None, with a message, if that is impossible.
    """
    if self.num_rollbacks == _MAX_ROLLBACKS:
      print(f'Gave up after {_MAX_ROLLBACKS} rollbacks.', flush=True)
      return None
    self.num_rollbacks += 1
    self.checkpoints.wait()
    steps = distributed.from_first(self.checkpoints.steps)
    step = last_healthy_step(steps, finding.since)
    if step is None:
      print('There is no healthy checkpoint to roll back to.', flush=True)
      return None
    self.checkpoints.remove_after(step)
    state, step = self._restore()
    print(f'Rolled back to step {step:,}, with other noise.', flush=True)
    # The checkpoint may be from before an earlier rollback.
    fresh = np.asarray(int(state.num_rollbacks) + self.num_rollbacks, np.int32)
    return state.replace(num_rollbacks=fresh), step

  def record_beginning(self, state: TrainState) -> None:
    """Writes `config.json`, and a checkpoint of weights from another run.

    Raises:
      UserError: the workdir cannot be written.
    """
    distributed.from_first(self._write_config)
    if self.run.initial:  # From here on the other run may change or go.
      self.save(0, state, finish=True)

  def _write_config(self) -> None:
    folder = epath.Path(self.workdir)
    files = {'config.json': stamp(self.run.config.to_dict())}
    if self.run.initial and self.run.initial.diffusers:
      files[diffusers_files.KEPT] = self.run.initial.diffusers
    try:
      for name, fields in files.items():
        write_json(folder / name, fields)
    except OSError as error:
      raise unwritable(self.workdir, error) from error


def init_state(run: Run) -> TrainState:
  """Initialises the state before step 1, with the same bits in all processes.

  Raises:
    UserError: a file of weights cannot be used.
  """
  with distributed.together():
    weights = run.config.critic.weights  # Of frozen networks.
    pretrained = models.load_pretrained(run.modules, weights)
  if run.initial:
    state = run.create_state(pretrained=pretrained | run.initial.variables)
    state = state.replace(ema_params=run.initial.ema_params)
    print(run.initial.message, flush=True)
  else:
    state = run.create_state(pretrained=pretrained)
  state = _with_sizes(run, state)
  if jax.process_count() > 1:  # Machines may compute it differently.
    state = multihost_utils.broadcast_one_to_all(state)
  return state


def _with_sizes(run: Run, state: TrainState) -> TrainState:
  """Measures the sizes of the layers, if the run follows them."""
  measure = sizes_function(run.config, run.modules)
  if measure is None:
    return state
  critic, measure = state.networks.get('critic'), jax.jit(measure)
  variables, limit = critic and critic.variables, run.config.critic.weight_clip
  if variables and limit:  # As from the first step on.
    params = clip_weights(variables['params'], limit)
    variables = {**variables, 'params': params}
  parts = [measure(variables, x) for x in run.sample(_SIZED_VALUES)]
  sizes = jax.tree.map(lambda *values: sum(values) / len(values), *parts)
  return state.replace(averages=state.averages | layer_sizes.to_averages(sizes))
