"""Runs that are stopped, damaged or moved end bit-identical to others."""

import functools
import json
import os
import re
import shutil
import signal
from unittest import mock

import jax
import numpy as np
import pytest
from PIL import Image

from tests import command_line
from tests.faults.damage import needed_file
from tests.finished_run import restore_state
from tests.networks import assert_equal
from tests.processes import (
  Process,
  crc32s,
  read_rows,
  saved_steps,
  wait_for_step,
)
from vaegan_jax.commands import evaluate
from vaegan_jax.config.io import load_config
from vaegan_jax.errors import UserError
from vaegan_jax.evaluation import evaluator
from vaegan_jax.models.pretrained.vgg import load_vgg
from vaegan_jax.runtime import writers
from vaegan_jax.runtime.preemption import INTERRUPTED, PREEMPTED
from vaegan_jax.setup import memory, resume
from vaegan_jax.training import health, loop

_SPEED = 'train/images_per_second'
_RATE = '--config.optimizer.autoencoder_learning_rate'
_LAST_STEP = 100  # Steps of the stopped run, with a checkpoint every 10.
_tensorboard_writer = writers._tensorboard_writer  # Other tests have none.


def _set(**values):
  """Returns flags that set top-level fields."""
  return tuple(f'--config.{name}={value}' for name, value in values.items())


@pytest.fixture(autouse=True)
def _in_short():
  """Runs in short what runs as a whole, except for `undisturbed`."""
  with command_line.in_short():
    yield


@pytest.fixture(scope='module')
def long_run(tiny_run):
  return (
    *tiny_run,
    *_set(num_train_steps=_LAST_STEP, eval_every_steps=50),
    *_set(figure_every_steps=50, num_checkpoints=4),
  )


@pytest.fixture(scope='module')
def undisturbed(long_run, run, tmp_path_factory):
  """Returns the workdir of a complete run, which must not change."""
  workdir = tmp_path_factory.mktemp('runs') / 'undisturbed'
  with mock.patch.object(writers, '_tensorboard_writer', _tensorboard_writer):
    assert run(workdir, *long_run, whole=True) == 0
  return workdir


@pytest.fixture
def copied(undisturbed, tmp_path):
  """Returns a copy of that workdir."""
  return shutil.copytree(undisturbed, tmp_path / 'copied')


def _assert_same_run(workdir, undisturbed):
  """Asserts bit-identical final states and equal logged values."""
  assert crc32s(workdir, _LAST_STEP) == crc32s(undisturbed, _LAST_STEP)
  got, want = read_rows(workdir), read_rows(undisturbed)
  for row in (*got, *want):
    row.pop(_SPEED, None)
  assert got == want


def _snapshot(workdir):
  """Returns every path with its time of change and content."""
  return {
    path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
    for path in workdir.rglob('*')
  }


def test_a_workdir_contains_all_outputs(undisturbed):
  config = json.loads((undisturbed / 'config.json').read_text())
  assert config['num_train_steps'] == _LAST_STEP
  assert saved_steps(undisturbed) == [70, 80, 90, 100]
  assert list(undisturbed.glob('events.out.tfevents.*'))
  assert not (undisturbed / 'quarantine').exists()
  figures = sorted((undisturbed / 'figures').iterdir())
  assert [path.name for path in figures] == [
    f'{name}_{step:08}.png'
    for name in ('interpolation', 'reconstructions', 'samples')
    for step in (50, 100)
  ]
  for path in figures:
    Image.open(path).verify()
  page = (undisturbed / 'report.html').read_text()
  assert '"training": null' in page  # It has ended.
  assert '"eval/psnr": [[' in page and page.count('data:image/png') > 40


