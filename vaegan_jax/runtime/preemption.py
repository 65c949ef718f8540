"""Signals from outside: how a run hears of them, and when it stops.

Machines that may be taken back, and schedulers, send SIGTERM some seconds
before they kill; a terminal that is closed sends SIGHUP, and Ctrl-C SIGINT.
Training polls between updates, and between the batches of an evaluation, then
saves and leaves with status 75, or 130 after Ctrl-C. A second Ctrl-C ends the
process at once.
"""

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

# Exit statuses: "try again later", and what a shell makes of Ctrl-C.
PREEMPTED, INTERRUPTED = 75, 130
_CAUSES = {
  signal.SIGTERM: 'SIGTERM',
  signal.SIGHUP: 'SIGHUP',
  signal.SIGINT: 'Ctrl-C',
}
# One count for all trainings of a process: JAX compares it with the others'.
_polls = itertools.count(1)


class Preempted(Exception):
  """A signal has come while something went on that may be given up."""


class Stopper:
  """Notices the signals that stop a run; a context in which it does.

  In a process by itself each ends it at once, by SystemExit with status 75 or
  by KeyboardInterrupt, except within `deferred`. Among several, JAX tells all
  of them when one gets SIGTERM, as which the others are handed on, and they
  find out at the same poll; a handler in Python would disable that. What the
  process was started to ignore, as `nohup` does, stays ignored.
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
    """A context in which a signal is only noted, for `requested`."""
    self._defers = True
    try:
      yield
    finally:
      self._defers = False

  def requested(self) -> bool:
    """Whether to stop; all processes must ask equally often."""
    if jax.distributed.is_initialized() and not self._requested:
      self._requested = multihost_utils.reached_preemption_sync_point(
        next(_polls)
      )
    return self._requested

  def poll(self) -> None:
    """Raises Preempted if it is time to stop."""
    if self.requested():
      raise Preempted


@contextlib.contextmanager
def _handled(number: int, handler) -> Iterator[None]:
  """A context in which a signal goes to a handler, unless it is ignored."""
  before = signal.getsignal(number)
  if before in (signal.SIG_IGN, None):  # None: it is not Python's to handle.
    yield
    return
  signal.signal(number, handler)
  try:
    yield
  finally:
    signal.signal(number, before)


def interruptible() -> contextlib.AbstractContextManager[None]:
  """A context in which Ctrl-C raises KeyboardInterrupt."""
  return _handled(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def answering_interrupts() -> Iterator[None]:
  """A context that answers Ctrl-C at once, and ends the process at a second.

  Python hears of a signal between two of its own instructions, and one that
  compiles may take minutes; a thread hears of it in the meantime.
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
  """Reads the numbers of signals, until nobody can write them any more."""
  interruptions = 0
  while number := os.read(reader, 1):
    if number[0] == signal.SIGINT:
      interruptions += 1
      if interruptions > 1:
        _say('Ctrl-C again: ended at once.')
        os._exit(INTERRUPTED)
      _say('Ctrl-C: stopping; once more to end at once.')
  os.close(reader)


def _say(text: str) -> None:
  with contextlib.suppress(OSError):  # Nobody may be there to read it.
    os.write(2, f'{text}\n'.encode())
