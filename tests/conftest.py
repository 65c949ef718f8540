"""Settings and fixtures of every test: kept compilations, and a tiny run."""

import contextlib
import ctypes
import gc
import math
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import save_file

from tests.environment import (
  QUICK_FLAGS,
  check_shapes_untraced,
  draw_initial_weights,
  spare_collector,
)
from tests.tiny_run import draw_images, tiny_flags

# Compilation takes most of the time, so the next run reuses every program.
# JAX reads these variables when it is imported.
os.environ['XLA_FLAGS'] = (
  f'{QUICK_FLAGS} {os.environ.get("XLA_FLAGS", "")}'.strip()
)
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
_CACHE = Path(__file__).parent.parent / '.jax_cache'
# Each process of pytest-xdist has its own, since JAX writes into it without a
# lock, and gives what it has to the others after each file.
_WORKER = os.environ.get('PYTEST_XDIST_WORKER', 'main')
os.environ['JAX_COMPILATION_CACHE_DIR'] = str(_CACHE / _WORKER)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
# No test reads where in Python an operation comes from.
os.environ.setdefault('JAX_TRACEBACK_IN_LOCATIONS_LIMIT', '0')

# Assertions of 130 files are compiled once and not by every process, even where
# the environment asks Python to write no bytecode.
os.environ.pop('PYTHONDONTWRITEBYTECODE', None)
sys.dont_write_bytecode = False

# Parsing a command line writes YAML, which takes half of its time in Python.
if yaml.__with_libyaml__:
  yaml.dump.__defaults__ = (None, yaml.CDumper)

# A worker frees its compiled programs if it has this much memory and has grown
# by this much since the last time: imports and fixtures cannot be freed.
_MOST_BYTES, _GROWTH_BYTES = 1.2e9, 0.8e9
_kept_bytes = 0.0  # After the last time.

# A shell's background jobs ignore these signals, and so do their children.
for _number in (signal.SIGINT, signal.SIGHUP):
  if signal.getsignal(_number) == signal.SIG_IGN:
    signal.signal(_number, signal.SIG_DFL)

# The files that take longest: a worker that starts one last delays the end.
_SLOW = (
  'distributed_test.py',
  'train_test.py',
  'load_test.py',
  'many_devices_test.py',
  'update_options_test.py',
  'bucket_test.py',
  'update_test.py',
  'tiles_test.py',
  'sounds_and_volumes_test.py',
  'study_test.py',
  'from_diffusers_test.py',
  'faults_test.py',
  'feature_metrics_test.py',
  'array_folder_test.py',
  'old_workdirs_test.py',
  'flops_test.py',
  'signal_figures_test.py',
  'codes_test.py',
  'no_data_run_test.py',
  'residual_test.py',
  'bucket_data_test.py',
  'readme_test.py',
  'models_test.py',
  'browser_test.py',
  'evaluate_test.py',
  'own_judge_test.py',
  'use_page_test.py',
  'no_data_metrics_test.py',
  'tiling_test.py',
  'init_from_test.py',
  'capture_test.py',
  'perceptual_test.py',
  'weights_test.py',
  'signal_metrics_test.py',
  'layer_sizes_test.py',
  'malformed_configs_test.py',
  'equal_forms_test.py',
  'hlo_test.py',
  'diffusers_test.py',
  'inception_test.py',
)


def pytest_collection_finish():
  """Keeps Python's collector away from what collecting the tests has made."""
  gc.collect()
  spare_collector()
  if 'flax' in sys.modules:
    check_shapes_untraced()
    draw_initial_weights()


def pytest_configure(config):
  """Lets each process of pytest-xdist begin to collect at another file.

  Each compiles a share of the files, and reads the others' bytecode.
  """
  number = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 1))
  tests = Path(__file__).parent
  if number == 1 or config.args != ['tests']:
    return
  paths = sorted(map(str, tests.rglob('*_test.py')))
  first = int(_WORKER.removeprefix('gw')) * len(paths) // number
  config.args[:] = paths[first:] + paths[:first]


def pytest_collection_modifyitems(items):
  """Puts the slow files first, for the processes of pytest-xdist."""
  ranks = {name: rank for rank, name in enumerate(_SLOW)}

  def order(item):
    return ranks.get(item.path.name, len(_SLOW)), item.path

  items.sort(key=order)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
  """Frees the compiled programs of a worker that has grown, between files.

  A worker that keeps all of them needs 7 GB at the end of the suite. One that
  keeps none traces and loads the programs of every run again in each file.
  """
  if nextitem is not None and nextitem.path == item.path:
    return
  _share_programs()
  jax = sys.modules.get('jax')
  global _kept_bytes
  most = max(_MOST_BYTES, _kept_bytes + _GROWTH_BYTES)
  if jax is None or _resident_bytes() < most:
    return
  gc.unfreeze()
  jax.clear_caches()
  gc.collect()
  gc.freeze()
  with contextlib.suppress(AttributeError, OSError):  # Only glibc has it.
    ctypes.CDLL(None).malloc_trim(0)
  _kept_bytes = _resident_bytes()


