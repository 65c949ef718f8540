"""LPIPS and the Frechet distance against closed forms, and their inputs."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
import scipy.linalg
from safetensors.numpy import save_file

from tests.models.inception_test import random_state_dict
from tests.networks import loss_config, uniform
from vaegan_jax.errors import UserError
from vaegan_jax.evaluation import feature_metrics, kid
from vaegan_jax.evaluation.feature_metrics import FeatureMetrics
from vaegan_jax.evaluation.frechet import frechet_distance, frechet_floor
from vaegan_jax.evaluation.kid import kernel_distance
from vaegan_jax.losses.perceptual import capture_features, perceptual_distance
from vaegan_jax.losses.reconstruction import create_reconstruction_losses
from vaegan_jax.models.pretrained import inception
from vaegan_jax.models.pretrained.lpips import LPIPS, load_lpips, to_factors
from vaegan_jax.models.pretrained.vgg import LPIPS_LAYERS, VGG, load_vgg
from vaegan_jax.models.pretrained.weights import read_state_dict


def _features(seed, number, mean, deviation):
  """Returns features with exactly this mean and independent deviations."""
  values = np.random.default_rng(seed).normal(size=(number, len(mean)))
  values -= values.mean(axis=0)
  covariance = np.cov(values, rowvar=False)
  values = values @ np.linalg.inv(np.linalg.cholesky(covariance)).T
  return values * deviation + mean


def test_the_frechet_distance_of_independent_features_by_hand():
  a = _features(0, 50, [1.0, -2.0, 0.5], [1.0, 2.0, 0.5])
  b = _features(1, 80, [1.5, -2.0, 0.0], [3.0, 2.0, 1.0])
  wanted = 0.5**2 + 0.5**2 + (1 - 3) ** 2 + 0 + (0.5 - 1) ** 2
  np.testing.assert_allclose(frechet_distance(a, b), wanted, rtol=1e-9)
  np.testing.assert_allclose(frechet_distance(b, a), wanted, rtol=1e-9)


def test_the_frechet_distance_equals_the_formula_with_a_matrix_root():
  rng = np.random.default_rng(0)
  a = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 5))
  b = rng.normal(size=(70, 5)) @ rng.normal(size=(5, 5)) + 0.3
  cov_a, cov_b = (np.cov(x, rowvar=False) for x in (a, b))
  root = scipy.linalg.sqrtm(cov_a @ cov_b).real
  wanted = np.sum((a.mean(0) - b.mean(0)) ** 2)
  wanted += np.trace(cov_a + cov_b - 2 * root)
  np.testing.assert_allclose(frechet_distance(a, b), wanted, rtol=1e-8)


def test_a_set_is_at_no_distance_from_itself_even_with_few_images():
  features = uniform(6, 20)  # The covariance is singular.
  assert frechet_distance(features, features) < 1e-5
  assert frechet_distance(features, features + 1) > 19


@pytest.mark.parametrize('number', [0, 1])
def test_too_few_images_or_what_is_not_finite_have_no_distance(number):
  features = np.random.default_rng(0).normal(size=(6, 3))
  assert np.isnan(frechet_distance(features[:number], features))
  assert np.isnan(frechet_floor(features[:3]))
  bad = features.copy()
  bad[number, 1] = [np.nan, np.inf][number]
  assert np.isnan(frechet_distance(features, bad))
  assert np.isnan(kernel_distance(features, bad))
  assert np.isnan(kernel_distance(features[:number], features[:number]))


def test_the_floor_falls_with_the_number_of_images():
  features = np.random.default_rng(0).normal(size=(4000, 8))
  few, many = (frechet_floor(features[:n]) for n in (40, 4000))
  assert 0 < many < few / 20


def test_kid_by_hand_and_by_its_definition(monkeypatch):
  a, b = np.eye(2), np.array([[0.0, 0.0], [1.0, 1.0]])
  # The one pair has 1 + 1 - (1 / 2 + 1)^3 - 1.
  assert kernel_distance(a, b) == -2.375
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 11, 3, 4)).astype(np.float32)
  b += 0.3

  def reference(a, b):
    def kernel(u, v):
      return (sum(u * v) / len(u) + 1) ** 3

    terms = [
      kernel(a[i], a[j]) + kernel(b[i], b[j]) - 2 * kernel(a[i], b[j])
      for i, j in itertools.permutations(range(len(a)), 2)
    ]
    return np.mean(terms)

  wanted = [reference(a[:, band], b[:, band]) for band in range(3)]
  assert kernel_distance(a, b) == pytest.approx(np.mean(wanted), rel=1e-5)
  monkeypatch.setattr(kid, '_MOST', 4)  # Three parts, of every third image.
  parts = [reference(a[i::3, 0], b[i::3, 0]) for i in range(3)]
  found = kernel_distance(a[:, 0], b[:, 0])
  assert found == pytest.approx(np.mean(parts), rel=1e-5)


def test_kid_is_unbiased_where_the_frechet_distance_is_not():
  rng = np.random.default_rng(0)
  pairs = rng.normal(size=(400, 2, 20, 5))
  same = [kernel_distance(a, b) for a, b in pairs]
  # A reconstruction resembles its original, and only its noise is wrong.
  near = [kernel_distance(a, a + 0.1 * b) for a, b in pairs]
  assert abs(np.mean(same)) < 3 * np.std(same) / 20
  assert abs(np.mean(near)) < 0.01
  assert np.mean([frechet_distance(a, b) for a, b in pairs[:20]]) > 0.3
  assert kernel_distance(pairs[0, 0], pairs[0, 0]) == 0
  assert np.mean([kernel_distance(a, b + 0.5) for a, b in pairs]) > 0.3


def test_pictures_have_8_bits():
  images = np.array([-2.0, -1, 0.001, 0.005, 1, 7], np.float32)
  images = np.broadcast_to(images[:, None, None, None], (6, 64, 64, 3))
  shown = np.asarray(feature_metrics.to_pictures(images))[:, 0, 0, 0]
  levels = (shown + 1) * 127.5
  np.testing.assert_allclose(levels, [0, 0, 128, 128, 255, 255], atol=1e-4)


def test_several_pictures_have_the_mean_of_their_distances():
  """In one distance, the covariances of 13 bands would be 26,624 squared."""
  a, b = np.random.default_rng(0).normal(size=(2, 30, 13, 8))
  b[:, 12] += 1  # The last band differs most.
  wanted = [frechet_distance(a[:, i], b[:, i]) for i in range(13)]
  assert frechet_distance(a, b) == pytest.approx(np.mean(wanted))
  assert wanted[12] > 2 * wanted[0]
  assert frechet_floor(a[:, :1]) == frechet_floor(a[:, 0])


def _embed_pixels(pictures):
  """Embeds in the pixels that a network would be given."""
  shown = feature_metrics.to_pictures(pictures)
  assert shown.shape[-1] in (1, 3)
  features = shown[:, :2, :2].reshape(len(shown), -1)
  return {'lpips': {'pixels': shown}, 'features': features}


@pytest.mark.parametrize(
  ('arrays', 'channels', 'pictures', 'described'),
  [
    (False, 1, 1, 'the one channel, as grey'),
    (False, 2, 1, 'grey, without the last channel, alpha'),
    (False, 3, 1, 'red, green and blue;'),
    (False, 4, 1, 'red, green and blue, without the last channel, alpha'),
    (True, 1, 1, 'the one channel, as grey'),
    (True, 2, 2, 'each of the 2 bands by itself, as a grey picture'),
    (True, 3, 1, 'red, green and blue;'),
    (True, 4, 4, 'each of the 4 bands by itself, as a grey picture'),
    (True, 5, 5, 'a metric is the mean over the bands'),
  ],
)
def test_alpha_is_of_photographs_and_every_band_of_an_array_counts(
  arrays, channels, pictures, described
):
  found = FeatureMetrics((_embed_pixels,), ('lpips: ',), arrays)
  assert described in found.describe(channels)[-1]
  x = 0.2 * uniform(6, 8, 8, channels)
  noisy = x.copy()  # In the last channel alone.
  noisy[..., -1] = uniform(6, 8, 8, seed=1)
  values = found.measure(x, {'': x, '_sampled': noisy})
  assert values['features'].shape[:2] == (6, pictures)
  assert not values['lpips'].any()
  distance = frechet_distance(
    values['features'], values['features_recon_sampled']
  )
  alpha = not arrays and channels in (2, 4)
  assert (values['lpips_sampled'] > 0).all() != alpha
  assert (distance > 1e-3) != alpha
  if pictures > 1:  # The other bands are equal, and each band counts alike.
    shown = [feature_metrics.to_pictures(i[..., -1:]) for i in (x, noisy)]
    error = np.square(shown[0] - shown[1]).mean((1, 2, 3))
    np.testing.assert_allclose(
      values['lpips_sampled'], error / pictures, rtol=1e-5
    )


@pytest.fixture(scope='module')
def both(lpips_files, vgg16_file):
  """Returns LPIPS and the Frechet distance's features, in one VGG16."""
  return feature_metrics.load_feature_metrics(
    lpips_weights=lpips_files, features_weights=str(vgg16_file)
  )


