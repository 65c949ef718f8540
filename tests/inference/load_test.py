"""A loaded model gives the evaluated scores, from a workdir or an export."""

import functools
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from PIL import Image

import vaegan_jax
from tests.data.profiles import rgb
from tests.finished_run import LATENTS, STEP, finish, use
from tests.networks import assert_close, assert_equal, jitted, uniform
from vaegan_jax.commands import evaluate
from vaegan_jax.data import pixels
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.split import load_splits
from vaegan_jax.errors import UserError
from vaegan_jax.evaluation import figures, metrics
from vaegan_jax.inference.load import load_model
from vaegan_jax.inference.preprocess import preprocess
from vaegan_jax.models import safetensors_files
from vaegan_jax.models.latents.vq import codebook_of
from vaegan_jax.models.pretrained.diffusers import from_diffusers
from vaegan_jax.setup.exported_run import EXPORT_VERSION
from vaegan_jax.setup.finished_run import open_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def runs(tiny_run, tmp_path_factory):
  """Returns {latent: (configuration, workdir)}, each exported in `export`."""
  runs = {}
  for kind, fields in LATENTS.items():
    workdir = tmp_path_factory.mktemp('runs') / kind
    config = finish(workdir, tiny_run, *fields)
    use(workdir, mode='export')
    runs[kind] = config, workdir
  return runs


@pytest.fixture(scope='module')
def models(runs):
  """Returns {latent: model from its workdir}."""
  return {kind: vaegan_jax.load(workdir) for kind, (_, workdir) in runs.items()}


def held_out(config):
  (images,) = load_splits(DataConfig(**config.data), ['eval_split'])
  return images[np.arange(len(images))]


@pytest.mark.parametrize('kind', LATENTS)
def test_it_reconstructs_as_was_evaluated(kind, runs, models):
  config, workdir = runs[kind]
  if kind == 'gaussian':
    evaluate.evaluate(config, str(workdir))
    scores = json.loads((workdir / 'evaluation.json').read_text())
  else:  # The same scores, without random ones.
    evaluator, variables, _ = open_run(config, str(workdir))
    scores = evaluator.score(variables)
  images = held_out(config)
  for model in (models[kind], vaegan_jax.load(workdir / 'export')):
    assert model.step == STEP
    assert model.fingerprint == models[kind].fingerprint
    x = model.preprocess(images)
    posterior = model.encode(x)
    x_recon = model.decode(posterior.mode())
    psnr = jitted(metrics.psnr, x, x_recon).mean()
    assert psnr == pytest.approx(scores['psnr'], abs=1e-4)
    np.testing.assert_array_equal(x_recon, model.reconstruct(x))
    if posterior.indices is not None:
      assert posterior.codes is posterior.latents
      again = model.decode(posterior.indices)
      np.testing.assert_allclose(again, x_recon, atol=1e-6)
    assert posterior.mode().shape == (len(images), *model.latent_shape)
    samples = model.sample(jax.random.key(0), 3)
    assert samples.shape == (3, *model.image_shape)


