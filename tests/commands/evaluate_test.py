"""Scores are averages over all held-out images, with averaged weights."""

import functools
import json
import re
import shutil

import jax
import numpy as np
import pytest
import scipy.fft
from PIL import Image

from tests import networks
from tests.finished_run import STEP, finish
from vaegan_jax.commands import compare, evaluate
from vaegan_jax.errors import UserError
from vaegan_jax.evaluation import evaluator as evaluator_lib
from vaegan_jax.evaluation import metrics, own_judge
from vaegan_jax.evaluation.feature_metrics import FeatureMetrics
from vaegan_jax.evaluation.scores import to_line
from vaegan_jax.losses import perceptual
from vaegan_jax.losses.reconstruction import LossConfig
from vaegan_jax.models import blocks
from vaegan_jax.runtime.checkpoints import Checkpoints
from vaegan_jax.setup import finished_run
from vaegan_jax.setup.networks import create_networks
from vaegan_jax.training.train_state import inference_variables

_QUALITY = [
  *('psnr', 'ssim', 'low_frequency_psnr', 'detail', 'energy', 'false_detail')
]
_SAMPLED = [f'{name}_sampled' for name in _QUALITY]
_NAMES = [*_QUALITY, 'grid', 'kl', 'rate', 'distance', *_SAMPLED]


@pytest.fixture(scope='module')
def runs(tiny_run, tmp_path_factory):
  """Returns {objective: (configuration, workdir)} of two finished runs."""
  runs = {}
  for objective in ('mse', 'geometric'):
    workdir = tmp_path_factory.mktemp('runs') / objective
    # 43 images in batches of 8: the last one is not full.
    fields = 'data.eval_split=train+test', f'objective={objective}'
    runs[objective] = finish(workdir, tiny_run, *fields), workdir
  return runs


@pytest.fixture(scope='module')
def images(image_folder):
  """Returns all images in any order, read without the code under test."""
  paths = sorted(image_folder.iterdir())
  return np.stack([np.asarray(Image.open(path)) for path in paths])


@pytest.fixture(scope='module')
def opened(runs, images):
  """Returns {objective: (modules, evaluator, state)}."""
  opened = {}
  for objective, (config, workdir) in runs.items():
    modules, _, create_state = create_networks(config)
    state, _ = Checkpoints(workdir).restore(jax.eval_shape(create_state))
    evaluator = _create_evaluator(config, modules, images)
    opened[objective] = (modules, evaluator, state)
  return opened


def _create_evaluator(config, modules, images, **loss):
  return evaluator_lib.Evaluator(
    modules,
    images,
    loss=LossConfig(**{**config.loss, **loss}),
    batch_size=config.batch_size,
    seed=config.seed,
  )


def _expected(modules, state, images):
  """Computes the scores from one image at a time."""
  variables = {'params': state.ema_params, 'batch_stats': {}}
  frequency = np.arange(16) / 32
  radius = np.hypot(frequency[:, None], frequency[None, :])
  rings = [(radius >= r) & (radius < r + 1 / 16) for r in np.arange(4, 12) / 16]
  rings[0] &= radius > 0.25
  # Compiled, so operations are fused as in the evaluator.
  reconstruct = jax.jit(
    functools.partial(networks.reconstruct, modules['autoencoder'])
  )
  distance = jax.jit(
    lambda x, x_recon: perceptual.perceptual_distance(
      modules['critic'],
      state.networks['critic'].variables,
      x,
      x_recon,
      layers=blocks.DownBlock,
      normalize='none',
      reduction='sum',
    )
  )
  ssim = jax.jit(metrics.ssim)
  scores, rates = {}, []
  for suffix in ('', '_sampled'):
    rows, energies = [], []
    for place, image in enumerate(images):
      x = np.float32(image[None]) / 127.5 - 1
      key = jax.random.fold_in(jax.random.key(0), place)
      noise = np.asarray(jax.random.normal(key, (4,)))[None] * bool(suffix)
      outputs = reconstruct(variables, x, noise)
      x_recon, mean, logvar = map(np.asarray, outputs)
      shown = x_recon.clip(-1, 1)
      blocks_of = [i.reshape(2, 8, 2, 8, 3).mean((1, 3)) for i in (x, shown)]
      rows.append(
        (
          10 * np.log10(4 / np.mean(np.square(x - shown))),
          float(ssim(x, x_recon)[0]),
          10 * np.log10(4 / np.mean(np.square(np.subtract(*blocks_of)))),
        )
      )
      spectra = scipy.fft.dctn(np.stack([x, shown]), axes=(2, 3), norm='ortho')
      first, second = spectra[:, 0]
      pairs = (first,) * 2, (second,) * 2, (first, second)
      energies.append([[np.vdot(a[r], b[r]) for r in rings] for a, b in pairs])
      if not suffix:
        kl = 0.5 * np.sum(np.square(mean) + np.exp(logvar) - 1 - logvar)
        rates.append((kl, float(distance(x, x_recon)[0])))
    false = np.sum(energies, axis=0)
    energy, energy_recon, common = false.sum(axis=1)
    false = np.maximum(false[1] - np.maximum(false[2], 0), 0).sum()
    shares = common / max(energy, energy_recon), energy_recon / energy
    shares = *shares, false / energy
    for name, value in zip(
      _QUALITY, (*np.mean(rows, axis=0), *shares), strict=True
    ):
      scores[f'{name}{suffix}'] = value
  levels = np.float32([-0.9, -0.5, 0.1, 0.5, 0.9])[:, None].repeat(3, axis=1)
  colors = np.concatenate([levels, np.float32(np.eye(3) - 0.3)])
  x = np.broadcast_to(colors[:, None, None], (8, 16, 16, 3))
  shown = np.clip(reconstruct(variables, x, np.zeros((8, 4)))[0], -1, 1)
  scores['grid'] = shown.var(axis=(1, 2)).sum() / (shown**2).mean((1, 2)).sum()
  scores['kl'], scores['distance'] = np.mean(rates, axis=0)
  scores['rate'] = scores['kl'] / np.log(2)
  return scores


