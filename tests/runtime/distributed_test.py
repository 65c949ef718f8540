"""Two processes train as one does, and end together."""

import functools
import itertools
import os
import re
import shutil
import signal
import sys
import time

import numpy as np
import pytest

from tests import command_line
from tests.processes import (
  Process,
  crc32s,
  do_everything,
  read_rows,
  saved_steps,
  start_two,
  wait_for,
)
from vaegan_jax.errors import UserError
from vaegan_jax.evaluation import evaluator
from vaegan_jax.runtime import checkpoints, distributed, processes
from vaegan_jax.runtime.preemption import Stopper
from vaegan_jax.setup import data

_LAST_STEP = 16


@pytest.fixture(scope='module')
def flags(tiny_run):
  """Returns flags that save every fourth and evaluate every eighth step."""
  return (
    *tiny_run,
    f'--config.num_train_steps={_LAST_STEP}',
    '--config.checkpoint_every_steps=4',
    '--config.num_checkpoints=9',
    '--config.eval_every_steps=8',
  )


@pytest.fixture(scope='module')
def undisturbed(flags, tmp_path_factory):
  """Returns the workdir of a complete run of two processes."""
  workdir = tmp_path_factory.mktemp('runs') / 'two'
  both = start_two(workdir, *flags, prepare=[do_everything] * 2)
  assert [p.wait() for p in both] == [0, 0], both[0].err
  assert 'in 2 processes' in both[0].out
  assert 'step' not in both[1].out
  return workdir


@pytest.fixture(scope='module')
def alone(flags, tmp_path_factory):
  """Returns the same for one process with as many devices."""
  workdir = tmp_path_factory.mktemp('runs') / 'one'
  process = Process(workdir, *flags, devices=4)
  assert process.wait() == 0, process.err
  return workdir


def _without_speed(rows):
  for row in rows:
    row.pop('train/images_per_second', None)
  return rows


def _assert_close(rows, expected, rtol):
  """Asserts equal steps with nearly equal values."""
  assert [row['step'] for row in rows] == [row['step'] for row in expected]
  for row, want in zip(*map(_without_speed, (rows, expected)), strict=True):
    assert row.keys() == want.keys()
    np.testing.assert_allclose(
      list(row.values()), [want[name] for name in row], rtol=rtol, atol=1e-6
    )


def _keep(workdir, step):
  """Removes all later checkpoints."""
  for later in saved_steps(workdir):
    if later > step:
      shutil.rmtree(workdir / 'checkpoints' / str(later))


def test_two_processes_compute_what_one_does(undisturbed, alone):
  _assert_close(read_rows(undisturbed), read_rows(alone), rtol=1e-6)


def test_the_first_process_alone_writes(undisturbed):
  assert saved_steps(undisturbed) == [4, 8, 12, 16]
  assert [row['step'] for row in read_rows(undisturbed)] == [
    *range(1, _LAST_STEP + 1)
  ]
  assert len(list(undisturbed.glob('events.out.tfevents.*'))) == 1
  for name in ('latents.json', 'report.html'):
    assert (undisturbed / name).is_file()
  assert not list(undisturbed.glob('.probe*'))


def _interrupt_itself():
  """Sends itself SIGINT after step 5, and waits until both stop for it."""
  requested, calls = Stopper.requested, itertools.count()

  def interrupt(self):
    step = next(calls)
    if step == 5:
      os.kill(os.getpid(), signal.SIGINT)
    if step >= 5:
      time.sleep(1)
    return requested(self)

  Stopper.requested = interrupt


def _evaluate_slowly():
  """Makes an evaluation take longer than the test waits."""
  evaluate = evaluator.Evaluator.evaluate

  def evaluate_often(*args, **kwargs):
    for _ in range(100):
      print('evaluating', file=sys.stderr, flush=True)
      time.sleep(1)
      found = evaluate(*args, **kwargs)
    return found

  evaluator.Evaluator.evaluate = evaluate_often


def _evaluate_slowly_without(step):
  """The same, and this process cannot read the checkpoint of a step."""
  _evaluate_slowly()
  load = checkpoints.load_checkpoint

  def fail(path, **options):
    return None if path.name == str(step) else load(path, **options)

  checkpoints.load_checkpoint = fail


