"""Metrics of images against values worked out by hand.

Those of any signal are in `signal_metrics_test.py`.
"""

import jax
import numpy as np
import pytest
from scipy import ndimage

from tests.networks import jitted, uniform
from vaegan_jax.evaluation import constants, metrics


def _cosine(cycles_x: int, cycles_y: int, side: int = 16) -> np.ndarray:
  """[1, side, side, 1], with so many cycles from edge to edge."""
  y, x = (np.mgrid[:side, :side] + 0.5) / side
  wave = np.cos(2 * np.pi * cycles_x * x) * np.cos(2 * np.pi * cycles_y * y)
  return wave[None, ..., None].astype(np.float32)


def test_psnr_of_identical_images_is_the_cap():
  x = uniform(2, 8, 8, 1)
  np.testing.assert_allclose(jitted(metrics.psnr, x, x), 106.0206, rtol=1e-5)


def test_psnr_clips_to_the_visible_range():
  white = np.ones((1, 4, 4, 1), np.float32)
  np.testing.assert_array_equal(
    jitted(metrics.psnr, white, 3 * white), jitted(metrics.psnr, white, white)
  )


def test_ssim_of_black_against_white_is_the_luminance_constant():
  black = -np.ones((1, 16, 16, 1), np.float32)
  c1 = 0.01**2
  np.testing.assert_allclose(
    jitted(metrics.ssim, black, -black), [c1 / (1 + c1)], rtol=1e-3
  )


@pytest.mark.parametrize('shape', [(1, 1), (2, 7), (10, 10), (11, 32)])
def test_ssim_of_identical_images_is_one_at_any_size(shape):
  x = uniform(3, *shape, 2)
  np.testing.assert_allclose(jitted(metrics.ssim, x, x), np.ones(3), atol=1e-5)


def _energy(x):
  return jitted(metrics.high_frequency_products, x, x)['energy'].sum(axis=1)


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


def test_a_difference_between_opposite_borders_is_no_fine_detail():
  ramp = np.linspace(-1, 1, 32, dtype=np.float32)
  ramp = np.broadcast_to(ramp[:, None, None], (1, 32, 32, 1))
  edge = np.sign(ramp)
  smooth, sharp = map(_energy, (ramp, edge))
  assert smooth[0] < 1e-3 * sharp[0]


def test_energy_ratio_is_a_ratio_of_sums():
  energy = np.array([1.0, 9.0])
  assert metrics.energy_ratio(energy, energy) == 1
  np.testing.assert_allclose(
    metrics.energy_ratio(energy, np.array([1.0, 4.0])), 0.5
  )


def _shares(x, x_recon):
  """Returns detail, energy and false detail."""
  products = jitted(metrics.high_frequency_products, x, x_recon)
  shares = metrics.detail_share(**products), metrics.false_detail(**products)
  del products['energy_common']
  return [float(s) for s in (*shares, metrics.energy_ratio(**products))]


def test_products_are_inner_products_of_the_high_frequencies():
  """A wave in place, a shifted one, and one that is too coarse to count."""
  wave, other = _cosine(5, 0), _cosine(0, 7)
  products = jitted(
    metrics.high_frequency_products,
    0.5 * wave + 0.25 * other,
    0.5 * wave - 0.125 * other + 0.1 * _cosine(2, 0),
  )
  norm = wave.size / 2
  wanted = {
    'energy': (0.25 + 0.0625) * norm,
    'energy_recon': (0.25 + 0.015625) * norm,
    'energy_common': (0.25 - 0.03125) * norm,
  }
  for name, value in wanted.items():
    found = products[name].sum(axis=1)
    np.testing.assert_allclose(found, [value], rtol=1e-4)


# Detail in [-.4, .4]: nothing that is done to it leaves [-1, 1].
_DETAIL = 0.4 * uniform(8, 32, 32, 3)