def test_its_samples_and_its_distance_are_those_of_the_run(runs, models):
  config, workdir = runs['gaussian']
  model = models['gaussian']
  evaluator, variables, _ = open_run(config, str(workdir))
  x, x_recon, _ = evaluator.reconstruct(variables, range(4))
  np.testing.assert_allclose(
    model.distance(x, x_recon),
    evaluator.distance_for(variables)(x, x_recon),
    rtol=1e-6,
  )
  assert list(model.features(x)) == ['block_0']
  samples = evaluator.plot(variables)['samples']
  mine = model.sample(jax.random.key(config.seed), 64)
  np.testing.assert_array_equal(
    samples, figures.sample_figure(np.asarray(mine), scale=128 // 16)
  )


def test_a_sample_is_of_the_posterior(models, runs):
  model = models['gaussian']
  posterior = model.encode(model.preprocess(held_out(runs['gaussian'][0])))
  drawn = np.stack(
    [posterior.sample(jax.random.key(seed)) for seed in range(500)]
  )
  std = np.exp(0.5 * np.asarray(posterior.logvar))
  np.testing.assert_array_less(
    np.abs(drawn.mean(0) - posterior.mean), 5 * std / np.sqrt(500)
  )
  np.testing.assert_allclose(drawn.std(0), std, rtol=0.2)
  # Deterministic latents do not change.
  point = models['none'].encode(model.preprocess(held_out(runs['none'][0])))
  assert point.sample(jax.random.key(0)) is point.latents


@pytest.mark.parametrize('kind', ['gaussian', 'gaussian_map', 'vq'])
def test_the_statistics_are_those_of_samples_of_the_training_images(
  kind, runs, models
):
  config, workdir = runs[kind]
  # The export has measured the latents, and the workdir keeps them.
  loaded = vaegan_jax.load(workdir)
  (images,) = load_splits(DataConfig(**config.data), ['train_split'])
  x = loaded.preprocess(images[np.arange(len(images))])
  posterior = loaded.encode(x)
  drawn = np.stack(
    [posterior.sample(jax.random.key(seed)) for seed in range(400)]
  )
  entries = drawn.reshape(-1, drawn.shape[-1])
  np.testing.assert_allclose(loaded.latent_mean, entries.mean(0), atol=0.05)
  np.testing.assert_allclose(loaded.latent_std, entries.std(0), rtol=0.02)
  np.testing.assert_allclose(
    loaded.scaling_factor, 1 / entries.std(), rtol=0.02
  )
  assert loaded.statistics.num_images == len(images) == 38
  exported = vaegan_jax.load(workdir / 'export')
  np.testing.assert_array_equal(exported.latent_std, loaded.latent_std)


def test_what_was_not_measured_is_told_with_the_command(runs, tmp_path):
  _, workdir = runs['gaussian']
  shutil.copytree(workdir, tmp_path / 'run')
  told = '--mode=encode --split=train --workdir='
  text = (tmp_path / 'run' / 'latents.json').read_text()
  for content in (text.replace(f'"step": {STEP}', '"step": 10'), None):
    (tmp_path / 'run' / 'latents.json').unlink()
    if content:
      (tmp_path / 'run' / 'latents.json').write_text(content)
    model = vaegan_jax.load(tmp_path / 'run')
    with pytest.raises(UserError, match=told):
      _ = model.latent_std
    (tmp_path / 'run' / 'latents.json').touch()
  with pytest.raises(UserError, match='is damaged'):
    vaegan_jax.load(tmp_path / 'run')


def test_loading_builds_no_optimizer_and_reads_none_of_its_state(
  runs, monkeypatch
):
  def fail(*_, **__):
    raise AssertionError('an optimizer was built')

  for name in ('adam', 'rmsprop', 'chain'):
    monkeypatch.setattr(optax, name, fail)
  read, restore = [], ocp.PyTreeCheckpointHandler.restore

  def record(*args, **kwargs):
    state = restore(*args, **kwargs)
    read.extend(path for path, _ in jax.tree_util.tree_leaves_with_path(state))
    return state

  monkeypatch.setattr(ocp.PyTreeCheckpointHandler, 'restore', record)
  config, workdir = runs['gaussian']
  assert load_model(workdir, config).step == STEP
  names = {jax.tree_util.keystr(path) for path in read}
  assert any('ema_params' in name for name in names)
  assert not any('opt_state' in name for name in names)


def test_it_is_a_pytree_and_its_methods_are_compiled_once(runs, models):
  model, again = models['gaussian'], vaegan_jax.load(runs['gaussian'][1])
  x = np.zeros((2, *model.image_shape), np.float32)

  @jax.jit
  def squares(model, x):
    return jnp.square(model.reconstruct(x) - x).mean()

  def loss(variables, x):
    return squares(model.replace(variables=variables), x)

  grads = jax.grad(loss)(model.variables, x)
  assert any(leaf.any() for leaf in jax.tree.leaves(grads['autoencoder']))
  model.encode(x)
  compiled = type(model).encode._cache_size()
  again.encode(x)
  assert type(model).encode._cache_size() == compiled
  doubled = jax.tree.map(lambda leaf: 2 * np.asarray(leaf), model)
  assert type(doubled) is type(model) and doubled.config == model.config


def test_preprocessing_is_that_of_training(runs, models, image_folder):
  config, model = runs['gaussian'][0], models['gaussian']
  (images,) = load_splits(DataConfig(**config.data), ['eval_split'])
  wanted = pixels.to_float(images[np.arange(2)])
  np.testing.assert_array_equal(model.preprocess(images[np.arange(2)]), wanted)
  np.testing.assert_array_equal(
    jax.jit(model.preprocess)(images[np.arange(2)]), wanted
  )
  # Other sizes, resized with Pillow: a photograph, a grey one, a list.
  photo = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
  square = Image.fromarray(photo[:, 12:52]).resize((16, 16), Image.LANCZOS)
  grey = photo[..., :1]
  exif, content = Image.Exif(), io.BytesIO()
  exif[0x0112] = 6
  Image.fromarray(np.rot90(photo)).save(content, 'PNG', exif=exif)
  sideways = Image.open(content)
  wide = Image.new('RGB', (16, 16), (200, 100, 50))
  wide.info['icc_profile'] = rgb('Display P3')
  for image, want in (
    (photo, np.asarray(square)),
    (Image.fromarray(photo), np.asarray(square)),
    (sideways, np.asarray(square)),
    (wide, np.full((16, 16, 3), (215, 93, 31), np.uint8)),
    (grey, np.asarray(square)[..., :1].repeat(3, -1)),
  ):
    for given in (image, [image]):
      np.testing.assert_array_equal(
        model.preprocess(given), pixels.to_float(want[None])
      )


@pytest.mark.parametrize(
  ('method', 'argument', 'told'),
  [
    ('preprocess', np.zeros((1, 16, 16, 3)), 'images are float64'),
    ('preprocess', 'a.png', "is 'a.png'; images must be arrays or Pillow"),
    ('preprocess', None, 'give np.asarray(PIL.Image.open(path))'),
    ('preprocess', [1, 2, 3], 'an image is 1; images must be arrays'),
    ('encode', np.zeros((1, 16, 16, 1), np.float32), '[B, H, W, 3]'),
    ('encode', np.zeros((16, 16, 3), np.float32), 'shape (16, 16, 3)'),
    ('encode', np.zeros((1, 16, 16, 3), np.uint8), 'model.preprocess(images)'),
    ('encode', np.zeros((1, 32, 16, 3), np.float32), 'has the sides (32, 16)'),
    ('decode', np.zeros((1, 5), np.float32), 'they are of another model'),
    ('decode', np.zeros((1, 4, 4, 4), np.float32), 'they are of another model'),
    ('decode', np.zeros((1, 2), np.int32), 'have no indices'),
    ('features', np.zeros((1, 16, 16, 4), np.float32), '[B, H, W, 3]'),
  ],
)
def test_what_is_of_another_model_is_a_sentence(method, argument, told, models):
  with pytest.raises(UserError) as caught:
    getattr(models['gaussian'], method)(argument)
  assert told in str(caught.value)
  assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
  ('images', 'told'),
  [
    (np.zeros((1, 16, 16, 3), np.float32), 'images are float32, and must be'),
    ([np.zeros((16, 16, 3), np.float32)] * 2, 'images are float32, and must'),
    (np.zeros((1, 16, 16, 3), np.int32), 'images are int32, and must be uint8'),
    (
      np.zeros((1, 16, 20, 3), np.uint8),
      'the shape (16, 20, 3) within jax.jit',
    ),
    (np.zeros((16, 16), np.uint8), 'the training there, (16, 16, 3): call'),
    ([np.zeros((9, 9, 3), np.uint8)], 'the shape (9, 9, 3) within jax.jit'),
  ],
)
def test_preprocessing_checks_what_jax_traces(images, told, models):
  """Floats in [0, 1] would otherwise become a constant -1."""
  with pytest.raises(UserError) as caught:
    jax.jit(models['gaussian'].preprocess)(images)
  assert told in str(caught.value)