def test_metrics_are_one_flat_line_a_step(undisturbed):
  lines = (undisturbed / 'metrics.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [row['step'] for row in rows] == list(range(1, _LAST_STEP + 1))
  for row in rows:
    assert all(type(value) in (int, float) for value in row.values())
    assert {'train/loss', 'train/kl', 'train/critic_loss'} <= {*row}
    assert ('eval/psnr' in row) == (row['step'] % 50 == 0)
    assert (_SPEED in row) == (row['step'] > 1)


def test_a_stopped_run_with_a_closed_output_ends_with_the_same_bits(
  long_run, undisturbed, tmp_path, run, capsys
):
  """The stopped one is a process of its own; it is resumed in this one."""
  workdir = tmp_path / 'run'
  process = Process(workdir, *long_run, prepare=_close_the_pipes)
  wait_for_step(workdir, 13)
  process.terminate()
  assert process.wait(60) == PREEMPTED == 75, process.err
  stopped = read_rows(workdir)[-1]['step']
  assert saved_steps(workdir)[-1] == stopped < _LAST_STEP

  assert run(workdir, *long_run, whole=True) == 0
  assert f'Resuming after step {stopped};' in capsys.readouterr().out
  _assert_same_run(workdir, undisturbed)


def _close_the_pipes():
  reader, writer = os.pipe()
  os.close(reader)
  for number in (1, 2):
    os.dup2(writer, number)


def _truncate(folder):
  os.truncate(needed_file(folder), 100)


def _flip_a_bit(folder):
  path = needed_file(folder)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def _empty(folder):
  shutil.rmtree(folder)
  folder.mkdir()


# Orbax leaves tensorstore callbacks behind when an item cannot be read.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_damaged_checkpoints_are_quarantined_and_the_one_before_used(
  long_run, undisturbed, copied, run, capsys, caplog
):
  for step, damage in ((100, _truncate), (90, _flip_a_bit), (80, _empty)):
    damage(copied / 'checkpoints' / str(step))
  assert run(copied, *long_run, whole=True) == 0
  for step in (100, 90, 80):
    path = copied / 'checkpoints' / str(step)
    aside = copied / 'quarantine' / str(step)
    assert f'The checkpoint {path} is damaged' in caplog.text
    assert f'Moved the damaged checkpoint to {aside}' in caplog.text
    assert aside.is_dir()
  assert 'Resuming after step 70;' in capsys.readouterr().out
  _assert_same_run(copied, undisturbed)


def test_a_batch_not_divisible_by_the_devices_is_refused(tiny_run, tmp_path):
  process = Process(
    tmp_path / 'run', *tiny_run, *_set(batch_size=10), devices=4
  )
  assert process.wait() == 2
  assert process.err == (
    'error: batch_size=10 must be divisible by 4; 10 / 4 leaves 2: use 8 or 12 '
    '(the number of devices)\n'
  )
  assert not (tmp_path / 'run').exists()


def test_another_configuration_is_refused_and_changes_nothing(
  copied, long_run, run
):
  before = _snapshot(copied)
  other = (*_set(seed=1), '--config.model.latent_dim=5')
  with pytest.raises(UserError, match='In the checkpoint') as caught:
    run(copied, *long_run, *other)
  assert re.findall(r'([\w./]+) was', str(caught.value)) == [
    'config.model.latent_dim',
    'config.seed',
  ]
  assert _snapshot(copied) == before


def test_a_finished_run_reports_that_it_is_done(copied, long_run, run, capsys):
  before = _snapshot(copied)
  assert run(copied, *long_run, whole=True) == 0
  out = capsys.readouterr().out
  assert 'Nothing to do: step 100 is there already.' in out
  assert _snapshot(copied) == before


def test_more_steps_continue_a_finished_run(tiny_run, tmp_path, run, capsys):
  assert run(tmp_path, *tiny_run) == 0
  assert run(tmp_path, *tiny_run, *_set(num_train_steps=25)) == 0
  assert 'Resuming after step 20;' in capsys.readouterr().out
  assert [row['step'] for row in read_rows(tmp_path)] == list(range(1, 26))
  assert saved_steps(tmp_path) == [10, 20, 25]
  config = json.loads((tmp_path / 'config.json').read_text())
  assert config['num_train_steps'] == 25


