"""The mode `study`: how well an objective does, and how surely, over seeds.

Each run of the grid is one that `--mode=train` could have made, in a workdir
of its own; its `outcome.json` says what became of it, so that the same command
goes on where it was stopped. The runs follow each other and each has all the
devices: the memory of a GPU and the chips of a TPU are not shared out. What
dies with the process is resumed, like everything else. Of several processes the
first reads and writes what became of the runs.
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
from vaegan_jax.config.migrations import upgrade
from vaegan_jax.config.rules import flatten
from vaegan_jax.config.schema import resumable_fields
from vaegan_jax.config.validation import validate_new_run
from vaegan_jax.errors import UserError
from vaegan_jax.evaluation.feature_metrics import FeatureMetrics
from vaegan_jax.runtime import distributed
from vaegan_jax.runtime.checkpoints import Checkpoints
from vaegan_jax.runtime.files import check_writable, write_text
from vaegan_jax.runtime.preemption import Preempted, Stopper
from vaegan_jax.runtime.progress import format_duration
from vaegan_jax.setup.data_identity import keep_rules
from vaegan_jax.setup.runs import open_run
from vaegan_jax.training import loop

Runs = Mapping[str, ml_collections.ConfigDict]  # {workdir: configuration}

FAILED, CRASHED = 'failed', 'crashed'  # What became of a run; or FINISHED.


def study(runs: Runs, workdir: str) -> int:
  """Trains what is not yet trained, evaluates it and sums it up.

  A run that gives up, because it diverges, is a result and not trained again;
  one that crashes is, by the next call. Both count as failures, and the study
  goes on.

  Args:
    runs: every run's workdir and valid configuration, in the order of the
      table, `<workdir>/<objective>/seed_0` or, in a sweep,
      `<workdir>/<objective>/<field>=<value>/seed_0`; together they differ in
      the objective, that field, the seed and what a configuration file sets by
      the objective.
    workdir: gets `study.json`, `study.md`, `study.png` and, in a sweep,
      `study_curves.png`; the first two after every run.

  Returns:
    The process's exit status: 0, or 1 if a run crashed; that of `train.train`
    where a run was stopped from outside, 75 by SIGTERM, 130 by Ctrl-C or 1 by
    a full disk.

  Raises:
    UserError: as `train.train`, of any run; a workdir that holds another run
      is told before anything is trained.
  """
  with distributed.together():
    folders = (epath.Path(run).relative_to(workdir) for run in runs)
    check_writable(workdir, *(f'{run}/checkpoints' for run in folders))
  distributed.check_shared(workdir)
  runs = {run: keep_rules(config, run) for run, config in runs.items()}
  with Stopper() as stopper:
    known = distributed.from_first(lambda: _recall_all(runs))
    outcomes = {
      run: outcome and outcome | {'label': _label(run, workdir)}
      for run, outcome in zip(runs, known, strict=True)
    }
    progress = _Progress(
      {
        run: 0 if outcomes[run] else config.num_train_steps - _newest_step(run)
        for run, config in runs.items()
      }
    )
    for run, config in runs.items():
      name = f'{_label(run, workdir)}, seed {config.seed}'
      progress.announce(run, name, outcomes[run])
      if outcomes[run] is None:
        status, outcomes[run] = _run(config, run, stopper)
        if outcomes[run] is None:
          return status
        outcomes[run]['label'] = _label(run, workdir)
        jax.clear_caches()  # Of programs that no other run has.
      if distributed.is_first():
        report.write_tables(list(filter(None, outcomes.values())), workdir)
    _draw(runs, outcomes, workdir)
  statuses = [outcome['status'] for outcome in outcomes.values()]
  return loop.FAILED if CRASHED in statuses else loop.DONE


def _run(
  config: ml_collections.ConfigDict, workdir: str, stopper: Stopper
) -> tuple[int, Outcome | None]:
  """Trains and evaluates one run.

  Returns:
    The exit status of the training, and the outcome, which is also kept in the
    workdir; None if the run was stopped from outside.
  """
  status, found = loop.FAILED, None
  try:
    status = train.train(config, workdir, stopper)
    stopper.poll()  # A signal came too late for the training to heed it.
    if status == loop.DONE:
      evaluate.evaluate(config, workdir, stopper.poll)
      found = distributed.from_first(lambda: _success(workdir))
    elif status == loop.FAILED:
      found = distributed.from_first(lambda: _failure(config, workdir))
    if found is None:
      return status, None
  except Preempted:
    return stopper.status, None
  except UserError:
    raise
  except Exception as error:  # One run must not cost the others.
    if jax.process_count() > 1:
      raise  # The other processes are still in it.
    logging.exception('%s crashed', workdir)
    message = f'{type(error).__name__}: {error}'
    found = {
      'status': CRASHED,
      'step': _newest_step(workdir),
      'message': message,
    }
  outcome = {'objective': config.objective, 'seed': config.seed} | found
  if distributed.is_first():
    kept = outcome | {'config': config.to_dict()}
    _write_json(_outcome_path(workdir), kept)
  return status, outcome


def _success(workdir) -> Outcome:
  """The outcome of a run that was trained and evaluated."""
  scores = json.loads((epath.Path(workdir) / 'evaluation.json').read_text())
  return {'status': FINISHED, 'step': scores.pop('step'), 'scores': scores}


def _failure(config, workdir) -> Outcome | None:
  """The outcome of a run that ended itself, by its record.

  None if there is no record, or if it is whole: what failed then is the disk.
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


