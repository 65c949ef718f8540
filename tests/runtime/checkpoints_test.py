"""Checkpoints: what is saved comes back bit for bit, or not at all."""

import atexit
import functools
import gc
import pathlib
import resource
import shutil
import tempfile
from typing import Any
from unittest import mock

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging
from jax.experimental import multihost_utils

from vaegan_jax.errors import UserError
from vaegan_jax.runtime import checkpoints
from vaegan_jax.runtime.checkpoints import Checkpoints

# Orbax leaves tensorstore callbacks behind when an item cannot be read or
# written; they find their event loop closed and are ignored with a warning.
pytestmark = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)

CONFIG = {
  'batch_size': 8,
  'num_train_steps': 100,
  'data': {'name': 'drawn_faces', 'path': ''},
  'model': {'depth': 2, 'channel_multipliers': (1, 2)},
}
DATA = {'fingerprint': 'abc', 'num_examples': 70}
RUN = {'config': CONFIG, 'data': DATA}


@flax.struct.dataclass
class State:
  step: Any
  params: Any
  opt_state: Any
  batch_stats: Any


def make_state(step, width=700, dtype=jnp.float32):
  """A state whose kernel is by far its largest leaf."""
  rng = np.random.default_rng(step)
  params = {
    'encoder': {
      'kernel': jnp.asarray(rng.normal(size=(40, width)), dtype),
      'bias': jnp.asarray(rng.normal(size=3), jnp.bfloat16),
    },
    'critic': {'scale': jnp.asarray(rng.normal(), jnp.float32)},
  }
  optimizer = optax.adam(1e-3)
  return State(jnp.int32(step), params, optimizer.init(params), {})


def save_all(workdir, *steps):
  """Saves each step and waits for it."""
  if (workdir / 'checkpoints').exists():
    _save_all(workdir, steps)
  else:
    shutil.copytree(_saved(steps), workdir, dirs_exist_ok=True)


@functools.cache
def _saved(steps):
  """Returns a folder with these steps, which is not to be changed."""
  folder = tempfile.TemporaryDirectory()
  atexit.register(folder.cleanup)
  _save_all(pathlib.Path(folder.name), steps)
  return folder.name


def _save_all(workdir, steps):
  saved = Checkpoints(workdir)
  for step in steps:
    assert saved.save(step, make_state(step), **RUN) and saved.wait()
  saved.close()


def restore(workdir):
  return Checkpoints(workdir).restore(make_state(1), **RUN)


def assert_same(restored, state):
  """Asserts numpy arrays with the structure, dtypes and bits of `state`."""
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  for got, want in zip(
    jax.tree.leaves(restored), jax.tree.leaves(state), strict=True
  ):
    assert type(got) is np.ndarray
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    assert got.tobytes() == np.asarray(want).tobytes()


def snapshot(workdir):
  """Every path below `workdir`, with its size and time of change."""
  stats = [(path, path.stat()) for path in sorted(workdir.rglob('*'))]
  return [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]


def rewrite(directory, change, everything=False):
  """Changes the bytes of the largest file, or of every file."""
  files = [path for path in directory.rglob('*') if path.is_file()]
  files.sort(key=lambda path: path.stat().st_size)
  for path in files if everything else files[-1:]:
    path.write_bytes(change(path.read_bytes()))


def flip(old, at):
  return old[:at] + bytes([old[at] ^ 1]) + old[at + 1 :]


def empty(directory):
  shutil.rmtree(directory)
  directory.mkdir()