def _traced_steps(workdir):
  """Returns the steps in the only trace of a workdir, and removes it."""
  (path,) = workdir.glob('plugins/profile/*/*.xplane.pb')
  events = [
    event
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes
    for line in plane.lines
    for event in line.events
    if event.name == 'train'
  ]
  shutil.rmtree(workdir / 'plugins')
  return sorted(dict(event.stats)['step_num'] for event in events)


def test_the_requested_steps_are_traced(tiny_run, tmp_path, run):
  steps = (('2,3', 4), ('6,9', 7))  # The second is cut short.
  traced = []
  for profile_steps, last in steps:
    changed = _set(profile_steps=profile_steps, num_train_steps=last)
    assert run(tmp_path, *tiny_run, *changed) == 0
    traced.append(_traced_steps(tmp_path))
  assert traced == [[2, 3], [6, 7]]


def test_pixels_alone_train_without_a_critic(tiny_run, tmp_path, run, capsys):
  args = (*_set(objective='mse', num_train_steps=60), f'{_RATE}=0.01')
  assert run(tmp_path, *tiny_run, *args, whole=True) == 0
  told = capsys.readouterr().out.splitlines()
  of_flags = [line for line in told if line.startswith('--config.')]
  assert any('critic' in line for line in of_flags)  # They have no effect.
  assert not any('critic' in line for line in told if line not in of_flags)
  rows = read_rows(tmp_path)
  assert not any('critic' in name for row in rows for name in row)
  assert 'eval/psnr' in rows[-1] and 'eval/distance' not in rows[-1]
  losses = [row['train/loss'] for row in rows]
  assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])


@pytest.mark.parametrize(
  ('order', 'objective'),
  [('alternating', 'geometric'), ('simultaneous', 'wasserstein_gp')],
)
def test_pixels_and_adversarial_loss_train_without_the_distance(
  order, objective, tiny_run, tmp_path, run
):
  arguments = (
    *tiny_run,
    *_set(num_train_steps=40, update_order=order, objective=objective),
    *_set(checkpoint_every_steps=100),
    *('--config.loss.distance_weight=0', '--config.loss.pixel_weight=1'),
    *('--config.loss.kl_weight=0.1', f'{_RATE}=0.01'),
  )
  is_whole = objective == 'geometric'
  assert run(tmp_path, *arguments, whole=is_whole) == 0
  rows = read_rows(tmp_path)
  assert all('train/distance' not in row for row in rows)
  penalties = [row.get('train/gradient_penalty', 0) for row in rows]
  assert (min(penalties) > 0) == (max(penalties) > 0) == ('gp' in objective)
  for row in rows:
    loss = row['train/pixel'] + 0.1 * row['train/adversarial']
    loss += 0.1 * row['train/kl']
    assert row['train/loss'] == pytest.approx(loss, rel=1e-4)
  errors = [row['train/pixel'] for row in rows]
  assert np.mean(errors[-10:]) < 0.9 * np.mean(errors[:10])
  # The distance is still measured.
  assert not is_whole or rows[-1]['eval/distance'] > 0


def test_a_frozen_critic_keeps_the_weights_of_its_file(
  tiny_run, tmp_path, run, capsys, vgg16_file
):
  arguments = (
    *tiny_run,
    '--config.critic.network=vgg16',
    '--config.loss.adversarial_weight=0',
    "--config.loss.layers=('conv1_2', 'conv3_1')",
  )
  given = f'--config.critic.weights={vgg16_file}'
  assert run(tmp_path, *arguments, given, *_set(num_train_steps=2)) == 0
  # The checkpoint contains the weights, so their file may be removed.
  gone = '--config.critic.weights=gone.pth'
  assert run(tmp_path, *arguments, gone, *_set(num_train_steps=3)) == 0
  assert 'Resuming after step 2' in capsys.readouterr().out
  state, _ = restore_state(tmp_path)
  expected = load_vgg(vgg16_file, 16)['params']
  assert_equal(state.networks['critic'].params, expected)
  with pytest.raises(UserError, match=r'gone\.pth'):
    run(tmp_path / 'new', *arguments, gone)


