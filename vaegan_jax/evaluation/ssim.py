"""Structural similarity, of any number of axes and with no data.

Axes: B examples; S, one to three axes of space; C channels.
"""

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from vaegan_jax.losses import masks

_WINDOW = 11  # Positions.
_DEVIATION = 1.5


def ssim(
  x: jax.Array, x_recon: jax.Array, valid: jax.Array | None = None
) -> jax.Array:
  """Computes the structural similarity, Wang et al. (2004), equation 13.

  The constants are the paper's: a Gaussian window of 11 positions on each axis
  with a standard deviation of 1.5, K1 = 0.01 and K2 = 0.03. An example with a
  side below 11 gets a window of its shortest side; compare such values only
  with each other. Deviations far below 0.06, as in quiet sounds, hardly count.
  With no data, a window's means are over its valid values, and its weight is
  their share.

  Returns:
    [B] float32, at most 1, the value of identical examples.
  """
  window = min(_WINDOW, *x.shape[1:-1])
  # SSIM is defined for intensities from 0 up: it divides by local means.
  intensity, intensity_recon = (
    (jnp.clip(i.astype(jnp.float32), -1, 1) + 1) / 2 for i in (x, x_recon)
  )
  options = {'max_val': 1.0, 'filter_size': window}
  if x.ndim == 4 and valid is None:
    return dm_pix.ssim(intensity, intensity_recon, **options)

  # dm_pix takes images alone, but with any filter.
  flat = (len(x), -1, 1, x.shape[-1])
  shares = None
  if valid is not None:
    shares = _smooth(valid.astype(jnp.float32), window).reshape(flat)

  def smooth(values):
    values = values.reshape(x.shape)
    if valid is None:
      return _smooth(values, window).reshape(flat)
    return masks.divide(_smooth(values * valid, window).reshape(flat), shares)

  ssim_map = dm_pix.ssim(
    intensity.reshape(flat),
    intensity_recon.reshape(flat),
    filter_fn=smooth,
    return_map=True,
    **options,
  )
  return masks.mean(ssim_map, shares, (1, 2, 3))


def _smooth(x: jax.Array, size: int) -> jax.Array:
  """Averages [B, *S, C] with a Gaussian window, where all of it fits."""
  offsets = np.arange(size) - (size - 1) / 2
  weights = np.exp(-0.5 * np.square(offsets / _DEVIATION))
  for axis in range(1, x.ndim - 1):
    length = x.shape[axis] - size + 1
    x = sum(
      np.float32(weight) * jax.lax.slice_in_dim(x, i, i + length, axis=axis)
      for i, weight in enumerate(weights / weights.sum())
    )
  return x
