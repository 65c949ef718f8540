"""A run that starts from an autoencoder of diffusers, and gives one back."""

import json
import math
import shutil

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

import vaegan_jax
from tests.finished_run import parse, restore_state, use
from tests.networks import assert_equal, random_variables, uniform
from tests.processes import read_rows
from vaegan_jax.config.io import load_config
from vaegan_jax.errors import UserError
from vaegan_jax.models import safetensors_files
from vaegan_jax.models.pretrained import diffusers, diffusers_files
from vaegan_jax.setup.init_from import read_initial_weights
from vaegan_jax.setup.modules import create_modules
from vaegan_jax.training.loop import DONE

# In the manner of FLUX and SD3: no quant convolutions, a shift.
ABOUT = {
  '_class_name': 'AutoencoderKL',
  '_diffusers_version': '0.30.0',
  'act_fn': 'silu',
  'block_out_channels': [4, 8],
  'down_block_types': ['DownEncoderBlock2D'] * 2,
  'up_block_types': ['UpDecoderBlock2D'] * 2,
  'force_upcast': True,
  'in_channels': 3,
  'out_channels': 3,
  'latent_channels': 2,
  'layers_per_block': 1,
  'mid_block_add_attention': False,
  'norm_num_groups': 2,
  'padding_mode': 'reflect',  # Of a version to come.
  'sample_size': 1024,
  'scaling_factor': 0.3611,
  'shift_factor': 0.1159,
  'use_post_quant_conv': False,
  'use_quant_conv': False,
}
DECODER = ('--config.model.train=decoder',)


def own_flags(tiny_run):
  """Returns the tiny run's flags without those that the folder decides."""
  others = ('--config.model.', '--config.loss.kl_weight')
  return [flag for flag in tiny_run if not flag.startswith(others)]


def adopted(tiny_run, folder, *args):
  """Returns the configuration of a run that starts from a folder."""
  flags = own_flags(tiny_run)
  init = f'--config.init_from={folder}'
  return parse('/runs/second', *flags, init, *args).config


def write(folder, dtype, num_files=1):
  """Writes a folder as diffusers does; returns its params in float32."""
  config = ml_collections.ConfigDict(load_default())
  config.update_from_flattened_dict(diffusers.fields_of(ABOUT))
  config.data.image_size = 16
  module = create_modules(config)['autoencoder']
  x = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
  params = random_variables(module, x)['params']
  params = jax.tree.map(lambda a: np.asarray(a, dtype) / 8, params)
  state = diffusers.to_diffusers({'params': params})
  folder.mkdir()
  (folder / 'config.json').write_text(json.dumps(ABOUT))
  names = sorted(state)
  files = {diffusers_files.WEIGHTS: names}
  if num_files > 1:
    files = {
      f'diffusion_pytorch_model-{i}.safetensors': names[i::num_files]
      for i in range(num_files)
    }
    index = {n: file for file, inside in files.items() for n in inside}
    path = folder / f'{diffusers_files.WEIGHTS}.index.json'
    path.write_text(json.dumps({'metadata': {}, 'weight_map': index}))
  for file, inside in files.items():
    with (folder / file).open('wb') as f:
      safetensors_files.write(f, {n: state[n] for n in inside}, {})
  return jax.tree.map(lambda a: np.asarray(a, np.float32), params)


