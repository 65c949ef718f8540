"""Command lines and the commands that they ask for.

`mistakes_test.py` has the wrong ones.
"""

import json
import os
import re
from pathlib import Path

import pytest

from configs import default
from tests.command_line import parse
from vaegan_jax.config import cli
from vaegan_jax.errors import UserError
from vaegan_jax.names import OBJECTIVES

STUDY = ('--mode=study', '--workdir=runs/a')


@pytest.fixture
def run_dir(tmp_path):
  """A workdir as training leaves it, with a batch size to know it by."""
  workdir = tmp_path / 'runs' / 'first'
  workdir.mkdir(parents=True)
  config = default.get_config()
  config.batch_size = 48
  (workdir / 'config.json').write_text(json.dumps(config.to_dict()))
  return workdir


def test_training_uses_the_quick_start_by_default():
  command = parse('--workdir=runs/a')
  assert command.mode == 'train'
  assert command.workdir == str(Path('runs/a').absolute())
  assert command.config.data.name == 'drawn_faces'


def test_paths_are_absolute_and_buckets_stay(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HOME', '/home/anna')
  assert parse('--workdir=a').workdir == str(tmp_path / 'a')
  assert parse('--workdir=~/a').workdir == '/home/anna/a'
  assert parse('--workdir=gs://b/a').workdir == 'gs://b/a'
  config = parse(
    '--workdir=a', '--config=configs/image_folder.py', '--config.data.path=cats'
  ).config
  assert config.data.path == str(tmp_path / 'cats')


def test_two_paths_with_a_comma_are_both_absolute(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  two = f'{tmp_path}/a.pth,{tmp_path}/b.pth'
  arguments = (
    *('--workdir=a', '--config.critic.weights=a.pth,b.pth'),
    *('--config.evaluation.lpips_weights=a.pth,b.pth',),
    *('--config.loss.adversarial_weight=0', '--config.loss.normalize=none'),
    '--config.loss.reduction=spatial',
  )
  for network, weights in (
    ('lpips', two),
    ('vgg16', f'{tmp_path}/a.pth,b.pth'),  # A file with such a name.
  ):
    config = parse(*arguments, f'--config.critic.network={network}').config
    assert config.critic.weights == weights
    assert config.evaluation.lpips_weights == two


def test_paths_that_a_locale_changes_are_refused(monkeypatch):
  assert parse('--workdir=caf\u00e9').workdir.endswith('caf\u00e9')
  # As an ASCII locale hands on the same bytes, and then a Latin one.
  with pytest.raises(UserError, match='PYTHONUTF8=1'):
    parse('--workdir=caf\udcc3\udca9')
  monkeypatch.setattr(os, 'fsencode', lambda path: path.encode('latin-1'))
  parse('--workdir=/runs')
  for flag in ('--workdir', '--config.data.data_dir'):
    with pytest.raises(UserError, match='PYTHONUTF8=1'):
      parse('--workdir=/runs', f'{flag}=/caf\u00c3\u00a9')


@pytest.mark.parametrize(
  'flag', (['--config.objective=mse'], ['--config.objective', 'mse'])
)
def test_the_objective_as_a_flag_is_that_of_the_file(flag):
  config = 'configs/celeba.py'
  assert (
    parse('--workdir=a', f'--config={config}', *flag).config.to_dict()
    == parse('--workdir=a', f'--config={config}:mse').config.to_dict()
  )


def test_fields_are_set_in_any_place_and_spelling():
  config = parse(
    '--config.batch_size=128',
    '--config=configs/cifar10.py:mse',
    '--config.seed',
    '7',
    '--workdir=runs/a',
    '--noconfig.data.random_flip',
    '--config.optimizer.b1=0',
    '--config.model.channel_multipliers=1,2,3',
    "--config.loss.layers=('block_0', 'block_2')",
  ).config
  assert config.data.name == 'cifar10'
  assert (config.batch_size, config.seed) == (128, 7)
  assert config.data.random_flip is False
  assert isinstance(config.optimizer.b1, float)
  assert config.model.channel_multipliers == (1, 2, 3)
  assert config.loss.layers == ('block_0', 'block_2')


def test_evaluation_uses_the_saved_configuration(run_dir):
  command = parse(
    '--mode=evaluate', f'--workdir={run_dir}', '--config.num_eval_images=7'
  )
  assert command.config.batch_size == 48
  assert command.config.num_eval_images == 7


def test_evaluation_with_a_configuration_uses_that(run_dir):
  command = parse(
    '--mode=evaluate', f'--workdir={run_dir}', '--config=configs/cifar10.py'
  )
  assert command.config.data.name == 'cifar10'


def test_comparison_is_written_to_the_common_parent(run_dir):
  second = run_dir.parent / 'more' / 'second'
  second.mkdir(parents=True)
  (second / 'config.json').write_text((run_dir / 'config.json').read_text())
  workdirs = (str(run_dir), str(second))
  arguments = ('--mode=compare', f'--workdirs={",".join(workdirs)}')
  command = parse(*arguments)
  assert tuple(command.runs) == workdirs
  assert command.workdir == str(run_dir.parent)
  assert parse(*arguments, '--workdir=/elsewhere').workdir == '/elsewhere'
  with pytest.raises(UserError, match='takes no --config'):
    parse(*arguments, '--config.seed=1')
  with pytest.raises(UserError, match='is not an option'):
    parse(*arguments, 'third')


def test_a_study_is_a_grid_of_whole_configurations(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  command = parse(
    *STUDY,
    '--config=configs/image_folder.py',
    '--config.data.path=cats',
    '--study.objectives=mse, geometric',
    '--study.seeds=3,0',
    '--config.batch_size=16',
  )
  assert command.mode == 'study' and command.config is None
  root = tmp_path / 'runs' / 'a'
  assert command.workdir == str(root)
  assert list(command.runs) == [
    str(root / objective / seed)
    for objective in ('mse', 'geometric')
    for seed in ('seed_3', 'seed_0')
  ]
  for workdir, config in command.runs.items():
    single = parse(
      f'--config=configs/image_folder.py:{config.objective}',
      f'--workdir={workdir}',
      '--config.data.path=cats',
      '--config.batch_size=16',
      f'--config.seed={workdir[-1]}',
    )
    assert config.to_dict() == single.config.to_dict()


def test_a_study_has_all_objectives_and_three_seeds_by_default():
  runs = parse(*STUDY).runs.values()
  assert [(config.objective, config.seed) for config in runs] == [
    (objective, seed) for objective in OBJECTIVES for seed in range(3)
  ]


@pytest.mark.parametrize(
  ('statement', 'message'),
  (
    (
      "config.data.image_size = 32 if objective == 'mse' else 64",
      "data.image_size to 32 for 'mse' and 64 for 'geometric'",
    ),
    ("config.objective = 'mse'", "objective 'mse' instead of 'geometric'"),
  ),
)
def test_a_file_that_no_study_can_use_is_refused(tmp_path, statement, message):
  (tmp_path / 'mine.py').write_text(
    'from configs import default\n\n\ndef get_config(objective):\n'
    f'  config = default.get_config(objective)\n  {statement}\n'
    '  return config\n'
  )
  with pytest.raises(UserError, match=re.escape(message)):
    parse(
      *STUDY, f'--config={tmp_path}/mine.py', '--study.objectives=mse,geometric'
    )


def test_flags_of_finished_models_have_types(run_dir):
  command = parse('--mode=sample', f'--workdir={run_dir}', '--num_samples=9')
  assert command.use.num_samples == 9
  assert command.use.output == str(run_dir / 'samples')
  for flag in ('--with_critic=false', '--nowith_critic'):
    command = parse('--mode=export', f'--workdir={run_dir}', flag)
    assert command.use.with_critic is False
  command = parse('--mode=encode', f'--workdir={run_dir}', '--split=eval')
  assert (command.use.split, command.use.input) == ('eval', '')


def test_the_coordinator_may_be_in_the_environment(monkeypatch):
  assert parse('--workdir=a').processes is None
  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'a:1')
  count = ('--num_processes=2', '--process_id=1')
  assert parse('--workdir=a', *count).processes == cli.Processes('a:1', 2, 1)
  flag = '--coordinator=b:2'
  processes = parse('--workdir=a', flag, *count).processes
  assert processes == cli.Processes('b:2', 2, 1)
  with pytest.raises(UserError, match='--num_processes and --process_id'):
    parse('--workdir=a')
