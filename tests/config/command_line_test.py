"""What command lines ask for, and what bad ones are told."""

import json
import os
import re
from pathlib import Path

import pytest
from absl import flags

from configs import default
from vaegan_jax.config import cli
from vaegan_jax.config.rules import OBJECTIVES
from vaegan_jax.errors import UserError


def parse(*args):
  flag_values = flags.FlagValues()
  cli.define_flags(flag_values)
  return cli.parse(['main.py', *args], flag_values, launched=False)


@pytest.fixture
def run_dir(tmp_path):
  """A workdir as training leaves it, with a batch size to know it by."""
  workdir = tmp_path / 'runs' / 'first'
  workdir.mkdir(parents=True)
  config = default.get_config()
  config.batch_size = 48
  (workdir / 'config.json').write_text(json.dumps(config.to_dict()))
  return workdir


def test_training_uses_the_quick_start_unless_told():
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


def test_two_paths_with_a_comma_are_absolute_where_there_are_two(
  monkeypatch, tmp_path
):
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
  told = 'has letters that mean something else.*set PYTHONUTF8=1'
  # As an ASCII locale hands on the same bytes, and then a Latin one.
  with pytest.raises(UserError, match=told):
    parse('--workdir=caf\udcc3\udca9')
  monkeypatch.setattr(os, 'fsencode', lambda path: path.encode('latin-1'))
  parse('--workdir=/runs')
  for flag in ('--workdir', '--config.data.data_dir'):
    with pytest.raises(UserError, match=told):
      parse('--workdir=/runs', f'{flag}=/caf\u00c3\u00a9')


@pytest.mark.parametrize(
  'flag', (['--config.objective=mse'], ['--config.objective', 'mse'])
)
def test_the_objective_as_a_flag_is_the_variant(flag):
  config = 'configs/celeba.py'
  assert (
    parse('--workdir=a', f'--config={config}', *flag).config.to_dict()
    == parse('--workdir=a', f'--config={config}:mse').config.to_dict()
  )


@pytest.mark.parametrize(
  'source',
  (
    'def get_config(objective=""): return 3',
    'def get_config(): return 3',
    'def get_config(objective:',
    'x = 1',
  ),
)
def test_a_broken_config_file_is_one_sentence(tmp_path, source):
  (tmp_path / 'mine.py').write_text(source)
  with pytest.raises(UserError, match='is not a configuration'):
    parse('--workdir=a', f'--config={tmp_path}/mine.py:mse')


def test_workdirs_are_for_compare():
  with pytest.raises(UserError, match='--workdirs=a,b is for --mode=compare'):
    parse('--workdir=w', '--workdirs=a,b')


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