def _recall_all(runs: Runs) -> list[Outcome | None]:
  """What is known of each run already, or that its workdir holds another."""
  for run, config in runs.items():
    if _newest_step(run):
      _check_resumable(config, run)
    else:
      validate_new_run(config)
  return [_recall(config, run) for run, config in runs.items()]


def _recall(config, workdir) -> Outcome | None:
  """What became of the very same run; None if that is to be found out."""
  try:
    outcome = json.loads(_outcome_path(workdir).read_text())
    was, now = upgrade(outcome.pop('config')), _as_json(config)
    if isinstance(was['data']['value_range'], str):  # Found since, and kept.
      was['data']['value_range'] = now['data']['value_range']
    if outcome['status'] == FINISHED:
      # A version before this one measured less.
      return outcome if was == now and 'detail' in outcome['scores'] else None
    was.pop('evaluation')  # Which no training depends on.
    now.pop('evaluation')
    return outcome if was == now and outcome['status'] == FAILED else None
  except (OSError, ValueError, LookupError):
    return None


def _check_resumable(config, workdir) -> None:
  """Tells another run in the workdir, as restoring its checkpoint would."""
  newest = _newest_step(workdir)
  try:
    saved = json.loads((epath.Path(workdir) / 'config.json').read_text())
  except (OSError, ValueError):
    return  # Restoring the checkpoint will tell.
  was, now = map(flatten, (upgrade(saved), _as_json(config)))
  free = tuple(f'{field}.' for field in resumable_fields(config))
  for name, value in now.items():
    if was.get(name) != value and not f'{name}.'.startswith(free):
      raise UserError(
        f'In {workdir}, {name} was {was.get(name)!r} and is {value!r} now, but '
        'a run goes on with the configuration it began with: restore the old '
        'value or use a new --workdir, such as --workdir=runs/study_2'
      )
  if newest > config.num_train_steps:
    raise UserError(
      f'{workdir} is at step {newest} already, but num_train_steps='
      f'{config.num_train_steps}: use a new --workdir, such as '
      f'--workdir=runs/study_2, or --config.num_train_steps={newest}'
    )


def _as_json(config) -> dict[str, Any]:
  """The configuration as JSON gives it back."""
  return json.loads(json.dumps(config.to_dict()))


def _newest_step(workdir) -> int:
  return max(Checkpoints(workdir).steps(), default=0)


def _label(run: str, workdir: str) -> str:
  """Of its line in the table: the folders between the study's and its own."""
  return ', '.join(epath.Path(run).relative_to(workdir).parts[:-1])


def _outcome_path(workdir) -> epath.Path:
  return epath.Path(workdir) / 'outcome.json'


class _Progress:
  """A line before each run: which one it is, how long so far, how long yet."""

  def __init__(self, steps: Mapping[str, int]):
    """Starts the clock; `steps` are what is left of each run, by workdir."""
    self._steps = steps
    self._start = time.monotonic()

  def announce(self, run: str, name: str, outcome: Outcome | None) -> None:
    """Prints the line; `outcome` is what is known of the run already."""
    runs = list(self._steps)
    index = runs.index(run)
    elapsed = time.monotonic() - self._start
    done = sum(self._steps[run] for run in runs[:index])
    left = sum(self._steps[run] for run in runs[index:])
    estimate = format_duration(elapsed / done * left) if done else '-:--:--'
    parts = [
      f'run {index + 1} of {len(runs)}: {name}',
      f'{outcome["status"]} before'
      if outcome
      else f'{format_duration(elapsed)} elapsed  {estimate} left',
    ]
    print('  '.join(parts), flush=True)


def _write_json(path: epath.Path, content: Mapping[str, Any]) -> None:
  write_text(path, json.dumps(content, indent=2, allow_nan=False) + '\n')


def _draw(runs: Runs, outcomes: Mapping[str, Outcome], workdir: str) -> None:
  """Draws the first finished run of each label, and ends with the table."""
  originals, rows, drawn = None, {}, set()
  for run, config in runs.items():
    label = _label(run, workdir)
    if outcomes[run]['status'] == FINISHED and label not in drawn:
      drawn.add(label)
      name = f'{label}, seed {config.seed}'
      originals, rows[name] = _reconstruct_first(config, run)
  if distributed.is_first():
    report.show(list(outcomes.values()), originals, rows, workdir)


def _reconstruct_first(config, workdir) -> tuple[np.ndarray, np.ndarray]:
  """The first held-out images and their reconstructions, as they are shown."""
  evaluator, variables, _ = open_run(
    config, workdir, feature_metrics=FeatureMetrics()
  )
  x, x_recon = evaluator.reconstruct_first(variables, evaluator.num_columns)
  return evaluator.as_pictures(x), evaluator.as_pictures(x_recon)
