"""The command `study`: how well objectives do over seeds, with the spread.

Each run of the grid is one that `--mode=train` could have made, in a workdir
of its own. Its `outcome.json` records how it ended, so that the same command
resumes a study. Runs follow each other, and each has all the devices. A run
that was killed with its process is resumed. The first of several processes
reads and writes the outcomes.
"""

import json
import time
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from vaegan_jax.commands import evaluate, train
from vaegan_jax.commands import study_report as report
from vaegan_jax.commands.study_report import FINISHED, Outcome
from vaegan_jax.config.cli_flags import MEGABYTES, NUM_EXAMPLES
from vaegan_jax.config.migrations import upgrade
from vaegan_jax.config.schema import resumable_fields
from vaegan_jax.config.validation import validate_new_run
from vaegan_jax.errors import UserError
from vaegan_jax.evaluation.feature_metrics import FeatureMetrics
from vaegan_jax.report.examples import collect
from vaegan_jax.report.page import ReportedRun, max_bytes
from vaegan_jax.runtime import distributed
from vaegan_jax.runtime.checkpoint_files import check_same, is_run
from vaegan_jax.runtime.checkpoints import Checkpoints
from vaegan_jax.runtime.files import check_writable, write_json
from vaegan_jax.runtime.preemption import Preempted, Stopper
from vaegan_jax.runtime.progress import format_duration
from vaegan_jax.setup.data_identity import keep_rules
from vaegan_jax.setup.finished_run import open_run
from vaegan_jax.training import loop

Runs = Mapping[str, ml_collections.ConfigDict]  # {workdir: configuration}

FAILED, CRASHED = 'failed', 'crashed'  # Statuses besides FINISHED.


def study(runs: Runs, workdir: str) -> int:
  """Trains and evaluates the runs that are not finished, and reports all.

  A run that diverges is a result, and is not trained again. One that crashes is
  trained again by the next call. Both count as failures.

  Args:
    runs: {workdir: valid configuration} in the order of the table. The workdirs
      are `<workdir>/<objective>/seed_0` or, in a sweep,
      `<workdir>/<objective>/<field>=<value>/seed_0`. The configurations differ
      in the objective, that field, the seed and the fields that a configuration
      file sets by the objective.
    workdir: gets `study.json`, `study.md`, `study.png`, `report.html` and, in a
      sweep, `study_curves.png`; the first two after every run.

  Returns:
    The process's exit status: 0, or 1 if a run crashed. If a run was stopped
    from outside, that of `train.train`: 75 by SIGTERM, 130 by Ctrl-C, 1 by a
    full disk.

  Raises:
    UserError: as `train.train`, for any run. A workdir that holds another run,
      or is a run itself, is refused before any training.
  """
  with distributed.together():
    if is_run(workdir):
      raise UserError(
        f'--workdir={workdir} is a run itself, and a study has a folder above '
        f'its runs: name another folder, such as --workdir={workdir}_study'
      )
    folders = (epath.Path(run).relative_to(workdir) for run in runs)
    check_writable(workdir, *(f'{run}/checkpoints' for run in folders))
  distributed.check_shared(workdir)
  runs = {run: keep_rules(config, run) for run, config in runs.items()}
  with Stopper() as stopper:
    known = distributed.from_first(lambda: _read_outcomes(runs))
    outcomes = {
      run: outcome and outcome | {'label': _label(run, workdir)}
      for run, outcome in zip(runs, known, strict=True)
    }
    progress = _Progress(runs, outcomes)
    for run, config in runs.items():
      name = f'{_label(run, workdir)}, seed {config.seed}'
      progress.announce(run, name, outcomes[run])
      if outcomes[run] is None:
        status, outcomes[run] = _run(config, run, stopper)
        if outcomes[run] is None:
          return status
        outcomes[run]['label'] = _label(run, workdir)
        jax.clear_caches()  # No other run has the same programs.
      if distributed.is_first():
        report.write_tables(list(filter(None, outcomes.values())), workdir)
    _show(runs, outcomes, workdir)
  statuses = [outcome['status'] for outcome in outcomes.values()]
  return loop.FAILED if CRASHED in statuses else loop.DONE


def _run(
  config: ml_collections.ConfigDict, workdir: str, stopper: Stopper
) -> tuple[int, Outcome | None]:
  """Trains and evaluates a run; returns the exit status of the training.

  It also records and returns the outcome; None: the run was stopped.
  """
  status, ending = loop.FAILED, None
  try:
    status = train.train(config, workdir, stopper)
    stopper.poll()  # For a signal after the training's last poll.
    if status == loop.DONE:
      evaluate.evaluate(config, workdir, stopper.poll)
      ending = distributed.from_first(lambda: _success(workdir))
    elif status == loop.FAILED:
      ending = distributed.from_first(lambda: _failure(config, workdir))
    if ending is None:
      return status, None
  except Preempted:
    return stopper.status, None
  except UserError:
    raise
  except Exception as error:  # The other runs can still succeed.
    if jax.process_count() > 1:
      raise  # The other processes are still in this run.
    logging.exception('%s crashed', workdir)
    ending = {
      'status': CRASHED,
      'step': _newest_step(workdir),
      'message': f'{type(error).__name__}: {error}',
    }
  outcome = {'objective': config.objective, 'seed': config.seed} | ending
  if distributed.is_first():
    content = outcome | {'config': config.to_dict()}
    write_json(_outcome_path(workdir), content, allow_nan=False)
  return status, outcome


def _success(workdir) -> Outcome:
  scores = json.loads((epath.Path(workdir) / 'evaluation.json').read_text())
  return {'status': FINISHED, 'step': scores.pop('step'), 'scores': scores}


