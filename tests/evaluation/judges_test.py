"""The judges against closed forms, and what they are shown."""

import jax
import numpy as np
import pytest
import scipy.linalg
from safetensors.numpy import save_file

from vaegan_jax.evaluation import judges
from vaegan_jax.losses.perceptual import perceptual_distance
from vaegan_jax.models.vgg import LPIPS_LAYERS, VGG, WIDTHS, load_vgg


def _images(seed, *shape):
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def _features(seed, number, mean, deviation):
  """Of exactly that mean and those independent deviations."""
  values = np.random.default_rng(seed).normal(size=(number, len(mean)))
  values -= values.mean(axis=0)
  covariance = np.cov(values, rowvar=False)
  values = values @ np.linalg.inv(np.linalg.cholesky(covariance)).T
  return values * deviation + mean


def test_the_frechet_distance_of_independent_features_by_hand():
  a = _features(0, 50, [1.0, -2.0, 0.5], [1.0, 2.0, 0.5])
  b = _features(1, 80, [1.5, -2.0, 0.0], [3.0, 2.0, 1.0])
  wanted = 0.5**2 + 0.5**2 + (1 - 3) ** 2 + 0 + (0.5 - 1) ** 2
  np.testing.assert_allclose(judges.frechet_distance(a, b), wanted, rtol=1e-9)
  np.testing.assert_allclose(judges.frechet_distance(b, a), wanted, rtol=1e-9)


def test_the_frechet_distance_equals_the_formula_with_a_matrix_root():
  rng = np.random.default_rng(0)
  a = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 5))
  b = rng.normal(size=(70, 5)) @ rng.normal(size=(5, 5)) + 0.3
  cov_a, cov_b = (np.cov(x, rowvar=False) for x in (a, b))
  root = scipy.linalg.sqrtm(cov_a @ cov_b).real
  wanted = np.sum((a.mean(0) - b.mean(0)) ** 2)
  wanted += np.trace(cov_a + cov_b - 2 * root)
  np.testing.assert_allclose(judges.frechet_distance(a, b), wanted, rtol=1e-8)


def test_a_set_is_at_no_distance_from_itself_even_with_few_images():
  features = _images(0, 6, 20)  # The covariance is singular.
  assert judges.frechet_distance(features, features) < 1e-5
  assert judges.frechet_distance(features, features + 1) > 19


@pytest.mark.parametrize('number', [0, 1])
def test_too_few_images_or_what_is_not_finite_have_no_distance(number):
  features = np.random.default_rng(0).normal(size=(6, 3))
  assert np.isnan(judges.frechet_distance(features[:number], features))
  assert np.isnan(judges.frechet_floor(features[:3]))
  bad = features.copy()
  bad[number, 1] = [np.nan, np.inf][number]
  assert np.isnan(judges.frechet_distance(features, bad))


def test_the_floor_falls_with_the_number_of_images():
  features = np.random.default_rng(0).normal(size=(4000, 8))
  few, many = (judges.frechet_floor(features[:n]) for n in (40, 4000))
  assert 0 < many < few / 20


def test_a_judge_sees_8_bits():
  images = np.array([-2.0, -1, 0.001, 0.005, 1, 7], np.float32)
  images = np.broadcast_to(images[:, None, None, None], (6, 64, 64, 3))
  shown = np.asarray(judges.as_judged(images))[:, 0, 0, 0]
  levels = (shown + 1) * 127.5
  np.testing.assert_allclose(levels, [0, 0, 128, 128, 255, 255], atol=1e-4)


@pytest.mark.parametrize(
  ('channels', 'pictures', 'shown'),
  [(1, 1, 1), (2, 1, 1), (3, 1, 3), (4, 1, 3), (5, 5, 1)],
)
def test_which_channels_a_judge_sees(channels, pictures, shown):
  levels = np.linspace(-1, 1, channels, dtype=np.float32)
  images = np.stack(
    [np.broadcast_to(sign * levels, (64, 64, channels)) for sign in (1, -1)]
  )
  judged = np.asarray(judges.as_judged(images))
  assert judged.shape == (2 * pictures, 64, 64, shown)
  wanted = np.stack([levels, -levels])
  # Band after band, each of both images.
  wanted = wanted[:, :shown] if pictures == 1 else wanted.T.reshape(-1, 1)
  np.testing.assert_allclose(judged[:, 5, 9], wanted, atol=0.005)


@pytest.mark.parametrize(
  ('sides', 'enlarged'),
  [((32, 48), (64, 96)), ((64, 64), (64, 64)), ((128, 70), (128, 70))],
)
def test_small_pictures_are_enlarged(sides, enlarged):
  judged = judges.as_judged(_images(0, 1, *sides, 3))
  assert judged.shape == (1, *enlarged, 3)


@pytest.fixture(scope='module')
def heads():
  rng = np.random.default_rng(1)
  return [rng.uniform(0, 1, width).astype(np.float32) for width in WIDTHS]


@pytest.fixture(scope='module')
def lpips_files(vgg16_file, heads, tmp_path_factory):
  path = tmp_path_factory.mktemp('heads') / 'heads.safetensors'
  names = [f'lin{i}.model.1.weight' for i in range(5)]
  tensors = {
    n: h.reshape(1, -1, 1, 1) for n, h in zip(names, heads, strict=True)
  }
  save_file(tensors, path)
  return f'{vgg16_file},{path}'


def test_both_judges_are_what_they_say(lpips_files, vgg16_file, heads):
  found = judges.load_judges(
    lpips_weights=lpips_files, features_weights=str(vgg16_file)
  )
  assert len(found.protocol) == 2 and 'sha256' in found.protocol[0]
  x, y = (np.round(127 * _images(i, 2, 64, 64, 5)) / 127.5 for i in range(2))
  got = np.asarray(found.lpips(x, y))
  features = np.asarray(found.features(x))
  assert got.shape == (2,) and features.shape == (2, 5 * 512)
  variables = load_vgg(vgg16_file, 16)

  @jax.jit
  def band(x, y):
    x, y = judges.as_judged(x), judges.as_judged(y)
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

  bands = [band(x[..., i : i + 1], y[..., i : i + 1]) for i in range(5)]
  np.testing.assert_allclose(got, np.mean(bands, axis=0), rtol=1e-4)
  first = np.asarray(found.features(x[..., :1]))
  np.testing.assert_allclose(features[:, :512], first, rtol=1e-3, atol=1e-5)


def test_no_files_ask_no_judges():
  found = judges.load_judges(lpips_weights='', features_weights='')
  assert (found.lpips, found.features, found.protocol) == (None, None, ())


@pytest.mark.parametrize(
  ('flag', 'word'),
  [
    ('lpips_weights=/nowhere/a.pth,/nowhere/b.pth', 'nowhere'),
    ('lpips_weights=/nowhere/a.pth', 'two local files'),
    ('features_weights=/nowhere/a.pth', 'nowhere'),
  ],
)
def test_a_wrong_file_is_told_before_anything_compiles(
  flag, word, told, tiny_run
):
  sentence = told(*tiny_run, f'--config.evaluation.{flag}')
  assert word in sentence and 'evaluation.' in sentence