def test_signals_and_a_checkpoint_that_one_cannot_read_change_no_bit(
  flags, undisturbed, tmp_path
):
  workdir = tmp_path / 'run'
  both = start_two(workdir, *flags, prepare=(None, _interrupt_itself))
  assert [p.wait() for p in both] == [75, 130], both[0].err
  before, stopped = saved_steps(workdir)
  assert before == 4 < stopped < 8
  assert f'SIGTERM: stopped after step {stopped}' in both[0].out

  fails = functools.partial(_evaluate_slowly_without, stopped)
  both = start_two(workdir, *flags, prepare=(_evaluate_slowly, fails))
  wait_for(lambda: 'evaluating' in both[1].err)
  for process in both:  # As a scheduler does it.
    process.terminate()
  assert [p.wait(30) for p in both] == [75, 75], both[0].err
  assert 'Resuming after step 4;' in both[0].out
  assert (workdir / 'quarantine' / str(stopped)).is_dir()
  assert crc32s(workdir, 8) == crc32s(undisturbed, 8)
  rows, want = (_without_speed(read_rows(w)) for w in (workdir, undisturbed))
  assert rows[:7] == want[:7]
  # The evaluation of the eighth has no result.
  assert rows[7] == {k: v for k, v in want[7].items() if 'eval' not in k}
  assert len(rows) == 8


def _miss_it_soon():
  processes._HEARTBEAT_SECONDS = 5


def test_a_run_moves_between_one_process_and_two_until_one_is_killed(
  flags, undisturbed, alone, tmp_path, capsys
):
  workdir = shutil.copytree(undisturbed, tmp_path / 'to_one')
  _keep(workdir, 8)
  assert command_line.run(*flags, f'--workdir={workdir}', whole=True) == 0
  assert 'Resuming after step 8;' in capsys.readouterr().out
  _assert_close(read_rows(workdir), read_rows(alone), rtol=1e-5)

  workdir = shutil.copytree(alone, tmp_path / 'to_two')
  _keep(workdir, 8)
  more = '--config.num_train_steps=100000'
  both = start_two(workdir, *flags, more, prepare=[_miss_it_soon] * 2)
  wait_for(lambda: f'step {_LAST_STEP}/' in both[0].out)
  both[1].kill()
  assert both[0].wait(35) not in (0, 75)
  assert 'Resuming after step 8;' in both[0].out
  rows, want = read_rows(workdir)[: _LAST_STEP - 1], read_rows(alone)[:-1]
  _assert_close(rows, want, rtol=1e-5)


def _fail_to_load():
  _miss_it_soon()

  def fail(*_, **__):
    raise ZeroDivisionError('just now')

  data.load_splits = fail


def test_an_exception_in_one_ends_the_other(flags, tmp_path):
  both = start_two(
    tmp_path / 'run', *flags, prepare=(_miss_it_soon, _fail_to_load)
  )
  assert both[1].wait() == 1
  assert 'ZeroDivisionError: just now' in both[1].err
  assert 'Process 1 ends because of the error above' in both[1].err
  assert both[0].wait(35) not in (0, 75)


def _start_differently():
  sys.argv += ['--config.seed=3', '--config.init_from=/other']


def _mislay_the_images():
  sys.argv += ['--config.data.path=/nowhere']


def _write_elsewhere():
  distributed._PROBE_SECONDS = 0.5
  sys.argv += [f'{sys.argv[1]}_elsewhere']


@pytest.mark.parametrize(
  ('prepare', 'message'),
  (
    (_start_differently, r"init_from is '' in process 0 and '/other' "),
    (_mislay_the_images, r'/nowhere'),
    (_write_elsewhere, r'not the same folder in process 0 and in 1: name one'),
  ),
)
def test_a_mistake_in_one_is_reported_by_both(
  prepare, message, flags, tmp_path
):
  both = start_two(tmp_path / 'run', *flags, prepare=(None, prepare))
  assert [p.wait() for p in both] == [2, 2], both[0].err
  for process in both:
    line = process.err.splitlines()[-1]
    assert re.match(f'error: .*{message}', line)
  assert not read_rows(tmp_path / 'run')


def _hurry():
  processes._START_SECONDS = 1


def test_a_process_that_stays_alone_ends(flags, tmp_path):
  process = Process(
    tmp_path / 'run',
    *flags,
    *('--coordinator=127.0.0.1:1', '--num_processes=2', '--process_id=1'),
    prepare=_hurry,
  )
  assert process.wait() == 1
  assert process.err.splitlines()[-1].startswith(
    'error: Not all processes started within 1 s: start all of them'
  )


def test_a_process_by_itself_asks_nobody():
  assert distributed.is_first() and distributed.every_process(True)
  assert not distributed.every_process(False)
  assert distributed.gather('a') == ['a']
  assert distributed.from_first(lambda: (1, 2)) == (1, 2)
  distributed.check_same({'a': 1}, 'mend that')
  with pytest.raises(UserError, match='wrong'), distributed.together():
    raise UserError('wrong')
