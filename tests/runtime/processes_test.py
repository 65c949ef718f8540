"""How a process finds the others, and what it tells where it cannot."""

import os
import socket

import jax
import pytest

from vaegan_jax.errors import UserError
from vaegan_jax.runtime import processes


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


def test_what_jax_cannot_connect_is_told(monkeypatch):
  monkeypatch.setenv('OMPI_COMM_WORLD_SIZE', '2')  # And nothing else of it.
  with pytest.raises(UserError, match='say where they are, for example, with'):
    processes.initialize()


def test_a_port_that_is_taken_is_told():
  with socket.socket() as taken:
    taken.bind(('', 0))
    taken.listen()
    address = f'127.0.0.1:{taken.getsockname()[1]}'
    with pytest.raises(UserError, match=r'in use.*: name another one'):
      processes.initialize(address, 2, 0)


def test_a_process_by_itself_takes_nobody_with_it():
  processes.leave(1)


@pytest.mark.parametrize(
  ('error', 'status'),
  ((SystemExit(75), 75), (SystemExit(), 0), (ZeroDivisionError('bug'), 1)),
)
def test_a_process_by_itself_ends_at_once_with_all_it_said(
  error, status, monkeypatch, capsys
):
  ended = []
  monkeypatch.setattr(os, '_exit', ended.append)
  with processes.ending_at_once():
    raise error
  assert ended == [status]
  err = capsys.readouterr().err
  assert ('Traceback' in err and 'bug' in err) == (status == 1)
