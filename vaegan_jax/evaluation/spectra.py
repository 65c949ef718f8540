"""Spectra of sounds, in decibels, over time.

Owns the short-time Fourier transform: what `metrics.log_spectral_distance`
measures is what the figures draw. Axes: B examples, T samples, N frames, K
frequencies, C channels.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Below this, in dB of a full-scale sine, there is silence. Played so loud that
# full scale is 80 dB of sound pressure, it is where hearing begins (0 dB), and
# what rounding to 16 bits adds to a frequency, -120 dB, lies far below.
FLOOR = -80.0
_WINDOW = 512  # Samples.


def window_size(num_samples: int) -> int:
  """Samples of a frame: 512, or all of a shorter sound."""
  return min(_WINDOW, num_samples)


def hop_size(num_samples: int) -> int:
  """Samples from one frame to the next: a quarter of a frame."""
  return max(window_size(num_samples) // 4, 1)


def decibels(x: jax.Array) -> jax.Array:
  """The power at each time and frequency.

  Frames of a Hann window, 512 samples long and a quarter of that apart. The
  first is centred on the first sample and there is silence around the sound,
  so that its ends count too.

  Args:
    x: [B, T, C] in [-1, 1].

  Returns:
    [B, N, K, C] float32, `10 log10` of the power, of which a sine from -1 to 1
    has 1 (0 dB); at least `FLOOR`, which silence has. K goes evenly from 0 to
    half of the sample rate.
  """
  num_samples = x.shape[1]
  size, hop = window_size(num_samples), hop_size(num_samples)
  starts = np.arange(0, num_samples + hop - 1, hop)
  before, end = size // 2, starts[-1] + size
  x = jnp.pad(x, ((0, 0), (before, end - before - num_samples), (0, 0)))
  window = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
  frames = x[:, starts[:, None] + np.arange(size)]
  scale = np.float32(2 / window.sum())  # Half of a sine's is at -f.
  spectrum = jnp.fft.rfft(frames * (window * scale)[:, None], axis=2)
  power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  return 10 * jnp.log10(jnp.maximum(power, 10 ** (FLOOR / 10)))
