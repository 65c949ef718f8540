"""Sounds and volumes: trained, loaded, exported, decoded, in their units."""

import jax
import numpy as np
import pytest

import main
import vaegan_jax
from tests.finished_run import parse, use
from tests.tiny_run import tiny_flags
from vaegan_jax.errors import UserError
from vaegan_jax.evaluation.evaluator import Evaluator

# data.shape, the shape of the files, dtype.
KINDS = {
  'sounds': ((64,), (70,), np.int16),
  'volumes': ((8, 8, 4), (1, 9, 8, 6), np.float32),
}


def draw(folder, shape, dtype, number=23):
  folder.mkdir()
  rng = np.random.default_rng(0)
  for index in range(number):
    values = rng.integers(-100, 100, shape) + index
    np.save(folder / f'{index:02}.npy', values.astype(dtype))


@pytest.fixture(scope='module', params=KINDS)
def trained(request, tmp_path_factory):
  """(workdir, folder of arrays, data.shape) of a run on examples of a kind."""
  shape, of_files, dtype = KINDS[request.param]
  root = tmp_path_factory.mktemp(request.param)
  draw(root / 'arrays', of_files, dtype)
  flags = (
    *tiny_flags(root / 'arrays', root / 'data'),
    '--config.data.name=array_folder',
    f'--config.data.shape={shape}',
    '--config.data.channels=1',
    '--config.data.value_range=percentiles',
    '--config.data.flip_axes=(0,)',
    '--config.objective=mse',
    '--config.model.latent_shape=map',
    '--config.num_train_steps=2',
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Evaluator, 'score', lambda *args, **options: {})
    patch.setattr(Evaluator, 'draw', lambda *args, **options: {})
    assert main.run(parse(root / 'run', *flags)) == 0
  return root / 'run', root / 'arrays', shape


def test_a_model_takes_files_of_its_kind(trained, tmp_path):
  workdir, folder, shape = trained
  use(workdir, '--mode=export', f'--output={tmp_path / "export"}')
  model = vaegan_jax.load(tmp_path / 'export')
  assert model.image_shape == (*shape, 1)
  x = model.preprocess([np.load(folder / '00.npy')])
  assert x.shape == (1, *shape, 1)
  np.testing.assert_allclose(model.preprocess(model.to_values(x)), x, atol=1e-5)
  posterior = model.encode(x)
  assert posterior.mode().shape[1:] == model.latent_shape
  assert model.decode(posterior.mode()).shape == x.shape
  # Where the latent is a map, of any sides.
  odd = np.asarray(x)[:, 1:]
  assert model.reconstruct(odd).shape == odd.shape
  samples = model.sample(jax.random.key(0), 2)
  assert samples.shape == (2, *shape, 1)
  with pytest.raises(UserError, match=r'are \[B, (T|D, H, W), 1\]'):
    model.encode(x[0])


def test_files_go_in_and_come_out(trained, tmp_path):
  workdir, folder, shape = trained
  latents, decoded = tmp_path / 'z', tmp_path / 'x'
  use(workdir, '--mode=encode', f'--input={folder}', f'--output={latents}')
  use(workdir, '--mode=decode', f'--input={latents}', f'--output={decoded}')
  model = vaegan_jax.load(workdir)
  x = model.preprocess([np.load(folder / '07.npy')])
  expected = model.to_values(model.reconstruct(x))[0]
  low, high = model.config.data.value_range
  np.testing.assert_allclose(
    np.load(decoded / '07.npy'), expected, atol=1e-4 * (high - low)
  )
  use(workdir, '--mode=reconstruct', '--split=eval', f'--output={tmp_path}')
  first = next((tmp_path / 'originals').glob('*.npy'))
  assert np.load(first).shape == (*shape, 1)
  use(workdir, '--mode=sample', '--num_samples=2', f'--output={tmp_path}')
  assert np.load(tmp_path / '00000001.npy').shape == (*shape, 1)
