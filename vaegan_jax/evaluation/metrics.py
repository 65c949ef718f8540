"""How good a reconstruction is, in numbers.

Owns the metrics of the evaluation: pure functions from batches of examples to
one number an example, so that a mean over any number of batches is exact. Each
judges what would be shown or played: values outside [-1, 1] are clipped to it
first, and the arithmetic is float32.

Axes: B examples; S, one to three axes of space (of sounds T, of images H and W,
of volumes D, H and W); C channels.
"""

import functools

import dm_pix
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vaegan_jax.evaluation import spectra

# Mean squared errors below this count as this: 106 dB is "identical".
_MIN_SQUARED_ERROR = 1e-10
# Of the Gaussian window of SSIM, as in the paper, in places: its side and its
# standard deviation.
_SSIM_WINDOW = 11
_SSIM_DEVIATION = 1.5
_BLOCK = 8  # Side of the blocks of `low_frequency_psnr`, in places.


def psnr(x: jax.Array, x_recon: jax.Array) -> jax.Array:
  """Peak signal-to-noise ratio: `10 log10(2^2 / mean squared error)`.

  Args:
    x: [B, *S, C] in [-1, 1], hence a peak-to-peak range of 2.
    x_recon: [B, *S, C] their reconstructions.

  Returns:
    [B] float32 in dB; higher is better. The error is floored at 1e-10, so
    that identical examples have 106.02 dB and not infinity.
  """
  error = jnp.square(_as_shown(x) - _as_shown(x_recon))
  error = error.mean(axis=tuple(range(1, x.ndim)))
  return 10 * jnp.log10(4 / jnp.maximum(error, _MIN_SQUARED_ERROR))


def band_errors(x: jax.Array, x_recon: jax.Array) -> jax.Array:
  """Mean squared errors of each channel, of which `band_psnr` makes dB.

  Args:
    x: [B, *S, C] in [-1, 1].
    x_recon: [B, *S, C] their reconstructions.

  Returns:
    [B, C] float32.
  """
  error = jnp.square(_as_shown(x) - _as_shown(x_recon))
  return error.mean(axis=_space_of(x))


def band_psnr(errors: np.ndarray) -> np.ndarray:
  """PSNR of each channel over a whole set, of its mean squared error.

  Args:
    errors: [N, C], of `band_errors`.

  Returns:
    [C] in dB, floored as `psnr`.
  """
  return 10 * np.log10(4 / np.maximum(errors.mean(0), _MIN_SQUARED_ERROR))


def ssim(x: jax.Array, x_recon: jax.Array) -> jax.Array:
  """Structural similarity, equation 13 of Wang et al. (2004).

  The paper's constants: a Gaussian window of 11 places on each axis with a
  standard deviation of 1.5, K1 = 0.01 and K2 = 0.03. Averaged over channels and
  over the places where the window fits. An example with a side below 11 gets a
  window of its shortest side, so compare such values only among themselves.

  The paper's is of images; of one or three axes it is the same with a window of
  as many. A quiet sound has little to lose in it: what is well below K2 of full
  scale (a local deviation of 0.06) counts as equal.

  Args:
    x: [B, *S, C] in [-1, 1].
    x_recon: [B, *S, C] their reconstructions.

  Returns:
    [B] float32, at most 1, which is the value of identical examples.
  """
  window = min(_SSIM_WINDOW, *x.shape[1:-1])
  # SSIM compares local means by their ratio: it is defined for intensities
  # from 0 up, not for signed values.
  intensity, intensity_recon = ((_as_shown(i) + 1) / 2 for i in (x, x_recon))
  options = {'max_val': 1.0, 'filter_size': window}
  if x.ndim == 4:
    return dm_pix.ssim(intensity, intensity_recon, **options)

  # Its formula takes images only, and any filter: these look like images.
  flat = (len(x), -1, 1, x.shape[-1])

  def smooth(values):
    return _smooth(values.reshape(x.shape), window).reshape(flat)

  return dm_pix.ssim(
    intensity.reshape(flat),
    intensity_recon.reshape(flat),
    filter_fn=smooth,
    **options,
  )


def _smooth(x: jax.Array, size: int) -> jax.Array:
  """Means of [B, *S, C] under a Gaussian of `size`, where all of it fits."""
  offsets = np.arange(size) - (size - 1) / 2
  weights = np.exp(-0.5 * np.square(offsets / _SSIM_DEVIATION))
  for axis in _space_of(x):
    length = x.shape[axis] - size + 1
    x = sum(
      np.float32(weight) * jax.lax.slice_in_dim(x, i, i + length, axis=axis)
      for i, weight in enumerate(weights / weights.sum())
    )
  return x


