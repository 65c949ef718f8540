"""A batch that is nearly silent is divided by a share of the data's size."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.finished_run import TWO_BLOCKS, finish, parse, use
from tests.networks import uniform
from vaegan_jax import load
from vaegan_jax.config.io import load_config
from vaegan_jax.runtime import devices
from vaegan_jax.setup.finished_run import open_run
from vaegan_jax.setup.resume import init_state
from vaegan_jax.setup.run import setup
from vaegan_jax.training import layer_sizes

SIDE, BATCH = 16, 8
_DIVIDING = ('loss.normalize=local', 'loss.reduction=mean')
_WITH_IMAGES = (
  *('loss.image_weight=1', 'loss.image_halvings=1'),
  'loss.image_high_pass=1',
)
_LAYERS = ['block_0', 'image', 'image_1', 'high_pass']


@pytest.fixture(scope='module')
def flags(tiny_run, tmp_path_factory):
  """Flags of a run on 60 fields in [-1, 1], of which 36 are silent."""
  folder = tmp_path_factory.mktemp('fields')
  rng = np.random.default_rng(0)
  for index in range(60):
    field = rng.uniform(-1, 1, (SIDE, SIDE)).astype(np.float32)
    np.save(folder / f'{index}.npy', field * (index % 5 > 2))
  return (
    *tiny_run,
    '--config.data.name=array_folder',
    f'--config.data.path={folder}',
    f'--config.data.shape=({SIDE},{SIDE})',
    '--config.data.channels=1',
    '--config.data.value_range=(-1,1)',
    *(f'--config.{field}' for field in (*_DIVIDING, *_WITH_IMAGES)),
    *(f'--config.{field}' for field in TWO_BLOCKS),
  )


@pytest.fixture(scope='module')
def run(flags, tmp_path_factory):
  return setup(parse(tmp_path_factory.mktemp('run'), *flags).config)


def take_step(run, state, images):
  shape = (len(jax.local_devices()), -1, SIDE, SIDE, 1)
  state = jax.tree.map(np.array, state)  # Its buffers are donated.
  return run.update_for(1)(
    devices.replicate(state), devices.share_out(images.reshape(shape))
  )


def test_a_silent_batch_does_not_outweigh_the_others(run):
  state = init_state(run)
  images = run.images[np.arange(len(run.images))]
  silent = np.zeros((BATCH, SIDE, SIDE, 1), np.float32)
  loud = images[np.abs(images).sum((1, 2, 3)) > 0][:BATCH]

  def measure(state):
    taken = [take_step(run, state, batch)[1] for batch in (silent, loud)]
    return [
      (float(m['distance']), float(m['autoencoder_grad_norm'])) for m in taken
    ]

  (distance, norm), (usual_distance, usual_norm) = measure(state)
  assert distance < 10 * usual_distance and norm < 100 * usual_norm
  # Without the sizes, as before: the check above can fail.
  unbounded = layer_sizes.from_averages(state.averages)
  unbounded = {name: 0.0 * size for name, size in unbounded.items()}
  state = state.replace(
    averages=state.averages | layer_sizes.to_averages(unbounded)
  )
  (distance, norm), others = measure(state)
  assert distance > 1000 * usual_distance and norm > 1000 * usual_norm
  assert others == (usual_distance, usual_norm)  # A usual batch is unchanged.


def test_the_sizes_begin_with_the_data_and_follow_the_batches(run):
  state = init_state(run)
  sizes = layer_sizes.from_averages(state.averages)
  assert sorted(sizes) == sorted(_LAYERS)
  number = len(run.images) // BATCH * BATCH
  places = np.arange(number) * len(run.images) // len(run.images)
  x = run.images[places].astype(np.float64)
  halved = x.reshape(-1, SIDE // 2, 2, SIDE // 2, 2).mean((2, 4))
  np.testing.assert_allclose(sizes['image'], np.mean(x**2), rtol=1e-5)
  np.testing.assert_allclose(sizes['image_1'], np.mean(halved**2), rtol=1e-5)
  fine = np.mean(x**2) - np.mean(halved**2)  # The two are orthogonal.
  np.testing.assert_allclose(sizes['high_pass'], fine, rtol=1e-5)

  batch = run.images[np.arange(BATCH)]
  new, _ = take_step(run, state, batch)
  moved = layer_sizes.from_averages(jax.device_get(new.averages))
  wanted = 0.99 * sizes['image'] + 0.01 * np.mean(batch**2)
  np.testing.assert_allclose(moved['image'], wanted, rtol=1e-5)
  assert moved['block_0'] != sizes['block_0']


def test_sizes_are_kept_in_workdirs_and_exports(flags, tmp_path):
  run, folder = tmp_path / 'run', tmp_path / 'export'
  spectral_norm = 'critic.spectral_norm=true'  # It maps every collection.
  config = finish(run, flags, 'loss.min_size=0.5', spectral_norm)
  opened = open_run(load_config(run / 'config.json'), str(run))
  wanted = opened.variables['layer_sizes']
  assert set(wanted) == set(_LAYERS)
  use(run, mode='export', output=folder)
  x, y = uniform(2, 3, SIDE, SIDE, 1, seed=1)
  distances = []
  for path in (run, folder):
    model = load(path)
    assert jax.tree.all(
      jax.tree.map(np.array_equal, model.variables['layer_sizes'], wanted)
    )
    distances.append(np.asarray(model.distance(x, y)))
    # As users do.
    logits = jax.jit(model.critic.apply)(model.variables['critic'], x)
    assert logits.shape == (3,)
  np.testing.assert_array_equal(*distances)
  # Their names in the file, which earlier versions read and wrote.
  names = load_file(folder / 'model.safetensors')
  assert {f'critic.sizes.{layer}' for layer in _LAYERS} < names.keys()
  assert config.loss.min_size == 0.5
  scores = opened.evaluator.score(opened.variables)
  assert np.isfinite(scores['distance'])


def test_an_export_without_its_critic_loads_without_sizes(tiny_run, tmp_path):
  sounds, run = tmp_path / 'sounds', tmp_path / 'run'
  sounds.mkdir()
  for index in range(20):
    np.save(sounds / f'{index}.npy', np.float32(np.sin(np.arange(64) * index)))
  finish(
    run,
    (*tiny_run, '--config.data.name=array_folder', '--config.data.channels=1'),
    *(f'data.path={sounds}', 'data.shape=(64,)', 'data.value_range=(-1,1)'),
    *_DIVIDING,
    'loss.spectrum_weight=1',  # A layer that needs a size and no critic.
  )
  assert 'mel_32' in load(run).variables['layer_sizes']
  folder = tmp_path / 'export'
  use(run, mode='export', with_critic='false', output=folder)
  model = load(folder)
  assert model.critic is None and set(model.variables) == {'autoencoder'}
  assert model.fingerprint == load(run).fingerprint


def test_a_run_that_divides_by_nothing_follows_no_sizes(flags, tmp_path):
  none = '--config.loss.normalize=none'
  config = parse(tmp_path, *flags, none).config
  assert not layer_sizes.from_averages(setup(config).template.averages)
