"""Runs on arrays: training, evaluation, export and loading, in data units."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import vaegan_jax
from tests.finished_run import parse, use
from tests.tiny_run import tiny_flags
from vaegan_jax.commands import study
from vaegan_jax.evaluation.feature_metrics import FeatureMetrics
from vaegan_jax.setup import finished_run
from vaegan_jax.setup.data_identity import keep_rules

# dtype, channels, the values at 0 and 1, data.value_range, objective. A critic
# compiles slowly, so only one has it.
KINDS = {
  'bands': (np.uint16, 13, (0, 4095), 'percentiles', 'geometric'),
  'small': (np.float32, 1, (1e-6, 2e-6), 'percentiles', 'mse'),
  'large': (np.float32, 1, (-1e6, 3e6), '(-1e6, 3e6)', 'mse'),
}


def draw_arrays(folder, dtype, channels, ends, number=43):
  """Writes similar smooth fields with correlated channels."""
  rng = np.random.default_rng(0)
  grid = np.linspace(0, 1, 16)
  common = 0.5 + 0.4 * np.sin(7 * grid[:, None] + 4 * grid)
  for index in range(number):
    shade, *gains = rng.uniform(0.6, 1, 1 + channels)
    unit = np.clip(shade * common[..., None] * np.array(gains), 0, 1)
    values = ends[0] + (ends[1] - ends[0]) * unit
    np.save(folder / f'{index:02}.npy', values.astype(dtype))


@pytest.fixture(scope='module')
def train(tmp_path_factory):
  """Returns a function: kind -> (folder of arrays, workdir of a run on it)."""
  done = {}

  def train(kind):
    if kind in done:
      return done[kind]
    dtype, channels, ends, value_range, objective = KINDS[kind]
    root = tmp_path_factory.mktemp(kind)
    (root / 'arrays').mkdir()
    draw_arrays(root / 'arrays', dtype, channels, ends)
    flags = (
      *tiny_flags(root / 'arrays', root / 'data'),
      '--config.data.name=array_folder',
      f'--config.data.channels={channels}',
      f'--config.data.value_range={value_range}',
      f'--config.objective={objective}',
      '--config.num_train_steps=3',
    )
    use(root / 'run', *flags)
    done[kind] = root, flags
    return done[kind]

  return train


@pytest.mark.parametrize('kind', KINDS)
def test_values_come_back_in_their_own_units(kind, train, tmp_path):
  root, _ = train(kind)
  workdir = root / 'run'
  bands = '(12, 0, 3)' if kind == 'bands' else '(0,)'
  use(workdir, f'--config.data.shown_bands={bands}', mode='evaluate')
  figure = workdir / 'figures' / 'evaluation_reconstructions.png'
  red, green, blue = np.moveaxis(np.asarray(Image.open(figure)), -1, 0)
  is_grey = (red == green).all() and (green == blue).all()
  assert is_grey == (kind != 'bands')
  scores = json.loads((workdir / 'evaluation.json').read_text())
  use(workdir, mode='export', output=tmp_path / 'export')
  model = vaegan_jax.load(tmp_path / 'export')
  low, high = model.config.data.value_range
  # The held-out files, by the folder's own rule.
  use(workdir, mode='reconstruct', split='eval', output=tmp_path)
  names = sorted((tmp_path / 'originals').glob('*.npy'))
  originals = np.stack([np.load(name) for name in names])
  every = {
    np.load(path).tobytes(): np.load(path)
    for path in (root / 'arrays').iterdir()
  }
  files = np.stack(list(every.values())).astype(np.float64)
  inside = np.clip(files, low, high)
  for values in originals:  # Each equals one of the files, except for clipping.
    error = np.abs(inside - values).max(axis=(1, 2, 3)).min()
    assert error < 1e-6 * (high - low)
  x = model.preprocess(originals)
  x_recon = model.to_values(model.reconstruct(x))
  error = np.square(np.asarray(x_recon, np.float64) - originals)
  psnr = 10 * np.log10((high - low) ** 2 / error.mean(axis=(1, 2, 3)))
  assert psnr.mean() == pytest.approx(scores['psnr'], abs=1e-3)
  bands = 10 * np.log10((high - low) ** 2 / error.mean(axis=(0, 1, 2)))
  named = [f'psnr_band_{band}' for band in range(13)]
  if kind == 'bands':
    found = [scores[name] for name in named]
    np.testing.assert_allclose(found, bands, atol=1e-3)
  else:
    assert not set(named) & set(scores)
  written = np.load(tmp_path / 'reconstructions' / names[0].name)
  np.testing.assert_allclose(written, x_recon[0], atol=1e-5 * (high - low))
  assert written.dtype == np.float32


def test_pretrained_networks_are_given_each_band(train, monkeypatch):
  """Uses a substitute; `feature_metrics_test.py` tests the values."""

  def embed(pictures):
    assert pictures.shape[-1] == 1
    features = pictures[:, :2, :2].reshape(len(pictures), -1)
    return {'lpips': {'pixels': pictures}, 'features': features}

  def load(*, arrays, **_):
    return FeatureMetrics((embed,), ('lpips: a stand-in',), arrays)

  workdir = train('bands')[0] / 'run'
  monkeypatch.setattr(finished_run, 'load_feature_metrics', load)
  config = parse(workdir, '--mode=evaluate').config
  evaluator, variables, _ = finished_run.open_run(config, str(workdir))
  assert 'take each of the 13 bands by itself' in evaluator.protocol
  scores = evaluator.score(variables)
  # Of one channel, LPIPS of pixels is their squared error.
  psnr = 10 * np.log10(4 / scores['lpips'])
  assert psnr == pytest.approx(scores['psnr'], abs=0.5)
  assert scores['frechet'] > 0


def test_the_range_is_found_once_and_kept(train, capsys):
  root, flags = train('bands')
  workdir = root / 'run'
  found = json.loads((workdir / 'config.json').read_text())
  low, high = found['data']['value_range']
  values = [np.load(path) for path in (root / 'arrays').glob('*.npy')]
  assert np.min(values) <= low < high <= np.max(values)
  assert high < 4096  # Not 65,535, with which all images would be dark.
  # A study with the same settings finds its run there.
  config = parse(workdir, *flags).config
  outcome = {'status': study.FINISHED, 'scores': {'detail': 0.5}}
  content = json.dumps(outcome | {'config': config.to_dict()})
  (workdir / 'outcome.json').write_text(content)
  config = keep_rules(config, workdir)
  study._check_resumable(config, str(workdir))
  assert study._read_outcome(config, str(workdir)) == outcome
  longer = '--config.num_train_steps=4'
  use(workdir, *flags, longer)  # Still 'percentiles'.
  told = capsys.readouterr().out
  assert 'Resuming after step 3' in told
  assert f'{low:g} becomes -1 and {high:g} becomes 1' in told
  again = json.loads((workdir / 'config.json').read_text())
  assert again['data']['value_range'] == [low, high]


def test_latents_of_files_decode_to_files(train, tmp_path):
  root, _ = train('small')
  use(root / 'run', mode='encode', input=root / 'arrays', output=tmp_path / 'z')
  decoded = tmp_path / 'x'
  use(root / 'run', mode='decode', input=tmp_path / 'z', output=decoded)
  assert len(list(decoded.glob('*.npy'))) == 43
  model = vaegan_jax.load(root / 'run')
  original = np.load(root / 'arrays' / '07.npy')
  x_recon = model.reconstruct(model.preprocess([original, original[..., 0]]))
  want = model.to_values(x_recon)
  np.testing.assert_allclose(want[0], want[1])
  np.testing.assert_allclose(np.load(decoded / '07.npy'), want[0], rtol=1e-4)
  assert 1e-7 < np.abs(want).mean() < 1e-5
  use(root / 'run', mode='sample', num_samples='2', output=tmp_path / 's')
  assert np.load(tmp_path / 's' / '00000001.npy').shape == (16, 16, 1)


def test_preprocess_is_compiled_within_others(train):
  root, _ = train('small')
  model = vaegan_jax.load(root / 'run')
  x = np.load(root / 'arrays' / '07.npy')[None]
  np.testing.assert_allclose(
    jax.jit(model.preprocess)(x), model.preprocess(x), atol=1e-6
  )
