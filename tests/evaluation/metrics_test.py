"""Metrics against values worked out by hand or by plain NumPy."""

import jax
import numpy as np
import pytest

from vaegan_jax.evaluation import metrics


def _images(seed: int, *shape: int) -> np.ndarray:
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def _cosine(cycles_x: int, cycles_y: int, side: int = 16) -> np.ndarray:
  """[1, side, side, 1], with so many cycles from edge to edge."""
  y, x = (np.mgrid[:side, :side] + 0.5) / side
  wave = np.cos(2 * np.pi * cycles_x * x) * np.cos(2 * np.pi * cycles_y * y)
  return wave[None, ..., None].astype(np.float32)


def _numpy_ssim(a: np.ndarray, b: np.ndarray) -> float:
  """Wang et al. (2004), a window at a time, on [H, W] in [0, 1]."""
  offsets = np.arange(11) - 5
  weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
  weights /= weights.sum()
  c1, c2 = 0.01**2, 0.03**2
  values = []
  for i in range(a.shape[0] - 10):
    for j in range(a.shape[1] - 10):
      p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
      mean_p, mean_q = (weights * p).sum(), (weights * q).sum()
      var_p = (weights * (p - mean_p) ** 2).sum()
      var_q = (weights * (q - mean_q) ** 2).sum()
      covariance = (weights * (p - mean_p) * (q - mean_q)).sum()
      luminance = (2 * mean_p * mean_q + c1) / (mean_p**2 + mean_q**2 + c1)
      structure = (2 * covariance + c2) / (var_p + var_q + c2)
      values.append(luminance * structure)
  return np.mean(values)


def test_psnr_of_a_constant_offset():
  x = np.zeros((2, 4, 4, 3), np.float32)
  offsets = np.array([0.2, 2e-2], np.float32)[:, None, None, None]
  # 20 log10(2 / 0.2) = 20 and 20 log10(2 / 0.02) = 40.
  np.testing.assert_allclose(metrics.psnr(x, x + offsets), [20, 40], rtol=1e-5)


def test_psnr_of_identical_images_is_the_cap():
  x = _images(0, 2, 8, 8, 1)
  np.testing.assert_allclose(metrics.psnr(x, x), 106.0206, rtol=1e-5)


def test_psnr_counts_only_what_a_screen_shows():
  white = np.ones((1, 4, 4, 1), np.float32)
  np.testing.assert_array_equal(
    metrics.psnr(white, 3 * white), metrics.psnr(white, white)
  )


def test_ssim_agrees_with_numpy():
  x = _images(0, 2, 14, 17, 3)
  x_recon = 0.7 * x + 0.3 * _images(1, 2, 14, 17, 3)
  expected = [
    np.mean(
      [_numpy_ssim((a[..., c] + 1) / 2, (b[..., c] + 1) / 2) for c in range(3)]
    )
    for a, b in zip(
      x.astype(np.float64), x_recon.astype(np.float64), strict=True
    )
  ]
  np.testing.assert_allclose(metrics.ssim(x, x_recon), expected, atol=1e-5)


def test_ssim_of_black_against_white_is_the_luminance_constant():
  black = -np.ones((1, 16, 16, 1), np.float32)
  c1 = 0.01**2
  np.testing.assert_allclose(
    metrics.ssim(black, -black), [c1 / (1 + c1)], rtol=1e-3
  )


@pytest.mark.parametrize('shape', [(1, 1), (2, 7), (10, 10), (11, 32)])
def test_ssim_of_identical_images_is_one_at_any_size(shape):
  x = _images(0, 3, *shape, 2)
  np.testing.assert_allclose(metrics.ssim(x, x), np.ones(3), atol=1e-5)


def _energy(x):
  return metrics.high_frequency_products(x, x)['energy']


@pytest.mark.parametrize('cycles', [(0, 0), (4, 0), (0, 4), (2, 3)])
def test_cosine_up_to_the_threshold_has_no_energy(cycles):
  energy = _energy(_cosine(*cycles))
  np.testing.assert_allclose(energy, [0], atol=1e-4)


