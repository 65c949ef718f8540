"""The records of a run: metrics, figures, sounds and texts.

Owns `metrics.jsonl` (one line per step, no step twice, even if the run was
killed and resumed), TensorBoard events and the PNG files under `figures/`. No
error here stops training: a full disk or a missing TensorBoard costs one
warning. Only the first of several processes has `Writers`.
"""

import contextlib
import functools
import json
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

from vaegan_jax.runtime.files import replacing, save_png
from vaegan_jax.runtime.progress import WarnOnce


class MetricsFile:
  """The file `<workdir>/metrics.jsonl`: one JSON object per line.

  A line is flushed when `write` returns. After an error the lines are kept and
  written with the next.
  """

  def __init__(self, workdir: epath.PathLike, start_step: int = 0):
    """Opens the file for a run that continues after `start_step`.

    Removes lines of later steps, which the run will write again, and damaged
    lines, in one atomic replacement.
    """
    self._path = epath.Path(workdir) / 'metrics.jsonl'
    self._start_step = start_step
    self._errors = WarnOnce(f'Writing {self._path}')
    self._pending = b''
    self._size = None  # Bytes of whole lines; None: not cut yet.
    with self._errors:
      self._cut()

  def write(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Appends a line, or extends that of `start_step`.

    Metrics are numbers or [] arrays. NaN and infinity become `null`, as JSON
    has neither.
    """
    row = {'step': int(step)}
    for name, value in metrics.items():
      value = float(value)
      row[name] = value if math.isfinite(value) else None
    with self._errors:
      if step == self._start_step:  # Its line exists.
        row = read_row(self._path.parent, step) | row
        self._start_step -= 1
        self._cut(then=_to_line(row))
        return
    self._pending += _to_line(row)
    with self._errors:
      self._append()

  def _cut(self, then: bytes = b'') -> None:
    self._path.parent.mkdir(parents=True, exist_ok=True)
    content = self._path.read_bytes() if self._path.exists() else b''
    kept = [ln for ln in content.splitlines() if self._is_past(ln)]
    kept = b''.join(line + b'\n' for line in kept) + then
    if kept != content:
      with replacing(self._path) as temporary:
        temporary.write_bytes(kept)
    self._size = len(kept)

  def _is_past(self, line: bytes) -> bool:
    try:
      return json.loads(line)['step'] <= self._start_step
    except (ValueError, TypeError, KeyError):
      return False  # Incomplete.

  def _append(self) -> None:
    if self._size is None:
      self._cut()
    with self._path.open('ab') as file:
      if file.tell() > self._size:  # The incomplete line of a failed write.
        file.seek(file.truncate(self._size))
      file.write(self._pending)
      file.flush()
      self._size = file.tell()
    self._pending = b''


def _to_line(row) -> bytes:
  return json.dumps(row, allow_nan=False).encode() + b'\n'


def read_row(workdir: epath.PathLike, step: int) -> dict[str, Any]:
  """Returns the line of a step in `metrics.jsonl`; {} without one."""
  path = epath.Path(workdir) / 'metrics.jsonl'
  for line in reversed(path.read_bytes().splitlines() if path.exists() else []):
    with contextlib.suppress(ValueError, TypeError, KeyError):  # Incomplete.
      if (row := json.loads(line))['step'] == step:
        return row
  return {}


def has_scores(workdir: epath.PathLike, step: int) -> bool:
  """Returns whether the evaluation of a step is recorded."""
  return any(name.startswith('eval/') for name in read_row(workdir, step))


def has_figures(workdir: epath.PathLike, step: int) -> bool:
  """Returns whether a figure of a step exists."""
  figures = epath.Path(workdir) / 'figures'
  return any(figures.glob(f'*_{step:08d}.png'))


class Writers:
  """All writers of a run's metrics, figures, sounds and texts."""

  def __init__(self, workdir: epath.PathLike, start_step: int = 0):
    """Opens the records of a run that continues after `start_step`."""
    self._workdir = epath.Path(workdir)
    self._metrics = MetricsFile(workdir, start_step)
    self._figure_errors = WarnOnce(f'Writing to {self._workdir / "figures"}')
    self._board_errors = WarnOnce('TensorBoard')
    self._board = None
    with self._board_errors:
      self._board = _tensorboard_writer(self._workdir)

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Writes metrics: name -> number or [] array."""
    scalars = {name: float(value) for name, value in scalars.items()}
    self._metrics.write(step, scalars)
    self._to_board('write_scalars', step, scalars)

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Writes figures [H, W, 3] uint8, also as `figures/<name>_<step>.png`.

    A slash in a name makes a folder.
    """
    for name, image in images.items():
      with self._figure_errors:
        path = self._workdir / 'figures' / f'{name}_{step:08d}.png'
        save_png(path, image)
    batches = {name: image[None] for name, image in images.items()}
    self._to_board('write_images', step, batches)

  def __getattr__(self, method: str) -> Callable[..., None]:
    """Returns a method of CLU's writer whose errors cost one warning.

    `write_audios`, `write_texts`, `write_hparams`, `flush` and `close` are not
    defined here.
    """
    return functools.partial(self._to_board, method)

  def _to_board(self, method: str, *args: Any, **options: Any) -> None:
    if self._board is not None:
      # CLU writes in a thread: an error may come from an earlier call.
      with self._board_errors:
        getattr(self._board, method)(*args, **options)


class NoWriters:
  """Writers of the other processes, which write nothing."""

  def __getattr__(self, method: str) -> Callable[..., None]:
    return lambda *_, **__: None


def _tensorboard_writer(workdir: epath.Path):
  """Returns CLU's writer of TensorBoard events and the INFO log."""
  # Imported late: TensorFlow takes seconds. The variable silences a notice
  # about its CPU kernels.
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
  import tensorflow as tf
  from clu import metric_writers

  # TensorFlow would reserve the memory of all GPUs. Once it is in use, it
  # raises here, and it is too late.
  with contextlib.suppress(RuntimeError):
    tf.config.set_visible_devices([], 'GPU')
  return metric_writers.create_default_writer(os.fspath(workdir))
