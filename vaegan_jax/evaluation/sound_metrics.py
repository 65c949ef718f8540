"""Metrics of sounds alone; see `metrics.py`, whose table has them.

Axes: B examples, T samples, N frames, K frequencies, C channels.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vaegan_jax.data import pixels
from vaegan_jax.evaluation import spectra
from vaegan_jax.losses import masks
from vaegan_jax.losses.spectra import mel_layers, power

# (size of the transform, hop, window), those of auraloss.
_RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
_MIN_POWER = 1e-8  # Of a transform without any scale, as in auraloss.
_MAX_CONVERGENCE = 10.0  # Else one silent sound outweighs all others.
_MIN_SDR, _MAX_SDR = -60.0, 100.0
Valid = jax.Array | None


def log_spectral_distance(
  x: jax.Array, x_recon: jax.Array, valid: Valid = None
) -> jax.Array:
  """Computes the distance of the spectra of sounds [B, T, C], in dB.

  It is the root over frequencies of the mean squared difference of `10 log10`
  of the power, then the mean over frames and channels. Phases do not count:
  two noises of one colour have 7.9 dB. No data is interpolated, and the weight
  of a frame is its share of valid samples.

  Returns:
    [B] float32 in dB; lower is better, identical sounds have 0. Powers are at
    least -80 dB of a full-scale sine (`spectra.FLOOR`), so that silence is
    finite and inaudible noise does not count.
  """
  shares = None
  if valid is not None:
    whole = jnp.ones_like(valid)
    shares, shares_of_whole = (
      spectra.frames(v.astype(jnp.float32)).mean(axis=2) for v in (valid, whole)
    )
    shares /= shares_of_whole  # A frame at an end reaches beyond it.
  x, x_recon = (_prepare(i, valid) for i in (x, x_recon))
  difference = spectra.decibels(x) - spectra.decibels(x_recon)
  roots = jnp.sqrt(jnp.square(difference).mean(axis=2))
  return masks.mean(roots, shares, (1, 2))


def mel_distance(
  x: jax.Array,
  x_recon: jax.Array,
  valid: Valid = None,
  *,
  sample_rate: int = 16_000,
) -> jax.Array:
  """Computes the distance of log-mel spectra of sounds [B, T, C], in dB.

  It is DAC's (arXiv 2306.06546, section 3.4): the mean absolute difference,
  averaged over the window sizes. The spectra are those of
  `losses.spectra.mel_layers`: powers add to -80 dB of a full-scale sine.

  Returns:
    [B] float32; lower is better, identical sounds have 0.
  """
  layers, layers_recon = (
    mel_layers(_prepare(i, valid), sample_rate) for i in (x, x_recon)
  )
  positions = masks.positions(valid)
  distances = [
    masks.mean(
      jnp.abs(layers[name] - layers_recon[name]),
      masks.position_weights(positions, layers[name]),
      (1, 2),
    )
    for name in layers
  ]
  return 10 * sum(distances) / len(distances)


def stft_distance(
  x: jax.Array, x_recon: jax.Array, valid: Valid = None
) -> jax.Array:
  """Computes the multi-resolution STFT distance of sounds [B, T, C].

  It is auraloss's (arXiv 1910.11480, eq. 4 to 6): the spectral convergence plus
  the mean absolute difference of the magnitudes' natural logarithms, averaged
  over three resolutions, here also over channels. The convergence, which
  divides by the original's size, is at most 10. No data is interpolated.

  Returns:
    [B] float32; lower is better, identical sounds have 0.
  """
  batch_size, num_samples = x.shape[:2]
  x, x_recon = (
    jnp.moveaxis(_prepare(i, valid), -1, 1).reshape(-1, num_samples)
    for i in (x, x_recon)
  )
  distances = []
  for resolution in _RESOLUTIONS:
    original, recon = (_magnitudes(i, *resolution) for i in (x, x_recon))
    norm, norm_of_error = (
      jnp.sqrt(jnp.square(i).sum(axis=(1, 2)))
      for i in (original, original - recon)
    )
    logs = jnp.abs(jnp.log(original) - jnp.log(recon)).mean(axis=(1, 2))
    convergence = jnp.minimum(norm_of_error / norm, _MAX_CONVERGENCE)
    distances.append(convergence + logs)
  mean = sum(distances) / len(distances)
  return mean.reshape(batch_size, -1).mean(axis=1)


def _magnitudes(x: jax.Array, size: int, hop: int, window: int) -> jax.Array:
  """Returns the magnitudes [B, N, K] of [B, T], as torch.stft frames it."""
  half = min(size // 2, x.shape[1] - 1)
  x = jnp.pad(x, ((0, 0), (half, half)), 'reflect')
  x = jnp.pad(x, ((0, 0), (0, max(size - x.shape[1], 0))))
  hann = np.zeros(size, np.float32)
  first = (size - window) // 2
  hann[first : first + window] = 0.5 - 0.5 * np.cos(
    2 * np.pi * np.arange(window) / window
  )
  starts = np.arange(0, x.shape[1] - size + 1, hop)
  frames = x[:, starts[:, None] + np.arange(size)] * hann
  return jnp.sqrt(jnp.maximum(power(jnp.fft.rfft(frames)), _MIN_POWER))


def si_sdr(x: jax.Array, x_recon: jax.Array, valid: Valid = None) -> jax.Array:
  """Computes the scale-invariant signal-to-distortion ratio, in dB.

  It is that of arXiv 1811.02508, eq. 3, of all samples and channels, without
  the mean: the part of the reconstruction along the original over the rest. It
  is at most 100 dB, and at least -60 dB, which silence in place of a sound has
  and any sound in place of silence; silence in place of silence has 100 dB.

  Returns:
    [B] float32 in dB; higher is better.
  """
  weights = jnp.ones_like(x) if valid is None else valid.astype(jnp.float32)

  def prepare(i):
    i = _prepare(i, None)
    i = i - masks.mean(i, weights, (1, 2))[:, None, None]
    i *= weights
    norm = jnp.sqrt(jnp.square(i).sum(axis=(1, 2), keepdims=True))
    return masks.divide(i, norm), norm[:, 0, 0] > 0

  (x, sounds), (x_recon, sounds_recon) = prepare(x), prepare(x_recon)
  product = (x * x_recon).sum(axis=(1, 2), keepdims=True)
  target, rest = (
    jnp.square(i).sum(axis=(1, 2)) for i in (product * x, x_recon - product * x)
  )
  least, most = (10 ** (bound / 10) for bound in (_MIN_SDR, _MAX_SDR))
  ratio = jnp.clip(masks.divide(target, jnp.maximum(rest, 1 / most)), least)
  ratio = jnp.where(sounds | sounds_recon, ratio, most)
  return 10 * jnp.log10(jnp.minimum(ratio, most))


def _prepare(x: jax.Array, valid: Valid) -> jax.Array:
  """Clips to [-1, 1]; interpolates no data from the valid values of x."""
  x = jnp.clip(x.astype(jnp.float32), -1, 1)
  return x if valid is None else pixels.fill(jnp.where(valid, x, jnp.nan))[0]
