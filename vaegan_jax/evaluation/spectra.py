"""Spectra of sounds over time, in decibels, for metrics and figures.

Axes: B examples, T samples, N frames, K frequencies, C channels.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from vaegan_jax.losses import spectra

# Silence, in dB of a full-scale sine: the threshold of hearing (0 dB) if full
# scale is 80 dB of sound pressure. The noise of 16 bits is lower (-120 dB).
FLOOR = 10 * math.log10(spectra.FLOOR)
_WINDOW = 512  # Samples.


def window_size(num_samples: int) -> int:
  """Returns the samples in a frame: 512, or all of a shorter sound."""
  return min(_WINDOW, num_samples)


def hop_size(num_samples: int) -> int:
  """Returns the samples from one frame to the next: a quarter of a frame."""
  return max(window_size(num_samples) // 4, 1)


def decibels(x: jax.Array) -> jax.Array:
  """Computes the power at each time and frequency.

  Frames have a Hann window of 512 samples and are a quarter of that apart. The
  first one is centred on the first sample, with silence around the sound.

  Args:
    x: [B, T, C] in [-1, 1].

  Returns:
    [B, N, K, C] float32, `10 log10` of the power relative to a sine from -1 to
    1; at least `FLOOR`. K goes evenly from 0 to half of the sample rate.
  """
  size = window_size(x.shape[1])
  window = spectra.root_of_hann(size) ** 2
  scale = np.float32(2 / window.sum())  # Half of a sine's is at -f.
  spectrum = jnp.fft.rfft(frames(x) * (window * scale)[:, None], axis=2)
  return 10 * jnp.log10(jnp.maximum(spectra.power(spectrum), spectra.FLOOR))


def frames(x: jax.Array) -> jax.Array:
  """Returns the frames [B, N, size, C] of [B, T, C], with 0 around it."""
  num_samples = x.shape[1]
  size, hop = window_size(num_samples), hop_size(num_samples)
  starts = np.arange(0, num_samples + hop - 1, hop)
  before, end = size // 2, starts[-1] + size
  x = jnp.pad(x, ((0, 0), (before, end - before - num_samples), (0, 0)))
  return x[:, starts[:, None] + np.arange(size)]
