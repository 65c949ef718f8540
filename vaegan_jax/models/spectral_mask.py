"""A mask of a sound's spectra, the last layer of a decoder of sounds.

A decoder's error is spread over all frequencies, and is loudest where the sound
is quiet. Frames of many positions of the latent resolve the partials of a tone,
so that gains can remove what is between them. Recordings have noise of their
own, which no decoder can predict: it is added at levels that are predicted.
Axes: B batch, T samples, N frames, K frequencies, F features, C channels.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vaegan_jax.losses.spectra import FLOOR, power, root_of_hann, weighted_stft
from vaegan_jax.models import blocks

_MAX_GAIN = 2.0
_NOISE = 1e-3  # The standard deviation of noise of level 1: -60 dB.


class SpectralMask(nn.Module):
  """Multiplies each frequency of each frame by a gain from 0 to 2.

  The gains follow from the levels of the frames and from features of the
  decoder, as time-frequency masks of speech enhancement do (arXiv 1708.07524).
  They start at 1, where the sound stays as it is.
  """

  window: int  # Samples in a frame, a multiple of twice those of a position.
  # True: white noise is added, with a level for each frequency of each frame
  # (arXiv 2001.04643, section 3.4). It is the same for all sounds, and repeats
  # after `noise_period` frames.
  noise: bool = False
  dtype: Any = None  # The convolutions'; None: that of their input.

  @nn.compact
  def __call__(self, x: jax.Array, features: jax.Array) -> jax.Array:
    """Maps x: [B, T, C], with features [B, N, F], to the same shape."""
    hop, width = x.shape[1] // features.shape[1], features.shape[-1]
    spectra = stft(x, self.window, hop)
    # Levels are about -1, below `FLOOR`, to 3, full scale.
    levels = 0.5 * jnp.log10(1 + power(spectra) / FLOOR) - 1
    levels = levels.reshape(*features.shape[:2], -1)

    def conv(features, name, **options):
      return blocks.Conv(features, (3,), dtype=self.dtype, name=name, **options)

    hidden = conv(width, 'from_levels')(levels)
    hidden += conv(width, 'from_features', use_bias=False)(features)
    hidden = blocks.leaky_relu(hidden)
    zeros = nn.initializers.zeros
    head = functools.partial(conv, levels.shape[-1], kernel_init=zeros)
    gains = head('to_gains')(hidden).astype(jnp.float32)
    spectra *= (_MAX_GAIN * nn.sigmoid(gains)).reshape(spectra.shape)
    if self.noise:
      half = nn.initializers.constant(0.5)
      noise_levels = head('to_noise', bias_init=half)(hidden)
      noise_levels = noise_levels.astype(jnp.float32).reshape(spectra.shape)
      noise = jnp.asarray(_noise_spectra(self.window, hop, x.shape[-1]))
      # Indexed on the device: a program holds one period, and not N frames.
      spectra += noise_levels * noise[np.arange(spectra.shape[1]) % len(noise)]
    return istft(spectra, self.window, hop)


def noise_period(window: int, hop: int) -> int:
  """Returns the number of frames after which the noise repeats."""
  return 4 * window // hop


def stft(x: jax.Array, window: int, hop: int) -> jax.Array:
  """Computes the spectra of frames under the root of a Hann window.

  Args:
    x: [B, T, C]; T is a multiple of the hop.
    window: samples in a frame, a multiple of 2 hops.
    hop: samples from one frame to the next.

  Returns:
    As `weighted_stft`, with N = T / hop. A full-scale sine has magnitude 1.
  """
  return weighted_stft(x, _weights(window), hop)


def istft(spectra: jax.Array, window: int, hop: int) -> jax.Array:
  """Inverts `stft`: [B, N, K, C] to [B, T, C], by overlapping and adding."""
  hann = root_of_hann(window)
  frames = jnp.fft.irfft(spectra, window, axis=2)
  x = _overlap_add(frames * np.float32(hann * window / np.pi)[:, None], hop)
  squares = jnp.ones_like(frames[:1, :, :, :1]) * np.float32(hann**2)[:, None]
  weights = _overlap_add(squares, hop)
  before = (window - hop) // 2
  return (x / weights)[:, before : before + spectra.shape[1] * hop]


def _noise_spectra(window: int, hop: int, channels: int) -> np.ndarray:
  """Returns the spectra of noise of level 1, [period, K, C] complex64."""
  period = noise_period(window, hop)
  # NumPy has frozen this stream: a trained model always has the same noise.
  noise = np.random.RandomState(0).normal(0, _NOISE, (period * hop, channels))
  first = np.arange(period)[:, None] * hop - (window - hop) // 2
  frames = noise[(first + np.arange(window)) % len(noise)]
  frames *= _weights(window)[:, None]
  return np.fft.rfft(frames, axis=1).astype(np.complex64)


def _overlap_add(frames: jax.Array, hop: int) -> jax.Array:
  """Adds frames [B, N, window, C] that are a hop apart, [B, T', C]."""
  batch_size, number, window, channels = frames.shape
  shared = window // hop
  parts = frames.reshape(batch_size, number, shared, hop, channels)
  hops = sum(
    jnp.pad(parts[:, :, i], ((0, 0), (i, shared - 1 - i), (0, 0), (0, 0)))
    for i in range(shared)
  )
  return hops.reshape(batch_size, -1, channels)


def _weights(window: int) -> np.ndarray:
  """Returns the weights [window] of the frames of `stft`."""
  return root_of_hann(window) * (np.pi / window)