def _resident_bytes() -> float:
  """Returns this process's memory; where it is unknown, more than allowed."""
  try:
    pages = int(Path('/proc/self/statm').read_text().split()[1])
  except OSError:
    return math.inf
  return pages * os.sysconf('SC_PAGE_SIZE')


def _share_programs():
  """Copies this worker's new programs to the other workers' caches."""
  programs = {path.name: path for path in (_CACHE / _WORKER).glob('*-cache')}
  for other in _CACHE.glob('gw*'):
    for name in programs.keys() - {*os.listdir(other)}:
      # JAX may read it at any time, so it appears as a whole.
      copy = shutil.copyfile(programs[name], other / f'{_WORKER}.partial')
      os.replace(copy, other / name)


@pytest.fixture(scope='session')
def image_folder(tmp_path_factory):
  """Returns a folder of 43 similar images of 16 x 16; five are held out."""
  folder = tmp_path_factory.mktemp('images')
  draw_images(folder)
  return folder


@pytest.fixture(scope='session')
def vgg16_file(tmp_path_factory):
  """Returns a file of random weights for VGG16, by torchvision's names."""
  from tests.models.vgg_test import state_dict

  path = tmp_path_factory.mktemp('weights') / 'vgg16.safetensors'
  save_file(state_dict(16), path)
  return path


@pytest.fixture(scope='session')
def lpips_files(vgg16_file, tmp_path_factory):
  """Returns the files of VGG16 and of LPIPS's heads, joined by a comma."""
  from tests.models.vgg_test import factors

  path = tmp_path_factory.mktemp('heads') / 'heads.safetensors'
  save_file(factors(), path)
  return f'{vgg16_file},{path}'


@pytest.fixture(scope='session')
def fake_bucket(tmp_path_factory):
  """Returns the process's bucket: TensorFlow reads the address only once."""
  from tests.fake_bucket import FakeBucket

  bucket = FakeBucket(tmp_path_factory.mktemp('bucket'))
  yield bucket
  bucket.close()


@pytest.fixture(scope='module')
def run():
  """Returns a function that runs a command line here, without TensorBoard."""
  from absl import logging

  from tests import command_line
  from vaegan_jax.runtime import writers

  verbosity = logging.get_verbosity()

  def run(workdir, *args, whole=False):
    return command_line.run(*args, f'--workdir={workdir}', whole=whole)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(writers, '_tensorboard_writer', lambda _: None)
    yield run
  logging.set_verbosity(verbosity)


@pytest.fixture
def told(capsys, tmp_path):
  """Returns a function that runs a bad command and returns its error message.

  It asserts that the command ends with exit status 2, traces nothing and makes
  no workdir. With `alone`, it also asserts that nothing else was printed.
  """
  import jax
  from absl import logging

  import main
  from tests import command_line

  verbosity = logging.get_verbosity()
  traced = []

  def listen(event, duration, **_):
    if event.startswith('/jax/core/compile'):  # Tracing is a part of it.
      traced.append(event)

  def told(*args, alone=False):
    workdir = f'--workdir={tmp_path / "run"}'
    with (
      pytest.raises(SystemExit) as caught,
      main.processes.reporting_errors(),
      # Programs that other files have compiled are not traced again.
      jax.transfer_guard_host_to_device('disallow'),
    ):
      command_line.run(workdir, *args)
    assert caught.value.code == 2
    assert not traced
    assert not (tmp_path / 'run').exists()
    err = capsys.readouterr().err
    # Progress of preparing the data may stand above it.
    sentence = err if alone else err.splitlines()[-1]
    sentence = sentence.removesuffix('\n')
    assert sentence.startswith('error: ')
    assert sentence.isprintable()  # It is therefore one line.
    assert len(sentence) < 1200
    return sentence

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield told
  jax.monitoring.unregister_event_duration_listener(listen)
  logging.set_verbosity(verbosity)


@pytest.fixture(scope='session')
def tiny_run(image_folder, tmp_path_factory):
  """Returns the flags of a tiny run on the images, without a --workdir."""
  return tiny_flags(image_folder, tmp_path_factory.mktemp('data'))