# (3, 3) is 0.1875 on each axis, but 0.265 along the diagonal.
@pytest.mark.parametrize('cycles', [(5, 0), (0, 7), (3, 3)])
def test_cosine_above_the_threshold_has_all_its_energy(cycles):
  wave = _cosine(*cycles)
  energy = _energy(wave)
  # The mean square of a cosine is a half.
  waves = sum(number > 0 for number in cycles)
  np.testing.assert_allclose(energy, [wave.size / 2**waves], rtol=1e-4)


def _dct_matrix(size):
  """Row k is the orthonormal cosine of k / 2 cycles in `size` pixels."""
  k, n = np.mgrid[:size, :size]
  matrix = np.sqrt(2 / size) * np.cos(np.pi * k * (n + 0.5) / size)
  matrix[0] /= np.sqrt(2)
  return matrix


@pytest.mark.parametrize('size', [(8, 8), (9, 7)])
def test_energy_is_what_numpy_keeps_of_the_pixels(size):
  x = _images(0, 2, *size, 3)
  rows, columns = map(_dct_matrix, size)
  spectrum = np.einsum('kh,lw,bhwc->bklc', rows, columns, x)
  fy, fx = (np.arange(side) / (2 * side) for side in size)
  high = fy[:, None] ** 2 + fx**2 > 0.25**2
  expected = (spectrum**2 * high[..., None]).sum(axis=(1, 2, 3))
  np.testing.assert_allclose(_energy(x), expected, rtol=1e-4)


def test_a_difference_between_opposite_borders_is_no_fine_detail():
  ramp = np.linspace(-1, 1, 32, dtype=np.float32)
  ramp = np.broadcast_to(ramp[:, None, None], (1, 32, 32, 1))
  edge = np.sign(ramp)
  smooth, sharp = map(_energy, (ramp, edge))
  assert smooth[0] < 1e-3 * sharp[0]


def test_energy_ratio_is_of_sums():
  energy = np.array([1.0, 9.0])
  assert metrics.energy_ratio(energy, energy) == 1
  np.testing.assert_allclose(
    metrics.energy_ratio(energy, np.array([1.0, 4.0])), 0.5
  )


def _detail(x, x_recon):
  products = metrics.high_frequency_products(x, x_recon)
  return float(metrics.detail_share(**products))


def _ratio(x, x_recon):
  products = metrics.high_frequency_products(x, x_recon)
  del products['energy_common']
  return float(metrics.energy_ratio(**products))


def test_products_are_inner_products_of_the_high_frequencies():
  """A wave in place, a shifted one, and one that is too coarse to count."""
  wave, other = _cosine(5, 0), _cosine(0, 7)
  products = metrics.high_frequency_products(
    0.5 * wave + 0.25 * other, 0.5 * wave - 0.125 * other + 0.1 * _cosine(2, 0)
  )
  norm = wave.size / 2
  wanted = {
    'energy': (0.25 + 0.0625) * norm,
    'energy_recon': (0.25 + 0.015625) * norm,
    'energy_common': (0.25 - 0.03125) * norm,
  }
  for name, value in wanted.items():
    np.testing.assert_allclose(products[name], [value], rtol=1e-4)


# Detail in [-.4, .4]: nothing that is done to it leaves [-1, 1].
_DETAIL = 0.4 * _images(0, 8, 32, 32, 3)


