"""Spectra of sounds: short Fourier transforms, and log-mel spectra as layers.

Magnitudes are relative to a full-scale sine's, and powers are compared above
-80 dB of it, as in `evaluation/spectra.py`.
Axes: B examples, T samples, N frames, K frequencies, M mel bands, C channels.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

FLOOR = 1e-8  # The power of -80 dB.
# The windows of DAC (arXiv 2306.06546, section 3.4), in samples.
WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)
# Its mel bands: 5 for the window of 32 at 44.1 kHz.
_BANDS_PER_SAMPLE, _HIGHEST = 5 / 32, 22_050.0
_OVERLAP = 4  # Frames that see a sample.


def stft(x: jax.Array, window: int) -> jax.Array:
  """Computes the spectrum of each frame under a Hann window.

  Frames are a quarter of a window apart. A full-scale sine has magnitude 1.

  Args:
    x: [B, T, C].
    window: samples in a frame, a multiple of 8.

  Returns:
    As `weighted_stft`, with N = ceil(4 T / window).
  """
  hann = root_of_hann(window) ** 2
  hann *= 2 / hann.sum()  # Half of a sine's is at -f.
  return weighted_stft(x, hann, window // _OVERLAP)


def root_of_hann(window: int) -> np.ndarray:
  """Returns the root of a Hann window, [window]."""
  return np.sin(np.pi * (np.arange(window) + 0.5) / window)


def weighted_stft(x: jax.Array, weights: np.ndarray, hop: int) -> jax.Array:
  """Computes the spectrum of each weighted frame.

  Each frame stands for the hop in its middle, with silence around the sound.

  Args:
    x: [B, T, C].
    weights: [window], an even number of samples and a multiple of the hop.
    hop: samples from one frame to the next.

  Returns:
    [B, N, K, C] complex64, with N = ceil(T / hop) and K = window / 2 + 1
    frequencies, evenly from 0 to half of the sample rate.
  """
  num_samples, channels = x.shape[1:]
  overlap = len(weights) // hop
  number = -(-num_samples // hop)
  before = (len(weights) - hop) // 2
  after = (number + overlap - 1) * hop - num_samples - before
  x = jnp.pad(x.astype(jnp.float32), ((0, 0), (before, after), (0, 0)))
  # Slices, and not a gather, whose gradient is slow.
  hops = x.reshape(-1, number + overlap - 1, hop, channels)
  frames = [hops[:, i : i + number] for i in range(overlap)]
  frames = jnp.concatenate(frames, 2) * np.float32(weights)[:, None]
  return jnp.fft.rfft(frames, axis=2)


def power(spectrum: jax.Array) -> jax.Array:
  """Computes the squared magnitudes of a complex spectrum."""
  return jnp.square(spectrum.real) + jnp.square(spectrum.imag)


def mel_filters(window: int, num_bands: int, sample_rate: int) -> np.ndarray:
  """Returns triangles on the mel scale, [K, M], each with the sum 1.

  The scale is HTK's, 2595 log10(1 + f / 700). The bands' corners are even on it
  from 0 to half of the sample rate, and each band reaches to the centres of its
  neighbours. A band between two frequencies is empty.
  """
  corners = np.linspace(0, _mel(sample_rate / 2), num_bands + 2)
  corners = 700 * (10 ** (corners / 2595) - 1)
  frequencies = np.linspace(0, sample_rate / 2, window // 2 + 1)[:, None]
  low, middle, high = corners[:-2], corners[1:-1], corners[2:]
  rising = (frequencies - low) / (middle - low)
  falling = (high - frequencies) / (high - middle)
  weights = np.maximum(np.minimum(rising, falling), 0)
  sums = weights.sum(axis=0)
  return (weights / np.where(sums > 0, sums, 1)).astype(np.float32)


def mel_layers(x: jax.Array, sample_rate: int) -> dict[str, jax.Array]:
  """Computes log-mel spectra at several window sizes, as layers of a distance.

  The windows are those of `WINDOWS` that are no longer than the sound, and the
  smallest. The number of bands grows with the window, as in DAC; of a lower
  sample rate it is the share of the mel scale that is below half of the rate.

  Args:
    x: [B, T, C] in [-1, 1].
    sample_rate: in Hz.

  Returns:
    {'mel_32': [B, N, M C], ...}: the logarithm to base 10 of 1 + the mean power
    in each band, in units of `FLOOR`. Silence is 0, and full scale about 8.
  """
  layers = {}
  for window in mel_windows(x.shape[1]):
    filters = mel_filters(window, num_bands(window, sample_rate), sample_rate)
    bands = jnp.einsum('bnkc,km->bnmc', power(stft(x, window)), filters)
    bands = jnp.log1p(bands / FLOOR) / math.log(10)
    layers[f'mel_{window}'] = bands.reshape(*bands.shape[:2], -1)
  return layers


def mel_windows(num_samples: int) -> tuple[int, ...]:
  """Returns the windows of `mel_layers` for sounds of a length."""
  return tuple(w for w in WINDOWS if w <= max(num_samples, WINDOWS[0]))


def num_bands(window: int, sample_rate: int) -> int:
  """Returns the number of mel bands of a window."""
  share = _mel(sample_rate / 2) / _mel(_HIGHEST)
  return max(round(_BANDS_PER_SAMPLE * window * share), 1)


def _mel(frequency: float) -> float:
  return 2595 * math.log10(1 + frequency / 700)
