"""Disks that are full or read-only, a garbled cache, a failing TensorBoard."""

import contextlib
import functools
import os
import re
import subprocess
import time
from pathlib import Path

import numpy as np

from tests.faults.lab import (
  Lab,
  check,
  expect_status,
  mounted,
  slowly,
  use_cache,
  wait_for,
)
from tests.processes import saved_steps
from vaegan_jax.runtime import writers

_ROOM = 4  # Megabytes of the small disk.


def fill_the_disk(lab: Lab) -> tuple[str, str]:
  """Fills the disk while a run saves; in one case space returns in time."""
  lab.same(lab.undisturbed)
  workdir = lab.new('full')
  filler = workdir / 'filler'
  for in_time in (True, False):
    with mounted(workdir, _ROOM):
      process = lab.start(workdir, prepare=slowly)
      wait_for(lambda: len(saved_steps(workdir)) >= 2)
      _fill(filler)
      wait_for(lambda process=process: ' is not in ' in process.err)
      if in_time:
        filler.unlink()
      expect_status([process], 0 if in_time else 2)
      if not in_time:
        # Orbax may print more after it.
        message = r'^error: The last 3 checkpoints could not be written'
        check(re.search(message, process.err, re.MULTILINE), process.err)
        kept = saved_steps(workdir)
        filler.unlink()
        process = lab.run(workdir)
        check(f'Resuming after step {kept[-1]};' in process.out, process.out)
      lab.same(workdir)
  return (
    '2 runs',
    'the failed save reported at once, the earlier kept; with room again in '
    'time the run continued, else it ended with status 2 after three and was '
    'resumed; same bits',
  )


def _fill(path: Path) -> None:
  with contextlib.suppress(OSError), path.open('wb', buffering=0) as file:
    while True:
      file.write(bytes(1024))


def read_only(lab: Lab) -> tuple[str, str]:
  """Trains in a workdir on a read-only disk."""
  workdir = lab.new('read_only')
  if os.geteuid():
    workdir.mkdir(mode=0o555)
    lab.refused(workdir, 'cannot be written')
  else:  # The superuser can write to every folder.
    with mounted(workdir, 1):
      _remount(workdir, 'ro')
      lab.refused(workdir, 'cannot be written')
  return '1 run', 'refused with a message and status 2, before compiling'


def read_only_checkpoints(lab: Lab) -> tuple[str, str]:
  """Makes only `checkpoints/` read-only: at the start, and during a run."""
  lab.same(lab.undisturbed)
  workdir = lab.new('read_only_checkpoints')
  folder = workdir / 'checkpoints'
  with mounted(folder, _ROOM):
    _remount(folder, 'ro')
    lab.refused(workdir, f'because {folder} is not a folder or is read-only')
    _remount(folder, 'rw')
    process = lab.start(workdir, prepare=slowly)
    wait_for(lambda: len(saved_steps(workdir)) >= 2)
    _remount(folder, 'ro')
    wait_for(lambda: 'could not be written to' in process.err)
    start = time.monotonic()
    expect_status([process], 2)
    seconds = time.monotonic() - start
    check(seconds < 30, f'it ended {seconds:.0f} s after its last output')
    check('never awaited' not in process.err, process.err)
    kept = saved_steps(workdir)
    _remount(folder, 'rw')
    process = lab.run(workdir)
    check(f'Resuming after step {kept[-1]};' in process.out, process.out)
    lab.same(workdir)
  return (
    '2 runs',
    'refused with a message and status 2, before compiling; within a run it '
    f'ended with status 2, {seconds:.0f} s after its last output, and was '
    'resumed: same bits',
  )


def _remount(folder: Path, how: str) -> None:
  """Remounts a disk as 'ro' or 'rw', once no file is being written."""
  command = ['mount', '-o', f'remount,{how}', folder]
  wait_for(lambda: not subprocess.run(command, capture_output=True).returncode)


def garble_the_cache(lab: Lab) -> tuple[str, str]:
  """Kills runs that write the compilation cache, and then garbles it."""
  lab.same(lab.undisturbed)
  cache = lab.new('cache')
  prepare = functools.partial(use_cache, cache)
  rng = np.random.default_rng(2)
  workdir = lab.new('cached')
  for _ in range(3):
    number = _count(cache)
    process = lab.start(workdir, prepare=prepare)
    wait_for(lambda number=number: _count(cache) > number)
    time.sleep(rng.uniform(0, 0.5))
    process.kill()
  lab.run(workdir, prepare=prepare)
  lab.same(workdir)
  for index, path in enumerate(sorted(cache.iterdir())):
    content = path.read_bytes()
    half = content[: len(content) // 2]
    path.write_bytes((b'', half, half + rng.bytes(len(half)))[index % 3])
  lab.run(garbled := lab.new('garbled'), prepare=prepare)
  lab.same(garbled)
  return (
    f'3 kills, {index + 1} files',
    'compiled again where needed; same bits',
  )


def _count(folder: Path) -> int:
  return len(list(folder.iterdir())) if folder.is_dir() else 0


class _FailingBoard:
  def __getattr__(self, method):
    raise ConnectionError('no board')


def _break_tensorboard() -> None:
  writers._tensorboard_writer = lambda _: _FailingBoard()


def break_tensorboard(lab: Lab) -> tuple[str, str]:
  """Makes every call of the TensorBoard writer raise."""
  lab.same(lab.undisturbed)
  process = lab.run(workdir := lab.new('board'), prepare=_break_tensorboard)
  check(process.err.count('no board') == 1, process.err)
  lab.same(workdir)
  return '1 run', 'one warning; same bits and record'
