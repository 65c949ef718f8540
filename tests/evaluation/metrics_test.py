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


@pytest.mark.parametrize('cycles', [(0, 0), (4, 0), (0, 4), (2, 3)])
def test_cosine_up_to_the_threshold_has_no_energy(cycles):
  energy = metrics.high_frequency_energy(_cosine(*cycles))
  np.testing.assert_allclose(energy, [0], atol=1e-4)


# (3, 3) is 0.1875 on each axis, but 0.265 along the diagonal.
@pytest.mark.parametrize('cycles', [(5, 0), (0, 7), (3, 3)])
def test_cosine_above_the_threshold_has_all_its_energy(cycles):
  wave = _cosine(*cycles)
  energy = metrics.high_frequency_energy(wave)
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
  np.testing.assert_allclose(
    metrics.high_frequency_energy(x), expected, rtol=1e-4
  )


def test_a_difference_between_opposite_borders_is_no_fine_detail():
  ramp = np.linspace(-1, 1, 32, dtype=np.float32)
  ramp = np.broadcast_to(ramp[:, None, None], (1, 32, 32, 1))
  edge = np.sign(ramp)
  smooth, sharp = map(metrics.high_frequency_energy, (ramp, edge))
  assert smooth[0] < 1e-3 * sharp[0]


def test_sharpness_ratio_is_of_sums():
  energy = np.array([1.0, 9.0])
  assert metrics.sharpness_ratio(energy, energy) == 1
  np.testing.assert_allclose(
    metrics.sharpness_ratio(energy, np.array([1.0, 4.0])), 0.5
  )


def test_blur_lowers_and_noise_raises_the_sharpness_ratio():
  noise = _images(0, 4, 16, 16, 1) * 0.5
  blurred = (noise + np.roll(noise, 1, axis=1) + np.roll(noise, 1, axis=2)) / 3
  energy, less = map(metrics.high_frequency_energy, (noise, blurred))
  assert metrics.sharpness_ratio(energy, less) < 0.5
  assert metrics.sharpness_ratio(less, energy) > 2


@pytest.mark.parametrize('metric', [metrics.psnr, metrics.ssim])
def test_each_example_is_judged_alone_and_under_jit(metric):
  x, x_recon = _images(0, 3, 12, 12, 2), _images(1, 3, 12, 12, 2)
  together = jax.jit(metric)(x, x_recon)
  assert together.shape == (3,)
  alone = [metric(x[i : i + 1], x_recon[i : i + 1])[0] for i in range(3)]
  np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_energy_of_each_example_is_its_own():
  x = _images(0, 3, 12, 12, 2)
  together = jax.jit(metrics.high_frequency_energy)(x)
  alone = [metrics.high_frequency_energy(x[i : i + 1])[0] for i in range(3)]
  np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_low_precision_images_are_judged_in_float32():
  x = jax.numpy.asarray(_images(0, 1, 12, 12, 1), jax.numpy.bfloat16)
  assert metrics.psnr(x, x).dtype == np.float32
  assert metrics.ssim(x, x).dtype == np.float32
  assert metrics.high_frequency_energy(x).dtype == np.float32
