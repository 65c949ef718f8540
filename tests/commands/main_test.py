"""main.py: exit statuses, and messages for mistakes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import main
from tests import command_line
from vaegan_jax.commands import dispatch
from vaegan_jax.errors import UserError

PROJECT = Path(main.__file__).parent


@pytest.mark.parametrize(
  ('error', 'status'), ((UserError('two\nlines'), 2), (KeyboardInterrupt, 130))
)
def test_mistakes_and_interruptions_end_without_a_traceback(
  error, status, capsys
):
  with pytest.raises(SystemExit) as caught, main.processes.reporting_errors():
    raise error
  assert caught.value.code == status
  told = 'error: two lines\n' if status == 2 else 'Stopped by Ctrl-C.\n'
  assert capsys.readouterr().err == told


def test_a_bug_is_not_hidden():
  with pytest.raises(ZeroDivisionError), main.processes.reporting_errors():
    raise ZeroDivisionError


@pytest.mark.parametrize(
  ('args', 'status', 'told'),
  (
    (
      ('--workdir=runs/a', '--config.batchsize=4'),
      2,
      'did you mean --config.batch_size?',
    ),
    (('--help',), 1, '--workdir: '),
  ),
)
def test_the_program_reports_it(args, status, told, tmp_path):
  done = subprocess.run(
    [sys.executable, '-X', 'importtime', PROJECT / 'main.py', *args],
    capture_output=True,
    text=True,
    cwd=tmp_path,
  )
  assert done.returncode == status
  imports = re.findall(r'^import time:.*\| +(\S+)\n', done.stderr, re.MULTILINE)
  stderr = re.sub(r'^import time:.*\n', '', done.stderr, flags=re.MULTILINE)
  assert told in done.stdout + stderr
  assert 'Traceback' not in stderr
  assert len(stderr.splitlines()) == (1 if status == 2 else 0)
  # A mistake need not wait for what takes seconds to import.
  assert 'jax' in imports
  assert not {'tensorflow', 'tensorflow_datasets', 'orbax'} & {*imports}
  assert not list(tmp_path.iterdir())


def test_a_launcher_connects_processes_without_flags(monkeypatch):
  def parse():
    return command_line.parse('--workdir=runs/a')

  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'a:1')
  with pytest.raises(UserError, match='--num_processes and --process_id'):
    parse()
  monkeypatch.setenv('SLURM_STEP_NUM_TASKS', '2')
  assert parse().processes is None


def test_processes_compare_every_run_of_a_sweep(monkeypatch):
  """Covers every run, not only the last of each objective and seed."""
  found = []
  monkeypatch.setattr(
    dispatch.distributed, 'check_same', lambda values, _: found.append(values)
  )
  for sweep in ('64,96', '7,96'):
    args = ('--mode=study', '--workdir=any', '--study.objectives=mse')
    sweep = f'--study.sweep=loss.rate={sweep}'
    dispatch.check_processes(command_line.parse(*args, sweep))
  assert found[0] != found[1]