def _shown(seed, *shape):
  """Returns 8-bit images, which rounding does not change."""
  return np.round(127.5 * (uniform(*shape, seed=seed) + 1)) / 127.5 - 1


def test_both_metrics_equal_their_definitions(both, lpips_files):
  assert len(both.protocol) == 3 and 'sha256' in both.protocol[0]
  x, y = (_shown(seed, 2, 64, 64, 2) for seed in range(2))
  found = dataclasses.replace(both, arrays=True).measure(x, {'': y})
  assert found['lpips'].shape == (2,)
  assert found['features'].shape == (2, 2, both.num_features) == (2, 2, 512)
  trunk, heads = lpips_files.split(',')
  variables = load_vgg(trunk, 16)
  heads = to_factors(heads, read_state_dict(heads), 'vgg16')

  @jax.jit
  def band(variables, x, y):  # A constant of 58 MB would be compiled.
    x, y = feature_metrics.to_pictures(x), feature_metrics.to_pictures(y)
    return perceptual_distance(
      VGG(16),
      variables,
      x,
      y,
      layers=LPIPS_LAYERS,
      weights=heads,
      normalize='unit',
      reduction='spatial',
    )

  bands = [
    band(variables, x[..., i : i + 1], y[..., i : i + 1]) for i in range(2)
  ]
  expected = np.mean(bands, axis=0)
  np.testing.assert_allclose(found['lpips'], expected, rtol=1e-4)
  _, features = jax.jit(
    functools.partial(capture_features, VGG(16), layers=('conv5_3',))
  )(variables, feature_metrics.to_pictures(y[..., 1:2]))
  np.testing.assert_allclose(
    found['features_recon'][:, 1],
    features['conv5_3'].mean((1, 2)),
    rtol=1e-3,
    atol=1e-5,
  )


