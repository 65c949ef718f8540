"""Runs of the suite, and the checks that none of them lost anything."""

import contextlib
import functools
import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from tests.environment import environment
from tests.processes import (
  MAIN,
  Process,
  heed_signals,
  read_rows,
  start_two,
)
from tests.tiny_run import R1_FLAGS, draw_images, tiny_flags
from vaegan_jax.config.io import load_config
from vaegan_jax.runtime.checkpoints import Checkpoints
from vaegan_jax.runtime.preemption import Stopper
from vaegan_jax.runtime.progress import format_duration
from vaegan_jax.setup.networks import create_networks

_PATIENCE_SECONDS = 600  # Timeout of every wait.
_SPEED = 'train/images_per_second'


class Loss(Exception):
  """A run ended differently from the undisturbed run."""


class Skipped(Exception):
  """A row cannot run on this machine; the message says why."""


class Lab:
  """Folder with images, the flags of a tiny run on them, and runs.

  Args:
    folder: created if missing; may hold runs to reuse.
    flags: flags of the run; by default it trains on synthetic images.
    last_step: last step of the runs, even; every second step is saved.
    warm_up: whether a run fills the caches of data and compilations before the
      undisturbed one, whose duration is then that of the others.
  """

  def __init__(
    self,
    folder: Path,
    flags: tuple[str, ...] = (),
    last_step: int = 80,
    warm_up: bool = True,
  ):
    folder.mkdir(parents=True, exist_ok=True)
    self.folder = folder
    self.last_step = last_step
    self._warm_up = warm_up
    if not flags:
      if not self.images.exists():
        self.images.mkdir()
        draw_images(self.images)
      flags = (*tiny_flags(self.images, self.data), *R1_FLAGS)
    self.flags = (
      *flags,
      f'--config.num_train_steps={last_step}',
      '--config.checkpoint_every_steps=2',
      f'--config.eval_every_steps={last_step // 2}',
    )
    self.seconds = 0.0  # Duration of the undisturbed run.

  @property
  def images(self) -> Path:
    return self.folder / 'images'

  @property
  def data(self) -> Path:
    return self.folder / 'data'

  def new(self, name: str) -> Path:
    """Returns the path of a workdir, which does not exist."""
    workdir = self.folder / name
    shutil.rmtree(workdir, ignore_errors=True)
    return workdir

  def copy(self, name: str, source: Path | None = None) -> Path:
    """Returns a copy of a finished run (default: the undisturbed one)."""
    return shutil.copytree(source or self.undisturbed, self.new(name))

  def start(self, workdir: Path, *flags, **options) -> Process:
    """Starts or resumes a run; see `Process` for the options."""
    return Process(workdir, *self.flags, *flags, **options)

  def start_two(self, workdir: Path, *flags, **options) -> list[Process]:
    return start_two(workdir, *self.flags, *flags, **options)

  def run(self, workdir: Path, *flags, status: int = 0, **options) -> Process:
    """Runs to the end and checks the exit status."""
    process = self.start(workdir, *flags, **options)
    expect_status([process], status)
    return process

  def run_two(self, workdir: Path, *flags, **options) -> list[Process]:
    processes = self.start_two(workdir, *flags, **options)
    expect_status(processes, 0)
    return processes

  def run_plain(self, workdir: Path, *flags, **variables):
    """Starts a new Python with additional environment variables."""
    return subprocess.Popen(
      [sys.executable, MAIN, *self.flags, *flags, f'--workdir={workdir}'],
      env=environment(1) | variables,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      preexec_fn=heed_signals,
    )

  def refused(self, workdir: Path, message: str, *flags, **options) -> Process:
    """Runs a command that must be refused with a message."""
    process = self.run(workdir, *flags, status=2, **options)
    sentence = process.err.splitlines()[-1]
    check(sentence.startswith('error: ') and message in sentence, process.err)
    check('compiling' not in process.out, 'it compiled before it was refused')
    return process

  @functools.cached_property
  def undisturbed(self) -> Path:
    """Returns the workdir of a complete run, which must not be changed."""
    workdir = self.new('undisturbed')
    if self._warm_up:
      self.run(self.new('warm_up'))
    start = time.monotonic()
    self.run(workdir)
    self.seconds = time.monotonic() - start
    return workdir

  @functools.cached_property
  def undisturbed_two(self) -> Path:
    """Returns the same for two processes with two devices each."""
    workdir = self.new('undisturbed_two')
    self.run_two(workdir)
    return workdir

  @functools.cached_property
  def _template(self):
    config = load_config(self.undisturbed / 'config.json')
    return jax.eval_shape(create_networks(config)[2])

  def digest(self, workdir: Path) -> tuple[int, str]:
    """Returns the newest step and the SHA-256 of all leaves of its state."""
    restored = Checkpoints(workdir).restore(self._template, quarantine=False)
    check(restored is not None, f'{workdir} has no checkpoint')
    state, step = restored
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
      name = jax.tree_util.keystr(path)
      digest.update(f'{name} {leaf.dtype} {leaf.shape}'.encode())
      digest.update(leaf.tobytes())
    return step, digest.hexdigest()

  def same(self, workdir: Path, expected: Path | None = None) -> None:
    """Raises Loss unless state and record equal the undisturbed run's."""
    expected = expected or self.undisturbed
    got, want = self.digest(workdir), self.digest(expected)
    check(got == want, f'{workdir.name}: the state is {got}, not {want}')
    got, want = _record(workdir), _record(expected)
    other = [
      pair
      for pair in zip(got, want, strict=False)
      if len(set(map(str, pair))) > 1
    ]
    check(
      got == want,
      f'{workdir.name}: another record, of {len(got)} rows for {len(want)}: '
      f'{other[:1]}',
    )

  def close(self, workdir: Path, expected: Path | None = None) -> None:
    """Raises Loss unless the record equals the other run's up to rounding."""
    got, want = _record(workdir), _record(expected or self.undisturbed)
    check([row.keys() for row in got] == [row.keys() for row in want], 'steps')
    for row, like in zip(got, want, strict=True):
      close = np.allclose([*row.values()], [*like.values()], 1e-5, 1e-5)
      check(close, f'{workdir.name}: at step {row["step"]}, {row} not {like}')

  def count(self, total: int, name: str) -> Iterator[int]:
    """Counts from 0, and prints the progress and the remaining time."""
    start = time.monotonic()
    for index in range(total):
      elapsed = time.monotonic() - start
      left = format_duration(elapsed / index * (total - index)) if index else ''
      print(
        f'  {name} {index + 1} of {total}  {format_duration(elapsed)} elapsed  '
        f'{left or "-:--:--"} left',
        flush=True,
      )
      yield index


