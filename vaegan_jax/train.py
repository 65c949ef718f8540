"""The training loop: data in, updates, and now and then something to see."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
from clu import parameter_overview
from etils import epath
from jax.experimental import multihost_utils

from vaegan_jax import (
  adversarial,
  distributed,
  input_pipeline,
  models,
  workdir_lock,
)
from vaegan_jax import update as update_lib
from vaegan_jax.checkpoints import Checkpoints
from vaegan_jax.critic_step import CriticConfig
from vaegan_jax.errors import unwritable
from vaegan_jax.evaluator import Evaluator, to_line
from vaegan_jax.health import Finding, HealthMonitor, last_healthy_step
from vaegan_jax.optimizers import create_optimizers
from vaegan_jax.preemption import PREEMPTED, Preempted, Stopper
from vaegan_jax.train_state import TrainState, create_train_state
from vaegan_jax.writers import (
  NoWriters,
  Progress,
  Writers,
  check_writable,
  write_text,
)

DONE, FAILED = 0, 1  # Exit statuses; the third is PREEMPTED.

_DIVERGED = (
  'Stopped at step {step:,}: the last {skipped_in_a_row:.0f} updates had a '
  'non-finite loss or gradient and were not taken; lower '
  'optimizer.autoencoder_learning_rate or optimizer.critic_learning_rate and '
  'start again in a new --workdir.'
)
# What may change when a run is resumed: none of it changes an update.
FREE_FIELDS = (
  'num_train_steps',
  'log_every_steps',
  'checkpoint_every_steps',
  'eval_every_steps',
  'figure_every_steps',
  'num_eval_images',
  'num_checkpoints',
  'max_skipped_steps',
  'data.path',
  'data.data_dir',
  'data.eval_split',
  'data.cache_images',
  'health',
  'critic.weights',  # Read once: they are in the checkpoints.
)
_MAX_ROLLBACKS = 3
SHOWN = ('loss', 'distance', 'kl', 'critic_loss')  # On the progress line.


def train(
  config: ml_collections.ConfigDict,
  workdir: str,
  stopper: Stopper | None = None,
) -> int:
  """Trains to the end, or goes on where the last run in `workdir` stopped.

  Args:
    config: with the fields of `configs/default.py`, and valid.
    workdir: gets `config.json`, `metrics.jsonl`, TensorBoard events,
      `checkpoints/` and `figures/`.
    stopper: what notices SIGTERM, if more than this training hangs on it.

  Returns:
    The process's exit status: 0 at the end, 75 after SIGTERM with the last
    finished step saved, 1 if updates stayed non-finite or the last save failed.

  Raises:
    UserError: the data, a file of weights or the workdir is wrong, or another
      process trains in the workdir.
  """
  with contextlib.ExitStack() as stack:
    stopper = stopper or stack.enter_context(Stopper())
    with distributed.together():
      check_writable(workdir)
      if distributed.is_first():
        stack.enter_context(workdir_lock.hold(workdir))
    distributed.check_shared(workdir)
    images, eval_images = _load_data(config)
    modules, optimizers, create_state = create_networks(config)
    checkpoints = Checkpoints(workdir, max_to_keep=config.num_checkpoints)
    if jax.process_count() == 1:  # After an error no other would come to it.
      stack.callback(checkpoints.close)  # An error must not cost a save.
    identity = {
      'config': config.to_dict(),
      'data': {'num_images': len(images), 'fingerprint': images.fingerprint},
    }
    restore = functools.partial(
      checkpoints.restore,
      jax.eval_shape(create_state),
      free_fields=free_fields(config),
      **identity,
    )
    # A contradiction is told here, before anything compiles.
    restored = restore()
    if restored is None:
      restored = _begin(config, modules, create_state), 0
    _announce(config, workdir, restored[1], len(images))
    if restored[1] >= config.num_train_steps:
      return DONE
    distributed.from_first(lambda: _write_config(config, workdir))
    run = functools.partial(
      _run,
      config,
      workdir,
      update=_create_update(config, modules, optimizers),
      create_batches=functools.partial(
        _create_batches, config, optimizers, images
      ),
      evaluator=create_evaluator(config, modules, eval_images),
      save=functools.partial(_save, checkpoints, identity),
      stopper=stopper,
    )
    outcome = run(*restored)
    num_rollbacks = 0
    while isinstance(outcome, Finding):
      num_rollbacks += 1
      restored = _roll_back(outcome, checkpoints, restore, num_rollbacks)
      if restored is None:
        return FAILED
      outcome = run(*restored)
    checkpoints.close()
  return outcome


def _load_data(config) -> list[input_pipeline.Images]:
  """Returns the training and the held-out images, the same everywhere."""
  fields = ('train_split', 'eval_split')
  with distributed.together(), distributed.after_first():
    splits = input_pipeline.load_splits(config.data, fields)
  distributed.check_same(
    {
      f'data.{field}': f'{len(images)} images ({images.fingerprint})'
      for field, images in zip(fields, splits, strict=True)
    },
    'give all the same images, such as --config.data.path=/shared/cats',
  )
  return splits


def _begin(config, modules, create_state) -> TrainState:
  """The state before the first update, the same bits everywhere."""
  with distributed.together():
    pretrained = models.load_pretrained(modules, config.critic.weights)
  state = create_state(pretrained=pretrained)
  if jax.process_count() > 1:  # Machines may compute it differently.
    state = multihost_utils.broadcast_one_to_all(state)
  return state


def _run(
  config, workdir, state, start_step, *, create_batches, stopper, **tools
) -> int | Finding:
  """Trains from a state on; returns the exit status, or what to mend."""
  first = distributed.is_first()
  writers = Writers(workdir, start_step) if first else NoWriters()
  with contextlib.closing(writers), stopper.deferred():
    writers.write_hparams(config.to_dict())
    writers.write_texts(start_step, _describe_networks(state))
    return _loop(
      config,
      update_lib.replicate(state),
      start_step,
      batches=create_batches(start_step),
      stopper=stopper,
      writers=writers,
      **tools,
    )


def _roll_back(finding, checkpoints, restore, num_rollbacks):
  """Returns (state, step) from before it began, with fresh randomness."""
  if num_rollbacks > _MAX_ROLLBACKS:
    print(f'Rolled back {_MAX_ROLLBACKS} times already: enough.', flush=True)
    return None
  checkpoints.wait()
  steps = distributed.from_first(checkpoints.steps)
  step = last_healthy_step(steps, finding.since)
  if step is None:
    print('There is no healthy checkpoint to roll back to.', flush=True)
    return None
  checkpoints.remove_after(step)
  state, step = restore()
  print(f'Rolled back to step {step:,}, with other noise.', flush=True)
  # The checkpoint may be from before an earlier rollback.
  fresh = np.asarray(int(state.num_rollbacks) + num_rollbacks, np.int32)
  return state.replace(num_rollbacks=fresh), step


def free_fields(config: ml_collections.ConfigDict) -> tuple[str, ...]:
  """What may change; the length of the run not, if a schedule hangs on it."""
  if config.optimizer.schedule == 'constant':
    return FREE_FIELDS
  return tuple(f for f in FREE_FIELDS if f != 'num_train_steps')


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
    with_critic=config.objective in adversarial.OBJECTIVES,
    data=config.data,
    model=config.model,
    critic=config.critic,
  )
  trained = [name for name in modules if not models.is_frozen(modules[name])]
  optimizers = create_optimizers(
    trained,
    **config.optimizer,
    num_train_steps=config.num_train_steps,
    num_critic_steps=config.critic.num_steps,
  )
  create_state = functools.partial(
    create_train_state,
    modules,
    optimizers,
    seed=config.seed,
    image_shape=(*[config.data.image_size] * 2, config.data.channels),
  )
  return modules, optimizers, create_state


def create_evaluator(config, modules, images) -> Evaluator:
  """The evaluator of a run, over its held-out images."""
  return Evaluator(
    modules,
    images,
    loss=config.loss,
    batch_size=config.batch_size,
    seed=config.seed,
  )


def _save(checkpoints, identity, step, state, *, finish: bool) -> bool:
  """Saves a step; with `finish`, returns whether it is on the disk."""
  started = checkpoints.save(step, state, **identity)
  if not finish:
    return started
  saved = checkpoints.wait() and started
  if not saved:
    print('The last checkpoint could not be written; see above.', flush=True)
  return saved


def _loop(
  config,
  state: TrainState,
  start_step: int,
  *,
  update,
  batches,
  evaluator,
  save,
  stopper,
  writers,
) -> int | Finding:
  """Runs the updates from `start_step` + 1 to the last.

  Returns the exit status, or the finding because of which to roll back.
  """
  last_step = config.num_train_steps
  health = HealthMonitor(
    objective=config.objective,
    patience_steps=config.health.patience_steps,
    min_kl=config.health.min_kl,
  )
  progress = Progress(last_step, config.batch_size, start_step)
  pauses = (
    config.eval_every_steps,
    config.figure_every_steps,
    config.checkpoint_every_steps,
  )

  def due(step, every_steps):
    return step % every_steps == 0 or step == last_step

  for step in range(start_step + 1, last_step + 1):
    state, metrics = update(state, next(batches))
    record = {}
    if due(step, config.log_every_steps) or step == start_step + 1:
      metrics = {name: float(value) for name, value in metrics.items()}
      shown = {name: metrics[name] for name in SHOWN if name in metrics}
      speed = progress.update(step, shown)
      if speed is not None:
        metrics['images_per_second'] = speed
      record = _prefix('train', metrics)
      if metrics['skipped_in_a_row'] >= config.max_skipped_steps:
        writers.write_scalars(step, record)
        print(_DIVERGED.format(step=step, **metrics), flush=True)
        return FAILED
      findings = health.check(step, metrics)
      for finding in findings:
        print(f'WARNING: {finding.message}', flush=True)
      if findings and config.health.on_failure != 'warn':
        writers.write_scalars(step, record)
        if config.health.on_failure == 'stop':
          return FAILED
        return min(findings, key=lambda finding: finding.since)
    stop = stopper.requested()
    if stop or any(due(step, every_steps) for every_steps in pauses):
      jax.block_until_ready(metrics)  # A pause holds no update's time.
    with progress.pause():
      images = {}
      try:
        if due(step, config.eval_every_steps) and not stop:
          scores = evaluator.score(
            state, config.num_eval_images, poll=stopper.poll
          )
          record |= _prefix('eval', scores)
          print('evaluated:', to_line(scores), flush=True)
        if due(step, config.figure_every_steps) and not stop:
          images = evaluator.draw(state, poll=stopper.poll)
      except Preempted:
        stop = True
      if record:
        writers.write_scalars(step, record)
      if images:
        writers.write_images(step, images)
      saved = True
      if due(step, config.checkpoint_every_steps) or stop:
        saved = save(step, state, finish=stop or step == last_step)
    if stop:
      print(f'SIGTERM: stopped after step {step:,}', flush=True)
      return PREEMPTED if saved else FAILED
  return DONE if saved else FAILED


def _create_update(config, modules, optimizers):
  """The compiled update over this process's devices."""
  trains_critic = 'critic' in optimizers
  recipe = dataclasses.fields(CriticConfig)
  critic_config = {field.name: config.critic[field.name] for field in recipe}

  def preprocess(images, flip):
    flip = flip & config.data.random_flip
    return input_pipeline.to_float(input_pipeline.random_flip(images, flip))

  return update_lib.parallelize(
    update_lib.create_update(
      modules,
      optimizers,
      update_lib.LossConfig(**config.loss),
      objective=adversarial.OBJECTIVES[config.objective]
      if trains_critic
      else None,
      order=config.update_order,
      ema_decay=config.ema_decay,
      seed=config.seed,
      preprocess=preprocess,
      critic_config=CriticConfig(**critic_config),
    )
  )


