"""A study trains the rest of its grid, and summarises all of it."""

import json
import os
import shutil
import signal
import statistics
import types
from pathlib import Path

import numpy as np
import pytest
from absl import logging
from PIL import Image

from configs.default import get_config
from tests import command_line
from tests.report.made_up import create_run
from vaegan_jax.commands import evaluate, study, study_report, train
from vaegan_jax.config import overrides, sweep
from vaegan_jax.errors import UserError
from vaegan_jax.evaluation import plots, tables
from vaegan_jax.runtime.preemption import PREEMPTED
from vaegan_jax.training import loop

_GRID = [(o, s) for o in ('mse', 'geometric') for s in (0, 1)]
_STEPS = 4


@pytest.fixture
def command(tiny_run, tmp_path, monkeypatch):
  """Returns a function that runs a study of _GRID, with runs in short."""
  verbosity = logging.get_verbosity()
  # Kept, so the next tests do not trace everything again.
  monkeypatch.setattr(study.jax, 'clear_caches', lambda: None)

  def command(*args):
    args = (
      *('--mode=study', *tiny_run),
      f'--workdir={tmp_path / "study"}',
      *('--study.objectives=mse,geometric', '--study.seeds=0,1'),
      *(f'--config.num_train_steps={_STEPS}', *args),
    )
    return command_line.run(*args)

  with command_line.in_short():
    yield command
  logging.set_verbosity(verbosity)


@pytest.fixture
def fake(monkeypatch):
  """Returns substitutes for training and evaluation that take no time."""
  fake = _Fake()
  picture = np.zeros((2, 2, 3), np.uint8)  # A real study has the real figure.
  monkeypatch.setattr(plots, 'comparison_figure', lambda *_: picture)
  monkeypatch.setattr(train, 'train', fake.train)
  monkeypatch.setattr(evaluate, 'evaluate', fake.evaluate)
  monkeypatch.setattr(study, '_look_at', fake.look_at)
  return fake


class _Fake:
  """Substitute that finishes every run without an entry in `ends`.

  Attributes:
    ends: (objective, seed) -> a function of the workdir that returns the exit
      status or raises.
    trained: the runs in the order of their training; `evaluated` likewise.
    drawn: the runs that were reconstructed, in order.
  """

  def __init__(self):
    self.ends = {}
    self.trained, self.evaluated, self.drawn = [], [], []

  def train(self, config, workdir, stopper):
    run = (config.objective, config.seed)
    self.trained.append(run)
    _leave_checkpoint(config, workdir, 2)
    if run in self.ends:
      with stopper.deferred():
        return self.ends[run](Path(workdir))
    _leave_checkpoint(config, workdir, config.num_train_steps)
    return loop.DONE

  def evaluate(self, config, workdir, poll):
    poll()
    self.evaluated.append((config.objective, config.seed))
    scores = _scores(config.objective, config.seed)
    line = json.dumps({'step': config.num_train_steps, **scores})
    (Path(workdir) / 'evaluation.json').write_text(line)

  def look_at(self, config, workdir, name, share, with_originals):
    self.drawn.append((config.objective, config.seed))
    images = np.zeros((2, 16, 16, 3))
    return create_run(name), images, images


def _leave_checkpoint(config, workdir, step):
  (Path(workdir) / 'checkpoints' / str(step)).mkdir(parents=True, exist_ok=True)
  text = json.dumps(config.to_dict())
  (Path(workdir) / 'config.json').write_text(text)


def _give_up(workdir, step=3, skipped=20):
  row = {'step': step, 'train/skipped_in_a_row': skipped}
  (workdir / 'metrics.jsonl').write_text(json.dumps(row) + '\n')
  return loop.FAILED


def _crash(workdir):
  raise MemoryError('no\nroom')


def _scores(objective, seed):
  psnr = {'mse': 20.0, 'geometric': 21.0}[objective] + seed
  return {
    'psnr': psnr,
    'ssim': 0.5 + 0.01 * seed,
    'detail': 0.25,
    'kl': 100.0,
    'distance': 7.0,
  }


def _results(tmp_path):
  return json.loads((tmp_path / 'study' / 'study.json').read_text())


