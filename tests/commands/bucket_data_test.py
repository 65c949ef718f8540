"""Two machines train on data in a bucket; one is killed while it copies.

`tests/data/buckets_test.py` tests the checks of copies, and
`python -m tests.faults --rows=bucket` has more kills.
"""

import shutil

import pytest

from tests.faults.buckets import COPYING, Machines
from tests.processes import read_rows, start_two, wait_for

pytest.importorskip('google.cloud.storage')
pytestmark = pytest.mark.skipif(
  not shutil.which('openssl'), reason='needs openssl'
)


def _files(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_machine_killed_while_copying_copies_again(
  fake_bucket, tiny_run, image_folder, run, tmp_path
):
  machines = Machines(fake_bucket, image_folder, tmp_path)
  workdir, first = tmp_path / 'run', tmp_path / 'first'
  args = (
    *(*tiny_run, '--config.num_train_steps=2'),
    '--config.checkpoint_every_steps=2',
    '--config.objective=mse',  # A critic compiles slowly.
  )
  both = start_two(
    workdir, *args, *machines.flags, prepare=machines.prepare('', COPYING)
  )
  # The first has its copy; the second has not checked any file.
  wait_for(lambda: len(machines.partial(1)) == 43)
  both[1].kill()
  assert both[0].wait(35) not in (0, 75)
  assert all(
    path.name.startswith(COPYING) for path in machines.copied(1).iterdir()
  )

  # They resume; the run starts from the weights of a run on a disk.
  assert run(first, *args) == 0
  start = f'--config.init_from={first}'
  both = start_two(
    workdir, *args, *machines.flags, start, prepare=machines.prepare()
  )
  assert [p.wait() for p in both] == [0, 0], both[0].err
  assert f'Starting from step 2 of {first}.' in both[0].out
  assert [row['step'] for row in read_rows(workdir)] == [1, 2]
  assert not machines.stored()  # Folders are read, and not prepared.
  for index in range(2):
    assert _files(machines.copied(index)) == _files(image_folder)
