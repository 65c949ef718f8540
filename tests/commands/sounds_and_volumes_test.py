"""Sounds and volumes: training, loading, export and decoding, in data units."""

import jax
import numpy as np
import pytest
import soundfile

import vaegan_jax
from tests.finished_run import tell, use
from tests.tiny_run import tiny_flags
from vaegan_jax.errors import UserError

# data.shape, shape of the files, dtype, data.random_crop_margin or, if that is
# 0, crops from anywhere.
KINDS = {
  'sounds': ((64,), (70,), np.int16, 5),
  'volumes': ((8, 8, 4), (1, 9, 8, 14), np.float32, 0),
}


def draw(folder, shape, dtype, number=23):
  folder.mkdir()
  rng = np.random.default_rng(0)
  for index in range(number):
    values = rng.integers(-100, 100, shape) + index
    np.save(folder / f'{index:02}.npy', values.astype(dtype))


@pytest.fixture(scope='module', params=KINDS)
def trained(request, tmp_path_factory):
  """Returns (workdir, folder of arrays, data.shape) of a run on one kind."""
  shape, of_files, dtype, margin = KINDS[request.param]
  root = tmp_path_factory.mktemp(request.param)
  draw(root / 'arrays', of_files, dtype)
  flags = (
    *tiny_flags(root / 'arrays', root / 'data'),
    '--config.data.name=array_folder',
    f'--config.data.shape={shape}',
    '--config.data.channels=1',
    '--config.data.value_range=percentiles',
    '--config.data.flip_axes=(0,)',
    f'--config.data.random_crop_margin={margin}',
    f'--config.data.crop={"center" if margin else "random"}',
    '--config.objective=mse',
    '--config.model.latent_shape=map',
    '--config.num_train_steps=2',
  )
  if len(shape) == 1:
    flags += ('--config.model.strides=(4,)', '--config.model.activation=snake')
  use(root / 'run', *flags, whole=True)
  workdir = root / 'resumed'  # A resumed run gets the same crops.
  use(workdir, *flags, '--config.num_train_steps=1')
  use(workdir, *flags)
  models = [vaegan_jax.load(root / name) for name in ('run', 'resumed')]
  assert models[0].fingerprint == models[1].fingerprint
  return root / 'run', root / 'arrays', shape


def test_a_model_takes_files_of_its_kind(trained, tmp_path):
  workdir, folder, shape = trained
  use(workdir, mode='export', output=tmp_path / 'export')
  model = vaegan_jax.load(tmp_path / 'export')
  assert model.image_shape == (*shape, 1)
  x = model.preprocess([np.load(folder / '00.npy')])
  assert x.shape == (1, *shape, 1)
  np.testing.assert_allclose(model.preprocess(model.to_values(x)), x, atol=1e-5)
  posterior = model.encode(x)
  assert posterior.mode().shape[1:] == model.latent_shape
  assert model.decode(posterior.mode()).shape == x.shape
  # A map of latents takes other spatial shapes.
  odd = np.asarray(x)[:, 1:]
  assert model.reconstruct(odd).shape == odd.shape
  samples = model.sample(jax.random.key(0), 2)
  assert samples.shape == (2, *shape, 1)
  with pytest.raises(UserError, match=r'are \[B, (T|D, H, W), 1\]'):
    model.encode(x[0])


def test_files_are_encoded_and_decoded(trained, tmp_path):
  workdir, folder, shape = trained
  latents, decoded = tmp_path / 'z', tmp_path / 'x'
  use(workdir, mode='encode', input=folder, output=latents)
  use(workdir, mode='decode', input=latents, output=decoded)
  model = vaegan_jax.load(workdir)
  x = model.preprocess([np.load(folder / '07.npy')])
  expected = model.to_values(model.reconstruct(x))[0]
  low, high = model.config.data.value_range
  np.testing.assert_allclose(
    np.load(decoded / '07.npy'), expected, atol=1e-4 * (high - low)
  )
  use(workdir, mode='reconstruct', split='eval', output=tmp_path)
  first = next((tmp_path / 'originals').glob('*.npy'))
  assert first.with_suffix('.wav').exists() == (len(shape) == 1)
  assert np.load(first).shape == (*shape, 1)
  use(workdir, mode='sample', num_samples='2', output=tmp_path)
  assert np.load(tmp_path / '00000001.npy').shape == (*shape, 1)
  assert (tmp_path / 'samples.png').exists()


def _damage(folder, kind):
  """Damages more than a tenth of the files."""
  for path in sorted(folder.glob('*.npy'))[:4]:
    values = np.load(path).astype(np.float32)
    if kind == 'infinite':
      np.save(path, np.full_like(values, np.inf))
    elif kind == 'cut':
      path.write_bytes(path.read_bytes()[:-40])
    elif kind == 'pickled':
      np.save(path, values.astype(object), allow_pickle=True)
    elif kind == 'double':
      np.save(path, values.astype(np.uint8))


def _as_sounds(folder, rate):
  for path in folder.glob('*.npy'):
    soundfile.write(path.with_suffix('.wav'), np.load(path), rate)
    path.unlink()


@pytest.mark.parametrize('name', KINDS)
@pytest.mark.parametrize(
  ('damage', 'flags', 'told'),
  [
    ('infinite', (), 'infinite'),
    ('cut', (), '4 of 23 arrays are damaged'),
    ('pickled', (), 'Object arrays cannot be loaded'),
    ('double', (), '4 are not, such as'),
    ('', ('value_range=(-9, 9)',), 'does not contain'),
    ('', ('channels=3',), '--config.data.channels=1'),
    ('', ('shape=(128,)',), '--config.data.shape='),
    ('', ('shape=(67,)',), 'data.shape=67 must be divisible by'),
    ('', ('flip_axes=(3,)',), 'data.flip_axes=(3,)'),
    ('', ('feature=audio',), "data.feature='audio' is for datasets"),
  ],
)
def test_unsuitable_examples_give_one_message(
  name, damage, flags, told, tmp_path, capsys
):
  shape, of_files, dtype, _ = KINDS[name]
  draw(tmp_path / 'arrays', of_files, dtype)
  _damage(tmp_path / 'arrays', damage)
  _assert_told(tmp_path, capsys, told, shape, *flags)


@pytest.mark.parametrize(
  ('flags', 'told'),
  [
    (('sample_rate=8000',), '--config.data.sample_rate=16000'),
    (('shape=(128,)',), 'it has 70 samples, and at least 128 are needed'),
    (('shape=(8, 8)',), '--config.data.shape="(70,)"'),
  ],
)
def test_unsuitable_sounds_give_one_message(flags, told, tmp_path, capsys):
  draw(tmp_path / 'arrays', (70,), np.int16)
  _as_sounds(tmp_path / 'arrays', 16_000)
  _assert_told(tmp_path, capsys, told, (64,), *flags)


def _assert_told(tmp_path, capsys, told, shape, *flags):
  if not any(flag.startswith('shape=') for flag in flags):
    flags = (*flags, f'shape={shape}')  # A flag given twice would be joined.
  args = (
    *tiny_flags(tmp_path / 'arrays', tmp_path / 'data'),
    '--config.data.name=array_folder',
    '--config.data.channels=1',
    '--config.data.value_range=percentiles',
    *(f'--config.data.{flag}' for flag in flags),
  )
  assert told in tell(capsys, tmp_path / 'run', *args)
