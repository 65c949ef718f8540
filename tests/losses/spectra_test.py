"""Spectra of sounds as layers of the distance, against NumPy and by hand."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

from tests.networks import jitted, loss_config
from vaegan_jax.losses import reconstruction, spectra
from vaegan_jax.losses.distances import Comparison
from vaegan_jax.losses.recipe import reconstruction_loss
from vaegan_jax.losses.terms import Weighting, distance_terms

RATE, LENGTH = 8_000, 64
RNG = np.random.default_rng(0)
X = RNG.uniform(-0.5, 0.5, (2, LENGTH, 2)).astype(np.float32)
Y = (X + RNG.normal(0, 0.1, X.shape)).astype(np.float32)
MEL = 2595 * np.log10(1 + RATE / 2 / 700) / (2595 * np.log10(1 + 22050 / 700))


def stft_by_numpy(x, window):
  """[N, K, C] of [T, C], a frame at a time, by the transform's definition."""
  hop = window // 4
  hann = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(window) + 0.5) / window)
  k, n = np.mgrid[: window // 2 + 1, :window]
  waves = np.exp(-2j * np.pi * k * n / window) * 2 / hann.sum()
  around = np.pad(x.astype(np.float64), ((window, window), (0, 0)))
  # A frame's middle is that of its quarter.
  starts = np.arange(0, len(x), hop) + window - (window - hop) // 2
  return np.stack([waves @ (around[s : s + window].T * hann).T for s in starts])


def mel_by_numpy(x):
  """{layer: [B, N, M C]} of [B, T, C], with triangles by interpolation."""
  layers = {}
  for window in (32, 64):
    bands = round(5 / 32 * window * MEL)
    corners = np.linspace(0, 2595 * np.log10(1 + RATE / 1400), bands + 2)
    corners = 700 * (10 ** (corners / 2595) - 1)
    frequencies = np.fft.rfftfreq(window, 1 / RATE)
    filters = np.stack(
      [
        np.interp(frequencies, corners[i : i + 3], (0, 1, 0))
        for i in range(bands)
      ]
    )
    filters /= filters.sum(axis=1, keepdims=True)
    power = np.stack([np.abs(stft_by_numpy(one, window)) ** 2 for one in x])
    mean = np.einsum('bnkc,mk->bnmc', power, filters)
    layer = np.log10(1 + mean / 1e-8)
    layers[f'mel_{window}'] = layer.reshape(*layer.shape[:2], -1)
  return layers


@pytest.mark.parametrize('length', [64, 50])
def test_spectra_are_those_of_numpy(length):
  x = X[:, :length]
  got = jitted(spectra.stft, x, window=32)
  wanted = np.stack([stft_by_numpy(one, 32) for one in x])
  assert got.shape == (2, -(-length // 8), 17, 2)
  np.testing.assert_allclose(got, wanted, atol=1e-6)
  sine = np.sin(2 * np.pi * np.arange(256) * 4 / 32)[None, :, None]
  found = np.abs(stft_by_numpy(sine[0], 32))[8:-8, :, 0]
  np.testing.assert_allclose(found[:, 4], 1, atol=1e-6)  # Of full scale.


def test_mel_filters_by_hand():
  # One triangle over 0 to 8 kHz, whose top is at 1,768 Hz: of the frequencies
  # 0, 2, 4, 6 and 8 kHz, all but the first fall linearly to 0.
  filters = spectra.mel_filters(8, 1, 16_000)
  np.testing.assert_allclose(
    filters[:, 0], [0, 3 / 6, 2 / 6, 1 / 6, 0], atol=1e-6
  )
  # DAC's at its own sample rate.
  numbers = [spectra.num_bands(w, 44_100) for w in spectra.WINDOWS]
  assert numbers == [5, 10, 20, 40, 80, 160, 320]
  assert spectra.mel_windows(512) == (32, 64, 128, 256, 512)


def test_log_mel_spectra_are_those_of_numpy_and_silence_is_0():
  got, wanted = jitted(spectra.mel_layers, X, sample_rate=RATE), mel_by_numpy(X)
  assert list(got) == list(wanted) == ['mel_32', 'mel_64']
  for name, layer in wanted.items():
    np.testing.assert_allclose(got[name], layer, atol=1e-3)
  silence = jitted(spectra.mel_layers, 0 * X, sample_rate=RATE)
  assert all((layer == 0).all() for layer in silence.values())


@functools.cache
def no_critic(norm):
  """The losses without a critic, with their gradient, as one program."""
  losses = reconstruction.create_reconstruction_losses(
    None,
    None,
    loss_config(
      normalize='local',
      norm=norm,
      reduction='mean',
      image_weight=1.0,
      image_high_pass=1.0,
      spectrum_weight=0.5,
      sample_rate=RATE,
    ),
  )

  def distance(y, x, sizes):
    terms, moments = losses(None, x, {'x_recon': y}, sizes)
    return terms['distance'].sum(), (terms['distance'], moments)

  return jax.jit(jax.value_and_grad(distance, has_aux=True))


@pytest.mark.parametrize('norm', ['l1', 'l2'])
def test_layers_of_the_sound_itself_need_no_critic(norm):
  power = {'l1': 1, 'l2': 2}[norm]
  means = [x.reshape(2, -1, 2, 2).mean(2).repeat(2, 1) for x in (X, Y)]
  layers_x = {'image': X, 'high_pass': X - means[0]} | mel_by_numpy(X)
  layers_y = {'image': Y, 'high_pass': Y - means[1]} | mel_by_numpy(Y)
  sizes = {k: np.mean(np.abs(v) ** power) for k, v in layers_x.items()}
  (_, (got, moments)), slope = no_critic(norm)(Y, X, {'image': 1e-6})
  wanted = 0
  for name, layer in layers_x.items():
    weight = 0.5 if name.startswith('mel') else 1
    error = np.abs(layer - layers_y[name]) ** power
    wanted += weight * error.mean((1, 2)) / sizes[name]
    np.testing.assert_allclose(moments['sizes'][name], sizes[name], rtol=1e-3)
  np.testing.assert_allclose(got, wanted, rtol=1e-3)
  # Equal sounds, and silence, have a gradient of 0: a root or a logarithm
  # there would have none.
  for x, y in ((X, X), (0 * X, 0 * X), (X, 0 * X)):
    (distance, _), slope = no_critic(norm)(y, x, {'image': 1e-6})
    assert np.isfinite(slope).all()
    assert (distance == 0 and not slope.any()) == (x is y or not x.any())


def test_only_included_samples_count():
  where = np.ones((2, LENGTH), bool)
  where[:, 16:] = False
  how = Comparison('batch', 'l1', 'mean')
  weighting = Weighting(spectrum_weight=1.0, sample_rate=RATE)

  def spectra_of(y, where):
    return distance_terms(X, y, {}, {}, how, weighting, where)['spectra']

  later = np.where(where[..., None], X, Y)  # The first 16 samples are equal.
  whole, first = (jitted(spectra_of, later, w) for w in (None, where))
  # A frame of 32 samples stands for the 8 in its middle: the first two count,
  # and of them the second sees 4 samples of what follows.
  x, later = (mel_by_numpy(i)['mel_32'] for i in (X, later))
  error = np.abs(x - later)
  wanted = error[:, :2].mean((1, 2)) / x[:, :2].mean()
  np.testing.assert_allclose(first['mel_32'], wanted, rtol=1e-3)
  wanted = error.mean((1, 2)) / x.mean()
  np.testing.assert_allclose(whole['mel_32'], wanted, rtol=1e-3)


def test_the_public_loss_has_the_spectra_and_refuses_images():
  critic = nn.Sequential([nn.Dense(1)])
  params = {'layers_0': {'kernel': np.ones((2, 1)), 'bias': np.zeros(1)}}
  fixed = {'image_weight': 0, 'adversarial_weight': 0, 'norm': 'l1'}

  def loss(x, y, sample_rate=RATE):
    return reconstruction_loss(
      critic,
      {'params': params},
      x,
      y,
      layers=['layers_0'],
      spectrum_weight=2.0,
      sample_rate=sample_rate,
      **fixed,
    )

  _, terms = jitted(loss, X, Y)
  mel_x, mel_y = mel_by_numpy(X)['mel_64'], mel_by_numpy(Y)['mel_64']
  wanted = 2 * np.abs(mel_x - mel_y).mean((1, 2)) / np.abs(mel_x).mean()
  np.testing.assert_allclose(terms['spectra']['mel_64'], wanted, rtol=1e-3)
  image = np.ones((1, 8, 8, 1), np.float32)
  with pytest.raises(ValueError, match=r'for sounds \[B, T, C\], and x has'):
    loss(image, image)
  with pytest.raises(ValueError, match='sample_rate is 0; expected a number'):
    loss(X, Y, sample_rate=0)