def low_frequency_psnr(x: jax.Array, x_recon: jax.Array) -> jax.Array:
  """PSNR of the means of blocks: whether brightness and colour are kept.

  Blocks are of 8 places on each axis: 8 samples, 8x8 pixels, 8x8x8 voxels.
  Fine detail, right or wrong, averages out of it.

  Args:
    x: [B, *S, C] in [-1, 1].
    x_recon: [B, *S, C] their reconstructions.

  Returns:
    [B] float32 in dB, as `psnr`. Where a side is no multiple of 8, the blocks
    at its ends are smaller.
  """

  def block_means(x):
    block = (_BLOCK,) * len(_space_of(x))
    return nn.avg_pool(
      _as_shown(x), block, block, 'SAME', count_include_pad=False
    )

  return psnr(block_means(x), block_means(x_recon))


def high_frequencies(x: jax.Array) -> jax.Array:
  """What is above a quarter of the sampling frequency: edges and texture.

  The cosine transform (DCT-II) over all axes of space, with the frequencies
  whose radius (of images `sqrt(fx^2 + fy^2)`) is at most 0.25 cycles a place
  set to 0. It is orthonormal, so that inner products are those of the examples
  (Parseval).

  It is not the plain FFT, which takes an example as periodic: the jump from
  each border to the opposite one would count as fine detail, in a blurred image
  as much as in a sharp one. The cosine transform mirrors instead.

  Args:
    x: [B, *S, C] in [-1, 1].

  Returns:
    [B, *S, C] float32, by frequency.
  """
  frequencies = (np.arange(side) / (2 * side) for side in x.shape[1:-1])
  radius = functools.reduce(np.hypot, np.ix_(*frequencies))
  spectrum = jax.scipy.fft.dctn(_as_shown(x), axes=_space_of(x), norm='ortho')
  return jnp.where(radius[..., None] > 0.25, spectrum, 0)


def high_frequency_products(
  x: jax.Array, x_recon: jax.Array
) -> dict[str, jax.Array]:
  """The inner products that `energy_ratio` and `detail_share` are made of.

  Args:
    x: [B, *S, C] in [-1, 1].
    x_recon: [B, *S, C] their reconstructions.

  Returns:
    {'energy', 'energy_recon', 'energy_common'}: of the high frequencies of the
    original with themselves, of the reconstruction's with themselves, and of
    the one with the other; each [B] float32.
  """
  original, recon = high_frequencies(x), high_frequencies(x_recon)
  products = {
    'energy': original * original,
    'energy_recon': recon * recon,
    'energy_common': original * recon,
  }
  axes = tuple(range(1, x.ndim))
  return {name: p.sum(axis=axes) for name, p in products.items()}


def energy_ratio(energy: jax.Array, energy_recon: jax.Array) -> jax.Array:
  """High-frequency energy of the reconstructions, relative to the originals'.

  How much there is, wherever it is: noise has it, and other examples have it. A
  ratio of sums over the whole set, not a mean of ratios, in which a few flat
  originals would outweigh everything else.

  Args:
    energy: [B], of the originals of a set; see `high_frequency_products`.
    energy_recon: [B], of their reconstructions.

  Returns:
    [] 1 is as much as the originals have. Not finite if they have none.
  """
  return jnp.sum(energy_recon) / jnp.sum(energy)


def detail_share(
  energy: jax.Array, energy_recon: jax.Array, energy_common: jax.Array
) -> jax.Array:
  """The share of the originals' fine detail that is there, in its place.

  `<x, y> / max(<x, x>, <y, y>)` of the high frequencies, summed over the set.
  Half of the detail, blurred, gives 1/2, and so does all of it in as much noise
  or twice as strong; noise alone and other examples give 0.

  Args:
    energy: [B], of the originals of a set; see `high_frequency_products`.
    energy_recon: [B], of their reconstructions.
    energy_common: [B], of the one with the other.

  Returns:
    [] from -1 to 1, which only the originals have. Not finite if they have no
    such detail.
  """
  total = jnp.sum(energy)
  share = jnp.sum(energy_common) / jnp.maximum(total, jnp.sum(energy_recon))
  return jnp.where(total > 0, share, jnp.nan)


def log_spectral_distance(x: jax.Array, x_recon: jax.Array) -> jax.Array:
  """How far the spectra of sounds are apart, by ear: in dB, frame by frame.

  The root over frequencies of the mean squared difference of `10 log10` of the
  power; the mean over frames and channels. Deaf to phase, as ears nearly are
  and PSNR is not: of two noises of one colour it is 7.9 dB, and of the
  same sound a little later little.

  Args:
    x: [B, T, C] in [-1, 1].
    x_recon: [B, T, C] their reconstructions.

  Returns:
    [B] float32 in dB; lower is better, identical sounds have 0. Powers are
    floored at -80 dB of a full-scale sine (`spectra.FLOOR`): silence is no
    infinity, and noise that nobody hears does not count.
  """
  difference = spectra.decibels(_as_shown(x)) - spectra.decibels(
    _as_shown(x_recon)
  )
  roots = jnp.sqrt(jnp.square(difference).mean(axis=2))
  return roots.mean(axis=(1, 2))


def _space_of(x: jax.Array) -> tuple[int, ...]:
  """The axes of space of [B, *S, C]."""
  return tuple(range(1, x.ndim - 1))


def _as_shown(x: jax.Array) -> jax.Array:
  return jnp.clip(x.astype(jnp.float32), -1, 1)
