"""The command `train`: a new run, or a resumed one."""

import contextlib
import functools

import jax
import ml_collections
from clu import parameter_overview

from vaegan_jax.inference.measure_latents import measure_finished
from vaegan_jax.report.live import LivePage
from vaegan_jax.runtime import distributed
from vaegan_jax.runtime.preemption import Stopper
from vaegan_jax.runtime.profiling import Profiler
from vaegan_jax.runtime.writers import (
  NoWriters,
  Writers,
  has_figures,
  has_scores,
)
from vaegan_jax.setup.init_from import check_init_from
from vaegan_jax.setup.resume import RunCheckpoints, open_checkpoints
from vaegan_jax.setup.run import Run, setup
from vaegan_jax.training import health
from vaegan_jax.training.loop import FAILED, Loop
from vaegan_jax.training.train_state import TrainState


def train(
  config: ml_collections.ConfigDict,
  workdir: str,
  stopper: Stopper | None = None,
) -> int:
  """Trains to the end, from the newest checkpoint in `workdir` if there is one.

  Args:
    workdir: gets `config.json`, `metrics.jsonl`, `report.html`, TensorBoard
      events, `checkpoints/`, `figures/` and, in the end, `latents.json`.
    stopper: notices signals; None: one for this training alone.

  Returns:
    The process's exit status: 0 at the end, 75 after SIGTERM or SIGHUP and 130
    after Ctrl-C, with the last finished step saved, 1 if updates stayed
    non-finite or the last save failed.

  Raises:
    UserError: the data, weights or the workdir are wrong, or it is in use.
  """
  check_init_from(config.init_from, workdir)
  with contextlib.ExitStack() as stack:
    stopper = stopper or stack.enter_context(Stopper())
    checkpoints = stack.enter_context(
      open_checkpoints(workdir, config.num_checkpoints)
    )
    run = setup(config, workdir)
    saved = RunCheckpoints(run, workdir, checkpoints)
    state, step = saved.restore_or_init()
    lacks_evaluation = _lacks_evaluation(run, workdir, step)
    if _announce(run, workdir, step, lacks_evaluation):
      saved.record_beginning(state)
      status = _run_to_end(run, saved, state, step, stopper, lacks_evaluation)
      checkpoints.close()
      if status:
        return status
    return measure_finished(run.config, workdir, run.images, stopper)


def _run_to_end(run, saved, state, step, stopper, lacks_evaluation) -> int:
  """Trains to the end, through rollbacks; returns the exit status."""
  outcome = _run(run, saved, state, step, stopper, lacks_evaluation)
  while isinstance(outcome, health.Finding):
    restored = saved.roll_back(outcome)
    if restored is None:
      return FAILED
    outcome = _run(run, saved, *restored, stopper)
  return outcome


def _run(
  run: Run,
  saved: RunCheckpoints,
  state: TrainState,
  step: int,
  stopper: Stopper,
  lacks_evaluation: bool = False,
) -> int | health.Finding:
  """Continues training; returns the exit status, or a finding."""
  config, workdir, first = run.config, saved.workdir, distributed.is_first()
  writers = Writers(workdir, step) if first else NoWriters()
  page = LivePage(config.to_dict(), workdir, run.evaluator)
  profiler = Profiler(workdir, config.profile_steps if first else ())
  with (
    contextlib.closing(writers),
    contextlib.closing(profiler),
    stopper.deferred(),
  ):
    writers.write_hparams(config.to_dict())
    writers.write_texts(step, _describe_networks(state))
    loop = Loop(
      plan=run.plan,
      update_for=run.update_for,
      learning_rates=run.learning_rates,
      evaluator=run.evaluator,
      health=run.create_monitor(),
      save=saved.save,
      profiler=profiler,
      stopper=stopper,
      writers=writers,
      write_page=page.write if first else lambda *_: None,
    )
    return loop.run(
      state, step, run.batches(step), lacks_evaluation=lacks_evaluation
    )


def _lacks_evaluation(run: Run, workdir: str, step: int) -> bool:
  """Checks if a signal came between a step and its evaluation or figures."""
  plan = run.plan
  due = functools.partial(plan.due, step)
  return step > 0 and distributed.from_first(
    lambda: (
      (due(plan.eval_every_steps) and not has_scores(workdir, step))
      or (due(plan.figure_every_steps) and not has_figures(workdir, step))
    )
  )


def _describe_networks(state: TrainState) -> dict[str, str]:
  """Prints each network's parameters; returns the tables as Markdown."""
  tables = {}
  for name, network in state.networks.items():
    table = parameter_overview.get_parameter_overview(
      network.params, include_stats=False
    )
    print(f'{name}:\n{table}', flush=True)
    tables[f'parameters_{name}'] = f'```\n{table}\n```'
  return tables


def _announce(run: Run, workdir: str, step: int, lacks_evaluation) -> bool:
  """Prints what the run does next; returns whether there is anything to do."""
  config = run.config
  devices, num_processes = jax.devices(), jax.process_count()
  shared = f' in {num_processes} processes' if num_processes > 1 else ''
  print(
    f'objective {config.objective}, {len(run.images):,} examples of '
    f'{config.data.name}, {len(devices)} x {devices[0].device_kind}{shared}, '
    f'{workdir}'
  )
  if step >= config.num_train_steps and not lacks_evaluation:
    print(f'Nothing to do: step {step:,} is there already.', flush=True)
    return False
  what = f'Resuming after step {step:,}' if step else 'Starting'
  print(f'{what}; compiling takes a moment ...', flush=True)
  return True
