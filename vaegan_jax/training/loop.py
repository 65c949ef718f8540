"""The training loop: updates, logs, evaluations, figures and checkpoints."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax

from vaegan_jax.evaluation.evaluator import Evaluator
from vaegan_jax.evaluation.reconstructor import Variables
from vaegan_jax.evaluation.scores import Evaluation, to_line
from vaegan_jax.runtime import devices
from vaegan_jax.runtime.preemption import Preempted, Stopper
from vaegan_jax.runtime.profiling import Profiler
from vaegan_jax.runtime.progress import Progress
from vaegan_jax.runtime.writers import NoWriters, Writers
from vaegan_jax.training.health import Finding, HealthMonitor
from vaegan_jax.training.train_state import TrainState, inference_variables
from vaegan_jax.training.wrappers import Update

DONE, FAILED = 0, 1  # Exit statuses; a Stopper has the others.
SHOWN = ('loss', 'distance', 'kl', 'critic_loss')  # On the progress line.

_DIVERGED = (
  'Stopped at step {step:,}: the last {skipped_in_a_row:.0f} updates had '
  'non-finite metrics and were skipped. Lower '
  'optimizer.autoencoder_learning_rate, optimizer.muon_learning_rate or '
  'optimizer.critic_learning_rate, and start again in a new --workdir.'
)


@dataclasses.dataclass(frozen=True)
class Plan:
  """Length of the training, and intervals of everything else."""

  num_train_steps: int  # Last step, at which everything is due.
  batch_size: int  # Images an update, over all devices and processes.
  log_every_steps: int
  eval_every_steps: int
  figure_every_steps: int
  checkpoint_every_steps: int
  num_eval_images: int  # 0: all.
  max_skipped_steps: int  # Updates skipped in a row that end the run.
  on_failure: str  # `health.on_failure`: 'warn', 'stop' or 'rollback'.

  def due(self, step: int, every_steps: int) -> bool:
    """Returns whether something with this interval is due at a step."""
    return step % every_steps == 0 or step == self.num_train_steps

  def pauses(self, step: int) -> bool:
    """Returns whether something other than an update follows a step."""
    return any(
      self.due(step, every_steps)
      for every_steps in (
        self.eval_every_steps,
        self.figure_every_steps,
        self.checkpoint_every_steps,
      )
    )


@dataclasses.dataclass(frozen=True)
class Loop:
  """The loop of a run, with everything that it uses."""

  plan: Plan
  update_for: Callable[[int], Update]  # (step) -> its update of all devices.
  # (state after a step) -> {metric: learning rate}.
  learning_rates: Callable[[TrainState], Mapping[str, float]]
  evaluator: Evaluator
  health: HealthMonitor
  # (step, state, finish=whether to wait) -> whether it succeeded.
  save: Callable[..., bool]
  profiler: Profiler
  stopper: Stopper
  writers: Writers | NoWriters
  # Page of an evaluation, after the step's scalars.
  write_page: Callable[[int, Variables, Evaluation], None]

  def run(
    self,
    state: TrainState,
    start_step: int,
    batches: Iterator[jax.Array],
    *,
    lacks_evaluation: bool = False,
  ) -> int | Finding:
    """Runs the updates from `start_step` + 1 to the last.

    Args:
      state: state after `start_step`, the last finished step; its buffers are
        reused.
      batches: [D, K B, *S, C] on the devices, from the first step's on.
      lacks_evaluation: whether to evaluate and plot `start_step` first.

    Returns:
      The exit status, or the finding because of which to roll back.
    """
    plan, saved = self.plan, True
    progress = Progress(plan.num_train_steps, plan.batch_size, start_step)
    take_step = self._create_take_step(batches, progress)
    state, losses = devices.replicate(state), []
    if lacks_evaluation and self._evaluate(
      start_step, state, {}, self.stopper.requested()
    ):
      return self._stop(start_step)
    for step in range(start_step + 1, plan.num_train_steps + 1):
      state, metrics = take_step(step, state)
      record = {}
      if 'loss' in metrics:  # A critic warm-up has none.
        losses.append(metrics['loss'])
      if plan.due(step, plan.log_every_steps) or step == start_step + 1:
        metrics = {name: float(value) for name, value in metrics.items()}
        metrics |= _largest(losses)
        losses = []
        record = self._log(step, state, metrics, progress)
        if (outcome := self._check(step, metrics)) is not None:
          self.writers.write_scalars(step, record)
          return outcome
      stop = self.stopper.requested()
      if stop or plan.pauses(step):
        jax.block_until_ready(metrics)  # The pause excludes the update's time.
      with progress.pause():
        stop = self._evaluate(step, state, record, stop)
        if plan.due(step, plan.checkpoint_every_steps) or stop:
          finish = stop or step == plan.num_train_steps
          saved = self.save(step, state, finish=finish)
      if stop:
        status = self._stop(step)
        return status if saved else FAILED
    return DONE if saved else FAILED

  def _create_take_step(self, batches, progress):
    """Creates (step, state) -> (state, metrics) after the step's update."""
    compiled = set()

    def take_step(step, state):
      update, batch = self.update_for(step), next(batches)
      self.profiler.begin(step)
      with contextlib.ExitStack() as stack:
        if update not in compiled:  # Compilation is not the update's time.
          stack.enter_context(progress.pause())
          compiled.add(update)
        stack.enter_context(
          jax.profiler.StepTraceAnnotation('train', step_num=step)
        )
        state, metrics = update(state, batch)
      self.profiler.end(step, metrics)
      return state, metrics

    return take_step

  def _log(self, step, state, metrics, progress) -> dict[str, float]:
    """Prints a step; returns its record."""
    shown = {name: metrics[name] for name in SHOWN if name in metrics}
    speed = progress.update(step, shown)
    speeds = {} if speed is None else {'images_per_second': speed}
    return _prefix('train', metrics | self.learning_rates(state) | speeds)

  def _check(self, step, metrics) -> int | Finding | None:
    """Returns what ends the loop: an exit status, or a finding."""
    if metrics['skipped_in_a_row'] >= self.plan.max_skipped_steps:
      print(_DIVERGED.format(step=step, **metrics), flush=True)
      return FAILED
    findings = self.health.check(step, metrics)
    for finding in findings:
      print(f'WARNING: {finding.message}', flush=True)
    if not findings or self.plan.on_failure == 'warn':
      return None
    if self.plan.on_failure == 'stop':
      return FAILED
    return min(findings, key=lambda finding: finding.since)

  def _evaluate(self, step, state, record, stop) -> bool:
    """Writes a step's record, scores and figures; returns whether to stop.

    With `stop` nothing is evaluated. A signal ends the evaluation.
    """
    plan, evaluator, poll = self.plan, self.evaluator, self.stopper.poll
    variables, found = inference_variables(state), None
    images, sounds = {}, {}
    try:
      if not stop and plan.due(step, plan.eval_every_steps):
        found = evaluator.evaluate(variables, plan.num_eval_images, poll=poll)
        record |= _prefix('eval', found.scores)
        print('evaluated:', to_line(found.scores), flush=True)
      if not stop and plan.due(step, plan.figure_every_steps):
        images = evaluator.plot(variables, poll=poll)
        sounds = evaluator.play(variables)
    except Preempted:
      stop = True
    if record:
      self.writers.write_scalars(step, record)
    if found:
      self.write_page(step, variables, found)
    if images:
      self.writers.write_images(step, images)
    if sounds:
      rate = evaluator.sample_rate
      self.writers.write_audios(step, sounds, sample_rate=rate)
    return stop

  def _stop(self, step) -> int:
    """Prints the cause; returns the exit status."""
    print(f'{self.stopper.cause}: stopped after step {step:,}', flush=True)
    return self.stopper.status


def _largest(losses: Sequence[jax.Array]) -> dict[str, float]:
  """Returns the largest of the losses since the last log as a metric.

  A step whose loss is not finite was skipped; other metrics tell of it.
  """
  sizes = [abs(float(value)) for value in jax.device_get(losses)]
  finite = [size for size in sizes if math.isfinite(size)]
  return {'largest_loss': max(finite)} if finite else {}


def _prefix(name: str, metrics) -> dict[str, float]:
  return {f'{name}/{k}': v for k, v in metrics.items() if v is not None}
