"""The mask of a sound's spectra: its transforms, and what gains do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
  return jnp.asarray(wave[None, :, None], jnp.float32)


@pytest.mark.parametrize(
  ('length', 'window', 'hop'), [(128, 32, 8), (24, 64, 4), (30, 12, 3)]
)
def test_the_inverse_is_exact_to_the_ends(length, window, hop):
  x = np.random.default_rng(0).uniform(-1, 1, (2, length, 3))
  spectra = stft(jnp.asarray(x), window, hop)
  assert spectra.shape == (2, length // hop, window // 2 + 1, 3)
  np.testing.assert_allclose(istft(spectra, window, hop), x, atol=1e-6)


def test_a_full_scale_sine_has_magnitude_1():
  inside = np.abs(stft(tone(6), WINDOW, HOP))[0, 3:-3, :, 0]
  np.testing.assert_allclose(inside[:, 6], 1, atol=0.01)
  assert inside[:, :3].max() < 0.03 and inside[:, 10:].max() < 0.03


def test_gains_start_at_1_and_remove_or_double_a_band():
  mask, x = SpectralMask(WINDOW), tone(3) + 0.5 * tone(12)
  features = jnp.ones((1, 128 // HOP, 4))
  params = mask.init(jax.random.key(0), x, features)['params']
  np.testing.assert_allclose(
    mask.apply({'params': params}, x, features), x, atol=1e-5
  )
  # Gains 2 below the eighth frequency, and 0 from there on.
  biases = jnp.where(jnp.arange(WINDOW // 2 + 1) < 8, 30.0, -30.0)
  params['to_gains']['bias'] = biases
  found = mask.apply({'params': params}, x, features)
  inside = np.s_[:, WINDOW:-WINDOW]
  np.testing.assert_allclose(found[inside], 2 * tone(3)[inside], atol=0.02)


def test_noise_has_the_level_of_each_frequency_and_repeats():
  mask, length = SpectralMask(WINDOW, noise=True), 4096
  silence, features = jnp.zeros((1, length, 1)), jnp.ones((1, length // HOP, 4))
  params = mask.init(jax.random.key(0), silence, features)['params']
  # White noise of twice the level 1 has a standard deviation of 2e-3.
  params['to_noise']['bias'] = jnp.full(WINDOW // 2 + 1, 2.0)
  noise = mask.apply({'params': params}, silence, features)
  period = noise_period(WINDOW, HOP) * HOP
  inside = np.asarray(noise[0, WINDOW:-WINDOW, 0])
  np.testing.assert_allclose(inside[:period].std(), 2e-3, rtol=0.1)
  np.testing.assert_allclose(inside[period:], inside[:-period], atol=1e-8)
  # None above the eighth frequency.
  below = jnp.where(jnp.arange(WINDOW // 2 + 1) < 8, 2.0, 0.0)
  params['to_noise']['bias'] = below
  noise = mask.apply({'params': params}, silence, features)
  power = np.square(np.abs(np.fft.rfft(noise[0, :, 0])))
  share = power[int(len(power) * 0.6) :].sum() / power.sum()
  assert share < 0.01 and noise.std() > 1e-3