def test_every_run_of_the_grid_is_trained_in_its_own_workdir(
  fake, command, tmp_path, capsys
):
  assert command() == loop.DONE
  assert fake.trained == fake.evaluated == _GRID
  folder = tmp_path / 'study'
  for objective, seed in _GRID:
    config = json.loads(
      (folder / objective / f'seed_{seed}' / 'config.json').read_text()
    )
    assert (config['objective'], config['seed']) == (objective, seed)
  assert [
    (run['objective'], run['seed'], run['status'], run['step'], run['scores'])
    for run in _results(tmp_path)['runs']
  ] == [(*run, 'finished', _STEPS, _scores(*run)) for run in _GRID]
  lines = capsys.readouterr().out.splitlines()
  assert 'run 1 of 4: mse, seed 0  0:00:00 elapsed  -:--:-- left' in lines
  assert 'run 4 of 4: geometric, seed 1  0:00:00 elapsed  0:00:00 left' in lines
  assert lines[-2] == f'Figure: {folder / "study.png"}'


def test_the_same_command_trains_nothing_twice(fake, command, tmp_path, capsys):
  command()
  before = _results(tmp_path)
  fake.trained.clear()
  capsys.readouterr()
  assert command() == loop.DONE
  assert not fake.trained and len(fake.evaluated) == len(_GRID)
  assert _results(tmp_path) == before
  assert 'run 4 of 4: geometric, seed 1  finished before' in (
    capsys.readouterr().out
  )
  assert command('--study.seeds=0,1,2') == loop.DONE
  assert fake.trained == [('mse', 2), ('geometric', 2)]


def test_what_may_change_the_scores_is_evaluated_again(fake, command):
  command()
  fake.trained.clear()
  assert command('--config.data.eval_split=train+test') == loop.DONE
  assert fake.trained == _GRID  # `train` finds nothing to do there.
  assert fake.evaluated == 2 * _GRID


def test_a_stopped_run_stops_the_study_and_resumes(fake, command, tmp_path):
  fake.ends['geometric', 0] = lambda workdir: PREEMPTED
  assert command() == PREEMPTED == 75
  assert fake.trained == _GRID[:3]
  assert len(_results(tmp_path)['runs']) == 2
  fake.trained.clear()
  fake.ends.clear()
  assert command() == loop.DONE
  assert fake.trained == _GRID[2:]
  assert len(_results(tmp_path)['runs']) == 4


def test_sigterm_too_late_for_the_training_stops_the_study(fake, command):
  def finish(workdir):
    os.kill(os.getpid(), signal.SIGTERM)
    return loop.DONE

  fake.ends['mse', 1] = finish
  assert command() == PREEMPTED
  assert fake.trained == _GRID[:2] and fake.evaluated == _GRID[:1]


def test_sigterm_between_trainings_stops_the_study(fake, command, monkeypatch):
  before = signal.getsignal(signal.SIGTERM)

  def terminate(config, workdir, poll):
    os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(evaluate, 'evaluate', terminate)
  with pytest.raises(SystemExit) as caught:
    command()
  assert caught.value.code == 75
  assert fake.trained == _GRID[:1]
  assert signal.getsignal(signal.SIGTERM) == before


def test_a_run_that_gives_up_is_a_result(fake, command, tmp_path):
  fake.ends['mse', 0] = _give_up
  assert command() == loop.DONE
  assert fake.trained == _GRID and fake.evaluated == _GRID[1:]
  fake.trained.clear()
  assert command() == loop.DONE
  assert not fake.trained
  result = _results(tmp_path)
  assert result['runs'][0] == {
    'label': 'mse',
    'objective': 'mse',
    'seed': 0,
    'status': 'failed',
    'step': 3,
    'message': '20 updates in a row were not finite',
  }
  assert result['objectives']['mse']['failures'] == 1
  assert fake.drawn[:2] == [('mse', 1), ('geometric', 0)]
  assert (
    '\n- mse, seed 0, failed after step 3: 20 updates in a row'
    in (tmp_path / 'study' / 'study.md').read_text()
  )


