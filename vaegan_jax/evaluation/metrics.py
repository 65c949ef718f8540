"""How good a reconstruction is, in numbers.

Owns the image metrics of the evaluation: pure functions from batches of images
to one number an image, so that a mean over any number of batches is exact.
Each judges the picture that would be shown: values outside [-1, 1] are clipped
to it first, and the arithmetic is float32.
"""

import dm_pix
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# Mean squared errors below this count as this: 106 dB is "identical".
_MIN_SQUARED_ERROR = 1e-10
# Side of the Gaussian window of SSIM, in pixels, as in the paper.
_SSIM_WINDOW = 11
_BLOCK = 8  # Side of the blocks of `low_frequency_psnr`, in pixels.


def psnr(x: jax.Array, x_recon: jax.Array) -> jax.Array:
  """Peak signal-to-noise ratio: `10 log10(2^2 / mean squared error)`.

  Args:
    x: [B, H, W, C] images in [-1, 1], hence a peak-to-peak range of 2.
    x_recon: [B, H, W, C] their reconstructions.

  Returns:
    [B] float32 in dB; higher is better. The error is floored at 1e-10, so
    that identical images have 106.02 dB and not infinity.
  """
  error = jnp.square(_as_shown(x) - _as_shown(x_recon)).mean(axis=(1, 2, 3))
  return 10 * jnp.log10(4 / jnp.maximum(error, _MIN_SQUARED_ERROR))


def band_errors(x: jax.Array, x_recon: jax.Array) -> jax.Array:
  """Mean squared errors of each channel, of which `band_psnr` makes dB.

  Args:
    x: [B, H, W, C] in [-1, 1].
    x_recon: [B, H, W, C] their reconstructions.

  Returns:
    [B, C] float32.
  """
  return jnp.square(_as_shown(x) - _as_shown(x_recon)).mean(axis=(1, 2))


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

  The paper's constants: an 11 x 11 Gaussian window with a standard deviation
  of 1.5 pixels, K1 = 0.01 and K2 = 0.03. Averaged over channels and over the
  places where the window fits. An image with a side below 11 pixels gets a
  window of its shorter side, so compare such values only among themselves.

  Args:
    x: [B, H, W, C] images in [-1, 1].
    x_recon: [B, H, W, C] their reconstructions.

  Returns:
    [B] float32, at most 1, which is the value of identical images.
  """
  window = min(_SSIM_WINDOW, *x.shape[1:3])
  # SSIM compares local means by their ratio: it is defined for intensities
  # from 0 up, not for signed values.
  intensity, intensity_recon = ((_as_shown(i) + 1) / 2 for i in (x, x_recon))
  return dm_pix.ssim(
    intensity, intensity_recon, max_val=1.0, filter_size=window
  )


def low_frequency_psnr(x: jax.Array, x_recon: jax.Array) -> jax.Array:
  """PSNR of the means of 8x8 blocks: whether brightness and colour are kept.

  Fine detail, right or wrong, averages out of it.

  Args:
    x: [B, H, W, C] images in [-1, 1].
    x_recon: [B, H, W, C] their reconstructions.

  Returns:
    [B] float32 in dB, as `psnr`. Where a side is no multiple of 8, the blocks
    at its ends are smaller.
  """

  def block_means(images):
    block = (_BLOCK, _BLOCK)
    return nn.avg_pool(
      _as_shown(images), block, block, 'SAME', count_include_pad=False
    )

  return psnr(block_means(x), block_means(x_recon))


def high_frequencies(x: jax.Array) -> jax.Array:
  """What is above a quarter of the sampling frequency: edges and texture.

  The cosine transform (DCT-II), with the frequencies of at most
  `sqrt(fx^2 + fy^2) = 0.25` cycles a pixel set to 0. It is orthonormal, so that
  inner products are those of the images (Parseval).

  It is not the plain FFT, which takes an image as periodic: the jump from each
  border to the opposite one would count as fine detail, in a blurred image as
  much as in a sharp one. The cosine transform mirrors instead.

  Args:
    x: [B, H, W, C] images in [-1, 1].

  Returns:
    [B, H, W, C] float32, by frequency.
  """
  height, width = x.shape[1:3]
  frequency = np.hypot(
    np.arange(height)[:, None] / (2 * height), np.arange(width) / (2 * width)
  )
  spectrum = jax.scipy.fft.dctn(_as_shown(x), axes=(1, 2), norm='ortho')
  return jnp.where(frequency[..., None] > 0.25, spectrum, 0)


def high_frequency_products(
  x: jax.Array, x_recon: jax.Array
) -> dict[str, jax.Array]:
  """The inner products that `energy_ratio` and `detail_share` are made of.

  Args:
    x: [B, H, W, C] images in [-1, 1].
    x_recon: [B, H, W, C] their reconstructions.

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
  return {name: p.sum(axis=(1, 2, 3)) for name, p in products.items()}


def energy_ratio(energy: jax.Array, energy_recon: jax.Array) -> jax.Array:
  """High-frequency energy of the reconstructions, relative to the originals'.

  How much there is, wherever it is: noise has it, and other images have it. A
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
  or twice as strong; noise alone and other people's images give 0.

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


def _as_shown(x: jax.Array) -> jax.Array:
  return jnp.clip(x.astype(jnp.float32), -1, 1)