def test_preprocessing_of_traced_arrays_takes_real_numbers_of_one_shape():
  config = ml_collections.FrozenConfigDict(
    {
      'name': 'array_folder',
      'shape': (4, 6),
      'image_size': 64,
      'channels': 2,
      'value_range': (0.0, 10.0),
      'max_nodata': 0.0,
      'mid_side': False,
    }
  )
  apply = jax.jit(functools.partial(preprocess, data=config))
  values = np.full((3, 4, 6, 2), 2.5)
  for given in (values, values.astype(np.float16), list(values), values[0]):
    np.testing.assert_allclose(apply(given), -0.5)
  larger = preprocess(np.full((3, 9, 9, 2), 2.5), config)
  np.testing.assert_array_equal(larger, apply(values))
  with pytest.raises(UserError, match=r'shape \(9, 9, 2\) within jax.jit'):
    apply(np.zeros((3, 9, 9, 2)))
  for call in (apply, functools.partial(preprocess, data=config)):
    with pytest.raises(UserError, match='are complex64, and must be real'):
      call(values.astype(np.complex64))


def test_the_programs_of_an_export_need_jax_alone(tiny_run, tmp_path):
  finish(tmp_path, tiny_run, *LATENTS['vq'])
  use(tmp_path, mode='export', format='stablehlo')
  folder, model = tmp_path / 'export', vaegan_jax.load(tmp_path)
  encode, decode = (
    jax.export.deserialize(bytearray((folder / f'{n}.stablehlo').read_bytes()))
    for n in ('encode', 'decode')
  )
  assert encode.platforms == ('cpu', 'cuda', 'tpu')
  for size in (1, 3):
    x = uniform(size, *model.image_shape, seed=size)
    latents, wanted = encode.call(x), model.encode(x).mode()
    np.testing.assert_allclose(latents, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
      decode.call(latents), model.decode(wanted), rtol=1e-4, atol=1e-5
    )
  card = (folder / 'README.md').read_text()
  assert 'library_name: jax' in card and 'deserialize' in card
  assert {p.name for p in folder.glob('*.*')} == {
    'README.md',
    'encode.stablehlo',
    'decode.stablehlo',
  }