def test_a_run_may_give_up_for_another_reason(fake, command, tmp_path):
  fake.ends['mse', 0] = lambda workdir: _give_up(workdir, skipped=0)
  assert command() == loop.DONE
  run = _results(tmp_path)['runs'][0]
  assert (run['status'], run['step']) == ('failed', 3)


def test_a_disk_that_refuses_the_checkpoint_is_no_result(
  fake, command, tmp_path
):
  fake.ends['mse', 1] = lambda workdir: _give_up(workdir, _STEPS, skipped=0)
  assert command() == loop.FAILED
  # There are no metrics either.
  fake.ends['mse', 1] = lambda workdir: loop.FAILED
  (tmp_path / 'study' / 'mse' / 'seed_1' / 'metrics.jsonl').unlink()
  assert command() == loop.FAILED
  assert fake.trained == [('mse', 0), ('mse', 1), ('mse', 1)]


def test_a_crash_is_reported_and_tried_again_by_the_next_call(
  fake, command, tmp_path, caplog
):
  fake.ends['mse', 1] = _crash
  assert command() == loop.FAILED
  assert fake.trained == _GRID
  run = _results(tmp_path)['runs'][1]
  assert run['status'] == 'crashed' and run['step'] == 2
  assert run['message'] == 'MemoryError: no\nroom'
  assert 'mse/seed_1 crashed' in caplog.text
  text = (tmp_path / 'study' / 'study.md').read_text()
  assert text.endswith(
    '\n- mse, seed 1, crashed after step 2: MemoryError: no room\n'
  )
  fake.trained.clear()
  fake.ends.clear()
  assert command() == loop.DONE
  assert fake.trained == [('mse', 1)]


def test_a_mistake_ends_the_study(fake, command):
  def refuse(workdir):
    raise UserError('data.path is wrong')

  fake.ends['mse', 0] = refuse
  with pytest.raises(UserError, match=r'data\.path is wrong'):
    command()
  assert fake.trained == _GRID[:1]


def test_without_a_finished_run_there_is_no_figure(
  fake, command, tmp_path, capsys
):
  fake.ends = dict.fromkeys(_GRID, _give_up)
  assert command() == loop.DONE
  assert 'No run finished' in capsys.readouterr().out
  assert not (tmp_path / 'study' / 'study.png').exists()
  assert (
    '| mse | 2 | 2 | — | — | — | — | — | — |'
    in (tmp_path / 'study' / 'study.md').read_text()
  )


@pytest.mark.parametrize(
  ('arg', 'told'),
  (
    (
      '--config.batch_size=16',
      r'In .*/mse/seed_0, config.batch_size was 8 and is 16 now',
    ),
    (
      '--config.num_train_steps=3',
      r'mse/seed_0 is at step 4 already, but num_train_steps=3',
    ),
  ),
)
def test_other_runs_in_the_workdir_are_refused_before_training(
  arg, told, fake, command, tmp_path
):
  command('--study.seeds=0')
  fake.trained.clear()
  with pytest.raises(UserError, match=told):
    command(arg)
  # A run's own folder is not a study's.
  run = tmp_path / 'study' / 'mse' / 'seed_0'
  with pytest.raises(UserError, match=f'{run} is a run itself.*{run}_study$'):
    command(f'--workdir={run}')
  assert not fake.trained


def _outcomes(objective, *rows, status='finished'):
  return [{'label': objective, 'status': status, 'scores': row} for row in rows]


def test_the_table_has_means_and_sample_deviations_over_the_seeds():
  row = {'psnr': 20.0, 'ssim': 0.5, 'detail': 0.25, 'lpips': 0.125, 'kl': 90.0}
  outcomes = [
    *_outcomes('mse', row, row | {'psnr': 22.0}, row | {'psnr': 24.0}),
    *_outcomes('mse', {}, status='failed'),
    *_outcomes('geometric', row),
    *_outcomes('geometric', {}, status='crashed'),
  ]
  summary = study_report.summarize(outcomes)
  assert summary['mse']['psnr'] == (22.0, 2.0)
  assert summary['mse']['kl'] == (90.0, 0.0)
  assert summary['geometric']['psnr'] == (20.0, None)
  assert tables.markdown_table(summary).splitlines() == [
    '|  | Runs | Failures | PSNR (dB) | SSIM | 8x8 means (dB) | Detail '
    '| Energy | LPIPS | KL (nats) |',
    '| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |',
    '| mse | 4 | 1 | 22.00 ± 2.00 | 0.5000 ± 0.0000 | — | 0.2500 ± 0.0000 '
    '| — | 0.1250 ± 0.0000 | 90.00 ± 0.00 |',
    '| geometric | 2 | 1 | 20.00 | 0.5000 | — | 0.2500 | — | 0.1250 | 90.00 |',
  ]


