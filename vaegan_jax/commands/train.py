"""The mode `train`: a run from its beginning, or from where it stopped.

Owns what a run is made of, and rollbacks.
"""

import contextlib
import dataclasses
import functools
import json

import jax
import ml_collections
import numpy as np
from clu import parameter_overview
from etils import epath

from vaegan_jax.config.migrations import stamp, upgrade
from vaegan_jax.config.rules import flatten
from vaegan_jax.config.schema import resumable_fields
from vaegan_jax.data import batches
from vaegan_jax.data.images import Images, load_splits, whole_of
from vaegan_jax.errors import unwritable
from vaegan_jax.inference.measure_latents import measure_finished
from vaegan_jax.losses.adversarial import OBJECTIVES
from vaegan_jax.runtime import devices, distributed, lock
from vaegan_jax.runtime.checkpoints import Checkpoints
from vaegan_jax.runtime.files import check_writable, write_text
from vaegan_jax.runtime.preemption import Stopper
from vaegan_jax.runtime.profiling import Profiler
from vaegan_jax.runtime.writers import (
  NoWriters,
  Writers,
  has_figures,
  has_scores,
)
from vaegan_jax.setup.beginning import begin, check_memory, settle
from vaegan_jax.setup.data_identity import may_have_grown
from vaegan_jax.setup.init_from import check_other_run
from vaegan_jax.setup.networks import create_networks
from vaegan_jax.setup.runs import create_evaluator
from vaegan_jax.setup.updates import create_chooser
from vaegan_jax.setup.value_range import settle_range
from vaegan_jax.training import health
from vaegan_jax.training.loop import FAILED, Plan, run_loop

_MAX_ROLLBACKS = 3


def train(
  config: ml_collections.ConfigDict,
  workdir: str,
  stopper: Stopper | None = None,
) -> int:
  """Trains to the end, or goes on where the last run in `workdir` stopped.

  Args:
    config: with the fields of `configs/default.py`, and valid.
    workdir: gets `config.json`, `metrics.jsonl`, TensorBoard events,
      `checkpoints/`, `figures/` and, in the end, `latents.json`.
    stopper: what notices signals, if more than this training hangs on it.

  Returns:
    The process's exit status: 0 at the end, 75 after SIGTERM or SIGHUP and 130
    after Ctrl-C, with the last finished step saved, 1 if updates stayed
    non-finite or the last save failed.

  Raises:
    UserError: the data, weights or the workdir are wrong, or it is in use.
  """
  check_other_run(config.init_from, workdir)
  with contextlib.ExitStack() as stack:
    stopper = stopper or stack.enter_context(Stopper())
    _hold_workdir(stack, workdir)
    checkpoints = Checkpoints(workdir, max_to_keep=config.num_checkpoints)
    if jax.process_count() == 1:  # After an error no other would come to it.
      stack.callback(checkpoints.close)  # An error must not cost a save.
    config, initial = settle(config, workdir, checkpoints)
    config, images, eval_images = _load_data(config)
    modules, optimizers, create_state = create_networks(config)
    with distributed.together():  # Files are told of before anything compiles.
      evaluator = create_evaluator(config, modules, eval_images)
      template = jax.eval_shape(create_state)
      check_memory(config, modules, template)
    identity = _identify(config, images)
    restore = functools.partial(checkpoints.restore, template)
    restore = _create_restore(config, workdir, restore, create_state, identity)
    # A contradiction is told here, before anything compiles.
    restored = restore() or begin(config, modules, create_state, initial)
    unseen = _is_unseen(config, workdir, restored[1])
    if not _announce(config, workdir, restored[1], len(images), unseen):
      return measure_finished(config, workdir, images, stopper)
    save = functools.partial(_save, checkpoints, identity)
    _record_beginning(config, workdir, restored[0], save if initial else None)
    run = functools.partial(
      _run,
      config,
      workdir,
      choose_update=create_chooser(config, modules, optimizers),
      create_batches=functools.partial(
        _create_batches, config, optimizers, images
      ),
      evaluator=evaluator,
      save=save,
      stopper=stopper,
    )
    outcome = _run_on(run, restored, checkpoints, restore, unseen)
    checkpoints.close()
    return outcome or measure_finished(config, workdir, images, stopper)


def _hold_workdir(stack: contextlib.ExitStack, workdir: str) -> None:
  """Makes sure of a workdir that all see, and that no other run has."""
  with distributed.together():
    check_writable(workdir, 'checkpoints')
    if distributed.is_first():
      stack.enter_context(lock.hold(workdir))
  distributed.check_shared(workdir)


def _identify(config, images: Images) -> dict[str, dict]:
  """What a checkpoint is of, beside its state."""
  return {
    'config': config.to_dict(),
    'data': {'num_images': len(images), 'fingerprint': images.fingerprint},
  }


def _create_restore(config, workdir, restore, create_state, identity):
  """() -> (state, step) of the newest whole checkpoint, or None."""
  if may_have_grown(config, workdir, identity['data']):
    identity = identity | {'data': None}  # Not compared.
  return functools.partial(
    restore,
    free_fields=resumable_fields(config),
    upgrade=upgrade,
    initial=create_state,
    **identity,
  )


def _load_data(
  config,
) -> tuple[ml_collections.ConfigDict, Images, Images]:
  """Returns the training and the held-out images, the same everywhere.

  Before them the configuration, with the range that their values have.
  """
  fields = ('train_split', 'eval_split')
  with distributed.together(), distributed.after_first():
    splits = load_splits(
      config.data, fields, fill_bucket=distributed.is_first()
    )
  distributed.check_same(
    {
      f'data.{field}': f'{len(images)} images ({images.fingerprint})'
      for field, images in zip(fields, splits, strict=True)
    },
    'give all the same images, such as --config.data.path=/shared/cats',
  )
  return settle_range(config, splits[0]), *splits


