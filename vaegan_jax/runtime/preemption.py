"""SIGTERM: how training hears of it, and when it stops.

Machines that may be taken back, and schedulers, send it some seconds before
they kill. Training polls between updates, and between the batches of an
evaluation, then saves and leaves with status 75.
"""

import contextlib
import itertools
import signal
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

PREEMPTED = 75  # Exit status: "try again later".
# One count for all trainings of a process: JAX compares it with the others'.
_polls = itertools.count(1)


class Preempted(Exception):
  """SIGTERM has come while something went on that may be given up."""


class Stopper:
  """Notices SIGTERM; a context in which it does.

  In a process by itself, SIGTERM ends it at once with status 75, except within
  `deferred`. Among several, JAX tells all of them when one gets it, and they
  find out at the same poll; a handler in Python would disable that.
  """

  def __init__(self):
    self._requested = False
    self._defers = False
    self._before = None

  def __enter__(self) -> 'Stopper':
    if not jax.distributed.is_initialized():
      self._before = signal.signal(signal.SIGTERM, self._handle)
    return self

  def __exit__(self, *_) -> None:
    if not jax.distributed.is_initialized():
      signal.signal(signal.SIGTERM, self._before)

  def _handle(self, *_) -> None:
    self._requested = True
    if not self._defers:
      raise SystemExit(PREEMPTED)

  @contextlib.contextmanager
  def deferred(self) -> Iterator[None]:
    """A context in which SIGTERM is only noted, for `requested`."""
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
