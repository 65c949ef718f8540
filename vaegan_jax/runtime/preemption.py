"""Signals that stop a run, and when it stops.

Preemptible machines and schedulers send SIGTERM some seconds before they kill;
a closed terminal sends SIGHUP, and Ctrl-C SIGINT. Training polls between
updates and between the batches of an evaluation. It then saves and exits with
status 75, or 130 after Ctrl-C. A second Ctrl-C ends the process at once.
"""

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

# Exit statuses: "try again later", and a shell's for Ctrl-C.
PREEMPTED, INTERRUPTED = 75, 130
_CAUSES = {
  signal.SIGTERM: 'SIGTERM',
  signal.SIGHUP: 'SIGHUP',
  signal.SIGINT: 'Ctrl-C',
}
# One counter for all trainings of a process: JAX compares it between processes.
_polls = itertools.count(1)


class Preempted(Exception):
  """A signal arrived during work that may be abandoned."""


class Stopper:
  """A context that handles the signals that stop a run.

  In a single process each signal ends it at once, by SystemExit with status 75
  or by KeyboardInterrupt, except within `deferred`. Among several, JAX informs
  all when one gets SIGTERM, and all stop at the same poll. A Python handler for
  SIGTERM would disable that, so other signals are passed on as SIGTERM. A
  signal that was ignored from the start, as by `nohup`, stays ignored.
  """

  def __init__(self):
    self.cause, self.status = 'SIGTERM', PREEMPTED  # Of the first signal.
    self._requested = False
    self._interrupted = False
    self._defers = False
    self._stack = contextlib.ExitStack()

  def __enter__(self) -> 'Stopper':
    numbers = [signal.SIGHUP, signal.SIGINT]
    if not jax.distributed.is_initialized():
      numbers.append(signal.SIGTERM)
    for number in numbers:
      self._stack.enter_context(_handled(number, self._handle))
    return self

  def __exit__(self, *_) -> None:
    self._stack.close()

  def _handle(self, number: int, _) -> None:
    if number == signal.SIGINT:
      if self._interrupted or not self._defers:
        raise KeyboardInterrupt
      self._interrupted = True
    if not self._requested:
      self.cause = _CAUSES[number]
      self.status = INTERRUPTED if number == signal.SIGINT else PREEMPTED
    if jax.distributed.is_initialized():
      os.kill(os.getpid(), signal.SIGTERM)
      return
    self._requested = True
    if not self._defers:
      raise SystemExit(PREEMPTED)

  @contextlib.contextmanager
  def deferred(self) -> Iterator[None]:
    """Only records signals within the context, for `requested`."""
    self._defers = True
    try:
      yield
    finally:
      self._defers = False

  def requested(self) -> bool:
    """Returns whether to stop; all processes must call it equally often."""
    if jax.distributed.is_initialized() and not self._requested:
      self._requested = multihost_utils.reached_preemption_sync_point(
        next(_polls)
      )
    return self._requested

  def poll(self) -> None:
    """Raises Preempted if a stop is requested."""
    if self.requested():
      raise Preempted


@contextlib.contextmanager
def _handled(number: int, handler) -> Iterator[None]:
  """Sets the handler of a signal within the context, unless it is ignored."""
  before = signal.getsignal(number)
  if before in (signal.SIG_IGN, None):  # None: set by something but Python.
    yield
    return
  signal.signal(number, handler)
  try:
    yield
  finally:
    signal.signal(number, before)


def interruptible() -> contextlib.AbstractContextManager[None]:
  """Returns a context in which Ctrl-C raises KeyboardInterrupt."""
  return _handled(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def answering_interrupts() -> Iterator[None]:
  """Confirms Ctrl-C at once, and ends the process at a second one.

  Python handles signals between its instructions, and compiling, which may take
  minutes, is one instruction. A thread handles them in the meantime.
  """
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  threading.Thread(target=_watch, args=(reader,), daemon=True).start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)
    os.close(writer)


def _watch(reader: int) -> None:
  """Reads the numbers of signals until the other end is closed."""
  interruptions = 0
  while number := os.read(reader, 1):
    if number[0] == signal.SIGINT:
      interruptions += 1
      if interruptions > 1:
        _write('Ctrl-C again: ended at once.')
        os._exit(INTERRUPTED)  # The main thread may not respond for minutes.
      _write('Ctrl-C: stopping; once more to end at once.')
  os.close(reader)


def _write(text: str) -> None:
  with contextlib.suppress(OSError):  # Stderr may be closed.
    os.write(2, f'{text}\n'.encode())
