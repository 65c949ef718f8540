"""What training records: metrics, figures, sounds and texts.

Owns `metrics.jsonl` (the record: one line a step, no step twice, whatever
killed and resumed the run), TensorBoard events and the PNG files under
`figures/`. Nothing here ever stops training: a full disk or
a missing TensorBoard costs one warning.

In a run of several processes the first one alone has `Writers`.
"""

import contextlib
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
    self._errors = WarnOnce(f'Writing {self._path}')
    self._pending = b''
    self._size = None  # In bytes, of whole lines; None: not yet cut.
    with self._errors:
      self._cut()

  def write(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Appends one line, or adds to that of the step before the first.

    Args:
      step: which update.
      metrics: name -> a number or an array of one; NaN and infinity become
        `null`, as JSON has neither.
    """
    row = {'step': int(step)}
    for name, value in metrics.items():
      value = float(value)
      row[name] = value if math.isfinite(value) else None
    with self._errors:
      if step == self._start_step:  # Its row is there already.
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


def _to_line(row) -> bytes:
  return json.dumps(row, allow_nan=False).encode() + b'\n'


def read_row(workdir: epath.PathLike, step: int) -> dict[str, Any]:
  """Returns what `metrics.jsonl` has of a step; {} if it has nothing."""
  path = epath.Path(workdir) / 'metrics.jsonl'
  for line in reversed(path.read_bytes().splitlines() if path.exists() else []):
    with contextlib.suppress(ValueError, TypeError, KeyError):  # Torn.
      if (row := json.loads(line))['step'] == step:
        return row
  return {}


def has_scores(workdir: epath.PathLike, step: int) -> bool:
  """Whether a step's evaluation is in the record."""
  return any(name.startswith('eval/') for name in read_row(workdir, step))


def has_figures(workdir: epath.PathLike, step: int) -> bool:
  """Whether there is a figure of a step."""
  figures = epath.Path(workdir) / 'figures'
  return any(figures.glob(f'*_{step:08d}.png'))


class Writers:
  """Sends metrics, figures, sounds and texts to every place that keeps them."""

  def __init__(self, workdir: epath.PathLike, start_step: int = 0):
    """Opens the records of a run that goes on after `start_step`.

    Args:
      workdir: the run's folder, of `metrics.jsonl`, `figures/` and the
        TensorBoard events.
      start_step: the last step already done; 0 for a new run.
    """
    self._workdir = epath.Path(workdir)
    self._metrics = MetricsFile(workdir, start_step)
    self._figure_errors = WarnOnce(f'Writing to {self._workdir / "figures"}')
    self._board_errors = WarnOnce('TensorBoard')
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
        save_png(path, image)
    batches = {name: image[None] for name, image in images.items()}
    self._to_board('write_images', step, batches)

  def write_audios(
    self, step: int, audios: Mapping[str, np.ndarray], sample_rate: int
  ) -> None:
    """Lets TensorBoard play sounds.

    Args:
      step: which update.
      audios: name -> [N, T, C] float in [-1, 1].
      sample_rate: in Hz.
    """
    self._to_board('write_audios', step, audios, sample_rate=sample_rate)

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

  def _to_board(self, method: str, *args: Any, **options: Any) -> None:
    if self._board is not None:
      # CLU writes in a thread of its own: an error may be an earlier call's.
      with self._board_errors:
        getattr(self._board, method)(*args, **options)


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