DAMAGE = {
  'truncated': lambda d: rewrite(d, lambda old: old[:100]),
  'halved': lambda d: rewrite(d, lambda old: old[: len(old) // 2]),
  'bit in array': lambda d: rewrite(d, lambda old: flip(old, len(old) // 2)),
  'bit in meta': lambda d: rewrite(
    d / 'meta', lambda old: flip(old, old.index(b'drawn_faces'))
  ),
  'empty directory': empty,
  'no meta': lambda d: shutil.rmtree(d / 'meta'),
  'no state': lambda d: shutil.rmtree(d / 'state'),
  'zeros': lambda d: rewrite(d, lambda old: bytes(len(old)), True),
  'empty files': lambda d: rewrite(d, lambda old: b'', True),
}


@pytest.fixture
def full_disk():
  """Returns a function that lets no file grow beyond 50 kB, or lifts that."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  verbosity = logging.get_verbosity()

  def set_full(full):
    # Orbax logs long tracebacks, into a file that would hit the limit too.
    logging.set_verbosity(logging.FATAL if full else verbosity)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000 if full else soft, hard))

  yield set_full
  set_full(False)
  gc.collect()  # What failed in another thread is reported here.


def test_round_trip_is_bit_exact(tmp_path, monkeypatch):
  poll = mock.Mock(return_value=False)
  monkeypatch.setattr(multihost_utils, 'reached_preemption_sync_point', poll)
  save_all(tmp_path, 10, 20)
  poll.assert_not_called()  # JAX would take the step for a number of polls.
  template = jax.eval_shape(functools.partial(make_state, 1))
  restored, step = Checkpoints(tmp_path).restore(template, **RUN)
  assert step == 20
  assert_same(restored, make_state(20))


def test_a_part_is_restored_without_reading_the_rest(tmp_path):
  saved = Checkpoints(tmp_path)
  state = make_state(10)
  large = np.random.default_rng(0).normal(size=(500, 1000))
  assert saved.save(10, state.replace(opt_state={'mu': large}), **RUN)
  saved.wait()
  DAMAGE['bit in array'](tmp_path / 'checkpoints' / '10' / 'state')
  part = {'params': {'encoder': state.params['encoder']}, 'step': state.step}
  restored, step = saved.restore(part, partial=True, **RUN)
  assert step == 10
  assert_same(restored, part)
  with pytest.raises(UserError, match='is damaged'):
    saved.restore(state.replace(opt_state={'mu': large}), **RUN)


def test_what_is_restored_of_a_part_is_checked(tmp_path):
  save_all(tmp_path, 10)
  restore = functools.partial(
    Checkpoints(tmp_path).restore, partial=True, **RUN
  )
  with pytest.raises(UserError, match=r'params/encoder/kernel was .*\[40, 5\]'):
    restore({'params': make_state(1, 5).params})
  with pytest.raises(UserError, match='ema_params/kernel was'):
    restore({'ema_params': {'kernel': np.ones(3)}})
  DAMAGE['bit in array'](tmp_path / 'checkpoints' / '10')
  with pytest.raises(UserError, match='is damaged'):
    restore(make_state(1))


@pytest.mark.parametrize('place', ('upgrade', 'initial'))
def test_an_error_of_our_own_is_no_damage(tmp_path, place):
  save_all(tmp_path, 10, 20)
  before = snapshot(tmp_path)

  def fail(*_):
    raise KeyError('a bug')

  template = make_state(1).replace(batch_stats={'count': np.int32(7)})
  options = {'initial': lambda: template} | {place: fail}
  with pytest.raises(KeyError, match='a bug'):
    Checkpoints(tmp_path).restore(template, **RUN, **options)
  assert snapshot(tmp_path) == before


def test_no_checkpoint_is_none_and_writes_nothing(tmp_path):
  assert Checkpoints(tmp_path / 'absent').restore(make_state(1), **RUN) is None
  assert not (tmp_path / 'absent').exists()


def test_buffers_may_be_donated_while_the_save_runs(tmp_path):
  @functools.partial(
    jax.pmap, in_axes=(None, 0), out_axes=None, donate_argnums=0
  )
  def update(state, _):
    return jax.tree.map(lambda leaf: leaf + 1, state)

  batch = np.zeros(jax.local_device_count())
  state = update(make_state(1), batch)
  want = jax.tree.map(np.array, state)
  saved = Checkpoints(tmp_path)
  saved.save(1, state, **RUN)
  for _ in range(5):
    state = update(state, batch)
  restored, _ = saved.restore(want, **RUN)
  assert_same(restored, want)


def test_the_newest_are_kept(tmp_path):
  saved = Checkpoints(tmp_path, max_to_keep=2)
  for step in (1, 2, 3, 4):
    assert saved.save(step, make_state(step), **RUN)
  saved.close()
  assert saved.steps() == [3, 4]


def test_a_step_that_is_there_is_not_written_again(tmp_path):
  save_all(tmp_path, 10)
  before = snapshot(tmp_path)
  save_all(tmp_path, 10)
  assert snapshot(tmp_path) == before


@pytest.mark.parametrize('damage', DAMAGE)
def test_damage_is_quarantined_and_the_step_before_restored(
  tmp_path, damage, caplog
):
  save_all(tmp_path, 10, 20)
  DAMAGE[damage](tmp_path / 'checkpoints' / '20')
  saved = Checkpoints(tmp_path)
  restored, step = saved.restore(make_state(1), **RUN)
  assert step == 10
  assert_same(restored, make_state(10))
  assert saved.steps() == [10]
  assert (tmp_path / 'quarantine' / '20').is_dir()
  assert f'checkpoint {tmp_path}/checkpoints/20 is damaged' in caplog.text

  # The run reaches the same step again.
  assert saved.save(20, make_state(20), **RUN)
  restored, step = saved.restore(make_state(1), **RUN)
  assert step == 20
  assert_same(restored, make_state(20))


def test_the_quarantine_keeps_every_copy(tmp_path):
  save_all(tmp_path, 10)
  for _ in range(3):
    (tmp_path / 'checkpoints' / '20').mkdir()
    restore(tmp_path)
  assert len(list((tmp_path / 'quarantine').iterdir())) == 3


def test_all_damaged_is_refused_every_time(tmp_path):
  save_all(tmp_path, 10, 20)
  DAMAGE['truncated'](tmp_path / 'checkpoints' / '10')
  empty(tmp_path / 'checkpoints' / '20')
  before = snapshot(tmp_path)
  for _ in range(2):
    with pytest.raises(UserError, match=r'steps 20, 10.*afresh.*--workdir'):
      restore(tmp_path)
  assert snapshot(tmp_path) == before


def test_reading_only_changes_nothing(tmp_path):
  save_all(tmp_path, 10, 20)
  DAMAGE['bit in array'](tmp_path / 'checkpoints' / '20')
  (tmp_path / 'checkpoints' / '30.orbax-checkpoint-tmp').mkdir()
  before = snapshot(tmp_path)
  restored, step = Checkpoints(tmp_path).restore(
    make_state(1), quarantine=False
  )
  assert step == 10
  assert_same(restored, make_state(10))
  assert snapshot(tmp_path) == before


def test_an_unfinished_save_is_no_checkpoint(tmp_path):
  save_all(tmp_path, 10)
  unfinished = tmp_path / 'checkpoints' / '20.orbax-checkpoint-tmp'
  shutil.copytree(tmp_path / 'checkpoints' / '10', unfinished)
  assert restore(tmp_path)[1] == 10
  save_all(tmp_path, 20)
  assert restore(tmp_path)[1] == 20
  assert not unfinished.exists()


def test_another_run_is_refused_by_field(tmp_path):
  save_all(tmp_path, 10, 20)
  empty(tmp_path / 'checkpoints' / '20')
  before = snapshot(tmp_path)
  config = dict(CONFIG, batch_size=16, model={'depth': 2, 'width': 4})
  data = dict(DATA, fingerprint='xyz')
  with pytest.raises(UserError) as error:
    Checkpoints(tmp_path).restore(make_state(1), config=config, data=data)
  message = str(error.value)
  assert 'config.batch_size was 8 and is 16 now' in message
  assert "config.model.width was 'absent' and is 4 now" in message
  assert 'config.model.channel_multipliers was [1, 2] and is' in message
  assert "data.fingerprint was 'abc' and is 'xyz' now" in message
  assert 'depth' not in message and 'num_examples' not in message
  assert snapshot(tmp_path) == before


def test_free_fields_may_differ(tmp_path):
  save_all(tmp_path, 10)
  data = {'name': 'drawn_faces', 'path': '/elsewhere'}
  config = dict(CONFIG, num_train_steps=200, data=data)
  moved = functools.partial(
    Checkpoints(tmp_path).restore, make_state(1), config=config, data=DATA
  )
  assert moved(free_fields=('num_train_steps', 'data.path'))[1] == 10
  assert moved(free_fields=('num_train_steps', 'data'))[1] == 10
  with pytest.raises(UserError, match=r'config\.data\.path was'):
    moved(free_fields=('num_train_steps', 'data.pat', 'dat'))


def _rename(workdir, step, name):
  folder = workdir / 'checkpoints'
  (folder / str(step)).rename(folder / name)


# The newest by its name, the oldest, and one that no save has given.
@pytest.mark.parametrize('name', ('99', '7', '099'))
def test_a_renamed_checkpoint_is_put_aside_and_costs_no_other(tmp_path, name):
  save_all(tmp_path, 10, 20, 30)
  _rename(tmp_path, 30 if name == '7' else 10, name)
  whole = [10, 20] if name == '7' else [20, 30]
  # Whoever reads beside a trainer changes nothing.
  reader = Checkpoints(tmp_path).restore(
    make_state(1), quarantine=False, config=CONFIG
  )
  assert reader[1] == whole[-1]
  assert (tmp_path / 'checkpoints' / name).is_dir()
  saved = Checkpoints(tmp_path, max_to_keep=3)
  restored, step = saved.restore(make_state(1), **RUN)
  assert step == whole[-1]
  assert_same(restored, make_state(step))
  assert [p.name for p in (tmp_path / 'quarantine').iterdir()] == [name]
  assert saved.save(40, make_state(40), **RUN) and saved.wait()
  assert saved.steps() == [*whole, 40]  # Nothing made room for the other.


def test_a_lone_renamed_checkpoint_is_no_beginning(tmp_path, caplog):
  save_all(tmp_path, 10)
  _rename(tmp_path, 10, '90')
  with pytest.raises(UserError, match=r'is damaged \(steps 90\)'):
    restore(tmp_path)
  assert 'the folder was renamed: it holds step 10' in caplog.text


def test_a_checkpoint_that_vanishes_while_it_is_read_leads_to_the_next(
  tmp_path, monkeypatch, caplog
):
  save_all(tmp_path / 'later', 30, 40)
  save_all(tmp_path / 'run', 10, 20)
  folder = tmp_path / 'run' / 'checkpoints'
  load = checkpoints.load_checkpoint

  def train_on(path, **options):
    if path.name == '20':  # The trainer has saved two, and keeps two.
      for step in ('30', '40'):
        shutil.move(tmp_path / 'later' / 'checkpoints' / step, folder / step)
      for step in ('10', '20'):
        shutil.rmtree(folder / step)
    return load(path, **options)

  monkeypatch.setattr(checkpoints, 'load_checkpoint', train_on)
  reader = Checkpoints(tmp_path / 'run')
  restored, step = reader.restore(make_state(1), quarantine=False)
  assert step == 40
  assert_same(restored, make_state(40))
  assert 'removed while it was read' in caplog.text
  assert 'damaged' not in caplog.text


@pytest.mark.parametrize(
  ('other', 'now'),
  [({'width': 5}, r'float32\[40, 5\]'), ({'dtype': jnp.float16}, 'float16')],
)
def test_another_network_is_refused_by_leaf(tmp_path, other, now):
  save_all(tmp_path, 10)
  before = snapshot(tmp_path)
  was = r"leaves\.params/encoder/kernel was 'float32\[40, 700\]' and is '"
  with pytest.raises(UserError, match=was + now):
    Checkpoints(tmp_path).restore(make_state(1, **other), **RUN)
  assert snapshot(tmp_path) == before


def test_what_follows_from_the_configuration_is_not_named(tmp_path):
  save_all(tmp_path, 10)
  restore = functools.partial(Checkpoints(tmp_path).restore, make_state(1, 5))
  config = dict(CONFIG, data={'name': 'cifar10', 'path': ''})
  with pytest.raises(UserError) as error:
    restore(config=config, data=dict(DATA, fingerprint='xyz'))
  message = str(error.value)
  assert "config.data.name was 'drawn_faces' and is 'cifar10' now" in message
  assert 'leaves' not in message and 'fingerprint' not in message


def test_a_leaf_that_is_new_begins_as_in_a_new_run(tmp_path, caplog):
  save_all(tmp_path, 10)
  initial = make_state(1).replace(
    batch_stats={'usage': np.arange(4.0), 'deep': {'count': np.int32(7)}}
  )
  restored, step = Checkpoints(tmp_path).restore(
    initial, **RUN, initial=lambda: initial
  )
  assert step == 10
  assert_same(restored, make_state(10).replace(batch_stats=initial.batch_stats))
  assert 'than batch_stats/deep/count, batch_stats/usage: ' in caplog.text
  part = {'params': make_state(1).params, 'batch_stats': initial.batch_stats}
  read, _ = Checkpoints(tmp_path).restore(
    part, partial=True, initial=lambda: part
  )
  assert_same(read, dict(part, params=make_state(10).params))
  # From now on it is one of them.
  saved = Checkpoints(tmp_path)
  assert saved.save(20, restored, **RUN) and saved.wait()
  again, _ = saved.restore(initial, **RUN)
  assert_same(again, restored)


def test_weights_that_are_new_are_another_network(tmp_path):
  save_all(tmp_path, 10)
  initial = make_state(1)
  initial.params['decoder'] = {'kernel': np.ones(3)}
  with pytest.raises(UserError, match='params/decoder/kernel was'):
    Checkpoints(tmp_path).restore(initial, **RUN, initial=lambda: initial)


def test_a_later_format_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(checkpoints, '_FORMAT', 2)
  _save_all(tmp_path, [10])
  monkeypatch.undo()
  with pytest.raises(UserError, match='format was 2 and is 1'):
    restore(tmp_path)


def test_a_failed_save_is_reported_and_the_next_one_works(tmp_path, full_disk):
  saved = Checkpoints(tmp_path)
  assert saved.save(10, make_state(10), **RUN) and saved.wait()
  full_disk(True)
  saved.save(20, make_state(20), **RUN)
  assert not saved.wait()
  full_disk(False)
  assert [path.name for path in (tmp_path / 'checkpoints').iterdir()] == ['10']
  assert saved.save(30, make_state(30), **RUN) and saved.wait()
  assert saved.steps() == [10, 30]
  assert_same(saved.restore(make_state(1), **RUN)[0], make_state(30))


def test_the_next_save_reports_and_mends_the_last(tmp_path, full_disk):
  saved = Checkpoints(tmp_path)
  full_disk(True)
  saved.save(10, make_state(10), **RUN)
  assert not saved.save(20, make_state(20), **RUN)
  full_disk(False)
  assert saved.wait()
  assert saved.steps() == [20]


def test_a_save_that_cannot_start_is_reported(tmp_path):
  saved = Checkpoints(tmp_path)
  (tmp_path / 'checkpoints').write_text('A file where the directory goes.')
  assert not saved.save(10, make_state(10), **RUN)
  (tmp_path / 'checkpoints').unlink()
  assert saved.save(20, make_state(20), **RUN) and saved.wait()


def test_three_failed_saves_end_the_run(tmp_path, full_disk):
  saved = Checkpoints(tmp_path, max_to_keep=1)
  assert saved.save(10, make_state(10), **RUN) and saved.wait()
  full_disk(True)
  for step in (20, 30, 40):
    saved.save(step, make_state(step), **RUN)
  with pytest.raises(UserError, match=r'last 3 checkpoints .*step 40.*space'):
    saved.wait()
  full_disk(False)
  assert saved.restore(make_state(1), **RUN)[1] == 10


@pytest.mark.skipif(jax.device_count() == 1, reason='one device holds all')
def test_a_leaf_in_pieces_is_refused(tmp_path):
  mesh = jax.make_mesh((jax.device_count(),), ('d',))
  spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('d'))
  pieces = jax.device_put(np.zeros(jax.device_count()), spec)
  with pytest.raises(ValueError, match=r"\['w'\] is sharded"):
    Checkpoints(tmp_path).save(1, {'w': pieces}, **RUN)
