"""Workdirs on gs://, over HTTP, in the bucket of `fake_bucket.py`.

Google's side is not tested: permissions, latency, quotas, and buckets with a
hierarchical namespace.
"""

import functools
import json
import os
import shutil
import signal
import time
from multiprocessing import forkserver

import jax
import pytest

import vaegan_jax
from tests import command_line
from tests.finished_run import restore_state, tell
from tests.networks import assert_close, assert_equal
from tests.processes import Process
from vaegan_jax.config.io import load_config
from vaegan_jax.runtime import lock
from vaegan_jax.runtime.checkpoints import Checkpoints
from vaegan_jax.setup.networks import create_networks
from vaegan_jax.training import loop

pytest.importorskip('google.cloud.storage')
pytestmark = [
  pytest.mark.skipif(not shutil.which('openssl'), reason='needs openssl'),
  # Orbax leaves tensorstore callbacks behind when an item cannot be read.
  pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning'),
]


@pytest.fixture(scope='module')
def bucket(fake_bucket):
  """Returns the bucket that all of this process uses."""
  forkserver.ensure_running()  # Other tests' processes must have no proxy.
  with pytest.MonkeyPatch.context() as patch:
    for name, value in fake_bucket.environment.items():
      patch.setenv(name, value)
    # How long the lock watches for a sign of life of the killed process.
    patch.setattr(lock, '_BEAT_SECONDS', 0.2)
    patch.setattr(lock, '_WATCH_SECONDS', 1)
    yield fake_bucket


def _set_variables(variables):
  os.environ.update(variables)


def _meta(bucket, workdir):
  content = bucket.read(f'{workdir}/checkpoints/20/meta/metadata')
  return json.loads(content)['content']


@pytest.fixture(scope='module')
def tiny_run(tiny_run):
  """Returns flags of a run without a critic, which would compile slowly."""
  return (*tiny_run, '--config.objective=mse')


@pytest.fixture(scope='module')
def whole(bucket, tiny_run):
  """Returns the bucket with an uninterrupted run from step 1 to 20."""
  args = (*tiny_run, '--workdir=gs://bucket/whole')
  assert command_line.run(*args, whole=True) == loop.DONE
  return bucket


def test_a_run_leaves_all_that_it_leaves_on_a_disk(whole):
  names = [
    name.removeprefix('whole/')
    for name in whole.names()
    if name.startswith('whole/') and name != 'whole/'
  ]
  tops = {name.partition('/')[0].partition('.tfevents')[0] for name in names}
  assert tops == {
    *('checkpoints', 'config.json', 'events.out', 'figures', 'latents.json'),
    *('metrics.jsonl', 'report.html'),
  }


def test_a_killed_run_ends_with_the_same_bits(whole, tiny_run, tmp_path):
  args = [*tiny_run, '--workdir=gs://bucket/killed']
  process = Process(
    tmp_path / 'killed',
    *args,
    prepare=functools.partial(_set_variables, whole.environment),
  )
  deadline = time.monotonic() + 300
  saved = 'killed/checkpoints/10/commit_success.txt'
  while saved not in whole.names() and process.is_alive:
    assert time.monotonic() < deadline
    time.sleep(0.05)  # Listing takes CPU time.
  assert process.kill() == -signal.SIGKILL, process.err
  assert not any('killed/checkpoints/20/commit' in n for n in whole.names())
  assert command_line.run(*args) == loop.DONE
  assert _meta(whole, 'killed')['crc32s'] == _meta(whole, 'whole')['crc32s']
  lines = whole.read('killed/metrics.jsonl').splitlines()
  steps = [json.loads(line)['step'] for line in lines]
  assert steps == list(range(1, 21))


def test_a_damaged_checkpoint_is_put_aside(whole, tiny_run):
  for name in whole.names():
    if name.startswith('whole/'):
      content = whole.read(name)
      if '/20/state/d/' in name:  # The numbers.
        content = content[: len(content) // 2]
      whole.write(name.replace('whole/', 'damaged/', 1), content)
  config = load_config('gs://bucket/damaged/config.json')
  _, _, create_state = create_networks(config)
  checkpoints = Checkpoints('gs://bucket/damaged')
  _, step = checkpoints.restore(jax.eval_shape(create_state))
  assert step == 10
  assert checkpoints.steps() == [10]
  assert any('damaged/quarantine/20/' in name for name in whole.names())
  assert not any('damaged/checkpoints/20/' in name for name in whole.names())


def test_a_run_starts_from_one_in_a_bucket(whole, tiny_run):
  start = ('--config.init_from=gs://bucket/whole/', '--config.seed=1')
  few = '--config.num_train_steps=1'
  assert (
    command_line.run(*tiny_run, *start, few, '--workdir=gs://bucket/next')
    == loop.DONE
  )
  params = [
    restore_state(f'gs://bucket/{run}')[0].networks['autoencoder'].params
    for run in ('whole', 'next')
  ]
  assert_close(*params, atol=0.01)  # After one small step.


def test_a_model_is_loaded_from_a_bucket_and_exported_to_one(whole):
  flags = ('--mode=export', '--workdir=gs://bucket/whole')
  assert command_line.run(*flags, '--output=gs://bucket/export') == 0
  run, export = map(
    vaegan_jax.load, ('gs://bucket/whole', 'gs://bucket/export')
  )
  assert run.step == 20 and run.statistics.num_images == 38
  assert_equal(run.variables, export.variables)
  assert 'export/README.md' in whole.names()


@pytest.mark.parametrize('name', ('refused', 'absent'))
def test_a_bucket_that_is_not_yours_or_not_there_is_reported(
  name, bucket, tiny_run, capsys
):
  workdir = f'gs://{name}/run'
  for args in (tiny_run, ['--mode=evaluate']):
    assert workdir in tell(capsys, workdir, *args)