@pytest.mark.parametrize('kind', ['gaussian', 'gaussian_map', 'vq'])
def test_every_method_exports_with_a_symbolic_batch(kind, models):
  model, key = models[kind], jax.random.key(0)

  def call_all(images):
    x = model.preprocess(images)
    posterior = model.encode(x)
    x_recon = model.decode(posterior.mode())
    codes = posterior.indices
    return {
      'latents': posterior.sample(key),
      'x_recon': x_recon,
      'of indices': x_recon if codes is None else model.decode(codes),
      # A map takes sides that its factor does not divide.
      'reconstruct': model.reconstruct(x if kind == 'gaussian' else x[:, :13]),
      'sample': model.sample(key, images.shape[0]),
      'features': model.features(x),
      'distance': model.distance(x, x_recon),
    }

  (batch,) = jax.export.symbolic_shape('batch')
  shape = (batch, *model.image_shape)
  exported = jax.export.export(jax.jit(call_all))(
    jax.ShapeDtypeStruct(shape, np.uint8)
  )
  images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
  wanted = jax.device_get(call_all(images))
  for size in (1, 5):  # Random values depend on the place in the batch alone.
    first = jax.tree.map(lambda leaf, size=size: leaf[:size], wanted)
    found = exported.call(images[:size])
    assert_close(found, first, rtol=1e-4, atol=1e-5)


def test_gradients_of_the_distance_reach_the_second_images_alone(models):
  model = models['gaussian']
  x, y = uniform(2, 2, 16, 16, 3)

  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1, 2))
  def gradients(variables, x, y):
    return model.replace(variables=variables).distance(x, y).sum()

  of_model, of_x, of_y = gradients(model.variables, x, y)
  assert of_y.all() and not of_x.any()
  assert not any(leaf.any() for leaf in jax.tree.leaves(of_model))


