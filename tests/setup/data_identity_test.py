"""Folders that change during a run: splits, messages and resuming."""

import contextlib
import json
import shutil
import tarfile
import types
import zlib
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from tests import command_line
from vaegan_jax.commands import compare
from vaegan_jax.config import schema
from vaegan_jax.config.io import load_config
from vaegan_jax.config.migrations import stamp
from vaegan_jax.config.rules import flatten
from vaegan_jax.data.image_files import ImageFiles
from vaegan_jax.errors import UserError
from vaegan_jax.runtime.checkpoints import Checkpoints
from vaegan_jax.setup import data_identity, resume
from vaegan_jax.setup.finished_run import open_run

ARCHIVE = Path(__file__).parents[1] / 'fixtures' / 'workdir_1.tar.gz'


def add_photos(folder, names):
  for shade, name in enumerate(names):
    Image.new('RGB', (16, 16), (shade, 9, 0)).save(folder / name)


def split(folder):
  images = ImageFiles(str(folder))
  return images.split(images.find_damaged())


def test_a_folder_that_grows_under_a_run(
  run, tiny_run, image_folder, tmp_path, capsys, caplog, monkeypatch
):
  images = shutil.copytree(image_folder, tmp_path / 'images')
  workdir = tmp_path / 'run'
  flags = (*tiny_run, f'--config.data.path={images}')
  flags += ('--config.objective=mse',)  # A critic compiles slowly.
  few = ('--config.checkpoint_every_steps=1', '--config.num_train_steps')
  assert run(workdir, *flags, f'{few[1]}=1', few[0]) == 0
  before = split(images)

  # Ten images that sort first: some are held out, and no other one moves.
  add_photos(images, [f'{i:03}.png' for i in range(10)])
  after = split(images)
  old = {*before['train'], *before['test']}
  assert old & set(after['test']) == set(before['test'])
  new = len(after['train']) - len(before['train'])
  assert 0 < new <= 10

  said = (
    f'has {len(after["train"])} training examples, and had '
    f'{len(before["train"])}, not all the same, at step 1 of the run'
  )
  with pytest.raises(UserError, match=said) as error:
    run(workdir, *flags, f'{few[1]}=2', few[0])
  assert '--config.data.allow_growth=true' in str(error.value)

  run(workdir, '--mode=evaluate')
  told = f'{len(before["train"])} then and {len(after["train"])} now'
  assert told in caplog.text
  assert told in (workdir / 'evaluation.md').read_text()

  capsys.readouterr()
  grow = '--config.data.allow_growth=true'
  read = mock.Mock(side_effect=data_identity.read_identity)
  with monkeypatch.context() as patched:
    patched.setattr(data_identity, 'read_identity', read)
    assert run(workdir, *flags, f'{few[1]}=2', few[0], grow) == 0
  assert read.call_count == 1
  (line,) = (
    line for line in capsys.readouterr().out.splitlines() if said in line
  )
  assert f'{new} are new, and the order of examples changes from here' in line
  caplog.clear()
  run(workdir, '--mode=evaluate')
  # These are the images of the newest step.
  assert 'then and' not in caplog.text
  assert 'then and' not in (workdir / 'evaluation.md').read_text()

  # A held-out image counts as growth too.
  for shade in range(256):
    Image.new('RGB', (16, 16), (0, 0, shade)).save(images / 'blue.png')
    if 'blue.png' in split(images)['test']:
      break
  with pytest.raises(UserError, match='training examples, and had'):
    run(workdir, *flags, f'{few[1]}=3', few[0])
  assert run(workdir, *flags, f'{few[1]}=3', few[0], grow) == 0

  # Fewer images are not growth.
  (images / after['train'][0]).unlink()
  with pytest.raises(UserError, match=r'data\.num_images was'):
    run(workdir, *flags, f'{few[1]}=4', few[0], grow)


