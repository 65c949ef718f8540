"""Metrics of examples with no data: of what is left, and of nothing else."""

import dm_pix
import numpy as np
import pytest

from tests.networks import jitted
from vaegan_jax.data import pixels
from vaegan_jax.evaluation import metrics
from vaegan_jax.evaluation.scores import measure

RNG = np.random.default_rng(0)


def pair(*space, channels=2):
  x = RNG.uniform(-0.9, 0.9, (3, *space, channels)).astype('float32')
  return x, np.clip(x + RNG.normal(0, 0.1, x.shape), -1, 1).astype('float32')


@pytest.mark.parametrize('space', [(64,), (32, 24), (16, 8, 8)])
def test_no_data_changes_no_metric(space):
  x, y = pair(*space)
  valid = RNG.random(x.shape) > 0.4
  valid[:, : space[0] // 2] = True
  valid[:, -4:] = False
  got = jitted(measure, x, y, valid)
  other = np.where(valid, x, 0.5), np.where(valid, y, -1)
  for name, value in jitted(measure, *other, valid).items():
    np.testing.assert_array_equal(value, got[name], err_msg=name)
    assert np.isfinite(value).all()
  # All valid: the values without a mask.
  whole = jitted(measure, x, y, np.ones_like(valid))
  for name, value in jitted(measure, x, y).items():
    np.testing.assert_allclose(whole[name], value, rtol=2e-4, err_msg=name)
  # An example is itself.
  itself = jitted(measure, x, x, valid)
  np.testing.assert_allclose(itself['psnr'], 106.02, atol=0.01)
  np.testing.assert_allclose(itself['ssim'], 1, atol=1e-5)
  np.testing.assert_array_equal(itself['energy'], itself['energy_common'])


def test_half_of_an_example_has_the_metrics_of_that_half():
  x, y = pair(32, 24)
  valid = np.zeros(x.shape, bool)
  valid[:, :16] = True
  for metric in (metrics.psnr, metrics.band_errors, metrics.low_frequency_psnr):
    got = jitted(metric, x, y, valid)
    wanted = jitted(metric, x[:, :16], y[:, :16])
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_a_window_of_ssim_is_of_its_valid_values():
  x, y = pair(11, 11, channels=1)  # One window.
  valid = RNG.random(x.shape) > 0.4
  offsets = np.exp(-0.5 * np.square((np.arange(11) - 5) / 1.5))
  weights = np.outer(offsets, offsets)[..., None] * valid
  weights /= weights.sum((1, 2, 3), keepdims=True)
  a, b = (x + 1) / 2, (y + 1) / 2

  def mean(values):
    return (weights * values).sum((1, 2, 3))

  var_a, var_b = mean(a * a) - mean(a) ** 2, mean(b * b) - mean(b) ** 2
  covariance = mean(a * b) - mean(a) * mean(b)
  c1, c2 = 0.01**2, 0.03**2
  wanted = (2 * mean(a) * mean(b) + c1) * (2 * covariance + c2)
  wanted /= (mean(a) ** 2 + mean(b) ** 2 + c1) * (var_a + var_b + c2)
  np.testing.assert_allclose(
    jitted(metrics.ssim, x, y, valid), wanted, rtol=1e-3
  )
  # The weight of a window is its share of valid values: all of one side here,
  # and none of the other.
  x, y = pair(40, 16)
  valid = np.ones(x.shape, bool)
  valid[:, 16:] = False
  got = jitted(metrics.ssim, x, y, valid)
  ssim_map = dm_pix.ssim((x + 1) / 2, (y + 1) / 2, return_map=True)
  alone = ssim_map[:, :6].mean((1, 2, 3))
  np.testing.assert_allclose(got, alone, atol=0.05)


def test_spectra_where_nothing_was_recorded_do_not_count():
  noise = RNG.uniform(-0.4, 0.4, (1, 4096, 1)).astype('float32')
  valid = np.ones(noise.shape, bool)
  valid[:, 2048:] = False
  louder = np.where(valid, 2 * noise, noise)
  got = jitted(metrics.log_spectral_distance, noise, louder, valid)
  np.testing.assert_allclose(got, 6.02, atol=0.1)  # Of twice the amplitude.
  whole = jitted(metrics.log_spectral_distance, noise, louder)
  assert whole < 0.6 * got  # Half of the frames are equal.


def test_fine_detail_has_no_edge_where_no_data_begins():
  grid = np.linspace(-0.8, 0.8, 32, dtype='float32')
  x = (0.5 * grid[:, None] + 0.5 * grid)[None, ..., None]
  valid = np.ones(x.shape, bool)
  valid[:, :, 12:24] = False
  energy = jitted(metrics.high_frequency_products, x, x, valid)['energy']
  filled = np.where(valid, x, x[valid].mean())
  edges = jitted(metrics.high_frequency_products, filled, filled)['energy']
  assert energy.sum() < 0.05 * edges.sum()


def test_fill_interpolates_and_keeps_what_is_valid():
  ramp = np.broadcast_to(np.linspace(-1, 1, 21)[:, None, None], (21, 13, 3))
  x = np.stack([ramp, np.full_like(ramp, 0.25)]).astype('float32')
  holed = x.copy()
  holed[:, 5:16, :, 0] = np.nan
  holed[:, :, :, 1] = np.nan
  filled, valid = pixels.fill(holed)
  np.testing.assert_array_equal(valid, ~np.isnan(holed))
  np.testing.assert_array_equal(filled[valid], x[valid])
  assert (np.asarray(filled)[..., 1] == 0).all()  # It has no value at all.
  np.testing.assert_allclose(filled[1, ..., 0], 0.25, atol=1e-6)
  # It rises over the hole, and jumps less than to a mean (0.6).
  steps = np.diff(np.asarray(filled)[0, :, 0, 0])
  assert (steps >= -1e-6).all() and steps.max() < 0.35
