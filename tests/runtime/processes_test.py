"""How a process finds the others, and what it tells where it cannot."""

import atexit
import os
import signal
import socket
import sys
from unittest import mock

import jax
import numpy as np
import pytest
from jax._src import compiler

from tests.processes import Process
from vaegan_jax.errors import UserError
from vaegan_jax.evaluation import evaluator
from vaegan_jax.runtime import processes
from vaegan_jax.runtime.preemption import Stopper


@pytest.mark.parametrize(
  ('environment', 'method'),
  (
    ({}, None),
    ({'SLURM_STEP_NUM_TASKS': '1', 'SLURM_NTASKS': '4'}, None),
    ({'SLURM_STEP_NUM_TASKS': '4'}, 'slurm'),
    ({'OMPI_COMM_WORLD_SIZE': '1'}, None),
    ({'OMPI_COMM_WORLD_SIZE': '2'}, 'ompi'),
  ),
)
def test_jax_is_asked_to_connect_where_several_were_launched(
  environment, method, monkeypatch
):
  asked = []
  monkeypatch.setattr(
    jax.distributed, 'initialize', lambda **where: asked.append(where)
  )
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  assert processes.launched_by() == method
  processes.initialize()
  assert [where['cluster_detection_method'] for where in asked] == (
    [method] if method else []
  )


def test_what_jax_cannot_connect_is_reported(monkeypatch):
  monkeypatch.setenv('OMPI_COMM_WORLD_SIZE', '2')  # And nothing else of it.
  with pytest.raises(UserError, match='say where they are, for example, with'):
    processes.initialize()


def test_a_port_that_is_taken_is_reported():
  with socket.socket() as taken:
    taken.bind(('', 0))
    taken.listen()
    address = f'127.0.0.1:{taken.getsockname()[1]}'
    with pytest.raises(UserError, match=r'in use.*: name another one'):
      processes.initialize(address, 2, 0)


def test_a_process_by_itself_takes_nobody_with_it():
  processes.leave(1)


@pytest.mark.parametrize(
  ('error', 'status'), (('SystemExit(75)', 75), ('KeyboardInterrupt', 130))
)
def test_an_interrupted_library_ends_the_process_at_once(
  error, status, monkeypatch, tmp_path
):
  ended = []
  monkeypatch.setattr(os, '_exit', ended.append)
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / 'interrupted_import.py').write_text(f'raise {error}')
  with processes.ending_interrupted_libraries():
    import interrupted_import  # noqa: F401
  assert ended == [status]
  # A compilation, of which a thread does the rest.
  raised = {'SystemExit(75)': SystemExit(75)}.get(error, KeyboardInterrupt())
  compiled = mock.Mock(side_effect=raised)
  monkeypatch.setattr(compiler, 'backend_compile_and_load', compiled)
  with processes.ending_interrupted_libraries():
    jax.jit(lambda x: 2 * x + status)(np.float32(1))
  assert ended == [status, status]
  with (
    pytest.raises((SystemExit, KeyboardInterrupt)),
    processes.ending_interrupted_libraries(),
  ):
    raise raised.with_traceback(None)
  assert ended == [status, status]


def _register():
  """Registers a function; the evaluation, which compiles slowly, is empty."""
  atexit.register(lambda: print('atexit', file=sys.stderr, flush=True))
  nothing = evaluator.Evaluation({}, {}, np.zeros(0))
  evaluator.Evaluator.evaluate = lambda *_, **__: nothing
  evaluator.Evaluator.plot = lambda *_, **__: {}


def _register_and_stop():
  _register()
  Stopper.requested = _stop_now(Stopper.requested)


def _stop_now(requested):
  def stop(self):
    os.kill(os.getpid(), signal.SIGTERM)
    return requested(self)

  return stop


def test_functions_of_atexit_run_after_every_end(tiny_run, tmp_path):
  flags = (*tiny_run, '--config.num_train_steps=2', '--config.objective=mse')
  for status, prepare, more in (
    (75, _register_and_stop, ()),
    (0, _register, ()),
    (2, _register, ('--config.batch_size=0',)),
  ):
    process = Process(tmp_path / 'run', *flags, *more, prepare=prepare)
    assert process.wait() == status, process.err
    assert process.err.splitlines()[-1] == 'atexit'
