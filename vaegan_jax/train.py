"""The training loop: data in, updates, and now and then something to see."""

import contextlib
import signal
import threading
from collections.abc import Iterator

import jax
import ml_collections
import numpy as np
from absl import logging
from clu import parameter_overview
from etils import epath

from configs.serialization import to_json
from configs.validation import validate
from vaegan_jax import adversarial, evaluate, input_pipeline, models
from vaegan_jax import update as update_lib
from vaegan_jax.checkpoints import Checkpoints
from vaegan_jax.errors import UserError
from vaegan_jax.optimizers import create_optimizers
from vaegan_jax.train_state import TrainState, create_train_state
from vaegan_jax.writers import Progress, Writers

DONE, FAILED, PREEMPTED = 0, 1, 75  # Exit statuses; 75: "try again later".

_DIVERGED = (
  'Stopped at step {step:,}: the last {skipped_in_a_row:.0f} updates had a '
  'non-finite loss or gradient and were not taken; lower '
  'optimizer.autoencoder_learning_rate or optimizer.critic_learning_rate, or '
  "set loss.normalize='relative'."
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
)
SHOWN = ('loss', 'distance', 'kl', 'critic_loss')  # On the progress line.


def train(config: ml_collections.ConfigDict, workdir: str) -> int:
  """Trains to the end, or goes on where the last run in `workdir` stopped.

  Args:
    config: as in `configs/default.py`.
    workdir: gets `config.json`, `metrics.jsonl`, TensorBoard events,
      `checkpoints/` and `figures/`.

  Returns:
    The process's exit status: 0 at the end, 75 after SIGTERM with the last
    finished step saved, 1 if updates stayed non-finite or the last save failed.

  Raises:
    UserError: the configuration, the data or the workdir is wrong.
  """
  validate(config, num_devices=jax.device_count())
  with _flag_on_sigterm() as sigterm:
    images, eval_images = input_pipeline.load_splits(
      config.data, ['train_split', 'eval_split']
    )
    modules = models.create_modules(
      with_critic=config.objective in adversarial.OBJECTIVES,
      data=config.data,
      model=config.model,
      critic=config.critic,
    )
    optimizers = create_optimizers(modules, **config.optimizer)
    state = create_train_state(
      modules,
      optimizers,
      seed=config.seed,
      image_shape=images[np.arange(1)].shape[1:],
    )
    checkpoints = Checkpoints(workdir, max_to_keep=config.num_checkpoints)
    identity = {
      'config': config.to_dict(),
      'data': {'num_images': len(images), 'fingerprint': images.fingerprint},
    }
    restored = checkpoints.restore(state, free_fields=FREE_FIELDS, **identity)
    state, start_step = restored or (state, 0)
    _announce(config, workdir, state, start_step, len(images))
    if start_step >= config.num_train_steps:
      return DONE
    _write_config(config, workdir)
    with contextlib.closing(Writers(workdir, start_step)) as writers:
      writers.write_hparams(config.to_dict())
      status = _loop(
        config,
        update_lib.replicate(state),
        start_step,
        update=_create_update(config, modules, optimizers),
        batches=_create_batches(config, images, start_step),
        evaluator=evaluate.Evaluator(config, modules, eval_images),
        save=lambda step, state: checkpoints.save(step, state, **identity),
        writers=writers,
        sigterm=sigterm,
      )
    if not checkpoints.wait():
      print('The last checkpoint could not be written; see above.', flush=True)
      status = FAILED
    checkpoints.close()
  return status


def _loop(
  config,
  state: TrainState,
  start_step: int,
  *,
  update,
  batches,
  evaluator,
  save,
  writers,
  sigterm,
) -> int:
  """Runs the updates from `start_step` + 1 to the last; returns the status."""
  last_step = config.num_train_steps
  progress = Progress(last_step, config.batch_size, start_step)

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
    with progress.pause():
      if due(step, config.eval_every_steps) and not sigterm.is_set():
        scores = evaluator.score(state, config.num_eval_images)
        record |= _prefix('eval', scores)
        print('evaluated:', evaluate.to_line(scores), flush=True)
      if record:
        writers.write_scalars(step, record)
      if due(step, config.figure_every_steps) and not sigterm.is_set():
        writers.write_images(step, evaluator.draw(state))
      if due(step, config.checkpoint_every_steps) or sigterm.is_set():
        save(step, state)
    if sigterm.is_set() and step < last_step:
      print(f'SIGTERM: stopped after step {step:,}', flush=True)
      return PREEMPTED
  return DONE


def _create_update(config, modules, optimizers):
  """The compiled update over this process's devices."""

  def preprocess(images, flip):
    flip = flip & config.data.random_flip
    return input_pipeline.to_float(input_pipeline.random_flip(images, flip))

  return update_lib.parallelize(
    update_lib.create_update(
      modules,
      optimizers,
      update_lib.LossConfig(**config.loss),
      objective=adversarial.OBJECTIVES.get(config.objective),
      order=config.update_order,
      ema_decay=config.ema_decay,
      seed=config.seed,
      preprocess=preprocess,
    )
  )


def _create_batches(config, images, start_step):
  return input_pipeline.create_batches(
    images,
    seed=config.seed,
    batch_size=config.batch_size,
    num_devices=jax.local_device_count(),
    start_step=start_step,
  )


def _announce(config, workdir, state, start_step, num_images):
  """Says what is about to happen."""
  for name, network in state.networks.items():
    count = sum(leaf.size for leaf in jax.tree.leaves(network.params))
    print(f'{name}: {count:,} parameters')
    logging.info(
      '%s\n%s', name, parameter_overview.get_parameter_overview(network.params)
    )
  devices = jax.devices()
  print(
    f'objective {config.objective}, {num_images:,} images of '
    f'{config.data.name}, {len(devices)} x {devices[0].device_kind}, {workdir}'
  )
  if start_step >= config.num_train_steps:
    print(f'Nothing to do: step {start_step:,} is there already.', flush=True)
  else:
    what = f'Resuming after step {start_step:,}' if start_step else 'Starting'
    print(f'{what}; compiling takes a moment ...', flush=True)


def _write_config(config, workdir):
  path = epath.Path(workdir) / 'config.json'
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_json(config))
  except OSError as error:
    raise UserError(
      f'--workdir={workdir} cannot be written ({error}): name a folder on a '
      'disk with room, such as --workdir=runs/first'
    ) from error


@contextlib.contextmanager
def _flag_on_sigterm() -> Iterator[threading.Event]:
  """Yields an event that SIGTERM sets; the loop looks at it after each step."""
  event = threading.Event()
  before = signal.signal(signal.SIGTERM, lambda *_: event.set())
  try:
    yield event
  finally:
    signal.signal(signal.SIGTERM, before)


def _prefix(name: str, metrics):
  return {f'{name}/{k}': v for k, v in metrics.items() if v is not None}