def test_a_run_trained_on_lpips_is_evaluated_with_the_same_lpips(
  tiny_run, tmp_path, run, lpips_files
):
  fields = ('critic.weights', 'evaluation.lpips_weights')
  arguments = (
    *tiny_run,
    *('--config.critic.network=lpips', '--config.loss.adversarial_weight=0'),
    *('--config.loss.reduction=spatial', '--config.data.image_size=8'),
    *_set(batch_size=2, num_train_steps=1, num_eval_images=2),
    *(f'--config.{field}={lpips_files}' for field in fields),
  )
  assert run(tmp_path, *arguments, whole=True) == 0
  *_, row = read_rows(tmp_path)
  assert row['train/distance'] > 0
  # Up to the rounding of evaluated images to 8 bits.
  assert row['eval/distance'] == pytest.approx(row['eval/lpips'], rel=0.02)


def test_records_that_fail_do_not_stop_training(
  tiny_run, tmp_path, run, monkeypatch, caplog
):
  called = set()

  class Board:
    def __init__(self, workdir):
      assert workdir == tmp_path

    def __getattr__(self, method):
      called.add(method)
      raise ConnectionError('no board')

  def save_png(path, image):
    raise OSError('no room')

  monkeypatch.setattr(writers, '_tensorboard_writer', Board)
  monkeypatch.setattr(writers, 'save_png', save_png)
  figures = _set(figure_every_steps=5)
  assert run(tmp_path, *tiny_run, *figures, whole=True) == 0
  assert len(read_rows(tmp_path)) == 20 and saved_steps(tmp_path)[-1] == 20
  assert caplog.text.count('no board') == caplog.text.count('no room') == 1
  assert {'write_scalars', 'write_images', 'close'} <= called


def _find_once_at(monkeypatch, *steps):
  """Makes the health checks report a problem at these steps."""
  due = list(steps)

  def check(self, step, metrics):
    assert {'kl', 'output_std', 'input_std', 'feature_scale'} <= set(metrics)
    if due and step >= due[0]:
      due.pop(0)
      return [health.Finding('dead_critic', 'It is dead.', since=step - 2)]
    return []

  monkeypatch.setattr(health.HealthMonitor, 'check', check)


def test_an_unhealthy_run_warns_and_continues(
  tiny_run, tmp_path, run, monkeypatch, capsys
):
  _find_once_at(monkeypatch, 15)
  assert run(tmp_path, *tiny_run) == 0
  assert 'WARNING: It is dead.' in capsys.readouterr().out
  assert saved_steps(tmp_path) == [10, 20]


def test_an_unhealthy_run_stops_if_asked(
  tiny_run, tmp_path, run, monkeypatch, capsys
):
  _find_once_at(monkeypatch, 15)
  stop = '--config.health.on_failure=stop'
  assert run(tmp_path, *tiny_run, stop) == loop.FAILED
  assert 'WARNING: It is dead.' in capsys.readouterr().out
  assert read_rows(tmp_path)[-1]['step'] == 15


def test_a_rollback_continues_from_an_earlier_step_with_other_noise(
  tiny_run, tmp_path, run, monkeypatch, capsys
):
  rollback = '--config.health.on_failure=rollback'
  _find_once_at(monkeypatch)
  assert run(tmp_path / 'well', *tiny_run, rollback) == 0
  # Reported at 20, and again at 13 after the rollback.
  _find_once_at(monkeypatch, 20, 13)
  assert run(tmp_path / 'ill', *tiny_run, rollback) == 0
  out = capsys.readouterr().out
  assert out.count('Rolled back to step 10, with other noise.') == 2
  well, ill = read_rows(tmp_path / 'well'), read_rows(tmp_path / 'ill')
  assert [row['step'] for row in ill] == list(range(1, 21))

  def losses(rows):
    return [row['train/loss'] for row in rows]

  assert losses(ill[:10]) == losses(well[:10])
  assert all(
    a != b for a, b in zip(losses(ill[10:]), losses(well[10:]), strict=True)
  )
  state, _ = restore_state(tmp_path / 'ill')
  assert state.num_rollbacks == 2