def test_a_map_takes_other_sides_and_codes_their_indices(models):
  model = models['vq']
  x = jnp.zeros((1, 24, 32, 3))
  posterior = model.encode(x)
  assert posterior.indices.shape == (1, 12, 16, 2)
  assert model.decode(posterior.indices).shape == x.shape
  with pytest.raises(UserError, match='that 2 divides'):
    model.encode(jnp.zeros((1, 17, 16, 3)))
  with pytest.raises(UserError, match='another model'):
    model.decode(jnp.zeros((1, 4, 4, 3), jnp.int32))


def test_a_map_reconstructs_sizes_that_the_factor_does_not_divide(models):
  """The last row and column are repeated, and cropped again."""
  model = models['gaussian_map']
  x = uniform(2, 13, 22, 3)
  larger = np.concatenate([x, *[x[:, -1:]] * 3], axis=1)
  larger = np.concatenate([larger, *[larger[:, :, -1:]] * 2], axis=2)
  got = model.reconstruct(x)
  assert got.shape == x.shape
  np.testing.assert_allclose(
    got, model.reconstruct(larger)[:, :13, :22], atol=1e-6
  )


def test_a_map_reconstructs_on_an_explicit_mesh(models):
  """JAX refuses `jnp.pad` with 'edge' there."""
  model = models['gaussian_map']
  x = uniform(2, 13, 22, 3)
  explicit = (jax.sharding.AxisType.Explicit,)
  mesh = jax.make_mesh((1,), ('data',), axis_types=explicit)
  spec = jax.sharding.PartitionSpec('data')
  with jax.set_mesh(mesh):
    placed = jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))
    found = jax.device_get(model.reconstruct(placed))
  np.testing.assert_allclose(found, model.reconstruct(x), atol=1e-6)


def test_numpy_alone_reads_the_weights(runs, models):
  """Runs the code of the model card."""
  _, workdir = runs['vq']
  card = (workdir / 'export' / 'README.md').read_text()
  code = card.split('```python\n')[2].split('```')[0]
  names = {}
  before = Path.cwd()
  os.chdir(workdir / 'export')
  try:
    exec(code, names)
  finally:
    os.chdir(before)
  assert names['metadata']['step'] == str(STEP)
  wanted = jax.tree_util.tree_leaves_with_path(models['vq'].variables)
  assert len(wanted) == len(names['tensors'])
  for path, leaf in wanted:
    name = jax.tree_util.keystr(path, simple=True, separator='.')
    np.testing.assert_array_equal(names['tensors'][name], leaf)


def test_an_export_tells_nobodys_paths_and_may_leave_the_critic_out(
  runs, tmp_path
):
  config, workdir = runs['gaussian']
  output = tmp_path / 'small'
  # Also from an export.
  flags = ('--mode=export', '--with_critic=false', f'--output={output}')
  use(workdir / 'export', *flags)
  for name in ('config.json', 'README.md', 'latents.json'):
    assert str(Path(config.data.path).parent) not in (output / name).read_text()
  model = vaegan_jax.load(output)
  assert set(model.variables) == {'autoencoder'} and model.critic is None
  with pytest.raises(UserError, match='has no critic'):
    model.features(jnp.zeros((1, *model.image_shape)))
  whole = vaegan_jax.load(workdir)
  assert model.fingerprint == whole.fingerprint


def _rewrite(path, change=lambda tensors: None, **metadata):
  tensors, old = safetensors_files.read(path.read_bytes())
  change(tensors)
  with path.open('wb') as file:
    safetensors_files.write(file, tensors, old | metadata)


