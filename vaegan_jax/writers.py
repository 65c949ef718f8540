"""What training shows and records: metrics, figures and a progress line.

Owns `metrics.jsonl` (the record: one line a step, no step twice, whatever
killed and resumed the run), TensorBoard events, the PNG files under `figures/`
and the line on the terminal. Nothing here ever stops training: a full disk or
a missing TensorBoard costs one warning.

In a run of several processes the first one alone has `Writers`.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from vaegan_jax import figures
from vaegan_jax.errors import UserError


def check_writable(workdir: epath.PathLike) -> None:
  """Fails early if a folder cannot be made or written; makes nothing.

  Args:
    workdir: a folder that need not exist, on a disk or in a bucket.

  Raises:
    UserError: it, or the nearest folder above it, is a file or read-only, or
      the bucket does not take and give back an object.
  """
  path = epath.Path(workdir)
  if '://' in os.fspath(path):
    _check_bucket(path)
    return
  while not path.exists() and path != path.parent:
    path = path.parent
  if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
    raise UserError(
      f'--workdir={workdir} cannot be written, because {path} is not a folder '
      'or is read-only: name another, such as --workdir=runs/first'
    )


def _check_bucket(path: epath.Path) -> None:
  # One for each process: they ask at the same time.
  probe = path / f'.probe-{os.getpid()}-{time.time_ns()}'
  try:
    # Orbax asks it about the bucket, and does not bring it.
    import google.cloud.storage  # noqa: F401

    probe.write_text('x')
    probe.unlink()
  except Exception as error:  # TensorFlow's errors are of no common class.
    raise UserError(
      f'--workdir={path} cannot be written ({error}): see that the bucket '
      'exists, that you may write to it (gcloud auth application-default '
      'login) and that google-cloud-storage is installed'
    ) from error


class _WarnOnce:
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


class MetricsFile:
  """`<workdir>/metrics.jsonl`: a JSON object a line, `step` and metrics.

  A line is on its way to the disk when `write` returns. If the disk refuses,
  the lines are kept and tried again with the next.
  """

  def __init__(self, workdir: epath.PathLike, start_step: int = 0):
    """Opens the file for a run that goes on after `start_step`.

    Lines of later steps, which that run will write again, and lines that are
    not whole are dropped, in one atomic replacement.

    Args:
      workdir: the run's folder; made if need be.
      start_step: the last step already done; 0 for a new run.
    """
    self._path = epath.Path(workdir) / 'metrics.jsonl'
    self._start_step = start_step
    self._errors = _WarnOnce(f'Writing {self._path}')
    self._pending = b''
    self._size = None  # In bytes, of whole lines; None: not yet cut.
    with self._errors:
      self._cut()

  def write(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Appends one line.

    Args:
      step: which update.
      metrics: name -> a number or an array of one; NaN and infinity become
        `null`, as JSON has neither.
    """
    row = {'step': int(step)}
    for name, value in metrics.items():
      value = float(value)
      row[name] = value if math.isfinite(value) else None
    self._pending += json.dumps(row, allow_nan=False).encode() + b'\n'
    with self._errors:
      self._append()

  def _cut(self) -> None:
    self._path.parent.mkdir(parents=True, exist_ok=True)
    content = self._path.read_bytes() if self._path.exists() else b''
    kept = [ln for ln in content.splitlines() if self._is_past(ln)]
    kept = b''.join(line + b'\n' for line in kept)
    if kept != content:
      temporary = self._path.with_name(self._path.name + '.tmp')
      temporary.write_bytes(kept)
      temporary.replace(self._path)
    self._size = len(kept)

  def _is_past(self, line: bytes) -> bool:
    try:
      return json.loads(line)['step'] <= self._start_step
    except (ValueError, TypeError, KeyError):
      return False  # Torn.

  def _append(self) -> None:
    if self._size is None:
      self._cut()
    with self._path.open('ab') as file:
      if file.tell() > self._size:  # The torn end of a write that failed.
        file.seek(file.truncate(self._size))
      file.write(self._pending)
      file.flush()
      self._size = file.tell()
    self._pending = b''


class Writers:
  """Sends metrics, figures and texts to every place that keeps them."""

  def __init__(self, workdir: epath.PathLike, start_step: int = 0):
    """Opens the records of a run that goes on after `start_step`.

    Args:
      workdir: the run's folder, of `metrics.jsonl`, `figures/` and the
        TensorBoard events.
      start_step: the last step already done; 0 for a new run.
    """
    self._workdir = epath.Path(workdir)
    self._metrics = MetricsFile(workdir, start_step)
    self._figure_errors = _WarnOnce(f'Writing to {self._workdir / "figures"}')
    self._board_errors = _WarnOnce('TensorBoard')
    self._board = None
    with self._board_errors:
      self._board = _tensorboard_writer(self._workdir)

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Records metrics.

    Args:
      step: which update.
      scalars: name -> a number or an array of one.
    """
    scalars = {name: float(value) for name, value in scalars.items()}
    self._metrics.write(step, scalars)
    self._to_board('write_scalars', step, scalars)

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Records figures, as `figures/<name>_<step>.png` too.

    Args:
      step: which update.
      images: name -> [H, W, 3] uint8; a slash in a name makes a folder.
    """
    for name, image in images.items():
      with self._figure_errors:
        path = self._workdir / 'figures' / f'{name}_{step:08d}.png'
        figures.save_png(path, image)
    batches = {name: image[None] for name, image in images.items()}
    self._to_board('write_images', step, batches)

  def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
    """Shows texts (name -> Markdown) in TensorBoard."""
    self._to_board('write_texts', step, texts)

  def write_hparams(self, hparams: Mapping[str, Any]) -> None:
    """Shows the configuration, nested or not, in TensorBoard."""
    self._to_board('write_hparams', hparams)

  def flush(self) -> None:
    """Waits until everything is written."""
    self._to_board('flush')

  def close(self) -> None:
    """Writes what is left; nothing may be written afterwards."""
    self._to_board('close')

  def _to_board(self, method: str, *args: Any) -> None:
    if self._board is not None:
      # CLU writes in a thread of its own: an error may be an earlier call's.
      with self._board_errors:
        getattr(self._board, method)(*args)


class NoWriters:
  """What all other processes have: it takes everything and keeps nothing."""

  def __getattr__(self, method: str) -> Callable[..., None]:
    """Stands for each method of `Writers`."""
    return lambda *_: None


def _tensorboard_writer(workdir: epath.Path):
  """CLU's writer: TensorBoard events and the INFO log, in a thread."""
  # Seconds to import: only a process that records pays for TensorFlow. It
  # would tell the user of its CPU kernels, which nothing here runs.
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
  import tensorflow as tf
  from clu import metric_writers

  # TensorFlow would reserve the memory of every GPU that it sees. It refuses
  # to be told so once it is in use, and then it is too late.
  with contextlib.suppress(RuntimeError):
    tf.config.set_visible_devices([], 'GPU')
  return metric_writers.create_default_writer(os.fspath(workdir))


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
    self._errors = _WarnOnce('Printing progress')
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


def write_text(path: epath.Path, text: str) -> None:
  """Writes a file whole or not at all, and its folder if need be."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(path.name + '.tmp')
  temporary.write_text(text)
  temporary.replace(path)


def format_duration(seconds: float) -> str:
  """Returns hours, minutes and seconds: '1:02:03'."""
  minutes, seconds = divmod(round(seconds), 60)
  return f'{minutes // 60}:{minutes % 60:02}:{seconds:02}'
