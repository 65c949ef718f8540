"""What long work says of itself on the terminal, without ever ending it."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jax
from absl import logging
from tqdm import tqdm

_PATIENCE = 5  # Seconds of silence.
Step = TypeVar('Step')


class WarnOnce:
  """A context that swallows exceptions, and warns about the first."""

  def __init__(self, what: str):
    self._what = what
    self._warned = False

  def __enter__(self) -> None:
    pass

  def __exit__(self, kind, error, traceback) -> bool:
    if kind is None or not issubclass(kind, Exception):
      return False
    if not self._warned:
      self._warned = True
      logging.warning(
        '%s failed (%s: %s); training goes on, and this is said only once.',
        self._what,
        kind.__name__,
        error,
      )
    return True


class Progress:
  """A line on the terminal: how far, how fast, how long yet.

  The speed is that of the updates since the last line, without what happened
  within `pause`. The time left counts pauses as they have been. Neither is
  known before the second line, as the first update includes compilation: show
  a line after the first update.
  """

  def __init__(
    self,
    num_train_steps: int,
    batch_size: int,
    start_step: int = 0,
    *,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Starts the clock.

    Args:
      num_train_steps: the last step of the run.
      batch_size: images an update, over all devices and processes.
      start_step: the last step already done; 0 for a new run.
      clock: seconds, from any moment on.
    """
    self._num_train_steps = num_train_steps
    self._batch_size = batch_size
    self._start_step = start_step
    self._clock = clock
    self._errors = WarnOnce('Printing progress')
    self._last = (start_step, clock())  # Step and time of the last line.
    self._first = None  # Step and time of the first line.
    self._paused = 0.0  # Seconds since the last line.

  @contextlib.contextmanager
  def pause(self) -> Iterator[None]:
    """A context for evaluation, figures and checkpoints."""
    start = self._clock()
    try:
      yield
    finally:
      self._paused += self._clock() - start

  def update(self, step: int, metrics: Mapping[str, Any]) -> float | None:
    """Prints the line.

    Args:
      step: updates done, of `num_train_steps`.
      metrics: name -> a number or an array of one, shown in this order.

    Returns:
      Images a second since the last line; None if not known yet.
    """
    now = self._clock()
    speed, left = self._estimate(step, now)
    self._last, self._paused = (step, now), 0.0
    self._first = self._first or self._last
    total = self._num_train_steps
    parts = [
      f'step {step:,}/{total:,}',
      f'{step / total:.1%}',
      '- images/s' if speed is None else f'{speed:,.0f} images/s',
      '-:--:-- left' if left is None else f'{format_duration(left)} left',
      *(f'{name} {float(value):.4g}' for name, value in metrics.items()),
    ]
    with self._errors:
      print('  '.join(parts), flush=True)
    return speed

  def _estimate(
    self, step: int, now: float
  ) -> tuple[float | None, float | None]:
    """Images a second since the last line, and seconds to the last step."""
    if self._first is None:
      return None, None
    speed = left = None
    last_step, last_time = self._last
    busy = now - last_time - self._paused
    if step > last_step and busy > 0:
      speed = (step - last_step) * self._batch_size / busy
    first_step, first_time = self._first
    if step > first_step:
      pace = (now - first_time) / (step - first_step)
      left = pace * (self._num_train_steps - step)
    return speed, left


def track(
  steps: Iterable[Step],
  what: str,
  total: int,
  describe: Callable[[Step], str] = lambda step: '',
  *,
  clock: Callable[[], float] = time.monotonic,
) -> Iterator[Step]:
  """Yields steps, and says how far they are once that takes some seconds.

  On a terminal that is a bar; a file or a pipe gets a line now and then. Of
  several processes the first one speaks.

  Args:
    steps: to be yielded.
    what: is being done: 'Evaluating'.
    total: how many steps there are.
    describe: what to say of the last one.
    clock: seconds, from any moment on.

  Yields:
    The steps.
  """
  on_terminal = sys.stderr.isatty()
  quiet = not on_terminal or jax.process_index() > 0
  start = said = clock()
  with tqdm(
    desc=what, total=total, leave=False, delay=_PATIENCE, disable=quiet
  ) as progress:
    for done, step in enumerate(steps, start=1):
      yield step
      progress.set_postfix_str(describe(step), refresh=False)
      progress.update()
      if not on_terminal and (now := clock()) - said >= _PATIENCE:
        said = now
        left = format_duration((now - start) / done * (total - done))
        parts = [f'{what}: {done:,} of {total:,}', f'{left} left']
        print('  '.join([*parts, describe(step)]).rstrip(), flush=True)


def format_duration(seconds: float) -> str:
  """Returns hours, minutes and seconds: '1:02:03'."""
  minutes, seconds = divmod(round(seconds), 60)
  return f'{minutes // 60}:{minutes % 60:02}:{seconds:02}'