def _failure(config, workdir) -> Outcome | None:
  """Returns the outcome of a run that gave up, by its record.

  Without a record, or with a complete one, the disk failed: None.
  """
  try:
    lines = (epath.Path(workdir) / 'metrics.jsonl').read_text().splitlines()
    last = json.loads(lines[-1])
    step, skipped = last['step'], last['train/skipped_in_a_row'] or 0
  except (OSError, ValueError, LookupError):
    return None
  message = 'training gave up, for the reason that it has printed'
  if skipped >= config.max_skipped_steps:
    message = f'{skipped:.0f} updates in a row were not finite'
  elif step == config.num_train_steps:
    return None
  return {'status': FAILED, 'step': step, 'message': message}


def _read_outcomes(runs: Runs) -> list[Outcome | None]:
  """Reads the recorded outcomes; refuses workdirs that hold other runs."""
  for run, config in runs.items():
    if _newest_step(run):
      _check_resumable(config, run)
    else:
      validate_new_run(config)
  return [_read_outcome(config, run) for run, config in runs.items()]


def _read_outcome(config, workdir) -> Outcome | None:
  """Returns the outcome of the very same run; None if it is to be trained."""
  try:
    outcome = json.loads(_outcome_path(workdir).read_text())
    was, now = upgrade(outcome.pop('config')), _as_json(config)
    if isinstance(was['data']['value_range'], str):  # Found since, and kept.
      was['data']['value_range'] = now['data']['value_range']
    if outcome['status'] == FINISHED:
      # An earlier version measured less.
      return outcome if was == now and 'detail' in outcome['scores'] else None
    was.pop('evaluation')  # Training does not depend on it.
    now.pop('evaluation')
    return outcome if was == now and outcome['status'] == FAILED else None
  except (OSError, ValueError, LookupError):
    return None


def _check_resumable(config, workdir) -> None:
  """Refuses another run in the workdir, as restoring its checkpoint would."""
  newest = _newest_step(workdir)
  try:
    saved = json.loads((epath.Path(workdir) / 'config.json').read_text())
  except (OSError, ValueError):
    return  # Restoring the checkpoint reports it.
  check_same(
    workdir,
    {'config': upgrade(saved)},
    {'config': _as_json(config)},
    resumable_fields(config),
  )
  if newest > config.num_train_steps:
    raise UserError(
      f'{workdir} is at step {newest} already, but num_train_steps='
      f'{config.num_train_steps}: use a new --workdir, such as '
      f'--workdir=runs/study_2, or --config.num_train_steps={newest}'
    )


def _as_json(config) -> dict[str, Any]:
  """Returns the configuration as JSON restores it."""
  return json.loads(json.dumps(config.to_dict()))


def _newest_step(workdir) -> int:
  return max(Checkpoints(workdir).steps(), default=0)


def _label(run: str, workdir: str) -> str:
  """Returns a run's label: the folders between the study's and its own."""
  return ', '.join(epath.Path(run).relative_to(workdir).parts[:-1])


def _outcome_path(workdir) -> epath.Path:
  return epath.Path(workdir) / 'outcome.json'


class _Progress:
  """Progress of a study, as a line before each run."""

  def __init__(self, runs: Runs, outcomes: Mapping[str, Outcome | None]):
    self._steps_left = {
      run: 0 if outcomes[run] else config.num_train_steps - _newest_step(run)
      for run, config in runs.items()
    }
    self._start = time.monotonic()

  def announce(self, run: str, name: str, outcome: Outcome | None) -> None:
    runs = list(self._steps_left)
    index = runs.index(run)
    elapsed = time.monotonic() - self._start
    done = sum(self._steps_left[run] for run in runs[:index])
    left = sum(self._steps_left[run] for run in runs[index:])
    estimate = format_duration(elapsed / done * left) if done else '-:--:--'
    status = f'{format_duration(elapsed)} elapsed  {estimate} left'
    if outcome:
      status = f'{outcome["status"]} before'
    print(f'run {index + 1} of {len(runs)}: {name}  {status}', flush=True)


def _show(runs: Runs, outcomes: Mapping[str, Outcome], workdir: str) -> None:
  """Shows the first finished run of each label, and prints the table."""
  first = {}
  for run in runs:
    if outcomes[run]['status'] == FINISHED:
      first.setdefault(_label(run, workdir), run)
  share = max_bytes(0.9e6 * MEGABYTES, len(first))  # The rest are curves.
  shown = [
    _look_at(runs[run], run, f'{label}, seed {runs[run].seed}', share, not i)
    for i, (label, run) in enumerate(first.items())
  ]
  if distributed.is_first():
    report.show(list(outcomes.values()), shown, workdir)


def _look_at(
  config, workdir, name, share, with_originals
) -> tuple[ReportedRun, np.ndarray, np.ndarray]:
  """Returns a run for the page, first examples, and their reconstructions.

  The page's examples are encoded here: one run is in memory at a time.
  """
  evaluator, variables, step = open_run(
    config, workdir, feature_metrics=FeatureMetrics(), has_judge=False
  )
  found = evaluator.evaluate(variables, NUM_EXAMPLES)
  number = len(next(iter(found.examples.values())))
  share *= 2 if with_originals else 1
  shown = collect(evaluator, variables, range(number), share, with_originals)
  run = ReportedRun(
    label=name,
    step=step,
    config=config.to_dict(),
    evaluation=found,
    collect=lambda *_: shown,
    workdir=workdir,
  )
  x, x_recon, _ = evaluator.reconstruct(variables, range(evaluator.num_columns))
  return run, evaluator.as_pictures(x), evaluator.as_pictures(x_recon)