def test_either_metric_alone_has_the_same_values(both, lpips_files, vgg16_file):
  """Both metrics together share the passes of one network."""
  # 32 pixels, which both enlarge.
  x, y = (_shown(seed, 2, 32, 32, 3) for seed in range(2))
  together = both.measure(x, {'': y})
  apart = {}
  for files in (
    {'lpips_weights': lpips_files, 'features_weights': ''},
    {'lpips_weights': '', 'features_weights': str(vgg16_file)},
  ):
    found = feature_metrics.load_feature_metrics(**files)
    assert len(found.embedders) == 1
    apart |= found.measure(x, {'': y})
  assert len(both.embedders) == 1
  assert together.keys() == apart.keys()
  for name, value in together.items():
    np.testing.assert_allclose(value, apart[name], rtol=1e-5, atol=1e-6)


# The tests above have compiled the metrics for these shapes.
@pytest.mark.parametrize('shape', [(2, 64, 64, 1), (2, 32, 32, 3)])
def test_a_run_minimises_the_lpips_that_is_reported(shape, both, lpips_files):
  """Uses 8-bit images; a run's reconstructions are not rounded."""
  loss = loss_config(reduction='spatial', kl_weight=1e-2)
  losses = jax.jit(create_reconstruction_losses(LPIPS(), None, loss))
  variables = load_lpips(*lpips_files.split(','))
  x, y = (_shown(seed, *shape) for seed in range(2))
  terms, _ = losses(variables, x, {'x_recon': y})
  reported = both.measure(x, {'': y})
  np.testing.assert_allclose(terms['distance'], reported['lpips'], rtol=1e-5)
  assert (reported['lpips'] > 0.01).all()