WORKDIR = '--workdir=runs/a'
STUDY = ('--mode=study', WORKDIR)
MISTAKES = (
  ((), '--mode=train needs --workdir'),
  (('--mode=evaluate',), '--mode=evaluate needs --workdir'),
  (('--mode=trian', WORKDIR), 'did you mean --mode=train?'),
  ((WORKDIR, '--wrkdir=b'), 'did you mean --workdir?'),
  ((WORKDIR, 'b'), 'b is not an option'),
  (('--workdir',), 'Missing value for flag --workdir'),
  ((WORKDIR, '--config=configs/celba.py'), 'did you mean configs/celeba.py?'),
  ((WORKDIR, '--config=configs/celeba.py:msee'), "did you mean 'mse'?"),
  ((WORKDIR, '--config='), 'does not exist'),
  ((WORKDIR, '--config.batchsize=4'), 'did you mean --config.batch_size?'),
  (
    (WORKDIR, '--config.model.latentdim=4'),
    'did you mean --config.model.latent_dim?',
  ),
  ((WORKDIR, '--config.model=4'), 'did you mean --config.model.'),
  ((WORKDIR, '--config.qqq=4'), 'see configs/default.py'),
  ((WORKDIR, '--config.seed.x=4'), 'names no field'),
  ((WORKDIR, '--config.batch_size=abc'), 'must be a whole number'),
  ((WORKDIR, '-config.batch_size=abc'), 'must be a whole number'),
  ((WORKDIR, '--config.batch_size=1.5'), 'must be a whole number'),
  ((WORKDIR, '--config.batch_size'), 'Missing value'),
  ((WORKDIR, '--noconfig.batch_size'), 'is not an option'),
  ((WORKDIR, '--config.optimizer.b1=x'), 'must be a finite number'),
  ((WORKDIR, '--config.optimizer.b1=nan'), 'must be a finite number'),
  ((WORKDIR, '--config.data.random_flip=maybe'), 'must be true or false'),
  ((WORKDIR, '--config.data.random_flip', 'false'), 'false is not an option'),
  ((WORKDIR, '--noconfig.data.random_flip=1'), 'does not take an argument'),
  ((WORKDIR, '--config.loss.layers=(1, 2'), 'must be a tuple'),
  ((WORKDIR, '--config.loss.layers={[]: 1}'), 'must be a tuple'),
  ((WORKDIR, '--config.loss.layers=block_0,block_1'), 'but the critic has'),
  ((WORKDIR, '--config.seed', '-5'), 'seed=-5 must be from 0'),
  (('--mode=compare',), '--workdirs= must name two or more'),
  (('--mode=compare', '--workdirs=a'), '--workdirs=a must name two or more'),
  (('--mode=compare', '--workdirs=a,b'), 'a/config.json does not exist'),
  (('--mode=evaluate', '--workdir=nowhere'), 'nowhere/config.json'),
  (('--mode=study',), '--mode=study needs --workdir'),
  ((*STUDY, '--study.objectives=geometic'), "did you mean 'geometric'?"),
  ((*STUDY, '--study.objectives=mse,zzz'), "names 'zzz', which must be 'geo"),
  ((*STUDY, '--study.objectives=mse,mse'), 'example, --study.objectives=mse'),
  ((*STUDY, '--study.seeds=0,one,2'), 'for example, --study.seeds=0,2'),
  ((*STUDY, '--study.seeds=1,01'), 'each once: for example, --study.seeds=1'),
  ((*STUDY, '--study.seeds=-1'), 'must be whole numbers from 0 to 4294967295'),
  ((*STUDY, '--study.seeds=4294967296'), 'for example, --study.seeds=0,1,2'),
  ((*STUDY, '--study.seeds='), '--study.seeds= must be whole numbers'),
  ((*STUDY, '--study.seed=0'), 'did you mean --study.seeds=0,1,2?'),
  ((WORKDIR, '--study.seeds=0'), '--study.seeds=0 is for --mode=study'),
  (('--mode=compare', '--study.objectives=mse'), 'is for --mode=study'),
  ((*STUDY, '--config=configs/celeba.py:mse'), '--study.objectives=mse'),
  ((*STUDY, '--config.objective=mse'), 'is set by --mode=study, from --study'),
  ((*STUDY, '--config.seed', '3'), 'for example, --study.seeds=0,1,2'),
  ((*STUDY, '--config.batchsize=4'), 'did you mean --config.batch_size?'),
  ((*STUDY, '--config.batch_size=-4'), 'batch_size=-4 must be from 1'),
  ((*STUDY, '--workdirs=a,b'), '--workdirs=a,b is for --mode=compare'),
)


@pytest.mark.parametrize(('args', 'told'), MISTAKES)
def test_a_mistake_is_told_in_one_sentence(args, told):
  with pytest.raises(UserError) as caught:
    parse(*args)
  assert told in str(caught.value)
  assert '\n' not in str(caught.value)


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


def test_a_study_is_of_all_objectives_and_three_seeds_unless_told():
  runs = parse(*STUDY).runs.values()
  assert [(config.objective, config.seed) for config in runs] == [
    (objective, seed) for objective in OBJECTIVES for seed in range(3)
  ]


@pytest.mark.parametrize(
  ('statement', 'told'),
  (
    (
      "config.data.image_size = 32 if objective == 'mse' else 64",
      "data.image_size to 32 for 'mse' and 64 for 'geometric'",
    ),
    (
      "config.objective = 'mse'",
      "has the objective 'mse' where 'geometric' is asked",
    ),
  ),
)
def test_a_file_that_no_study_can_use_is_told(tmp_path, statement, told):
  (tmp_path / 'mine.py').write_text(
    'from configs import default\n\n\ndef get_config(objective):\n'
    f'  config = default.get_config(objective)\n  {statement}\n'
    '  return config\n'
  )
  with pytest.raises(UserError, match=re.escape(told)):
    parse(
      *STUDY, f'--config={tmp_path}/mine.py', '--study.objectives=mse,geometric'
    )


def test_style_transfer_has_its_own_fields(run_dir):
  pictures = ('--config.content=a.jpg', '--config.style=b.jpg')
  arguments = ('--mode=style', '--workdir=w', *pictures)
  critic = f'--config.critic={run_dir}'
  command = parse(*arguments, critic, '--config.num_steps=7')
  assert command.config.num_steps == 7
  assert list(command.runs) == [str(run_dir)]
  assert Path(command.config.content).is_absolute()
  assert parse(*arguments, '--config.weights=vgg.pth').runs == {}
  for extra, told in (
    ('--config=configs/celeba.py', 'is not for --mode=style'),
    ('--config.batch_size=3', 'names no field'),
    ('--config.critic=nowhere', 'config.json does not exist'),
  ):
    with pytest.raises(UserError, match=told):
      parse(*arguments, extra)
