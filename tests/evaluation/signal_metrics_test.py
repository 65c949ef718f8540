"""Metrics of sounds and volumes, against values by hand and plain NumPy.

What is said of a metric is said in one, two and three axes of space.
"""

import functools

import dm_pix
import jax
import numpy as np
import pytest
from scipy import ndimage

from tests.losses import spectra_test
from tests.losses.spectra_test import X, Y
from tests.networks import jitted, uniform
from vaegan_jax.evaluation import metrics, spectra
from vaegan_jax.evaluation.scores import measure, summarize, to_line
from vaegan_jax.evaluation.ssim import _smooth

SIDES = [(64,), (16, 20), (8, 12, 10)]


@pytest.mark.parametrize('sides', SIDES)
def test_an_offset_has_its_psnr(sides):
  x = np.zeros((2, *sides, 2), np.float32)
  x_recon = x + np.float32([0.2, 0.02])  # Of each band: 20 and 40 dB.
  errors = np.asarray(jitted(metrics.band_errors, x, x_recon))
  np.testing.assert_allclose(metrics.band_psnr(errors), [20, 40], rtol=1e-5)
  for metric in (metrics.psnr, metrics.low_frequency_psnr):
    wanted = 10 * np.log10(4 / 0.0202)
    np.testing.assert_allclose(
      jitted(metric, x, x_recon), [wanted] * 2, rtol=1e-5
    )


