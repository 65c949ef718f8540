"""Two machines train on data in a bucket, until one is killed while it copies.

What a copy is worth is in `tests/data/buckets_test.py`.
"""

import functools
import os
import shutil
import sys
import time

import pytest

from tests.processes import read_rows, start_two, wait_for
from vaegan_jax.data.buckets import LAST_FILE, BucketFolder
from vaegan_jax.runtime import processes

pytest.importorskip('google.cloud.storage')
pytestmark = pytest.mark.skipif(
  not shutil.which('openssl'), reason='needs openssl'
)
_STEPS = ('--config.num_train_steps=2', '--config.checkpoint_every_steps=2')


def _be_machine(environment, copies):
  """Gives a process the bucket, and a place of its own for copies."""
  os.environ.update(environment)
  processes._HEARTBEAT_SECONDS = 5
  sys.argv.append(f'--config.data.copy_dir={copies}')


def _copy_slowly(environment, copies):
  """And takes long before a file that has arrived gets its name."""
  _be_machine(environment, copies)
  describe = BucketFolder._describe

  def slow(self, path):
    if path.name.startswith('.copying'):
      time.sleep(100)
    return describe(self, path)

  BucketFolder._describe = slow


def _files(folder):
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file() and not path.name.startswith('decoded-')
  }


def test_a_machine_that_was_killed_while_it_copied_copies_again(
  fake_bucket, tiny_run, image_folder, run, tmp_path
):
  for path in image_folder.iterdir():
    fake_bucket.write(f'pod/{path.name}', path.read_bytes())
  data = (
    '--config.data.path=gs://bucket/pod',
    '--config.data.data_dir=gs://bucket/pod_prepared/',
  )
  one, two = tmp_path / 'one', tmp_path / 'two'

  def start(*args, prepare):
    prepare = [
      functools.partial(each, fake_bucket.environment, copies)
      for each, copies in zip(prepare, (one, two), strict=True)
    ]
    return start_two(
      tmp_path / 'run', *tiny_run, *_STEPS, *data, *args, prepare=prepare
    )

  def stored():
    return {
      item['name']: item['generation']
      for item in fake_bucket.items()
      if item['name'].startswith('pod_prepared/')
    }

  both = start(prepare=(_be_machine, _copy_slowly))
  # The first has prepared the data, and has it; the second copies it.
  wait_for(lambda: len(list(two.rglob('.copying*'))) == 4)
  both[1].kill()
  assert both[0].wait(35) not in (0, 75)
  (prepared,) = two.glob('buckets/bucket/pod_prepared/image_folder/*')
  assert {path.name.partition('-')[0] for path in prepared.iterdir()} == {
    '.copying'
  }
  before = stored()
  assert any(name.endswith(LAST_FILE) for name in before)

  # They go on, and start from a run that is on a disk.
  first = tmp_path / 'first'
  assert run(first, *tiny_run, *_STEPS) == 0
  both = start(f'--config.init_from={first}', prepare=[_be_machine] * 2)
  assert [p.wait() for p in both] == [0, 0], both[0].err
  assert f'Starting from step 2 of {first}.' in both[0].out
  assert [row['step'] for row in read_rows(tmp_path / 'run')] == [1, 2]
  assert stored() == before
  assert not list(two.rglob('*.png'))
  (elsewhere,) = one.glob('buckets/bucket/pod_prepared/image_folder/*')
  assert _files(prepared) == _files(elsewhere)
