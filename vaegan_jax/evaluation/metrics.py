"""Metrics of reconstructions, and the table of all that is reported.

Each metric is a pure function of originals `x` and reconstructions `x_recon`,
both [B, *S, C] in [-1, 1], with one value an example: a mean over any number of
batches is exact. Other values are clipped, as in a picture, and the arithmetic
is float32. To add a metric, write its function and add a row to `TABLE`.

Where examples have no data, `valid` [B, *S, C] says which values count; None:
all. Others change no value of a metric.

Axes: B examples; S, one to three axes of space (of sounds T, of images H and W,
of volumes D, H and W); C channels.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vaegan_jax.data import pixels
from vaegan_jax.evaluation.sound_metrics import (
  log_spectral_distance,
  mel_distance,
  si_sdr,
  stft_distance,
)
from vaegan_jax.evaluation.ssim import ssim
from vaegan_jax.losses import masks

_MIN_SQUARED_ERROR = 1e-10  # At most 106 dB: "identical".
_BLOCK = 8  # Positions on each axis, of `low_frequency_psnr`.
_HIGH_FREQUENCY = 0.25  # Cycles per position.
_RING = 0.0625  # Width of a ring of frequencies, in cycles per position.

NO_DATA = (
  'no data counts in no metric: means are over valid values; a window of SSIM '
  'and a block are the means of their valid values, weighed by their share; '
  'fine detail is of images whose no data is interpolated from their own '
  'values; to networks, reconstructions have what the encoder gets there'
)
Valid = jax.Array | None


def psnr(x: jax.Array, x_recon: jax.Array, valid: Valid = None) -> jax.Array:
  """Computes the peak signal-to-noise ratio, `10 log10(2^2 / squared error)`.

  Returns:
    [B] float32 in dB; higher is better. The mean squared error is at least
    1e-10, so that identical examples have 106.02 dB.
  """
  error = jnp.square(_clip(x) - _clip(x_recon))
  error = masks.mean(error, valid, tuple(range(1, x.ndim)))
  return 10 * jnp.log10(4 / jnp.maximum(error, _MIN_SQUARED_ERROR))


@jax.jit
def has_every_channel(valid: jax.Array) -> jax.Array:
  """Returns which examples [B] have a valid value in each channel."""
  return valid.any(axis=_space_axes(valid)).all(axis=-1)


def band_errors(
  x: jax.Array, x_recon: jax.Array, valid: Valid = None
) -> jax.Array:
  """Computes the mean squared error of each channel, [B, C] float32."""
  error = jnp.square(_clip(x) - _clip(x_recon))
  return masks.mean(error, valid, _space_axes(x))


def band_psnr(errors: np.ndarray) -> np.ndarray:
  """Returns the PSNR [C] of the mean errors of a set, [N, C], in dB."""
  return 10 * np.log10(4 / np.maximum(errors.mean(0), _MIN_SQUARED_ERROR))


def low_frequency_psnr(
  x: jax.Array, x_recon: jax.Array, valid: Valid = None
) -> jax.Array:
  """Computes the PSNR of block means: are brightness and colour kept?

  Blocks have 8 positions on each axis. Fine detail averages out. With no data,
  a block is the mean of its valid values, and its weight is their share.

  Returns:
    [B] float32 in dB, as `psnr`. The last blocks of a side that 8 does not
    divide are smaller.
  """

  def block_means(x):
    block = (_BLOCK,) * len(_space_axes(x))
    return nn.avg_pool(_clip(x), block, block, 'SAME', count_include_pad=False)

  if valid is None:
    return psnr(block_means(x), block_means(x_recon))
  shares = block_means(valid)
  means = (
    masks.divide(block_means(_clip(i) * valid), shares) for i in (x, x_recon)
  )
  return psnr(*means, shares)


def high_frequencies(x: jax.Array) -> jax.Array:
  """Returns the cosine transform above a quarter of the sampling frequency.

  It is the orthonormal DCT-II of x [B, *S, C] over all axes of space, without
  frequencies up to a radius of 0.25 cycles per position. Inner products are
  those of the examples (Parseval). The FFT would count the jump between
  opposite borders as fine detail, in blurred images too.
  """
  spectrum = jax.scipy.fft.dctn(_clip(x), axes=_space_axes(x), norm='ortho')
  radius = _radii(x.shape[1:-1])
  return jnp.where(radius[..., None] > _HIGH_FREQUENCY, spectrum, 0)


def _radii(space: tuple[int, ...]) -> np.ndarray:
  """Returns the radius [*S] of each frequency, in cycles per position."""
  frequencies = (np.arange(side) / (2 * side) for side in space)
  return functools.reduce(np.hypot, np.ix_(*frequencies))


def high_frequency_products(
  x: jax.Array, x_recon: jax.Array, valid: Valid = None
) -> dict[str, jax.Array]:
  """Computes the inner products of high frequencies, ring by ring.

  A ring is 1/16 cycles per position wide. No data of each image is interpolated
  from its own valid values.

  Returns:
    {name: [B, K] float32} for K rings, from coarse to fine: 'energy' of the
    original, 'energy_recon' of the reconstruction, and 'energy_common', of the
    one with the other.
  """
  if valid is not None:
    x, x_recon = (_interpolate(i, valid) for i in (x, x_recon))
  original, recon = high_frequencies(x), high_frequencies(x_recon)
  products = {
    'energy': original * original,
    'energy_recon': recon * recon,
    'energy_common': original * recon,
  }
  space = x.shape[1:-1]
  number = math.ceil((math.sqrt(len(space)) / 2 - _HIGH_FREQUENCY) / _RING)
  rings = np.maximum((_radii(space) - _HIGH_FREQUENCY) / _RING, 0)
  rings = jax.nn.one_hot(rings.astype(np.int32).reshape(-1), number)
  return {
    name: jnp.matmul(
      p.reshape(len(x), -1, x.shape[-1]).sum(axis=-1),
      rings,
      precision=jax.lax.Precision.HIGHEST,
    )
    for name, p in products.items()
  }


def energy_ratio(energy: jax.Array, energy_recon: jax.Array) -> jax.Array:
  """Returns the energy of the reconstructions' fine detail, [], over a set.

  It is relative to the originals', and noise has energy, too. A few flat
  originals would dominate a mean of ratios, so it is a ratio of sums over
  [B, K], of `high_frequency_products`.
  """
  return jnp.sum(energy_recon) / jnp.sum(energy)


def detail_share(
  energy: jax.Array, energy_recon: jax.Array, energy_common: jax.Array
) -> jax.Array:
  """Returns the share of the originals' fine detail in the right place.

  `<x, y> / max(<x, x>, <y, y>)` of the high frequencies, summed over the set.
  Detail at half or double strength has 1/2, and so has all of it in as much
  noise. Noise alone and other examples have 0.

  The arguments are those of `false_detail`.

  Returns:
    [] from -1 to 1, the value of the originals; NaN if they have no detail.
  """
  total = jnp.sum(energy)
  share = jnp.sum(energy_common) / jnp.maximum(total, jnp.sum(energy_recon))
  return jnp.where(total > 0, share, jnp.nan)


def false_detail(
  energy: jax.Array, energy_recon: jax.Array, energy_common: jax.Array
) -> jax.Array:
  """Returns the energy of fine detail beyond what agrees, over the originals'.

  `<y, y> - <x, y>`, at least 0, of each ring of frequencies over the set. Blur
  has 0, and so has the most likely picture, whose error is orthogonal to it.
  Noise, other examples and shifted ones have their energy, detail at double
  strength has 2. Rings are apart, so that blur hides no noise beside it.

  Args:
    energy, energy_recon, energy_common: [B, K], of `high_frequency_products`.

  Returns:
    [], at least 0, the value of the originals, and at most the energy ratio.
  """
  agrees = jnp.maximum(jnp.sum(energy_common, axis=0), 0)
  false = jnp.maximum(jnp.sum(energy_recon, axis=0) - agrees, 0)
  return jnp.sum(false) / jnp.sum(energy)


def _interpolate(x: jax.Array, valid: jax.Array) -> jax.Array:
  """Fills no data from the valid values of x; see `pixels.fill`."""
  return pixels.fill(jnp.where(valid, _clip(x), jnp.nan))[0]


def _space_axes(x: jax.Array) -> tuple[int, ...]:
  return tuple(range(1, x.ndim - 1))


def _clip(x: jax.Array) -> jax.Array:
  return jnp.clip(x.astype(jnp.float32), -1, 1)


class Metric(NamedTuple):
  """A reported number: a row of `TABLE`."""

  name: str  # Key in `evaluation.json` and in logs.
  title: str  # Name in tables and figures.
  decimals: int
  # (x, x_recon), each [B, *S, C], -> [B], reported as its mean over the set; of
  # examples with no data it also gets `valid`. None: `scores.summarize`
  # computes it.
  function: Callable[..., jax.Array] | None = None
  num_axes: tuple[int, ...] = (1, 2, 3)  # Axes of space of its signals.
  of_rate: bool = False  # Function also of the `sample_rate` of sounds.
  optional: bool = False  # Metric of some runs, such as those with codes.
  # Metric of reconstructions, from the latent's mean and, as `<name>_sampled`,
  # from a sample.
  quality: bool = True


_of_sounds = functools.partial(Metric, num_axes=(1,), optional=True)

# In the order of the tables.
TABLE = (
  Metric('psnr', 'PSNR (dB)', 1, psnr),
  Metric('ssim', 'SSIM', 3, ssim),
  Metric('low_frequency_psnr', '8x8 means (dB)', 1, low_frequency_psnr),
  _of_sounds(
    'log_spectral_distance', 'Log spectra (dB)', 2, log_spectral_distance
  ),
  _of_sounds('mel_distance', 'Mel (dB)', 2, mel_distance, of_rate=True),
  _of_sounds('stft_distance', 'STFT', 2, stft_distance),
  _of_sounds('si_sdr', 'SI-SDR (dB)', 1, si_sdr),
  Metric('detail', 'Detail', 3),
  Metric('energy', 'Energy', 2),
  Metric('false_detail', 'False detail', 3, optional=True),
  Metric('lpips', 'LPIPS', 3, optional=True),
  Metric('lpips_alex', 'LPIPS, AlexNet', 3, optional=True),
  Metric('dists', 'DISTS', 3, optional=True),
  Metric('kid', 'KID', 5, optional=True),
  Metric('frechet', 'Frechet', 1, optional=True),
  Metric('frechet_floor', 'its floor', 1, optional=True, quality=False),
  Metric('judge', 'Own judge', 4, optional=True),
  Metric('judge_frechet', 'Own Frechet', 2, optional=True),
  Metric('judge_floor', 'its floor', 2, optional=True, quality=False),
  Metric('grid', 'Grid', 4, optional=True, quality=False),
  Metric('kl', 'KL (nats)', 1, quality=False),
  Metric('rate', 'Rate (bits)', 1, optional=True, quality=False),
  Metric('perplexity', 'Perplexity', 1, optional=True, quality=False),
  Metric('usage', 'Codes used', 3, optional=True, quality=False),
  Metric('largest_share', 'Largest share', 3, optional=True, quality=False),
  Metric('runs', 'Runs', 0, quality=False),  # For a study.
  Metric('failures', 'Failures', 0, quality=False),
)