@pytest.mark.parametrize(
  ('recon', 'detail', 'false', 'energy'),
  [
    (_DETAIL, 1.0, 0.0, 1.0),
    (0 * _DETAIL, 0.0, 0.0, 0.0),
    (0.5 * _DETAIL, 0.5, 0.0, 0.25),
    (2 * _DETAIL, 0.5, 2.0, 4.0),
    (-_DETAIL, -1.0, 1.0, 1.0),
    # As much noise as there is detail: 1 / 2, though the energy has doubled.
    (_DETAIL + 0.4 * uniform(8, 32, 32, 3, seed=1), 0.5, 1.0, 2.0),
    (0.4 * uniform(8, 32, 32, 3, seed=2), 0.0, 1.0, 1.0),  # Noise alone.
    (_DETAIL[::-1], 0.0, 1.0, 1.0),  # Other images.
    (np.roll(_DETAIL, 4, axis=2), 0.0, 1.0, 1.0),  # Out of its place.
  ],
)
def test_detail_is_what_is_in_place_and_energy_is_not(
  recon, detail, false, energy
):
  np.testing.assert_allclose(
    _shares(_DETAIL, recon), [detail, false, energy], atol=0.04, rtol=0.05
  )


def test_blur_has_no_false_detail_and_hides_none_at_other_frequencies():
  smooth = ndimage.gaussian_filter(_DETAIL, (0, 0.6, 0.6, 0), mode='reflect')
  assert _shares(_DETAIL, smooth)[1] == 0
  wave, other = _cosine(5, 0), _cosine(0, 7)
  mixed = 0.5 * wave + 0.5 * other
  # Over all frequencies it has no more energy than what agrees.
  np.testing.assert_allclose(_shares(wave, mixed)[1], 0.25, rtol=1e-4)


def test_a_grid_is_the_share_of_energy_off_the_mean():
  x = constants.constant_examples((8, 6, 3))
  assert x.shape == (8, 8, 6, 3) and len(np.unique(x[:, 0, 0], axis=0)) == 8
  assert len(constants.constant_examples((16, 1))) == 5
  assert len(constants.constant_examples((4, 4, 4, 20))) == 13
  checkers = (-1.0) ** np.add(*np.indices((8, 6)))[..., None]
  gridded = np.where(abs(x) < 0.9, x + 0.1 * checkers, x).astype(np.float32)
  off_mean, total = np.asarray(constants.energies(gridded)).sum(axis=0)
  # 6 of 8 pictures have it: three levels and three colours.
  wanted = 6 * 0.01 * 8 * 6 * 3
  np.testing.assert_allclose(off_mean, wanted, rtol=1e-4)
  np.testing.assert_allclose(total - off_mean, (x**2).sum(), rtol=1e-4)
  assert np.asarray(constants.energies(x))[:, 0].max() < 1e-9


def test_detail_is_a_ratio_of_sums():
  share = metrics.detail_share(
    np.array([1.0, 9.0]), np.array([4.0, 1.0]), np.array([1.0, 2.0])
  )
  np.testing.assert_allclose(share, 3 / 10)
  share = metrics.detail_share(np.ones(2), np.array([9.0, 1.0]), np.ones(2))
  np.testing.assert_allclose(share, 2 / 10)


def test_low_frequency_psnr_depends_on_colour_and_not_on_texture():
  x = 0.5 * uniform(1, 32, 32, 3)
  stripes = 0.3 * (-1.0) ** np.arange(32, dtype=np.float32)
  textured = x + stripes[:, None]
  tinted = x + np.float32([0.1, 0, 0])
  np.testing.assert_allclose(
    jitted(metrics.low_frequency_psnr, x, textured), 106.02, rtol=1e-3
  )
  # 4 / (.01 / 3): 30.8 dB.
  np.testing.assert_allclose(
    jitted(metrics.low_frequency_psnr, x, tinted),
    10 * np.log10(1200),
    rtol=1e-3,
  )
  assert (
    jitted(metrics.psnr, x, tinted)[0] > jitted(metrics.psnr, x, textured)[0]
  )


@pytest.mark.parametrize('shape', [(1, 1), (7, 3), (8, 8), (28, 20)])
def test_low_frequency_psnr_takes_any_size(shape):
  x = uniform(2, *shape, 1)
  offset = 0.25 * np.sign(-x.mean(axis=(1, 2, 3), keepdims=True))
  flat = np.zeros_like(x)
  np.testing.assert_allclose(
    jitted(metrics.low_frequency_psnr, flat, flat + offset),
    10 * np.log10(4 / 0.0625),
    rtol=1e-4,
  )


def test_low_precision_images_are_measured_in_float32():
  x = jax.numpy.asarray(uniform(1, 12, 12, 1), jax.numpy.bfloat16)
  assert jitted(metrics.psnr, x, x).dtype == np.float32
  assert jitted(metrics.ssim, x, x).dtype == np.float32
  assert _energy(x).dtype == np.float32