@pytest.mark.parametrize(
  ('steps', 'told'),
  [([3], 'no healthy checkpoint'), ([15] * 9, 'Gave up after 3 rollbacks')],
)
def test_a_run_that_cannot_be_rolled_back_ends(
  steps, told, tiny_run, tmp_path, run, monkeypatch, capsys
):
  _find_once_at(monkeypatch, *steps)
  rollback = '--config.health.on_failure=rollback'
  assert run(tmp_path, *tiny_run, rollback) == loop.FAILED
  assert told in capsys.readouterr().out


def test_a_clipped_wasserstein_critic_trains(tiny_run, tmp_path, run):
  """Covers several critic steps, and resuming between them."""
  args = (*tiny_run, *_set(objective='wasserstein'))
  several = (
    '--config.critic.num_steps=2',
    '--config.critic.long_round_steps=4',
  )
  assert run(tmp_path / 'a', *args, *several) == 0
  assert run(tmp_path / 'b', *args, *several, *_set(num_train_steps=10)) == 0
  assert run(tmp_path / 'b', *args, *several) == 0
  states = [restore_state(tmp_path / name)[0] for name in 'ab']
  assert_equal(*states)
  params = jax.tree.leaves(states[0].networks['critic'].params)
  assert max(np.abs(leaf).max() for leaf in params) <= np.float32(0.01)


def test_a_map_of_codes_of_oblong_images_resumes_bit_for_bit(
  tiny_run, tmp_path, run
):
  args = (
    '--config=configs/default.py:vq_f8',
    *tiny_run[1:],
    *('--config.data.image_size=(16,24)', '--config.model.codebook_size=20'),
    '--config.model.code_dim=2',
    '--config.optimizer.muon_learning_rate=0.01',
    '--config.optimizer.warmup_steps=8',
  )
  assert run(tmp_path / 'a', *args, whole=True) == 0
  assert run(tmp_path / 'b', *args, *_set(num_train_steps=10)) == 0
  assert run(tmp_path / 'b', *args) == 0
  states = [restore_state(tmp_path / name)[0] for name in 'ab']
  assert_equal(*states)
  config = load_config(tmp_path / 'b' / 'config.json')
  assert config.data.image_size == (16, 24)
  momenta = states[0].networks['autoencoder'].opt_state.inner_states['muon']
  assert all(leaf.any() for leaf in jax.tree.leaves(momenta))
  codebook = states[0].networks['autoencoder'].batch_stats['latent']
  assert codebook['sums'].shape == (20, 2)
  row = read_rows(tmp_path / 'a')[-1]
  assert row['train/rate'] == pytest.approx(8 * 12 * 2 * np.log2(20))
  assert row['eval/rate'] == row['train/rate']
  assert 1 < row['eval/perplexity'] <= 20
  assert 0 < row['eval/usage'] <= 1
  assert 'eval/psnr_sampled' not in row
  with Image.open(tmp_path / 'a/figures/samples_00000020.png') as picture:
    assert picture.width > picture.height
  # Another image size gives another map, with the same networks.
  config.data.image_size = 32
  evaluate.evaluate(config, str(tmp_path / 'b'))
  scores = json.loads((tmp_path / 'b/evaluation.json').read_text())
  assert scores['rate'] == pytest.approx(16 * 16 * 2 * np.log2(20))
  assert scores['psnr'] > 5
  assert scores['distance'] is None  # Its critic has one logit per image.