def _create_batches(config, optimizers, images, start_step):
  return input_pipeline.create_batches(
    images,
    seed=config.seed,
    batch_size=config.batch_size,
    num_devices=jax.local_device_count(),
    num_parts=config.critic.num_steps if 'critic' in optimizers else 1,
    start_step=start_step,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
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


def _announce(config, workdir, start_step, num_images):
  """Says what is about to happen."""
  devices, num_processes = jax.devices(), jax.process_count()
  shared = f' in {num_processes} processes' if num_processes > 1 else ''
  print(
    f'objective {config.objective}, {num_images:,} images of '
    f'{config.data.name}, {len(devices)} x {devices[0].device_kind}{shared}, '
    f'{workdir}'
  )
  if start_step >= config.num_train_steps:
    print(f'Nothing to do: step {start_step:,} is there already.', flush=True)
  else:
    what = f'Resuming after step {start_step:,}' if start_step else 'Starting'
    print(f'{what}; compiling takes a moment ...', flush=True)


def _write_config(config, workdir):
  text = json.dumps(config.to_dict(), indent=2) + '\n'
  try:
    write_text(epath.Path(workdir) / 'config.json', text)
  except OSError as error:
    raise unwritable(workdir, error) from error


def _prefix(name: str, metrics):
  return {f'{name}/{k}': v for k, v in metrics.items() if v is not None}