# Fields of a run of configs/audio.py from before it had patches.
_SOUNDS = {
  'model.patch_size': 1,
  'model.depth': 6,
  'model.width': 16,
  'model.channel_multipliers': (1, 2, 2, 4, 4, 4),
  'model.latent_dim': 8,
  'critic.stft_windows': (1024, 512, 256),
  'loss.rate': 1024.0,
  'optimizer.muon_learning_rate': 0.01,
}
_MSE = _SOUNDS | {'loss.kl_weight': 4.0}
_GEOMETRIC = _SOUNDS | {
  'critic.r1_weight': 1.0,
  'loss.kl_weight': 1e-2,
  'loss.norm': 'l1',
  'loss.image_weight': 1.0,
  'loss.image_halvings': 3,
  'loss.spectrum_weight': 1.0,
}
_MUON = {'optimizer.muon_learning_rate': 0.01}
_SQUARES = _MUON | {
  'critic.r1_weight': 1.0,
  'loss.kl_weight': 2e-3,
  'loss.norm': 'l2',
  'loss.image_weight': 100.0,
  'loss.spectrum_weight': 3.0,
}
_LIGHT = {
  'loss.image_weight': 4.0,
  'loss.spectrum_weight': 1.0,
  'loss.kl_weight': 3e-4,
}
_VOLUMES = {
  'optimizer.autoencoder_learning_rate': 2e-3,
  'optimizer.critic_learning_rate': 2e-3,
}
_WEAK_R1 = {
  'critic.r1_weight': 1.0,
  'optimizer.schedule': 'constant',
  'optimizer.muon_learning_rate': 0.0,
}
_CONSTANT = {'optimizer.schedule': 'constant'}
_START = {'loss.kl_weight': 1e-2}
_FACES = {'loss.image_weight': 2.0}
_NO_RATE = {'loss.rate': 0.0, 'loss.adversarial_weight': 0.2}
_NO_MASK = dict.fromkeys(('model.spectral_mask', 'model.spectral_noise'))
_NO_NOISE = {
  'model.spectral_noise': None,
  'optimizer.schedule': 'constant',
  'loss.spectrum_weight': 2.0,
}
_VOICE = {'loss.spectrum_weight': 0.0, 'critic.views': ('wave',)}
_KL = {'loss.rate': 0.0, 'loss.kl_weight': 0.25}
_RANGE = {'data.value_range': (0, 5)}


# The command of today; the fields that differed in the run, or None where its
# version had none; those that it keeps, all or but some.
@pytest.mark.parametrize(
  ('command', 'began', 'lost'),
  [
    ('volume.py', _VOLUMES | {'loss.norm': None}, ''),
    ('volume.py', _VOLUMES, 'all'),
    ('volume.py', _WEAK_R1 | _START, ''),
    ('volume.py', _START | {'critic.r1_weight': 2.0}, 'all'),
    ('volume.py --config.critic.r1_weight=2', _CONSTANT | _START, ''),
    ('volume.py --config.critic.r1_weight=2',
     _CONSTANT | {'critic.r1_weight': 1.0}, 'all'),
    ('volume.py --config.optimizer.schedule=cosine',
     _START | {'critic.r1_weight': 1.0}, ''),
    ('volume.py:mse', _WEAK_R1, ''),
    ('bands.py', _WEAK_R1 | _START, ''),
    ('bands.py:mse', _WEAK_R1, ''),
    ('quickstart.py --config.critic.r1_weight=10',
     {'critic.r1_weight': 1.0}, 'all'),
    ('quickstart.py', _FACES | {'loss.image_growth': None}, ''),
    ('quickstart.py', _FACES, 'all'),
    ('quickstart.py', _NO_RATE, ''),
    ('quickstart.py --config.loss.rate=64', _NO_RATE, 'all'),
    ('quickstart.py', {'loss.image_growth': None, 'loss.image_weight': 3.0},
     'loss.image_weight'),
    ('audio.py', dict.fromkeys(_VOICE), ''),
    ('audio.py', _VOICE, 'all'),
    ('audio.py', _NO_MASK, ''),
    ('audio.py', _GEOMETRIC | _NO_MASK, ''),
    ('audio.py', _NO_NOISE, ''),
    ('audio.py --config.model.spectral_mask=0',
     _NO_NOISE | {'model.spectral_mask': 0}, ''),
    ('audio.py --config.loss.spectrum_weight=3', _NO_NOISE,
     'loss.spectrum_weight'),
    ('audio.py:mse', {'model.spectral_noise': None}, ''),
    ('audio.py:mse', {'model.spectral_mask': 0}, 'all'),
    ('audio.py', _GEOMETRIC, ''),
    ('audio.py', _GEOMETRIC | {'loss.image_weight': 0.0}, ''),
    ('audio.py', _SQUARES, ''),
    ('audio.py', _SQUARES | _LIGHT, ''),
    ('audio.py', _SQUARES | {'loss.image_weight': 6.0}, 'loss.image_weight'),
    ('audio.py', _SQUARES | {'critic.r1_weight': 0.1}, 'critic.r1_weight'),
    ('audio.py:mse', _MUON, ''),
    ('audio.py:mse', _MSE, ''),
    ('audio.py:mse', _MSE | _RANGE, ''),
    ('audio.py:mse', _MSE | {'model.width': 24}, 'model.width'),
    ('audio.py:mse', _MSE | {'model.depth': 5}, 'all'),
    ('audio.py:mse --config.loss.rate=512', _MSE, 'loss.rate'),
    ('celeba.py', _KL, ''),
    ('celeba.py', _KL | {'loss.rate': 64.0}, 'all'),
    ('celeba.py --config.loss.rate=64', _KL, 'all'),
    ('celeba.py --config.loss.kl_weight=0.5', _KL, 'all'),
    ('celeba.py:geometric,vq_f8', {'loss.kl_weight': 0.25}, 'all'),
    ('quickstart.py', {'data.folder_rules': 2, 'loss.min_size': 0.0}, ''),
    ('quickstart.py', {'loss.min_size': 0.2}, 'all'),
  ],
)  # fmt: skip
def test_a_run_of_before_keeps_what_its_command_meant(
  monkeypatch, command, began, lost
):
  parsed = command_line.parse(
    *f'--config=configs/{command} --workdir=w'.split()
  )
  now = flatten(parsed.config)
  recorded = parsed.config.to_dict()
  for name, value in began.items():
    section, field = name.split('.')
    recorded[section][field] = value
    if value is None:
      del recorded[section][field]
  identity = {'config': json.loads(json.dumps(stamp(recorded)))}
  monkeypatch.setattr(data_identity, 'read_identity', lambda *_: identity)
  kept = flatten(data_identity.keep_rules(parsed.config, 'w'))
  absent = {field.name: field.if_absent for field in schema.FIELDS}
  wanted = {
    name: absent[name] if value is None else value
    for name, value in began.items()
    if lost not in (name, 'all')
  }
  assert kept == now | wanted


