"""The mask of a sound's spectra: its transforms, and what gains do."""

import jax
import numpy as np
import pytest

from tests.networks import jitted
from vaegan_jax.models.spectral_mask import (
  SpectralMask,
  istft,
  noise_period,
  stft,
)

WINDOW, HOP = 32, 8


def tone(frequency, length=128):
  """Returns a sine [1, length, 1] of periods in a window."""
  time = np.arange(length)
  wave = np.sin(2 * np.pi * frequency / WINDOW * time + 0.3)
  return wave[None, :, None].astype(np.float32)


@pytest.mark.parametrize(
  ('length', 'window', 'hop'), [(128, 32, 8), (24, 64, 4), (30, 12, 3)]
)
def test_the_inverse_is_exact_to_the_ends(length, window, hop):
  x = np.random.default_rng(0).uniform(-1, 1, (2, length, 3))
  x = x.astype(np.float32)
  spectra = jitted(stft, x, window=window, hop=hop)
  assert spectra.shape == (2, length // hop, window // 2 + 1, 3)
  found = jitted(istft, spectra, window=window, hop=hop)
  np.testing.assert_allclose(found, x, atol=1e-6)


def test_a_full_scale_sine_has_magnitude_1():
  spectra = jitted(stft, tone(6), window=WINDOW, hop=HOP)
  inside = np.abs(spectra)[0, 3:-3, :, 0]
  np.testing.assert_allclose(inside[:, 6], 1, atol=0.01)
  assert inside[:, :3].max() < 0.03 and inside[:, 10:].max() < 0.03


def test_gains_start_at_1_and_remove_or_double_a_band():
  mask, x = SpectralMask(WINDOW), tone(3) + 0.5 * tone(12)
  features = np.ones((1, 128 // HOP, 4), np.float32)
  params = jitted(mask.init, jax.random.key(0), x, features)['params']
  found = jitted(mask.apply, {'params': params}, x, features)
  np.testing.assert_allclose(found, x, atol=1e-5)
  # Gains 2 below the eighth frequency, and 0 from there on.
  biases = np.where(np.arange(WINDOW // 2 + 1) < 8, 30.0, -30.0)
  params['to_gains']['bias'] = biases.astype(np.float32)
  found = jitted(mask.apply, {'params': params}, x, features)
  inside = np.s_[:, WINDOW:-WINDOW]
  np.testing.assert_allclose(found[inside], 2 * tone(3)[inside], atol=0.02)


def test_noise_has_the_level_of_each_frequency_and_repeats():
  mask, length = SpectralMask(WINDOW, noise=True), 4096
  silence = np.zeros((1, length, 1), np.float32)
  features = np.ones((1, length // HOP, 4), np.float32)
  params = jitted(mask.init, jax.random.key(0), silence, features)['params']
  # White noise of twice the level 1 has a standard deviation of 2e-3.
  params['to_noise']['bias'] = np.full(WINDOW // 2 + 1, 2, np.float32)
  noise = jitted(mask.apply, {'params': params}, silence, features)
  period = noise_period(WINDOW, HOP) * HOP
  inside = np.asarray(noise[0, WINDOW:-WINDOW, 0])
  np.testing.assert_allclose(inside[:period].std(), 2e-3, rtol=0.1)
  np.testing.assert_allclose(inside[period:], inside[:-period], atol=1e-8)
  # None above the eighth frequency.
  below = np.where(np.arange(WINDOW // 2 + 1) < 8, 2.0, 0.0)
  params['to_noise']['bias'] = below.astype(np.float32)
  noise = jitted(mask.apply, {'params': params}, silence, features)
  power = np.square(np.abs(np.fft.rfft(noise[0, :, 0])))
  share = power[int(len(power) * 0.6) :].sum() / power.sum()
  assert share < 0.01 and noise.std() > 1e-3