def _without_samples(scores):
  """Removes scores that depend on the order of the images, by their noise."""
  return {k: v for k, v in scores.items() if k not in _SAMPLED}


def _times(folder):
  return {path: path.stat().st_mtime_ns for path in folder.rglob('*')}


def test_evaluation_is_the_plain_average_over_all_images(
  runs, opened, images, tmp_path, capsys
):
  config, workdir = runs['geometric']
  workdir = shutil.copytree(workdir, tmp_path / 'run')
  before = _times(workdir / 'checkpoints')
  evaluate.evaluate(config, str(workdir))
  assert _times(workdir / 'checkpoints') == before
  text = (workdir / 'evaluation.json').read_text()
  assert text.count('\n') == 1 and text in capsys.readouterr().out
  scores = json.loads(text)
  assert list(scores) == ['step', *_NAMES]
  assert scores.pop('step') == STEP
  modules, _, state = opened['geometric']
  expected = _without_samples(_expected(modules, state, images))
  assert _without_samples(scores) == pytest.approx(expected, rel=1e-4)
  table = (workdir / 'evaluation.md').read_text()
  assert '| run |' in table and f'{scores["psnr"]:.1f}' in table
  assert f'- {len(images)} held-out examples of 16x16x3' in table
  # Neither is computed, nor does this distance depend on the batch.
  assert not re.search(
    'lpips|frechet|distance', table.split('\n- ', 1)[1], re.I
  )
  for name in ('reconstructions', 'samples', 'interpolation'):
    Image.open(workdir / 'figures' / f'evaluation_{name}.png').verify()
  assert f'"{scores["psnr"]:.1f}"' in (workdir / 'report.html').read_text()


def test_the_first_images_alone_can_be_scored(opened, images):
  modules, evaluator, state = opened['geometric']
  expected = _expected(modules, state, images[:11])
  assert evaluator.score(inference_variables(state), 11) == pytest.approx(
    expected, rel=1e-4
  )


def test_the_averaged_weights_are_scored(opened):
  _, evaluator, state = opened['geometric']
  scores = evaluator.score(inference_variables(state))
  doubled = jax.tree.map(lambda x: 2 * x, state.ema_params)
  averaged = evaluator.score(
    inference_variables(state.replace(ema_params=doubled))
  )
  assert averaged.keys() == set(_NAMES)
  varied = {*_NAMES} - {'false_detail', 'false_detail_sampled'}  # Of blur: 0.
  assert all(averaged[name] != scores[name] for name in varied)
  raw = state.networks['autoencoder'].replace(params=doubled)
  networks = state.networks | {'autoencoder': raw}
  state = state.replace(networks=networks)
  assert evaluator.score(inference_variables(state)) == scores


def test_scores_that_json_cannot_hold_are_none(runs, opened):
  modules, _, state = opened['mse']
  flat = np.full((3, 16, 16, 3), 128, np.uint8)
  evaluator = _create_evaluator(runs['mse'][0], modules, flat)
  scores = evaluator.score(inference_variables(state))
  assert scores['detail'] is scores['energy'] is scores['distance'] is None
  json.dumps(scores, allow_nan=False)
  assert to_line(scores).startswith('psnr ')


@pytest.mark.parametrize(
  ('objective', 'loss', 'said'),
  [
    ('geometric', {'normalize': 'batch'}, True),
    ('geometric', {'normalize': 'local'}, True),
    ('geometric', {'normalize': 'unit', 'image_weight': 1.0}, True),
    ('geometric', {'normalize': 'unit', 'image_weight': 0.0}, False),
    ('geometric', {'normalize': 'none', 'image_weight': 1.0}, False),
    ('mse', {'normalize': 'batch'}, False),
  ],
)
def test_a_distance_that_depends_on_the_batch_is_said_with_its_size(
  objective, loss, said, runs, opened, images
):
  """Several processes evaluate smaller batches than one."""
  config, modules = runs[objective][0], opened[objective][0]
  protocol = _create_evaluator(config, modules, images, **loss).protocol
  assert ('in a batch, here of 8 examples' in protocol) == said