def test_a_score_that_one_run_lacks_has_no_mean():
  row = {'psnr': 20.0, 'ssim': 0.5, 'detail': None, 'kl': 90.0}
  whole = row | {'detail': 0.5}
  summary = study_report.summarize(_outcomes('mse', row, whole))['mse']
  assert summary['detail'] is None and summary['psnr'] == (20.0, 0.0)


def test_the_estimate_uses_the_remaining_updates(capsys, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(study.time, 'monotonic', lambda: now[0])
  monkeypatch.setattr(study, '_newest_step', lambda run: 0)
  runs = {
    run: types.SimpleNamespace(num_train_steps=steps)
    for run, steps in {'a': 20, 'b': 10, 'c': 40}.items()
  }
  outcomes = {'a': {'status': 'finished'}, 'b': None, 'c': None}
  progress = study._Progress(runs, outcomes)
  progress.announce('a', 'A', {'status': 'failed'})
  progress.announce('b', 'B', None)
  now[0] = 3600.0
  progress.announce('c', 'C', None)
  assert capsys.readouterr().out.splitlines() == [
    'run 1 of 3: A  failed before',
    'run 2 of 3: B  0:00:00 elapsed  -:--:-- left',
    'run 3 of 3: C  1:00:00 elapsed  4:00:00 left',
  ]


def test_a_real_study_equals_its_runs(command, tmp_path):
  """Trains one run with a critic, whose update compiles slowly."""
  assert command('--study.objectives=mse') == loop.DONE
  folder = tmp_path / 'study'
  result = _results(tmp_path)
  psnrs = [run['scores']['psnr'] for run in result['runs']]
  assert result['objectives']['mse']['psnr'] == pytest.approx(
    {'mean': np.mean(psnrs), 'deviation': statistics.stdev(psnrs)}
  )
  # A lost run is trained again, and is the same.
  shutil.rmtree(folder / 'mse' / 'seed_1')
  assert command('--study.seeds=1') == loop.DONE
  lost, other = _results(tmp_path)['runs']
  assert lost == result['runs'][1]
  for run in (*result['runs'], other):
    workdir = folder / run['objective'] / f'seed_{run["seed"]}'
    assert (workdir / 'checkpoints' / str(_STEPS)).is_dir()
    scores = json.loads((workdir / 'evaluation.json').read_text())
    assert scores == {'step': _STEPS, **run['scores']}
  # Seeds and objectives differ.
  assert len({*psnrs, other['scores']['psnr']}) == 3
  # Five held-out images, in rows of three, above the table.
  with Image.open(folder / 'study.png') as picture:
    assert picture.width > 1000 and picture.height > 600


def test_a_sweep_trains_every_value_and_plots_curves(
  fake, command, tmp_path, capsys
):
  """Covers every objective and seed, and resuming."""
  args = ('--study.seeds=0,1', '--study.sweep=loss.kl_weight=1e-3,0.5')
  fake.ends['geometric', 1] = _crash
  assert command(*args) == loop.FAILED
  assert len(fake.trained) == 8
  del fake.ends['geometric', 1]
  fake.trained.clear()
  assert command(*args) == loop.DONE
  assert len(fake.trained) == 2  # The run that crashed, with either value.
  folder = tmp_path / 'study'
  workdirs = {path.parent for path in folder.rglob('outcome.json')}
  assert workdirs == {
    folder / objective / f'loss.kl_weight={value}' / f'seed_{seed}'
    for objective in ('mse', 'geometric')
    for value in ('1e-3', '0.5')
    for seed in (0, 1)
  }
  rows = _results(tmp_path)['objectives']
  assert list(rows) == [
    f'{objective}, loss.kl_weight={value}'
    for objective in ('mse', 'geometric')
    for value in ('1e-3', '0.5')
  ]
  assert rows['mse, loss.kl_weight=0.5']['psnr'] == {
    'mean': 20.5,
    'deviation': pytest.approx(0.5**0.5),
  }
  config = json.loads(
    (folder / 'mse/loss.kl_weight=0.5/seed_0/outcome.json').read_text()
  )['config']
  assert config['loss']['kl_weight'] == 0.5
  with Image.open(folder / 'study_curves.png') as picture:
    assert picture.width > 600
  page = (folder / 'report.html').read_text()
  assert '"label": "geometric, loss.kl_weight=0.5, seed 0"' in page
  assert '"points": [[100.0, 20.5, 0.0, 0.707107]' in page
  assert '"seeds": [[100.0, 20.0], [100.0, 21.0]' in page
  assert 'study_curves.png' in capsys.readouterr().out


def test_a_factor_is_of_each_objectives_own_value():
  source = 'configs/default.py'
  argv = ['main.py', '--config.model.latent_dim=64']
  runs = sweep.create_runs(
    source,
    argv,
    '/study',
    objectives=['mse', 'geometric'],
    seeds=['0'],
    sweep=['loss.kl_weight=0.3x', '1x'],
  )
  own = {name: get_config(name).loss.kl_weight for name in ('mse', 'geometric')}
  assert own['mse'] != own['geometric']
  assert len(runs) == 4
  for workdir, config in runs.items():
    objective, change, _ = Path(workdir).relative_to('/study').parts
    factor = {'loss.kl_weight=0.3x': 0.3, 'loss.kl_weight=1x': 1.0}[change]
    assert config.loss.kl_weight == pytest.approx(factor * own[objective])
  flags = {'objectives': ['mse'], 'seeds': ['0']}
  (config,) = sweep.create_runs(
    source, argv, '/study', **flags, sweep=['model.latent_dim=2x']
  ).values()
  assert config.model.latent_dim == 128


def test_flags_that_no_run_of_a_study_reads_are_named(capsys):
  argv = ['main.py', '--config.critic.lecam_decay=0.91']
  off, no_critic = 'critic.lecam_weight is above 0', "objective is not 'mse'"
  for objectives, weights, told in (
    ('geometric', '1', []),
    ('geometric', '0,1', []),
    ('geometric', '0', [off]),
    ('mse,geometric', '1', []),  # One of them reads it.
    ('mse,geometric', '0', [no_critic, off]),
  ):
    overrides._tell.cache_clear()
    sweep.create_runs(
      'configs/default.py',
      argv,
      '/study',
      objectives=objectives.split(','),
      seeds=['0'],
      sweep=f'critic.lecam_weight={weights}'.split(','),
    )
    lines = capsys.readouterr().out.splitlines()
    assert [
      line.partition(' where ')[2].partition(',')[0] for line in lines
    ] == told


@pytest.mark.parametrize(
  ('sweep', 'told'),
  [
    ('loss.kl_weight=', 'must be a field and its values'),
    ('=1,2', 'must be a field and its values'),
    ('loss.kl_wait=1,2', r'did you mean --config\.loss\.kl_weight'),
    ('loss.kl_weight=1,-2', r'loss\.kl_weight=-2.0 must be at least 0'),
    ('data.image_size=16,8', 'needs the same images for all'),
    ('loss.normalize=2x', r"loss\.normalize, which is '\w+' and must be a num"),
    ('data.random_flip=2x', 'multiplies data.random_flip, which is True'),
    ('model.latent_dim=0.3x', r'model\.latent_dim=1.2 must be a whole number'),
    ('loss.kl_wait=2x', r'did you mean --config\.loss\.kl_weight'),
    ('loss.kl_weight=2.2.2x', 'which is 1.0 and must|must be a finite'),
    ('loss.rate=0.5x,1x', 'which is 0.0 and must be a number other than 0'),
    ('loss.rate=16,32', r'rate=16 steers .*loss\.kl_weight gives too'),
  ],
)
def test_a_wrong_sweep_is_refused_before_training(sweep, told, fake, command):
  with pytest.raises(UserError, match=told):
    command(f'--study.sweep={sweep}')
  assert not fake.trained
