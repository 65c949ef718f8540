"""Progress of long work on the terminal, and errors that only warn.

CLU's `ReportProgress` does not replace `Progress`: it reports to the log,
wants to be called at every step, and shows no metrics.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jax
from absl import logging

_QUIET_SECONDS = 5  # Before and between the lines of `track`.
Step = TypeVar('Step')


class WarnOnce:
  """A context that suppresses exceptions and logs the first as a warning."""

  def __init__(self, action: str):
    self._action = action
    self._warned = False

  def __enter__(self) -> None:
    pass

  def __exit__(self, kind, error, traceback) -> bool:
    if kind is None or not issubclass(kind, Exception):
      return False
    if not self._warned:
      self._warned = True
      logging.warning(
        '%s failed (%s: %s). Training continues; this is reported only once.',
        self._action,
        kind.__name__,
        error,
      )
    return True


class Progress:
  """Lines on the terminal with the step, the speed, the time left and metrics.

  The speed is that of the updates since the last line, without the time within
  `pause`. The time left includes pauses at their rate so far. Both are unknown
  until the second line: the first update includes compilation.
  """

  def __init__(
    self,
    num_train_steps: int,
    batch_size: int,
    start_step: int = 0,
    *,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Starts the clock, which returns seconds since any fixed time.

    Args:
      num_train_steps: last step of the run.
      batch_size: images per update, over all devices and processes.
      start_step: last finished step; 0 for a new run.
    """
    self._num_train_steps = num_train_steps
    self._batch_size = batch_size
    self._clock = clock
    self._errors = WarnOnce('Printing progress')
    self._first = None  # Step and time of the first line.
    self._last = (start_step, clock())  # Step and time of the last line.
    self._paused = 0.0  # Seconds since the last line.

  @contextlib.contextmanager
  def pause(self) -> Iterator[None]:
    """Excludes the time within the context, such as an evaluation's."""
    start = self._clock()
    try:
      yield
    finally:
      self._paused += self._clock() - start

  def update(self, step: int, metrics: Mapping[str, Any]) -> float | None:
    """Prints a line about a step, with metrics {name: number or [] array}.

    Returns:
      Images per second since the last line; None if unknown.
    """
    now, total = self._clock(), self._num_train_steps
    last_step, last_time = self._last
    speed = left = None
    if self._first:
      first_step, first_time = self._first
      busy = now - last_time - self._paused
      if step > last_step and busy > 0:
        speed = (step - last_step) * self._batch_size / busy
      if step > first_step:
        left = (now - first_time) / (step - first_step) * (total - step)
    self._last, self._paused = (step, now), 0.0
    self._first = self._first or self._last
    parts = [
      f'step {step:,}/{total:,}',
      f'{step / total:.1%}',
      '- examples/s' if speed is None else f'{speed:,.0f} examples/s',
      '-:--:-- left' if left is None else f'{format_duration(left)} left',
      *(f'{name} {float(value):.4g}' for name, value in metrics.items()),
    ]
    with self._errors:
      print('  '.join(parts), flush=True)
    return speed


def track(
  steps: Iterable[Step],
  action: str,
  total: int,
  *,
  clock: Callable[[], float] = time.monotonic,
) -> Iterator[Step]:
  """Yields steps and shows their progress once they take some seconds.

  A terminal shows a bar; a file or a pipe gets a line now and then. Only the
  first of several processes shows anything.
  """
  bar = _open_bar(action, total)
  start = printed = clock()
  with contextlib.nullcontext() if bar is None else bar:
    for done, step in enumerate(steps, start=1):
      yield step
      if bar is not None:
        bar.update()
      elif (now := clock()) - printed >= _QUIET_SECONDS:
        printed = now
        left = format_duration((now - start) / done * (total - done))
        print(f'{action}: {done:,} of {total:,}  {left} left', flush=True)


def _open_bar(action: str, total: int) -> Any:
  """Returns a bar on a terminal; None elsewhere, or where tqdm is missing."""
  if not sys.stderr.isatty():
    return None
  try:
    from tqdm import tqdm
  except ImportError:  # The extra `load` has none.
    return None
  hidden = jax.process_index() > 0
  return tqdm(
    desc=action, total=total, leave=False, delay=_QUIET_SECONDS, disable=hidden
  )


def format_duration(seconds: float) -> str:
  """Returns hours, minutes and seconds: '1:02:03'."""
  minutes, seconds = divmod(round(seconds), 60)
  return f'{minutes // 60}:{minutes % 60:02}:{seconds:02}'