def test_other_weights_of_vgg_have_passes_of_their_own(lpips_files, tmp_path):
  state = {
    n: 2 * a for n, a in read_state_dict(lpips_files.split(',')[0]).items()
  }
  save_file(state, tmp_path / 'other.safetensors')
  found = feature_metrics.load_feature_metrics(
    lpips_weights=lpips_files,
    features_weights=str(tmp_path / 'other.safetensors'),
  )
  assert len(found.embedders) == 2


def test_fid_is_in_the_inception_of_2015(tmp_path, monkeypatch, request):
  request.addfinalizer(jax.clear_caches)  # Programs with another size.
  path = tmp_path / 'any_name.safetensors'
  save_file(random_state_dict(), path)
  found = feature_metrics.load_feature_metrics(
    lpips_weights='', features_weights=str(path)
  )
  assert 'FID (arXiv 1706.08500)' in found.protocol[0]
  assert 'any_name.safetensors (sha256' in found.protocol[0]
  # The smallest valid size: its own size takes seconds.
  monkeypatch.setattr(inception, 'SIDE', inception.MIN_SIDE)
  x = _shown(0, 2, 16, 24, 1)
  variables = inception.to_variables(path, random_state_dict())
  # Not enlarged to 64 in between.
  wide = jax.image.resize(x, (2, 75, 75, 1), 'bilinear', antialias=False)
  expected = jax.jit(inception.Inception().apply)(variables, wide)
  values = found.measure(x, {'': x})
  assert list(values) == ['features', 'features_recon']
  assert values['features'].shape[-1] == found.num_features
  for features in (values['features'], found.embed(x)):
    np.testing.assert_allclose(features[:, 0], expected, rtol=1e-3, atol=1e-4)


def test_no_files_give_no_metrics():
  found = feature_metrics.load_feature_metrics(
    lpips_weights='', features_weights=''
  )
  assert (found.measure(None, {}), found.describe(3)) == ({}, ())


def test_a_file_of_neither_network_is_refused(tmp_path):
  path = tmp_path / 'resnet.safetensors'
  save_file({'conv1.weight': np.zeros(3, np.float32)}, path)
  with pytest.raises(UserError) as caught:
    feature_metrics.load_feature_metrics(
      lpips_weights='', features_weights=str(path)
    )
  sentence = str(caught.value)
  assert sentence.startswith(f'evaluation.features_weights={path} cannot be')
  assert 'neither' in sentence and "'conv1.weight'" in sentence
  assert 'vgg16' in sentence and 'pt_inception' in sentence


@pytest.mark.parametrize(
  ('flag', 'word'),
  [
    ('lpips_weights=/nowhere/a.pth,/nowhere/b.pth', 'nowhere'),
    ('lpips_weights=/nowhere/a.pth', 'two to five local files'),
    ('features_weights=/nowhere/a.pth', 'nowhere'),
  ],
)
def test_a_wrong_file_is_refused_before_anything_compiles(
  flag, word, told, tiny_run
):
  sentence = told(*tiny_run, f'--config.evaluation.{flag}')
  assert word in sentence and 'evaluation.' in sentence