def _run_on(run, restored, checkpoints, restore, unseen) -> int:
  """Trains to the end, over rollbacks; returns the exit status."""
  outcome = run(*restored, unseen=unseen)
  num_rollbacks = 0
  while isinstance(outcome, health.Finding):
    num_rollbacks += 1
    restored = _roll_back(outcome, checkpoints, restore, num_rollbacks)
    if restored is None:
      return FAILED
    outcome = run(*restored)
  return outcome


def _run(
  config, workdir, state, start_step, *, create_batches, stopper, **tools
) -> int | health.Finding:
  """Trains from a state on; returns the exit status, or what to mend."""
  first = distributed.is_first()
  writers = Writers(workdir, start_step) if first else NoWriters()
  profiler = Profiler(workdir, config.profile_steps if first else ())
  with (
    contextlib.closing(writers),
    contextlib.closing(profiler),
    stopper.deferred(),
  ):
    writers.write_hparams(config.to_dict())
    writers.write_texts(start_step, _describe_networks(state))
    return run_loop(
      _create_plan(config),
      state,
      start_step,
      batches=create_batches(start_step),
      health=_create_monitor(config),
      profiler=profiler,
      stopper=stopper,
      writers=writers,
      **tools,
    )


def _is_unseen(config, workdir, step: int) -> bool:
  """Whether a signal came between a step and its evaluation or figures."""
  if not step:
    return False
  plan = _create_plan(config)
  due = functools.partial(plan.due, step)
  return distributed.from_first(
    lambda: (
      (due(plan.eval_every_steps) and not has_scores(workdir, step))
      or (due(plan.figure_every_steps) and not has_figures(workdir, step))
    )
  )


def _create_monitor(config) -> health.HealthMonitor:
  objective = OBJECTIVES.get(config.objective)
  return health.HealthMonitor(
    flatten(config),
    separated_loss=objective.separated_loss if objective else 0.0,
    undecided_loss=objective.undecided_loss if objective else 0.0,
  )


def _roll_back(finding, checkpoints, restore, num_rollbacks):
  """Returns (state, step) from before it began, with fresh randomness."""
  if num_rollbacks > _MAX_ROLLBACKS:
    print(f'Rolled back {_MAX_ROLLBACKS} times already: enough.', flush=True)
    return None
  checkpoints.wait()
  steps = distributed.from_first(checkpoints.steps)
  step = health.last_healthy_step(steps, finding.since)
  if step is None:
    print('There is no healthy checkpoint to roll back to.', flush=True)
    return None
  checkpoints.remove_after(step)
  state, step = restore()
  print(f'Rolled back to step {step:,}, with other noise.', flush=True)
  # The checkpoint may be from before an earlier rollback.
  fresh = np.asarray(int(state.num_rollbacks) + num_rollbacks, np.int32)
  return state.replace(num_rollbacks=fresh), step


def _save(checkpoints, identity, step, state, *, finish: bool) -> bool:
  """Saves a step; with `finish`, returns whether it is on the disk."""
  identity = identity | {'config': stamp(identity['config'])}
  started = checkpoints.save(step, state, **identity)
  if not finish:
    return started
  saved = checkpoints.wait() and started
  if not saved:
    print('The last checkpoint could not be written; see above.', flush=True)
  return saved


def _create_plan(config) -> Plan:
  fields = {field.name for field in dataclasses.fields(Plan)} & set(config)
  return Plan(
    **{name: config[name] for name in fields},
    on_failure=config.health.on_failure,
  )


def _create_batches(config, optimizers, images, start_step):
  return batches.create_batches(
    whole_of(images),  # Crops are cut out of all of it.
    seed=config.seed,
    batch_size=config.batch_size,
    num_devices=jax.local_device_count(),
    num_parts=config.critic.num_steps if 'critic' in optimizers else 1,
    start_step=start_step,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    place=devices.share_out,
  )


def _describe_networks(state) -> dict[str, str]:
  """Prints each network's parameters; returns the tables as Markdown."""
  tables = {}
  for name, network in state.networks.items():
    table = parameter_overview.get_parameter_overview(
      network.params, include_stats=False
    )
    print(f'{name}:\n{table}', flush=True)
    tables[f'parameters_{name}'] = f'```\n{table}\n```'
  return tables


def _announce(config, workdir, start_step, num_images, unseen) -> bool:
  """Says what is about to happen; returns whether there is anything."""
  found, num_processes = jax.devices(), jax.process_count()
  shared = f' in {num_processes} processes' if num_processes > 1 else ''
  print(
    f'objective {config.objective}, {num_images:,} images of '
    f'{config.data.name}, {len(found)} x {found[0].device_kind}{shared}, '
    f'{workdir}'
  )
  if start_step >= config.num_train_steps and not unseen:
    print(f'Nothing to do: step {start_step:,} is there already.', flush=True)
    return False
  what = f'Resuming after step {start_step:,}' if start_step else 'Starting'
  print(f'{what}; compiling takes a moment ...', flush=True)
  return True


def _record_beginning(config, workdir, state, save) -> None:
  """Writes the configuration and, to `save`, weights of another run."""
  distributed.from_first(lambda: _write_config(config, workdir))
  if save:  # From here on the other run may go on, or be removed.
    save(0, state, finish=True)


def _write_config(config, workdir):
  text = json.dumps(stamp(config.to_dict()), indent=2) + '\n'
  try:
    write_text(epath.Path(workdir) / 'config.json', text)
  except OSError as error:
    raise unwritable(workdir, error) from error
