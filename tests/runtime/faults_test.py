"""The quick half of the fault suite; `python -m tests.faults` is the whole."""

import fcntl
import json
import os
import shutil
import time

import pytest

from tests.faults import __main__ as suite
from tests.faults import rows
from tests.faults.damage import METHODS, cases
from tests.faults.kills import kill_and_resume
from tests.faults.lab import Lab, Loss, Skipped
from tests.runtime.checkpoints_test import (
  RUN,
  assert_same,
  make_state,
  save_all,
)
from vaegan_jax.errors import UserError
from vaegan_jax.runtime import writers
from vaegan_jax.runtime.checkpoints import Checkpoints

# Orbax leaves callbacks behind when an item cannot be read; they find their
# event loop closed and are ignored with a warning.
pytestmark = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)


@pytest.fixture(scope='module')
def lab(tiny_run, tmp_path_factory):
  folder = tmp_path_factory.mktemp('lab')
  flags = (*tiny_run, '--config.objective=mse')  # A critic compiles slowly.
  return Lab(folder, flags, last_step=20, warm_up=False)


def test_kills_at_random_moments_cost_no_bit(lab):
  moments = kill_and_resume(lab, 'killed', 2, seed=0, counter=iter(()))
  assert len(moments) == 2


def test_a_loss_is_noticed(lab):
  workdir = lab.copy('lost')
  lab.same(workdir)
  rows = (workdir / 'metrics.jsonl').read_text().splitlines(keepends=True)
  (workdir / 'metrics.jsonl').write_text(''.join(rows[:-1]))
  with pytest.raises(Loss, match='another record'):
    lab.same(workdir)
  shutil.rmtree(workdir / 'checkpoints' / '20')
  with pytest.raises(Loss, match=r'the state is \(18, '):
    lab.same(workdir)


def test_every_file_damaged_in_every_way_is_noticed_or_harmless(tmp_path):
  save_all(tmp_path / 'whole', 10, 20)
  every = list(cases(tmp_path / 'whole' / 'checkpoints' / '20'))
  steps = []
  for file, method in every:
    workdir = shutil.copytree(tmp_path / 'whole', tmp_path / 'damaged')
    METHODS[method](workdir / 'checkpoints' / '20' / file)
    restored, step = Checkpoints(workdir).restore(make_state(1), **RUN)
    assert_same(restored, make_state(step))
    assert (workdir / 'quarantine' / '20').is_dir() == (step == 10)
    if file.startswith('meta/metadata'):
      assert step == 10, method
    steps.append(step)
    shutil.rmtree(workdir)
  assert len(steps) > 30 and steps.count(10) > len(steps) / 4


def test_a_clock_that_goes_back_changes_nothing(tmp_path, monkeypatch):
  save_all(tmp_path, 10)
  now = time.time
  monkeypatch.setattr(time, 'time', lambda: now() - 86400)
  for path in tmp_path.rglob('*'):
    os.utime(path, (now() + 86400,) * 2)
  save_all(tmp_path, 20)
  restored, step = Checkpoints(tmp_path).restore(make_state(1), **RUN)
  assert step == 20
  assert_same(restored, make_state(20))


def test_a_second_trainer_is_refused_before_anything_happens(
  tiny_run, tmp_path, run, monkeypatch
):
  holder = {'host': 'elsewhere', 'pid': 12345}
  (tmp_path / 'lock').write_text(json.dumps(holder))
  monkeypatch.setattr(
    'vaegan_jax.setup.run.load_data', lambda _: pytest.fail('too late')
  )
  with (tmp_path / 'lock').open() as file:
    # Another opening of the file is another holder.
    fcntl.flock(file, fcntl.LOCK_EX)
    with pytest.raises(UserError, match='process 12345 on elsewhere: stop'):
      run(tmp_path, *tiny_run)
  assert [path.name for path in tmp_path.iterdir()] == ['lock']


def test_an_error_does_not_cost_the_save_that_has_begun(
  tiny_run, tmp_path, run, monkeypatch
):
  def write_scalars(self, step, scalars):
    if step == 11:  # A save begins after step 10, in another thread.
      raise ZeroDivisionError

  monkeypatch.setattr(writers.Writers, 'write_scalars', write_scalars)
  with pytest.raises(ZeroDivisionError):
    run(tmp_path, *tiny_run)
  names = [path.name for path in (tmp_path / 'checkpoints').iterdir()]
  assert names == ['10']
  assert not (tmp_path / 'lock').exists()


@pytest.mark.parametrize(
  ('error', 'status', 'line'),
  (
    (None, 0, '| happened | yes |'),
    (Skipped('no disk'), 0, '| skipped: no disk | skipped |'),
    (Loss('a bit'), 1, '| LOST: a bit | NO |'),
    (OSError('gone'), 1, '| FAILED: OSError: gone | NO |'),
  ),
)
def test_the_table_reports_what_was_lost(
  error, status, line, tmp_path, monkeypatch, capsys
):
  def do(lab):
    if error:
      raise error
    return '3 runs', 'happened'

  row = rows.Row('fault', 'done', do)
  monkeypatch.setattr(rows, 'create_rows', lambda _: {'row': row})
  output = tmp_path / 'results.md'
  arguments = [f'--folder={tmp_path / "lab"}', f'--output={output}']
  monkeypatch.setattr('sys.argv', ['faults', *arguments])
  assert suite.main() == status
  assert line in output.read_text() and line in capsys.readouterr().out
  (line,) = json.loads(output.with_suffix('.json').read_text())['rows']
  assert line['fault'] == 'fault' and line['name'] == 'row'
