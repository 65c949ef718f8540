"""The structure of latents with known distributions, by hand."""

import numpy as np
import pytest

from vaegan_jax.inference.latent_structure import describe, moments_of


def _describe(latents, logvar=None):
  return describe(moments_of(latents, logvar), latents.shape[1:-1])


def _noise(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(
  ('space', 'high'),
  [
    ((), None),
    ((8,), 5 / 8),  # Frequencies 3 to 7.
    ((4, 4), 10 / 16),  # Those whose sum is above 2.
    ((2, 4, 3), None),
  ],
)
def test_white_noise(space, high):
  found = _describe(_noise(20_000, *space, 3))
  assert found['effective_rank'] == pytest.approx(3, rel=1e-3)
  assert found['dead_channels'] == 0
  assert found['velocity_variance'] == pytest.approx(np.pi / 2, rel=1e-2)
  assert ('spectral_energy' in found) == bool(space)
  if high:
    assert found['spectral_energy'] == pytest.approx(high, abs=0.01)


def test_the_variance_of_the_velocity_is_its_integral_over_the_path():
  """Two channels have 1.6 and 0.4 of the variance."""
  scale = np.sqrt([1.6, 0.4])
  t = (np.arange(100_000) + 0.5) / 100_000
  wanted = [np.mean(v / ((1 - t) ** 2 * v + t**2)) for v in (1.6, 0.4)]
  # Any scale and offset: a flow is trained on normalised latents.
  found = _describe(7 + 5 * _noise(50_000, 2) * scale)
  assert found['velocity_variance'] == pytest.approx(np.mean(wanted), rel=1e-2)
  entropy = -(0.8 * np.log(0.8) + 0.2 * np.log(0.2))
  assert found['effective_rank'] == pytest.approx(np.exp(entropy), rel=1e-2)


def test_constant_maps_have_one_frequency_and_one_eigenvalue_of_space():
  flat = np.broadcast_to(_noise(5_000, 1, 1, 2), (5_000, 4, 4, 2))
  found = _describe(flat)
  assert found['spectral_energy'] < 1e-9
  assert found['velocity_variance'] == pytest.approx(np.pi / 8, rel=1e-2)
  place = (np.arange(4) + 0.5) / 4
  for cycles, high in ((1, 0), (3, 1)):
    wave = np.cos(np.pi * cycles * place)
    wave = np.outer(wave, wave)[
      None, ..., None
    ]  # A mean of its own is no part.
    found = _describe(9 * wave + wave * _noise(50, 1, 1, 2))
    assert found['spectral_energy'] == pytest.approx(high, abs=1e-9)


def test_noise_of_the_posterior_counts_as_in_samples_but_revives_no_channel():
  mean = _noise(4_000, 4, 4, 3) * np.array([1, 1, 0.01])
  mean[:, 1:] = mean[:, :1]  # Constant along an axis.
  logvar = np.log(0.2 + np.random.default_rng(1).uniform(0, 1, mean.shape))
  samples = mean + np.exp(logvar / 2) * _noise(*mean.shape, seed=2)
  # In two parts, as batches.
  parts = [moments_of(mean[i::2], logvar[i::2]) for i in range(2)]
  found = describe(parts[0].add(parts[1]), (4, 4))
  drawn = _describe(samples)
  assert (found.pop('dead_channels'), drawn.pop('dead_channels')) == (1, 0)
  assert found == pytest.approx(drawn, rel=0.02)
  silent = _describe(np.zeros((5, 4, 4, 3)))
  assert silent['dead_channels'] == 3 and silent['velocity_variance'] == 0


def test_of_large_maps_the_middle_is_measured_and_nothing_infinite():
  large = np.zeros((50, 40, 34, 1))
  large[:, 4:36, 1:33] = _noise(50, 1, 1, 1)
  assert _describe(large)['spectral_energy'] < 1e-9
  assert len(moments_of(large, None).positions) == 1024
  assert len(moments_of(np.zeros((1, 12, 9, 11, 1)), None).positions) == 900
  with pytest.raises(ValueError, match='finite'):
    _describe(np.full((3, 2), np.nan))