def _record(workdir: Path) -> list[dict]:
  """Returns the rows of the metrics without the speed."""
  rows = read_rows(workdir)
  for row in rows:
    row.pop(_SPEED, None)
  return rows


def check(condition: bool, message: str) -> None:
  """Raises Loss with the message unless the condition holds."""
  if not condition:
    raise Loss(message)


def expect_status(processes: list[Process], *statuses: int) -> None:
  """Waits for processes and checks their exit statuses."""
  for process in processes:
    status = process.wait(_PATIENCE_SECONDS)
    check(status in statuses, f'exit status {status}: {process.err[-1000:]}')


def wait_for(condition: Callable[[], bool]) -> None:
  """Waits until a condition holds."""
  deadline = time.monotonic() + _PATIENCE_SECONDS
  while not condition():
    if time.monotonic() > deadline:
      raise TimeoutError(f'nothing happened in {_PATIENCE_SECONDS} s')
    time.sleep(0.02)


def wait_for_step(workdir: Path, step: int) -> None:
  """Waits until the record contains a step."""
  wait_for(lambda: (rows := read_rows(workdir)) and rows[-1]['step'] >= step)


def snapshot(workdir: Path) -> dict[Path, bytes | None]:
  """Returns every path of a workdir with its content."""
  return {
    path: path.read_bytes() if path.is_file() else None
    for path in sorted(workdir.rglob('*'))
  }


@contextlib.contextmanager
def mounted(folder: Path, megabytes: int) -> Iterator[None]:
  """Mounts a small disk at a folder for the duration of the context.

  Raises:
    Skipped: this user or machine cannot mount a disk.
  """
  folder.mkdir(parents=True, exist_ok=True)
  options = ['-t', 'tmpfs', '-o', f'size={megabytes}m', 'faults', folder]
  try:
    done = subprocess.run(['mount', *options], capture_output=True, text=True)
  except FileNotFoundError as error:
    raise Skipped('there is no `mount` here') from error
  if done.returncode:
    raise Skipped(f'no small disk could be mounted ({done.stderr.strip()})')
  try:
    yield
  finally:
    subprocess.run(['umount', folder], check=True)


def slowly() -> None:
  """Prepares a process with slow steps, which leave time for a fault."""
  requested = Stopper.requested

  def slow(self):
    time.sleep(0.1)
    return requested(self)

  Stopper.requested = slow


def use_cache(folder: Path) -> None:
  """Prepares a process with its compilation cache in this folder."""
  jax.config.update('jax_compilation_cache_dir', str(folder))