def test_one_critic_measures_all_compared_runs(runs, opened, tmp_path):
  configs = {str(workdir): config for config, workdir in runs.values()}
  compare.compare(configs, str(tmp_path / 'out'))
  results = json.loads((tmp_path / 'out' / 'comparison.json').read_text())
  assert list(results) == ['mse', 'geometric']
  _, evaluator, state = opened['geometric']
  distance = evaluator.distance_for(inference_variables(state))
  for objective, (_, evaluator, state) in opened.items():
    expected = evaluator.score(inference_variables(state), distance=distance)
    expected['distance (geometric)'] = expected.pop('distance')
    expected = pytest.approx(_without_samples(expected), rel=1e-4)
    assert _without_samples(results[objective]) == expected
  table = (tmp_path / 'out' / 'comparison.md').read_text()
  assert table.count('\n|') == 3 and '| mse |' in table
  assert 'held-out examples of' in table
  page = (tmp_path / 'out' / 'report.html').read_text()
  assert '"label": "mse"' in page and '"label": "geometric"' in page
  Image.open(tmp_path / 'out' / 'comparison.png').verify()


def test_runs_on_other_images_are_not_compared(runs, tmp_path):
  config, workdir = runs['mse']
  other = config.copy_and_resolve_references()
  other.data.eval_split = 'test'
  with pytest.raises(UserError, match=r"data\.eval_split is 'test' in other"):
    compare.compare({str(workdir): config, 'other': other}, str(tmp_path))


def test_a_run_without_a_checkpoint_is_refused(runs, tmp_path):
  config, workdir = runs['mse']
  shutil.copy(workdir / 'config.json', tmp_path)
  with pytest.raises(UserError, match=r'has no checkpoint.*--mode=train'):
    evaluate.evaluate(config, str(tmp_path))
  with pytest.raises(UserError, match=r'has no checkpoint.*--mode=train'):
    compare.compare(
      {str(workdir): config, str(tmp_path): config}, str(tmp_path)
    )
  assert [path.name for path in tmp_path.iterdir()] == ['config.json']


def test_another_network_is_refused(runs):
  config, workdir = runs['geometric']
  config = config.copy_and_resolve_references()
  config.data.image_size = 32
  told = r'image_size=32 must be 16, .* latent is flat .*size="16"'
  with pytest.raises(UserError, match=told):
    evaluate.evaluate(config, str(workdir))
  config.data.image_size = 16
  config.model.latent_dim = 5
  with pytest.raises(UserError, match='latent_dim was 4 and is 5 now'):
    evaluate.evaluate(config, str(workdir))
  assert not (workdir / 'evaluation.json').exists()


def test_feature_metrics_are_computed_in_every_mode(
  runs, tmp_path, monkeypatch
):
  """Uses substitutes; other tests have the values of the real networks."""

  def load(*, lpips_weights, features_weights, arrays):
    assert not arrays  # They are photographs.
    assert lpips_weights == 'a,b' or not lpips_weights
    if not lpips_weights:
      return FeatureMetrics()

    def look(x):
      return {'lpips': {'pixels': x}, 'features': x.mean((1, 2))}

    return FeatureMetrics(embedders=(look,), protocol=('lpips: a stand-in',))

  monkeypatch.setattr(finished_run, 'load_feature_metrics', load)
  configs = {}
  for objective, (config, workdir) in runs.items():
    config = config.copy_and_resolve_references()
    if objective == 'geometric':  # The other run has no critic.
      config.evaluation.lpips_weights = 'a,b'
      config.evaluation.own_judge = True
    configs[str(shutil.copytree(workdir, tmp_path / objective))] = config
  with pytest.raises(UserError, match=r'own_judge=True .* 64 .* there are 43'):
    compare.compare(configs, str(tmp_path))
  monkeypatch.setattr(own_judge, 'MIN_EXAMPLES', 43)
  monkeypatch.setattr(own_judge, '_NUM_STEPS', 1)
  compare.compare(configs, str(tmp_path))
  results = json.loads((tmp_path / 'comparison.json').read_text())
  for row in results.values():
    assert row['lpips'] > 0 and row['lpips_sampled'] > 0
    assert row['frechet'] > row['frechet_floor'] > 0
    assert row['judge'] > 0 and row['judge_frechet_sampled'] > 0
    assert row['judge_floor'] > 0
  protocol = (tmp_path / 'comparison.md').read_text()
  assert 'a stand-in' in protocol and protocol.count('\n- judge') == 1
  workdir, config = list(configs.items())[1]
  evaluate.evaluate(config, workdir)
  scores = json.loads((tmp_path / 'geometric' / 'evaluation.json').read_text())
  for name in ('lpips', 'judge'):
    assert scores[name] == pytest.approx(results['geometric'][name])
