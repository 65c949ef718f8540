"""How good a reconstruction is, in numbers.

Owns the image metrics of the evaluation: pure functions from batches of images
to one number an image, so that a mean over any number of batches is exact.
Each judges the picture that would be shown: values outside [-1, 1] are clipped
to it first, and the arithmetic is float32.
"""

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

# Mean squared errors below this count as this: 106 dB is "identical".
_MIN_SQUARED_ERROR = 1e-10
# Side of the Gaussian window of SSIM, in pixels, as in the paper.
_SSIM_WINDOW = 11


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


def high_frequency_energy(x: jax.Array) -> jax.Array:
  """Energy above a quarter of the sampling frequency: edges and texture.

  The sum of the squared cosine transform (DCT-II) over channels and over the
  frequencies with `sqrt(fx^2 + fy^2) > 0.25` cycles a pixel. The transform is
  orthonormal, so that over all frequencies the sum would be `sum(x^2)`
  (Parseval).

  It is not the plain FFT, which takes an image as periodic: the jump from each
  border to the opposite one would count as fine detail, in a blurred image as
  much as in a sharp one. The cosine transform mirrors instead.

  Args:
    x: [B, H, W, C] images in [-1, 1].

  Returns:
    [B] float32, at least 0.
  """
  height, width = x.shape[1:3]
  frequency = np.hypot(
    np.arange(height)[:, None] / (2 * height), np.arange(width) / (2 * width)
  )
  spectrum = jax.scipy.fft.dctn(_as_shown(x), axes=(1, 2), norm='ortho')
  power = jnp.square(spectrum).sum(axis=-1)  # [B, H, W].
  return jnp.where(frequency > 0.25, power, 0).sum(axis=(1, 2))


def sharpness_ratio(energy: jax.Array, energy_recon: jax.Array) -> jax.Array:
  """High-frequency energy of the reconstructions, relative to the originals'.

  A ratio of sums over the whole set, not a mean of ratios, in which a few
  flat originals would outweigh everything else.

  Args:
    energy: [B] `high_frequency_energy` of the originals of a set.
    energy_recon: [B] that of their reconstructions.

  Returns:
    [] 1 is as sharp as the originals, less is blurred, more is noisy. Not
    finite if no original has any such energy.
  """
  return jnp.sum(energy_recon) / jnp.sum(energy)


def _as_shown(x: jax.Array) -> jax.Array:
  return jnp.clip(x.astype(jnp.float32), -1, 1)