@pytest.mark.parametrize(
  ('recon', 'detail', 'energy'),
  [
    (_DETAIL, 1.0, 1.0),
    (0 * _DETAIL, 0.0, 0.0),
    (0.5 * _DETAIL, 0.5, 0.25),
    (2 * _DETAIL, 0.5, 4.0),
    (-_DETAIL, -1.0, 1.0),
    # As much noise as there is detail: 1 / 2, though the energy has doubled.
    (_DETAIL + 0.4 * _images(1, 8, 32, 32, 3), 0.5, 2.0),
    (0.4 * _images(2, 8, 32, 32, 3), 0.0, 1.0),  # Noise alone.
    (_DETAIL[::-1], 0.0, 1.0),  # Other people's.
    (np.roll(_DETAIL, 4, axis=2), 0.0, 1.0),  # Out of its place.
  ],
)
def test_detail_is_what_is_in_place_and_energy_is_not(recon, detail, energy):
  np.testing.assert_allclose(_detail(_DETAIL, recon), detail, atol=0.04)
  np.testing.assert_allclose(_ratio(_DETAIL, recon), energy, rtol=0.05)


def test_detail_is_a_ratio_of_sums():
  share = metrics.detail_share(
    np.array([1.0, 9.0]), np.array([4.0, 1.0]), np.array([1.0, 2.0])
  )
  np.testing.assert_allclose(share, 3 / 10)
  share = metrics.detail_share(np.ones(2), np.array([9.0, 1.0]), np.ones(2))
  np.testing.assert_allclose(share, 2 / 10)


def test_low_frequency_psnr_is_that_of_block_means():
  x = 0.5 * _images(0, 2, 16, 24, 3)
  y = 0.5 * _images(1, 2, 16, 24, 3)
  means = [i.reshape(2, 2, 8, 3, 8, 3).mean(axis=(2, 4)) for i in (x, y)]
  error = np.square(means[0] - means[1]).mean(axis=(1, 2, 3))
  np.testing.assert_allclose(
    metrics.low_frequency_psnr(x, y), 10 * np.log10(4 / error), rtol=1e-4
  )


def test_low_frequency_psnr_sees_colour_and_no_texture():
  x = 0.5 * _images(0, 1, 32, 32, 3)
  stripes = 0.3 * (-1.0) ** np.arange(32, dtype=np.float32)
  textured = x + stripes[:, None]
  tinted = x + np.float32([0.1, 0, 0])
  np.testing.assert_allclose(
    metrics.low_frequency_psnr(x, textured), 106.02, rtol=1e-3
  )
  # 4 / (.01 / 3): 30.8 dB.
  np.testing.assert_allclose(
    metrics.low_frequency_psnr(x, tinted), 10 * np.log10(1200), rtol=1e-3
  )
  assert metrics.psnr(x, tinted)[0] > metrics.psnr(x, textured)[0]


@pytest.mark.parametrize('shape', [(1, 1), (7, 3), (8, 8), (28, 20)])
def test_low_frequency_psnr_takes_any_size(shape):
  x = _images(0, 2, *shape, 1)
  offset = 0.25 * np.sign(-x.mean(axis=(1, 2, 3), keepdims=True))
  flat = np.zeros_like(x)
  np.testing.assert_allclose(
    metrics.low_frequency_psnr(flat, flat + offset),
    10 * np.log10(4 / 0.0625),
    rtol=1e-4,
  )


@pytest.mark.parametrize(
  'metric', [metrics.psnr, metrics.ssim, metrics.low_frequency_psnr]
)
def test_each_example_is_judged_alone_and_under_jit(metric):
  x, x_recon = _images(0, 3, 12, 12, 2), _images(1, 3, 12, 12, 2)
  together = jax.jit(metric)(x, x_recon)
  assert together.shape == (3,)
  alone = [metric(x[i : i + 1], x_recon[i : i + 1])[0] for i in range(3)]
  np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_energy_of_each_example_is_its_own():
  x = _images(0, 3, 12, 12, 2)
  together = jax.jit(_energy)(x)
  alone = [_energy(x[i : i + 1])[0] for i in range(3)]
  np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_low_precision_images_are_judged_in_float32():
  x = jax.numpy.asarray(_images(0, 1, 12, 12, 1), jax.numpy.bfloat16)
  assert metrics.psnr(x, x).dtype == np.float32
  assert metrics.ssim(x, x).dtype == np.float32
  assert _energy(x).dtype == np.float32
