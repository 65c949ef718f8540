"""Several readers of one workdir, alone and during its training."""

import json
from pathlib import Path

from tests.faults.lab import (
  Lab,
  check,
  expect_status,
  slowly,
  wait_for,
)
from tests.processes import Process, saved_steps

_READERS = 3  # Concurrent evaluations.


def _evaluate(workdir: Path, name: str) -> Process:
  return Process(workdir, '--mode=evaluate', name=f'{workdir.name}_{name}')


def _scores(process: Process) -> dict:
  """Returns the numbers that an evaluation printed."""
  (line,) = (x for x in process.out.splitlines() if x.startswith('{"step"'))
  return json.loads(line)


def read_together(lab: Lab) -> tuple[str, str]:
  """Evaluates a finished run, and one whose trainer removes checkpoints."""
  lab.same(lab.undisturbed)
  workdir = lab.copy('read')
  expect_status([alone := _evaluate(workdir, 'alone')], 0)
  readers = [_evaluate(workdir, f'reader_{i}') for i in range(_READERS)]
  expect_status(readers, 0)
  for reader in readers:
    check(_scores(reader) == _scores(alone), reader.out)
  check(not list(workdir.rglob('*.tmp')), 'a temporary file was left')

  workdir = lab.new('read_beside')
  # The trainer keeps a single checkpoint, which the readers must survive.
  trainer = lab.start(
    workdir, '--config.num_checkpoints=1', prepare=slowly, name='read_trainer'
  )
  wait_for(lambda: bool(saved_steps(workdir)))
  steps = []
  while not steps or steps[-1] < lab.last_step // 2:
    readers = [_evaluate(workdir, f'reader_{i}') for i in range(_READERS)]
    expect_status(readers, 0)
    steps += sorted(_scores(reader)['step'] for reader in readers)
  expect_status([trainer], 0)
  lab.same(workdir)
  return (
    f'{_READERS} at once, {len(steps)} beside a trainer',
    'the same numbers as one alone; beside the trainer, which keeps one '
    f'checkpoint, those of steps {steps[0]} to {steps[-1]}; same bits',
  )
