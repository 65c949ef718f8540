"""Signals stop a run where it can be stopped, and a second Ctrl-C anywhere."""

import contextlib
import os
import queue
import signal

import pytest

from vaegan_jax.runtime import preemption
from vaegan_jax.runtime.preemption import (
  INTERRUPTED,
  PREEMPTED,
  Preempted,
  Stopper,
)


@pytest.mark.parametrize(
  ('number', 'cause', 'status'),
  (
    (signal.SIGTERM, 'SIGTERM', PREEMPTED),
    (signal.SIGHUP, 'SIGHUP', PREEMPTED),
    (signal.SIGINT, 'Ctrl-C', INTERRUPTED),
  ),
)
def test_a_signal_ends_a_process_at_once_unless_deferred(number, cause, status):
  before = signal.getsignal(number)
  with Stopper() as stopper:
    stopper.poll()
    with stopper.deferred():
      os.kill(os.getpid(), number)
      assert stopper.requested()
      with pytest.raises(Preempted):
        stopper.poll()
      os.kill(os.getpid(), signal.SIGTERM)  # The first is what counts.
      assert (stopper.cause, stopper.status) == (cause, status)
      interrupt = pytest.raises(KeyboardInterrupt)
      with interrupt if number == signal.SIGINT else contextlib.nullcontext():
        os.kill(os.getpid(), number)  # A second Ctrl-C does not wait.
  with Stopper(), pytest.raises((SystemExit, KeyboardInterrupt)) as caught:
    os.kill(os.getpid(), number)
  assert getattr(caught.value, 'code', 130) == status
  assert signal.getsignal(number) == before


def test_a_signal_that_is_ignored_stays_ignored():
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # As `nohup` does.
  try:
    with Stopper() as stopper, stopper.deferred():
      os.kill(os.getpid(), signal.SIGHUP)
      assert not stopper.requested()
  finally:
    signal.signal(signal.SIGHUP, before)


def test_ctrl_c_is_answered_at_once_and_a_second_one_obeyed(monkeypatch, capfd):
  ended = queue.Queue()
  monkeypatch.setattr(os, '_exit', ended.put)
  before = signal.signal(signal.SIGINT, lambda *_: None)  # Python is busy.
  try:
    with preemption.answering_interrupts():
      os.kill(os.getpid(), signal.SIGINT)
      with pytest.raises(queue.Empty):
        ended.get(timeout=0.5)
      assert capfd.readouterr().err.startswith('Ctrl-C: stopping;')
      os.kill(os.getpid(), signal.SIGINT)
      assert ended.get(timeout=60) == INTERRUPTED == 130
  finally:
    signal.signal(signal.SIGINT, before)