@pytest.mark.parametrize('sides', [(16,), (16, 8), (8, 16, 8)])
def test_low_frequencies_are_means_of_blocks_of_8(sides):
  x, y = (0.5 * uniform(1, *sides, 1, seed=seed) for seed in range(2))
  blocks = np.stack([x, y])[:, 0, ..., 0]
  for axis, side in enumerate(sides, start=1):
    parts = np.split(blocks, side // 8, axis=axis)
    parts = [part.mean(axis=axis, keepdims=True) for part in parts]
    blocks = np.concatenate(parts, axis=axis)
  error = np.square(blocks[0] - blocks[1]).mean()
  np.testing.assert_allclose(
    jitted(metrics.low_frequency_psnr, x, y),
    [10 * np.log10(4 / error)],
    rtol=1e-4,
  )


def _ssim_by_hand(a, b, size):
  """Wang et al. (2004), a window at a time, on [*S] in [0, 1]."""
  offsets = np.arange(size) - (size - 1) / 2
  line = np.exp(-(offsets**2) / (2 * 1.5**2))
  weights = functools.reduce(np.multiply.outer, [line] * a.ndim)
  weights /= weights.sum()
  c1, c2 = 0.01**2, 0.03**2
  values = []
  for place in np.ndindex(*(side - size + 1 for side in a.shape)):
    window = tuple(slice(start, start + size) for start in place)
    p, q = a[window], b[window]
    mean_p, mean_q = (weights * p).sum(), (weights * q).sum()
    var_p = (weights * (p - mean_p) ** 2).sum()
    var_q = (weights * (q - mean_q) ** 2).sum()
    covariance = (weights * (p - mean_p) * (q - mean_q)).sum()
    values.append(
      (2 * mean_p * mean_q + c1)
      / (mean_p**2 + mean_q**2 + c1)
      * (2 * covariance + c2)
      / (var_p + var_q + c2)
    )
  return np.mean(values)


@pytest.mark.parametrize(
  'sides', [(32,), (5,), (14, 13), (13, 12, 14), (6, 12, 7)]
)
def test_ssim_is_that_of_the_paper(sides):
  x = uniform(2, *sides, 2)
  y = 0.7 * x + 0.3 * uniform(*x.shape, seed=1)
  a, b = ((i.astype(np.float64) + 1) / 2 for i in (x, y))
  size = min(11, *sides)
  wanted = [
    np.mean([_ssim_by_hand(p[..., c], q[..., c], size) for c in range(2)])
    for p, q in zip(a, b, strict=True)
  ]
  np.testing.assert_allclose(jitted(metrics.ssim, x, y), wanted, atol=1e-5)
  np.testing.assert_allclose(jitted(metrics.ssim, x, x), [1, 1], atol=1e-5)


def test_ssim_of_two_axes_is_that_of_dm_pix_and_so_is_the_window():
  x = uniform(2, 24, 31, 3)
  y = 0.7 * x + 0.3 * uniform(*x.shape, seed=1)
  wanted = jitted(dm_pix.ssim, (x + 1) / 2, (y + 1) / 2)
  np.testing.assert_array_equal(jitted(metrics.ssim, x, y), wanted)
  smooth = jitted(_smooth, x, size=11)  # The window of one and three axes.
  blur = functools.partial(dm_pix.gaussian_blur, sigma=1.5, kernel_size=11)
  flat = jitted(blur, x, padding='VALID')
  np.testing.assert_allclose(smooth, flat, atol=1e-5)


def _dct_matrix(size):
  """Row k is the orthonormal cosine of k / 2 cycles in `size` places."""
  k, n = np.mgrid[:size, :size]
  matrix = np.sqrt(2 / size) * np.cos(np.pi * k * (n + 0.5) / size)
  matrix[0] /= np.sqrt(2)
  return matrix


@pytest.mark.parametrize('sides', [(9,), (64,), (9, 7), (5, 8, 6)])
def test_energy_is_what_numpy_keeps(sides):
  x = uniform(2, *sides, 2)
  spectrum = np.moveaxis(x.astype(np.float64), -1, 1)  # [B, C, *S].
  radius = np.zeros(sides)
  for axis, side in enumerate(sides):
    spectrum = np.moveaxis(
      np.moveaxis(spectrum, axis + 2, -1) @ _dct_matrix(side).T, -1, axis + 2
    )
    shape = [-1 if axis == other else 1 for other in range(len(sides))]
    radius = radius + (np.arange(side) / (2 * side)).reshape(shape) ** 2
  kept = spectrum**2 * (radius > 0.25**2 + 1e-12)
  np.testing.assert_allclose(
    jitted(metrics.high_frequency_products, x, x)['energy'].sum(axis=1),
    kept.reshape(2, -1).sum(axis=1),
    rtol=1e-4,
  )


@pytest.mark.parametrize('sides', SIDES)
def test_each_example_is_judged_alone(sides):
  x, y = (uniform(3, *sides, 2, seed=seed) for seed in range(2))
  together = jitted(measure, x, y)
  for i in range(3):  # Each is alone with other neighbours.
    others = [uniform(3, *sides, 2, seed=seed) for seed in (2, 3)]
    others[0][i], others[1][i] = x[i], y[i]
    alone = jitted(measure, *others)
    for name, values in together.items():
      assert values.shape[0] == 3 and values.dtype == np.float32, name
      np.testing.assert_allclose(values[i], alone[name][i], rtol=2e-4)
  assert ('log_spectral_distance' in together) == (len(sides) == 1)


# What nobody may win by: noise, another example, too soft, too early.


def _examples(num_axes):
  """[N, *S, 2] in about [-.7, .7]: coarse and fine structure, no two alike."""
  sides = {1: (1024,), 2: (48, 48), 3: (24, 24, 24)}[num_axes]
  number = 16 if num_axes < 3 else 6  # A volume has six times the positions.
  rng = np.random.default_rng(0)
  parts = []
  for deviation, size in ((4, 0.2), (1, 0.08), (0.3, 0.04)):
    part = rng.normal(size=(number, *sides, 2))
    smooth = (0, *[deviation] * num_axes, 0)
    part = ndimage.gaussian_filter(part, smooth, mode='nearest')
    parts.append(size * part / part.std())
  return np.clip(sum(parts), -1, 1).astype(np.float32)


def _scores(x, x_recon):
  return summarize(jax.device_get(jitted(measure, x, x_recon)))


@pytest.mark.parametrize('num_axes', [1, 2, 3])
def test_only_the_right_example_in_its_place_has_quality(num_axes):
  x = _examples(num_axes)
  smooth = functools.partial(ndimage.gaussian_filter, x, mode='nearest')
  recons = {
    'identical': x,
    'blur': smooth((0, *[0.6] * num_axes, 0)),
    'strong blur': smooth((0, *[3] * num_axes, 0)),
    'noise on top': x + 0.2 * uniform(*x.shape, seed=1),
    'noise': 0.4 * uniform(*x.shape, seed=2),
    'another': np.roll(x, 1, axis=0),
    'elsewhere': np.roll(x, 9, axis=1),
    'negative': -x,
    'nothing': np.zeros_like(x),
  }
  found = {name: _scores(x, recon) for name, recon in recons.items()}
  best = found['identical']
  assert best['psnr'] == pytest.approx(106.02, abs=0.01)
  for name in ('ssim', 'detail', 'energy'):
    assert best[name] == pytest.approx(1, abs=1e-4)
  for name in ('psnr', 'ssim', 'low_frequency_psnr'):
    ranked = [found[r][name] for r in ('identical', 'blur', 'strong blur')]
    assert ranked == sorted(ranked, reverse=True), name
    for strange in ('noise', 'another', 'elsewhere', 'negative'):
      assert found[strange][name] < found['strong blur'][name], (name, strange)
  for name, scores in found.items():
    if name not in ('identical', 'blur', 'noise on top'):
      assert scores['detail'] < 0.1, name
    assert scores['detail'] <= 1 + 1e-4
  assert 0.1 < found['blur']['detail'] < 0.9
  assert 0.05 < found['noise on top']['detail'] < 0.9
  assert found['noise on top']['energy'] > 1.1  # Which is no quality.
  assert found['nothing']['energy'] == 0
  for name in ('identical', 'blur', 'strong blur', 'nothing'):
    assert found[name]['false_detail'] < 1e-4, name
  for name in ('noise', 'another', 'elsewhere', 'negative'):
    false = found[name]['false_detail']
    assert false == pytest.approx(found[name]['energy'], rel=0.15), name


# The distance of spectra.


def _sine(frequency, amplitude=1.0, size=4096):
  """[1, size, 1]; in cycles a sample."""
  phases = 2 * np.pi * frequency * np.arange(size)
  return (amplitude * np.sin(phases)).astype(np.float32)[None, :, None]


def _distance(x, x_recon):
  return np.asarray(jitted(metrics.log_spectral_distance, x, x_recon))


def _decibels_by_numpy(x):
  """[N, K] of [T]; a frame at a time, by the definition of the transform."""
  size = min(512, len(x))
  hop = size // 4
  window = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(size) + 0.5) / size)
  around = np.concatenate([np.zeros(size // 2), x, np.zeros(2 * size)])
  k, n = np.mgrid[: size // 2 + 1, :size]
  waves = np.exp(-2j * np.pi * k * n / size)
  frames = []
  for start in range(0, len(x) + hop - 1, hop):
    spectrum = waves @ (around[start : start + size] * window)
    power = np.abs(spectrum / (window.sum() / 2)) ** 2
    frames.append(10 * np.log10(np.maximum(power, 1e-8)))
  return np.stack(frames)


@pytest.mark.parametrize('size', [20, 512, 1500])
def test_log_spectral_distance_agrees_with_numpy(size):
  x, y = 0.5 * uniform(2, size, 2), 0.1 * uniform(2, size, 2, seed=1)
  y[:, size // 2 :] = 0  # Silence, at the floor.
  wanted = [
    np.mean(
      [
        np.sqrt(np.square(p - q).mean(axis=1)).mean()
        for p, q in (
          map(_decibels_by_numpy, (a[:, c], b[:, c])) for c in range(2)
        )
      ]
    )
    for a, b in zip(x.astype(np.float64), y.astype(np.float64), strict=True)
  ]
  np.testing.assert_allclose(_distance(x, y), wanted, rtol=1e-3)


def test_a_gain_of_2_is_6_dB_and_identity_is_0():
  x = 0.45 * uniform(3, 2048, 1)
  np.testing.assert_array_equal(_distance(x, x), np.zeros(3))
  np.testing.assert_allclose(
    _distance(x, 2 * x), [20 * np.log10(2)] * 3, rtol=1e-2
  )
  np.testing.assert_array_equal(_distance(x, -x), np.zeros(3))  # By ear.


def test_a_full_scale_sine_has_0_dB_at_its_frequency_and_silence_80_less():
  found = np.asarray(jitted(spectra.decibels, _sine(64 / 512)))[0, 4:-4, :, 0]
  np.testing.assert_array_equal(found.argmax(axis=1), 64)
  np.testing.assert_allclose(found[:, 64], 0, atol=0.01)
  np.testing.assert_allclose(found[:, 80:], spectra.FLOOR, rtol=1e-6)
  quiet = np.asarray(
    jitted(spectra.decibels, np.zeros((1, 100, 1), np.float32))
  )
  np.testing.assert_allclose(quiet, spectra.FLOOR, rtol=1e-6)


def test_what_nobody_hears_does_not_count_and_silence_is_finite():
  x = _sine(0.1, 0.5)
  silence = np.zeros_like(x)
  inaudible = 1e-5 * uniform(*x.shape)
  assert _distance(x, x + inaudible) < 0.2
  assert _distance(silence, inaudible) == 0
  assert 0 < _distance(x, silence) < 80
  rounded = np.round(x * 32767) / np.float32(32767)
  assert _distance(x, rounded) < 0.2


def test_spectra_are_fooled_by_no_noise_no_blur_and_no_other_sound():
  rng = np.random.default_rng(0)
  x = np.concatenate([_sine(f, 0.3) + _sine(3 * f, 0.1) for f in (0.02, 0.05)])
  x += 0.01 * rng.normal(size=x.shape).astype(np.float32)
  noise = rng.normal(size=x.shape).astype(np.float32)

  def score(x_recon):
    return float(_distance(x, x_recon).mean())

  def blur(deviation):
    return ndimage.gaussian_filter(x, (0, deviation, 0), mode='nearest')

  assert score(x) == 0
  for same in (np.roll(x, 3, axis=1), x + 0.003 * noise):
    assert 0.5 < score(same) < 4
  assert score(x + 0.003 * noise) < score(x + 0.03 * noise) < score(x + noise)
  assert 4 < score(blur(0.7)) < score(blur(1.5))
  # Another sound, noise as loud as this one, and nothing.
  for strange in (x[::-1], 0.2 * noise, 0 * x):
    assert score(strange) > 10
  # Two noises of one colour: phases are free, so that it is not 0.
  assert 6 < float(_distance(0.2 * noise, 0.2 * noise[::-1]).mean()) < 9


def _stft_distance_by_numpy(x, y):
  """auraloss's, of [T] and [T], a frame at a time; its first term up to 10."""
  total = 0
  for size, hop, length in (
    (1024, 120, 600),
    (2048, 240, 1200),
    (512, 50, 240),
  ):
    window = np.zeros(size)
    first = (size - length) // 2
    # torch's Hann window is periodic, as that of one more without its end.
    window[first : first + length] = np.hanning(length + 1)[:-1]
    magnitudes = []
    for sound in (x, y):
      around = np.pad(sound.astype(np.float64), size // 2, 'reflect')
      starts = range(0, len(around) - size + 1, hop)
      frames = np.stack([around[s : s + size] * window for s in starts])
      power = np.abs(np.fft.rfft(frames)) ** 2
      magnitudes.append(np.sqrt(np.maximum(power, 1e-8)))
    a, b = magnitudes
    total += min(np.linalg.norm(a - b) / np.linalg.norm(a), 10)
    total += np.abs(np.log(a) - np.log(b)).mean()
  return total / 3


def test_distances_of_spectra_are_those_of_numpy():
  x, y = 0.5 * uniform(3, 1500, 2), 0.1 * uniform(3, 1500, 2, seed=1)
  y[:, 800:] = 0
  x[2] = 0  # Divided by its size, this error is 6,500.
  wanted = [
    np.mean([_stft_distance_by_numpy(a[:, c], b[:, c]) for c in range(2)])
    for a, b in zip(x, y, strict=True)
  ]
  got = jitted(metrics.stft_distance, x, y)
  np.testing.assert_allclose(got, wanted, rtol=1e-3)
  x, y = X[:, :, :1], Y[:, :, :1]
  layers = [spectra_test.mel_by_numpy(i) for i in (x, y)]
  wanted = [np.abs(a - layers[1][k]).mean((1, 2)) for k, a in layers[0].items()]
  got = jitted(metrics.mel_distance, x, y, sample_rate=spectra_test.RATE)
  np.testing.assert_allclose(got, 10 * np.mean(wanted, axis=0), rtol=1e-3)


def test_si_sdr_has_no_scale_and_silence_has_one_value():
  x, noise = 0.5 * uniform(3, 400, 1), 0.5 * uniform(3, 400, 1, seed=1)
  y = x + 0.1 * noise

  def by_numpy(x, y):
    x, y = (i.reshape(3, -1).astype(np.float64) for i in (x, y))
    x, y = (i - i.mean(axis=1, keepdims=True) for i in (x, y))
    target = (x * y).sum(1, keepdims=True) / (x * x).sum(1, keepdims=True) * x
    return 10 * np.log10((target**2).sum(1) / ((y - target) ** 2).sum(1))

  si_sdr = functools.partial(jitted, metrics.si_sdr)
  wanted = by_numpy(x, y)
  assert 18 < wanted.mean() < 22
  for recon in (y, 0.3 * y, 1e-3 * y, -0.5 * y + 0.2):
    np.testing.assert_allclose(si_sdr(x, recon), wanted, atol=0.02)
  np.testing.assert_allclose(si_sdr(x, x), 100, rtol=1e-4)
  nothing = 0 * x
  for pair, value in (
    ((x, nothing), -60),
    ((nothing, x), -60),
    ((nothing, nothing), 100),
  ):
    np.testing.assert_allclose(si_sdr(*pair), value, rtol=1e-4)
  # What has no data does not count, whatever is there.
  valid = np.ones(x.shape, bool)
  valid[:, 200:] = False
  got = si_sdr(x, np.where(valid, y, 0.9), valid)
  np.testing.assert_allclose(got, by_numpy(x[:, :200], y[:, :200]), atol=0.02)


def test_it_is_told_of_sounds_alone():
  sound, image = uniform(2, 64, 1), uniform(2, 16, 16, 1)
  values = jax.device_get(jitted(measure, sound, sound))
  scores = summarize(values | {f'{k}_sampled': v for k, v in values.items()})
  of_sounds = ['log_spectral_distance', 'mel_distance', 'stft_distance']
  of_sounds.append('si_sdr')
  assert list(scores)[3:7] == of_sounds
  for name, best in zip(of_sounds, (0, 0, 0, 100), strict=True):
    assert scores[f'{name}_sampled'] == best
  assert 'log_spectral_distance 0' in to_line(scores)
  assert not set(of_sounds) & set(_scores(image, image))
