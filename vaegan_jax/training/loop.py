"""The training loop: updates, and now and then something to see."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax

from vaegan_jax.evaluation.evaluator import Evaluator
from vaegan_jax.evaluation.scores import to_line
from vaegan_jax.runtime import devices
from vaegan_jax.runtime.preemption import Preempted, Stopper
from vaegan_jax.runtime.profiling import Profiler
from vaegan_jax.runtime.progress import Progress
from vaegan_jax.runtime.writers import NoWriters, Writers
from vaegan_jax.training.health import Finding, HealthMonitor
from vaegan_jax.training.train_state import (
  TrainState,
  inference_variables,
)
from vaegan_jax.training.wrappers import Update

DONE, FAILED = 0, 1  # Exit statuses; a Stopper has the others.
SHOWN = ('loss', 'distance', 'kl', 'critic_loss')  # On the progress line.

_DIVERGED = (
  'Stopped at step {step:,}: the last {skipped_in_a_row:.0f} updates had a '
  'non-finite loss or gradient and were not taken; lower '
  'optimizer.autoencoder_learning_rate or optimizer.critic_learning_rate and '
  'start again in a new --workdir.'
)


@dataclasses.dataclass(frozen=True)
class Plan:
  """How long to train, and when to do what else.

  Attributes:
    num_train_steps: the last step; what is done every so often is done then
      too.
    batch_size: images an update, over all devices and processes.
    log_every_steps, eval_every_steps, figure_every_steps,
      checkpoint_every_steps: fields of the configuration.
    num_eval_images: of an evaluation; 0: all.
    max_skipped_steps: non-finite updates in a row that end the run.
    on_failure: of its health: 'warn', 'stop' or 'rollback'.
  """

  num_train_steps: int
  batch_size: int
  log_every_steps: int
  eval_every_steps: int
  figure_every_steps: int
  checkpoint_every_steps: int
  num_eval_images: int
  max_skipped_steps: int
  on_failure: str

  def due(self, step: int, every_steps: int) -> bool:
    """Whether it is time for what is done every so many steps."""
    return step % every_steps == 0 or step == self.num_train_steps

  def pauses(self, step: int) -> bool:
    """Whether something other than an update follows a step."""
    return any(
      self.due(step, every_steps)
      for every_steps in (
        self.eval_every_steps,
        self.figure_every_steps,
        self.checkpoint_every_steps,
      )
    )


def run_loop(
  plan: Plan,
  state: TrainState,
  start_step: int,
  *,
  choose_update: Callable[[int], Update],
  batches: Iterator[jax.Array],
  evaluator: Evaluator,
  health: HealthMonitor,
  save: Callable[..., bool],
  profiler: Profiler,
  stopper: Stopper,
  writers: Writers | NoWriters,
  unseen: bool = False,
) -> int | Finding:
  """Runs the updates from `start_step` + 1 to the last.

  Args:
    plan: when to do what.
    state: after `start_step`, the last finished step; its buffers are reused.
    start_step: of the state.
    choose_update: (step) -> the update of all devices that it takes.
    batches: [D, K B, H, W, C] on the devices, from that of the first step on.
    evaluator: of the held-out images.
    health: what is said of the metrics.
    save: (step, state, finish=whether to wait) -> whether it succeeded.
    profiler: what traces some steps.
    stopper: what notices the signals that stop it.
    writers: what records.
    unseen: whether `start_step` itself is to be evaluated and drawn first.

  Returns:
    The exit status, or the finding because of which to roll back.
  """
  progress = Progress(plan.num_train_steps, plan.batch_size, start_step)
  take = _create_take(choose_update, batches, progress, profiler)
  state, saved = devices.replicate(state), True
  show = functools.partial(_show, plan, evaluator, stopper, writers)
  if unseen and show(start_step, state, {}, stopper.requested()):
    return _stop(stopper, start_step)
  for step in range(start_step + 1, plan.num_train_steps + 1):
    state, metrics = take(step, state)
    record = {}
    if plan.due(step, plan.log_every_steps) or step == start_step + 1:
      metrics = {name: float(value) for name, value in metrics.items()}
      record = _read(metrics, step, progress)
      if (ending := _judge(plan, health, step, metrics)) is not None:
        writers.write_scalars(step, record)
        return ending
    stop = stopper.requested()
    if stop or plan.pauses(step):
      jax.block_until_ready(metrics)  # A pause holds no update's time.
    with progress.pause():
      stop = show(step, state, record, stop)
      if plan.due(step, plan.checkpoint_every_steps) or stop:
        saved = save(step, state, finish=stop or step == plan.num_train_steps)
    if stop:
      status = _stop(stopper, step)
      return status if saved else FAILED
  return DONE if saved else FAILED


def _create_take(choose_update, batches, progress, profiler):
  """(step, state) -> (state, metrics) after the update, perhaps traced."""
  compiled = set()

  def take(step, state):
    update, batch = choose_update(step), next(batches)
    profiler.begin(step)
    with contextlib.ExitStack() as stack:
      if update not in compiled:  # It compiles, which is no update's time.
        stack.enter_context(progress.pause())
        compiled.add(update)
      stack.enter_context(
        jax.profiler.StepTraceAnnotation('train', step_num=step)
      )
      state, metrics = update(state, batch)
    profiler.end(step, metrics)
    return state, metrics

  return take


def _read(metrics, step, progress) -> dict[str, float]:
  """Shows a step on the terminal; returns its record."""
  shown = {name: metrics[name] for name in SHOWN if name in metrics}
  speed = progress.update(step, shown)
  speeds = {} if speed is None else {'images_per_second': speed}
  return _prefix('train', metrics | speeds)


def _judge(plan, health, step, metrics) -> int | Finding | None:
  """What ends the loop, if anything does: a status, or what to mend."""
  if metrics['skipped_in_a_row'] >= plan.max_skipped_steps:
    print(_DIVERGED.format(step=step, **metrics), flush=True)
    return FAILED
  findings = health.check(step, metrics)
  for finding in findings:
    print(f'WARNING: {finding.message}', flush=True)
  if not findings or plan.on_failure == 'warn':
    return None
  if plan.on_failure == 'stop':
    return FAILED
  return min(findings, key=lambda finding: finding.since)


def _show(plan, evaluator, stopper, writers, step, state, record, stop) -> bool:
  """Records a step with what is due at it; returns whether to stop."""
  scores, images, sounds, stop = _look(
    plan, step, state, evaluator, stopper, stop
  )
  record |= scores
  if record:
    writers.write_scalars(step, record)
  if images:
    writers.write_images(step, images)
  if sounds:
    rate = evaluator.sample_rate
    writers.write_audios(step, sounds, sample_rate=rate)
  return stop


def _stop(stopper, step) -> int:
  """Says so; returns the exit status."""
  print(f'{stopper.cause}: stopped after step {step:,}', flush=True)
  return stopper.status


def _look(plan, step, state, evaluator, stopper, stop):
  """Evaluates, draws and plays what is due, unless it is to `stop`.

  Returns (record, figures, sounds, whether a signal came meanwhile).
  """
  record = {}
  if stop:
    return record, {}, {}, True
  variables = inference_variables(state)
  try:
    if plan.due(step, plan.eval_every_steps):
      scores = evaluator.score(
        variables, plan.num_eval_images, poll=stopper.poll
      )
      record = _prefix('eval', scores)
      print('evaluated:', to_line(scores), flush=True)
    if plan.due(step, plan.figure_every_steps):
      images = evaluator.plot(variables, poll=stopper.poll)
      return record, images, evaluator.play(variables), False
  except Preempted:
    return record, {}, {}, True
  return record, {}, {}, False


def _prefix(name: str, metrics) -> dict[str, float]:
  return {f'{name}/{k}': v for k, v in metrics.items() if v is not None}
