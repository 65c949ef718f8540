"""Data in a bucket: kills machines while they copy it."""

import contextlib
import functools
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.fake_bucket import FakeBucket
from tests.faults.damage import METHODS
from tests.faults.lab import Lab, Skipped, check, wait_for
from vaegan_jax.data import buckets
from vaegan_jax.runtime import processes

COPYING = '.copying'  # Prefix of files that are not yet complete.


def _be_machine(
  environment: Mapping[str, str], copies: Path, held: str
) -> None:
  """Prepares a process with access to the bucket and its own copies.

  Args:
    environment: variables that point to the bucket.
    copies: folder of the copies.
    held: the process halts before it checks a file with this prefix.
  """
  os.environ.update(environment)
  sys.argv.append(f'--config.data.copy_dir={copies}')
  processes._HEARTBEAT_SECONDS = 5
  describe = buckets.describe

  def describe_or_halt(path):
    while held and path.name.startswith(held):
      time.sleep(1)
    return describe(path)

  buckets.describe = describe_or_halt


class Machines:
  """Two machines, and a bucket with the images that they copy.

  Attributes:
    copies: folder of each machine's copies.
    flags: flags of a run on the images.
  """

  def __init__(self, bucket: FakeBucket, images: Path, folder: Path):
    """Fills the bucket with the images; `folder` holds all copies."""
    self.copies = folder / 'machine_0', folder / 'machine_1'
    self.flags = (
      '--config.data.path=gs://bucket/images',
      '--config.data.data_dir=gs://bucket/prepared',
    )
    self._bucket = bucket
    for path in images.iterdir():
      bucket.write(f'images/{path.name}', path.read_bytes())

  def prepare(self, *held: str) -> list[Callable[[], None]]:
    """Returns what prepares the two processes; see `_be_machine` for `held`."""
    return [
      functools.partial(
        _be_machine, self._bucket.client_environment, copies, name
      )
      for copies, name in zip(self.copies, held or ('', ''), strict=True)
    ]

  def stored(self) -> dict[str, str]:
    """Returns the prepared objects of the bucket with their generations."""
    return {
      item['name']: item['generation']
      for item in self._bucket.items()
      if item['name'].startswith('prepared/')
    }

  def partial(self, index: int) -> list[Path]:
    """Returns the files that a machine has only partly copied."""
    return list(self.copies[index].rglob(f'{COPYING}*'))

  def copied(self, index: int) -> Path:
    """Returns the copy that a machine has of the images."""
    return self.copies[index] / 'buckets' / 'bucket' / 'images'


@contextlib.contextmanager
def _bucket(folder: Path) -> Iterator[FakeBucket]:
  if not shutil.which('openssl'):
    raise Skipped('there is no `openssl` here')
  folder.mkdir()
  bucket = FakeBucket(folder)
  try:
    yield bucket
  finally:
    bucket.close()


def kill_while_copying(lab: Lab) -> tuple[str, str]:
  """Kills one of two while it copies, and then damages every file."""
  workdir, copies = lab.new('from_bucket'), lab.new('copies')
  with _bucket(lab.new('bucket')) as bucket:
    machines = Machines(bucket, lab.images, copies)
    moments = (
      ((COPYING, ''), 0, lambda: machines.partial(0)),
      (('', COPYING), 1, lambda: machines.partial(1)),
    )
    for held, victim, reached in moments:
      both = lab.start_two(
        workdir, *machines.flags, prepare=machines.prepare(*held)
      )
      wait_for(reached)
      both[victim].kill()
      status = both[1 - victim].wait(60)
      check(status not in (0, 75), f'the survivor ended with {status}')
      check(not (workdir / 'metrics.jsonl').exists(), 'a partial copy was used')
    files = sorted(path.name for path in lab.images.iterdir())
    lab.run_two(workdir, *machines.flags, prepare=machines.prepare())
    lab.same(workdir, lab.undisturbed_two)
    for index, name in enumerate(files):
      method = list(METHODS)[index % len(METHODS)]
      METHODS[method](machines.copied(1) / name)
    shutil.rmtree(workdir)
    lab.run_two(workdir, *machines.flags, prepare=machines.prepare())
    lab.same(workdir, lab.undisturbed_two)
    check(not machines.stored(), 'the folder was prepared in the bucket')
  return (
    f'{len(moments)} kills, {len(files)} damaged files',
    'no partial copy was used; same bits',
  )