def test_the_layout_of_latent_diffusion_is_exported_for_diffusers(
  tiny_run, tmp_path
):
  fields = ('model.network=residual', 'model.layout=ldm', 'model.width=8')
  fields += ('model.depth=2', 'model.channel_multipliers=1,2,2')
  fields += ('model.latent_shape=map',)
  fields += ('model.latent=vq', 'model.code_dim=4', 'model.codebook_size=8')
  fields += ('model.latent_dim=4', 'model.middle_attention=true')
  finish(tmp_path, tiny_run, *fields)
  use(tmp_path, mode='export')
  folder = tmp_path / 'export' / 'diffusers'
  about = json.loads((folder / 'config.json').read_text())
  assert about['_class_name'] == 'VQModel'
  assert about['block_out_channels'] == [8, 16, 16]
  assert about['scaling_factor'] > 0
  content = folder / 'diffusion_pytorch_model.safetensors'
  state, metadata = safetensors_files.read(content.read_bytes())
  assert metadata == {'format': 'pt'}
  model = vaegan_jax.load(tmp_path / 'export')
  variables = model.variables['autoencoder']
  back = from_diffusers(state, like=variables)
  assert_equal(back['params'], variables['params'])
  codes = [codebook_of(v['batch_stats']['latent']) for v in (back, variables)]
  np.testing.assert_array_equal(*codes)


@pytest.mark.parametrize(
  ('damage', 'told'),
  [
    ('no run', 'is neither a run nor an export'),
    ('no checkpoint', 'has no checkpoint: train it first'),
    ('a newer export', f'of version {EXPORT_VERSION + 1}, and this code knows'),
    ('a newer run', 'has version=99, which must be from 1 to'),
    ('a flipped byte', 'its SHA-256 differs'),
    ('half a file', 'not a whole safetensors file'),
    ('no safetensors', 'not a whole safetensors file'),
    ('another network', 'does not hold the networks of its config.json'),
  ],
)
def test_a_bad_folder_is_a_sentence(damage, told, runs, tmp_path):
  folder = tmp_path / 'model'
  shutil.copytree(runs['gaussian'][1] / 'export', folder)
  weights, config = folder / 'model.safetensors', folder / 'config.json'
  content, fields = weights.read_bytes(), json.loads(config.read_text())
  if damage == 'no run':
    config.unlink()
  elif damage == 'no checkpoint':
    weights.unlink()
  elif damage == 'a newer export':
    _rewrite(weights, version=str(EXPORT_VERSION + 1))
  elif damage == 'a newer run':
    config.write_text(json.dumps(fields | {'version': 99}))
  elif damage == 'a flipped byte':
    weights.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
  elif damage == 'half a file':
    weights.write_bytes(content[: len(content) // 2])
  elif damage == 'no safetensors':
    weights.write_bytes(b'any other file')
  else:
    fields['model']['latent_dim'] = 5
    config.write_text(json.dumps(fields))
  with pytest.raises(UserError) as caught:
    vaegan_jax.load(folder)
  assert told in str(caught.value)
  assert len(str(caught.value).splitlines()) == 1


_BLOCKED = ('tensorflow', 'tensorflow_datasets', 'grain')
_LIGHT = """
import sys, time
for name in {blocked!r}:
  sys.modules[name] = None  # Importing it raises.
import jax, vaegan_jax
from vaegan_jax.inference import load
from vaegan_jax.setup import networks
start = time.process_time()  # Whatever else the machine does.
model = vaegan_jax.load({path!r})
seconds = time.process_time() - start
x = jax.numpy.zeros((1, *model.image_shape))
assert model.decode(model.encode(x).mode()).shape == x.shape
print(seconds)
"""


def _load_apart(folder, code, path, *blocked):
  """Runs code in a separate process, in which some imports fail."""
  code = code.format(blocked=[*blocked, *_BLOCKED], path=str(path))
  result = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    cwd=folder,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
  )
  assert result.returncode == 0, result.stderr
  return float(result.stdout)


def test_loading_is_quick_and_needs_neither_tensorflow_nor_the_clone(
  runs, tmp_path
):
  code = _LIGHT + 'assert model.reconstruct_tiled(x, 16).shape == x.shape\n'
  assert _load_apart(tmp_path, code, runs['gaussian'][1], 'clu', 'tqdm') < 3


def test_an_export_needs_no_orbax(runs, tmp_path):
  code = _LIGHT.replace('from vaegan_jax.setup import networks\n', '') + (
    'assert not any("vaegan_jax.runtime" in name for name in sys.modules)\n'
  )
  _load_apart(tmp_path, code, runs['vq'][1] / 'export', 'PIL')