def test_a_run_of_before_is_recognized_at_each_resumption(tmp_path):
  workdir, state = str(tmp_path), {'w': np.zeros(1, np.float32)}
  args = ('--config=configs/quickstart.py', f'--workdir={workdir}')
  before = command_line.parse(*args).config.to_dict()
  before['loss']['image_weight'] = 2.0
  del before['loss']['image_growth']
  with contextlib.closing(Checkpoints(workdir)) as checkpoints:
    assert checkpoints.save(1, state, config=stamp(before), data={'n': 1})
  for step in (2, 3):
    config = command_line.parse(*args).config
    recorded = data_identity.read_recorded(workdir)
    config = data_identity.keep_rules(config, workdir, recorded)
    assert (config.loss.image_weight, config.loss.image_growth) == (2, 1)
    run = types.SimpleNamespace(
      config=config,
      identity={'config': config.to_dict(), 'data': {'n': 1}},
      template=state,
      create_state=lambda: state,
      recorded=recorded,
    )
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
      resumed = resume.RunCheckpoints(run, workdir, checkpoints)
      assert resumed.restore_or_init()[1] == step - 1
      assert resumed.save(step, state, finish=True)


@pytest.fixture
def old_run(tmp_path):
  """Returns (configuration, workdir) of a run of the first version."""
  with tarfile.open(ARCHIVE) as file:
    file.extractall(tmp_path, filter='data')
  config = load_config(tmp_path / 'run' / 'config.json')
  config.data.path = str(tmp_path / 'images')
  config.data.data_dir = str(tmp_path / 'data')
  return config, str(tmp_path / 'run')


def test_a_run_of_an_earlier_version_keeps_what_it_held_out(
  old_run, tmp_path, caplog, capsys
):
  config, workdir = old_run
  assert config.data.folder_rules == 1
  config.data.folder_rules = 3  # The defaults of today's command line.
  config.optimizer.muon_learning_rate = 0.01
  config.loss.image_high_pass = 1.0
  kept = data_identity.keep_rules(config, workdir)
  assert kept.data.folder_rules == 1 and config.data.folder_rules == 3
  told = capsys.readouterr().out
  assert 'began with data.folder_rules=1, loss.image_high_pass=0.0, ' in told
  assert 'optimizer.muon_learning_rate=0.0, and keeps it' in told
  assert not kept.optimizer.muon_learning_rate + kept.loss.image_high_pass
  evaluator, _, _ = open_run(config, workdir)
  assert evaluator.protocol.startswith('- 5 held-out examples')
  assert 'then and' not in caplog.text + evaluator.protocol

  add_photos(tmp_path / 'images', ['000.png'])  # Moves all later files.
  evaluator, _, _ = open_run(config, workdir)
  assert 'may have been trained on' in caplog.text
  assert 'may have been trained on' in evaluator.protocol

  # A new run holds out other images of that folder: no comparison.
  other = shutil.copytree(workdir, tmp_path / 'other')
  path = other / 'checkpoints' / '10' / 'meta' / 'metadata'
  content = json.loads(path.read_text())['content']
  content['config']['data']['folder_rules'] = 3
  crc32 = zlib.crc32(json.dumps(content, sort_keys=True).encode())
  path.write_text(json.dumps({'crc32': crc32, 'content': content}))
  configs = {workdir: kept, str(other): config}
  with pytest.raises(UserError, match=r'because their data\.folder_rules'):
    compare.compare(configs, str(tmp_path / 'comparison'))
  config.data.group_by = 'folder'
  with pytest.raises(UserError, match=r"data\.group_by is 'folder' in .*other"):
    compare.compare(configs, str(tmp_path / 'comparison'))