def test_sigterm_during_an_evaluation_or_figures_stops_at_once(
  tiny_run, tmp_path, run, monkeypatch, capsys
):
  flags = (*tiny_run, *_set(eval_every_steps=5, figure_every_steps=7))
  run = functools.partial(run, whole=True)
  score, plot = evaluator.Evaluator.evaluate, evaluator.Evaluator.plot

  def stop(function, number):
    def stopped(*args, **kwargs):
      os.kill(os.getpid(), number)
      return function(*args, **kwargs)

    return stopped

  interrupted = stop(score, signal.SIGINT)
  monkeypatch.setattr(evaluator.Evaluator, 'evaluate', interrupted)
  assert run(tmp_path / 'a', *flags) == INTERRUPTED == 130
  monkeypatch.setattr(evaluator.Evaluator, 'evaluate', score)
  assert 'evaluated:' not in capsys.readouterr().out
  hung_up = stop(plot, signal.SIGHUP)
  monkeypatch.setattr(evaluator.Evaluator, 'plot', hung_up)
  assert run(tmp_path / 'a', *flags) == PREEMPTED
  assert saved_steps(tmp_path / 'a') == [5, 7]
  monkeypatch.setattr(evaluator.Evaluator, 'plot', plot)
  monkeypatch.setattr(evaluator.Evaluator, 'evaluate', interrupted)
  few = (*flags, *_set(num_train_steps=10))
  assert run(tmp_path / 'a', *few) == INTERRUPTED
  monkeypatch.setattr(evaluator.Evaluator, 'evaluate', score)
  out = capsys.readouterr().out
  told = re.findall(r'(\S+): stopped after step (\d+)', out)
  assert told == [('SIGHUP', '7'), ('Ctrl-C', '10')]
  # What a signal interrupted is repeated, in the last step too.
  assert run(tmp_path / 'a', *few) == 0
  assert run(tmp_path / 'b', *few) == 0
  records, figures = [], []
  for name in 'ab':
    rows = read_rows(tmp_path / name)
    records.append([{k: row[k] for k in row if 'eval' in k} for row in rows])
    figures.append(sorted(os.listdir(tmp_path / name / 'figures')))
  assert [bool(row) for row in records[1]].count(True) == 2
  assert [row for row in records[0] if row] == [
    row for row in records[1] if row
  ]
  assert figures[0] == figures[1] and len(figures[0]) >= 2
  capsys.readouterr()
  assert run(tmp_path / 'a', *few) == 0
  assert 'Nothing to do' in capsys.readouterr().out


def test_too_little_memory_gives_one_message(
  tiny_run, tmp_path, run, monkeypatch
):
  def exhaust(*_):
    raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.')

  monkeypatch.setattr('vaegan_jax.setup.resume.init_state', exhaust)
  with pytest.raises(UserError, match=r'7 bytes.* for batch_size=8, data\.im'):
    run(tmp_path / 'run', *tiny_run)
  monkeypatch.setattr(memory, '_available', lambda: 1000)
  with pytest.raises(UserError, match='An update needs about'):
    run(tmp_path / 'run', *tiny_run)


def test_updates_that_stay_non_finite_end_the_run(
  tiny_run, tmp_path, run, monkeypatch, capsys
):
  init_state = resume.init_state

  def diverged(run):
    state = init_state(run)
    network = state.networks['autoencoder']
    params = jax.tree.map(lambda w: np.full_like(w, np.nan), network.params)
    network = network.replace(params=params)
    return state.replace(networks=state.networks | {'autoencoder': network})

  monkeypatch.setattr(resume, 'init_state', diverged)
  args = _set(max_skipped_steps=5)
  assert run(tmp_path, *tiny_run, *args) == loop.FAILED == 1
  rows = read_rows(tmp_path)
  assert rows[-1]['train/skipped_in_a_row'] == 5
  assert (
    capsys.readouterr()
    .out.splitlines()[-1]
    .startswith(
      f'Stopped at step {len(rows)}: the last 5 updates had non-finite'
    )
  )
