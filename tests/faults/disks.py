"""Disks that are full, read-only or garbled, and a TensorBoard that fails."""

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
  """A disk that fills up while a run saves; once it gets room in time."""
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
        # Orbax may have more to say after it.
        told = r'^error: The last 3 checkpoints could not be written'
        check(re.search(told, process.err, re.MULTILINE), process.err)
        kept = saved_steps(workdir)
        filler.unlink()
        process = lab.run(workdir)
        check(f'Resuming after step {kept[-1]};' in process.out, process.out)
      lab.same(workdir)
  return (
    '2 runs',
    'the failed save told at once, the earlier kept; with room again in time '
    'the run went on, else it ended with status 2 after three and was resumed; '
    'same bits',
  )


def _fill(path: Path) -> None:
  with contextlib.suppress(OSError), path.open('wb', buffering=0) as file:
    while True:
      file.write(bytes(1024))


def read_only(lab: Lab) -> tuple[str, str]:
  """A workdir on a disk that is read-only."""
  workdir = lab.new('read_only')
  if os.geteuid():
    workdir.mkdir(mode=0o555)
    lab.refused(workdir, 'cannot be written')
  else:  # No folder is read-only to the superuser.
    with mounted(workdir, 1):
      _remount(workdir, 'ro')
      lab.refused(workdir, 'cannot be written')
  return '1 run', 'refused in a sentence with status 2, before compiling'


def read_only_checkpoints(lab: Lab) -> tuple[str, str]:
  """Only `checkpoints/` is read-only: from the beginning, and while it runs."""
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
    check(seconds < 30, f'it ended {seconds:.0f} s after its last word')
    check('never awaited' not in process.err, process.err)
    kept = saved_steps(workdir)
    _remount(folder, 'rw')
    process = lab.run(workdir)
    check(f'Resuming after step {kept[-1]};' in process.out, process.out)
    lab.same(workdir)
  return (
    '2 runs',
    'refused in a sentence with status 2, before compiling; within a run it '
    f'ended with status 2, {seconds:.0f} s after its last word, and was '
    'resumed: same bits',
  )


def _remount(folder: Path, how: str) -> None:
  """Makes a mounted disk 'ro' or 'rw', as soon as no file is being written."""
  command = ['mount', '-o', f'remount,{how}', folder]
  wait_for(lambda: not subprocess.run(command, capture_output=True).returncode)


def garble_the_cache(lab: Lab) -> tuple[str, str]:
  """Kills while compilations are kept, and then garbles what is kept."""
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
    'compiled anew where need be; same bits',
  )


def _count(folder: Path) -> int:
  return len(list(folder.iterdir())) if folder.is_dir() else 0


class _FailingBoard:
  def __getattr__(self, method):
    raise ConnectionError('no board')


def _break_the_board() -> None:
  writers._tensorboard_writer = lambda _: _FailingBoard()


def break_the_board(lab: Lab) -> tuple[str, str]:
  """Every call of the TensorBoard writer raises."""
  lab.same(lab.undisturbed)
  process = lab.run(workdir := lab.new('board'), prepare=_break_the_board)
  check(process.err.count('no board') == 1, process.err)
  lab.same(workdir)
  return '1 run', 'one warning; same bits and record'