def load_default():
  from configs import default

  return default.get_config().to_dict()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Returns a folder in float16 and two files, and its params in float32."""
  path = tmp_path_factory.mktemp('hub') / 'vae'
  return path, write(path, np.float16, num_files=2)


def test_the_folder_describes_the_network_and_flags_widen_it(
  folder, tiny_run, tmp_path
):
  path, params = folder
  # Not what a run has kept of the scaling alone.
  (tmp_path / diffusers_files.KEPT).write_text('{"scaling_factor": 2.0}')
  gone = f'--config.init_from={tmp_path / "gone"}'
  config = parse(tmp_path, *own_flags(tiny_run), gone).config
  assert config.model.layout == 'own'
  config = adopted(tiny_run, path)
  assert (config.model.width, config.model.num_groups) == (4, 2)
  assert not config.model.quant_convs and not config.model.middle_attention
  initial = read_initial_weights(config)
  got = initial.variables['autoencoder']['params']
  assert_equal(got, params)
  assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {np.dtype('f4')}
  wider = ('--config.data.channels=4', '--config.model.latent_dim=3')
  config = adopted(tiny_run, path, *wider)
  initial = read_initial_weights(config)
  assert "ignoring padding_mode='reflect' of its con" in initial.message
  assert initial.message.endswith(
    'kept: model.latent_dim from 2 to 3, data.channels from 3 to 4.'
  )
  # The old channels and latents ignore the new ones.
  narrow = create_modules(adopted(tiny_run, path))['autoencoder']
  wide = create_modules(config)['autoencoder']
  x = uniform(2, 16, 16, 4)

  def run(module, params, x):
    mean = module.apply({'params': params}, x, method='encode')
    decoded = module.apply({'params': params}, mean['mean'], method='decode')
    return mean['mean'], mean['logvar'], decoded

  run = jax.jit(run, static_argnums=0)
  old = run(narrow, params, x[..., :3])
  new = run(wide, initial.variables['autoencoder']['params'], x)
  for was, now in zip(old, new, strict=True):
    assert np.abs(was).max() > 1e-3
    np.testing.assert_allclose(now[..., : was.shape[-1]], was, atol=1e-6)
    assert np.abs(now[..., was.shape[-1] :]).max() > 1e-3


def test_a_decoder_is_trained_alone_and_given_back(
  folder, tiny_run, tmp_path, run, capsys
):
  path, params = folder
  path = shutil.copytree(path, tmp_path / 'vae')
  flags = own_flags(tiny_run)
  flags += [*DECODER, f'--config.init_from={path}']
  flags += ['--config.num_train_steps=4', '--config.loss.drift_weight=2']
  workdir = tmp_path / 'run'
  assert run(workdir, *flags) == DONE
  assert f"Starting from {path}, diffusers' Auto" in capsys.readouterr().out
  state, _ = restore_state(workdir)
  trained = state.networks['autoencoder'].params
  for moved in (trained, state.ema_params):
    assert_equal(moved['encoder'], params['encoder'])
    assert not np.array_equal(
      moved['decoder']['to_image']['kernel'],
      params['decoder']['to_image']['kernel'],
    )
  # The decoder as it began is kept, for the distance from it.
  start = state.networks['start'].params
  assert_equal(start, params['decoder'])
  # The folder may go.
  shutil.rmtree(path)
  assert run(workdir, *flags) == DONE
  assert 'Nothing to do' in capsys.readouterr().out
  # Moments are kept of what moves alone.
  sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(params['decoder'])]
  moments = jax.tree.leaves(state.networks['autoencoder'].opt_state)
  assert sum(leaf.size for leaf in moments if leaf.ndim) <= 2 * sum(sizes)
  rows = read_rows(workdir)
  first, last = (float(rows[i]['train/drift']) for i in (0, -1))
  assert first < 1e-12 < last
  use(workdir, mode='export', format='diffusers')
  about = json.loads((workdir / 'export' / 'config.json').read_text())
  kept = {k: v for k, v in ABOUT.items() if k != '_diffusers_version'}
  assert about == kept  # Its scaling too, as the latents are the same.
  state = diffusers_files._read_state(workdir / 'export')
  wanted = diffusers.to_diffusers({'params': restored_average(workdir)})
  assert state.keys() == wanted.keys()
  for name, value in wanted.items():
    np.testing.assert_array_equal(state[name], value)
  card = (workdir / 'export' / 'README.md').read_text()
  assert card.startswith('---\nlibrary_name: diffusers\n')
  assert "AutoencoderKL.from_pretrained('.')" in card
  # A run may start from the exported folder, and from an export of our own.
  config = adopted(tiny_run, workdir / 'export')
  again = read_initial_weights(config).ema_params
  assert_equal(again, restored_average(workdir))
  use(workdir, mode='export', output=tmp_path / 'own')
  own = parse('/runs/third', *flags, f'--config.init_from={tmp_path / "own"}')
  config = load_config(workdir / 'config.json')
  with config.unlocked():
    config.init_from = own.config.init_from
  again = read_initial_weights(config)
  assert f'Starting from step 4 of {tmp_path / "own"}.' in again.message
  assert_equal(again.ema_params, restored_average(workdir))
  # A run that keeps the latents starts from the averaged encoder, and keeps
  # their scaling.
  for source in (tmp_path / 'own', workdir):
    with config.unlocked():
      config.init_from = str(source)
    again = read_initial_weights(config)
    average = again.variables['autoencoder']['params']
    assert_equal(average, again.ema_params)
    assert again.diffusers['shift_factor'] == 0.1159
    assert '_class_name' not in again.diffusers
  with config.unlocked():
    config.model.train = 'all'
  last = read_initial_weights(config).variables['autoencoder']['params']
  assert_equal(last, trained)
  # Latents of which nothing is known are measured.
  (workdir / diffusers_files.KEPT).unlink()
  use(workdir, mode='export', format='diffusers')
  about = json.loads((workdir / 'export' / 'config.json').read_text())
  measured = json.loads((workdir / 'latents.json').read_text())
  assert about['scaling_factor'] == measured['scaling_factor']


def restored_average(workdir):
  return vaegan_jax.load(workdir).variables['autoencoder']['params']


def test_latents_that_moved_are_scaled_anew():
  model = {'channel_multipliers': (1,), 'latent_dim': 2, 'width': 4}
  model |= {'num_res_blocks': 1, 'num_groups': 2, 'quant_convs': False}
  model |= {'layout': 'ldm', 'latent': 'gaussian'}
  statistics = ml_collections.ConfigDict(
    {'mean': [1.0, 3.0], 'std': [2.0, 2.0], 'scaling_factor': 0.5}
  )
  describe = diffusers.describe
  about = describe(
    model | {'middle_attention': False}, (16, 16, 3), ABOUT, statistics
  )
  assert (about['scaling_factor'], about['shift_factor']) == (0.5, 2.0)
  assert 'latents_mean' not in about
  about = describe(
    model | {'middle_attention': False},
    (16, 16, 3),
    {'latents_mean': [0.0, 0.0], 'latents_std': [1.0, 1.0]},
    statistics,
  )
  assert about['latents_mean'] == [1.0, 3.0]
  assert about['latents_std'] == [2.0, 2.0] and 'shift_factor' not in about


def test_mistakes_are_one_sentence(folder, tiny_run, tmp_path, run):
  path, _ = folder

  def told(*args, folder=path):
    with pytest.raises(UserError) as caught:
      config = adopted(tiny_run, folder, *args)
      read_initial_weights(config)
    return str(caught.value)

  assert "from 2 to 3 widens the encoder, which model.train='decoder'" in told(
    '--config.model.latent_dim=3', *DECODER
  )
  assert 'model.width is 4 there and 8 here' in told('--config.model.width=8')
  assert 'model.latent_dim is 2 there and 1 here' in told(
    '--config.model.latent_dim=1'
  )
  assert 'loss.rate=9.0 is that of an encoder which moves' in told(
    *DECODER, '--config.loss.rate=9'
  )
  pipeline = tmp_path / 'pipeline'
  pipeline.mkdir()
  (pipeline / 'model_index.json').write_text('{}')
  assert f'such as {pipeline / "vae"}' in told(folder=pipeline)
  other = tmp_path / 'other'
  other.mkdir()
  (other / 'config.json').write_text('{"_class_name": "AsymmetricVAE"}')
  assert "of the class 'AsymmetricVAE', and AutoencoderKL," in told(
    folder=other
  )
  tiny = {'_class_name': 'AutoencoderTiny'}
  for about in (
    ABOUT | {'block_out_channels': [0, 0]},
    ABOUT | {'block_out_channels': [True]},
    ABOUT | {'latent_channels': '4'},
    tiny | {'num_encoder_blocks': [1]},
    tiny | {'encoder_block_out_channels': ['64', '64']},
    {'_class_name': 'AutoencoderOobleck', 'downsampling_ratios': 4},
  ):
    (other / 'config.json').write_text(json.dumps(about))
    assert f'{other}/config.json is damaged (' in told(folder=other)
  (other / 'config.json').write_text(json.dumps(ABOUT))
  index = other / f'{diffusers_files.WEIGHTS}.index.json'
  for text in ('[1]', '{"weight_map": [1]}', '{}', '{'):
    index.write_text(text)
    assert f'because {index.name} is damaged (' in told(folder=other)
  index.unlink()
  assert f'because it has no {diffusers_files.WEIGHTS}' in told(folder=other)
  for part in ('decoder', 'none'):
    with pytest.raises(UserError, match='random without init_from'):
      run(tmp_path / 'none', *tiny_run, f'--config.model.train={part}')
  with pytest.raises(UserError, match='decoder of init_from, which is empty'):
    run(tmp_path / 'none', *tiny_run, '--config.loss.drift_weight=1')
