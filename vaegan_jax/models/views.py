"""Views of sounds for critics: spectra over time, and samples by their phase.

Axes: B examples, T samples, N frames, K frequencies, P phases, C channels.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vaegan_jax.losses import spectra

# Magnitudes are raised to this power, as loudness about is. With the floor it
# is finite, and so is its gradient.
_POWER = 0.3


class View(NamedTuple):
  """The input that one critic gets from a sound."""

  name: str  # Prefix of its layers, 'stft_512' of 'stft_512/block_0', ...
  x: jax.Array  # [B, N, K, 2 C] or [B, P, T', C].
  num_axes: int  # The last axes of space, over which it convolves.


def names_of(
  views: Sequence[str],
  windows: Sequence[int],
  bands: Sequence[float],
  periods: Sequence[int],
) -> list[str]:
  """Returns the names of the views of sounds, in order."""
  found = []
  if 'stft' in views:
    ends = [f'_band_{i}' for i in range(len(bands) + 1)] if bands else ['']
    found += [f'stft_{w}{end}' for w in windows for end in ends]
  if 'period' in views:
    found += [f'period_{period}' for period in periods]
  return found


def views_of(
  x: jax.Array,
  views: Sequence[str],
  windows: Sequence[int],
  bands: Sequence[float],
  periods: Sequence[int],
  multiple: int,
) -> list[View]:
  """Computes the views of sounds, in the order of `names_of`.

  Args:
    x: [B, T, C].
    views: those of 'stft' and 'period' that are wanted.
    windows: of the spectra, in samples.
    bands: shares of the frequencies at which spectra are cut.
    periods: in samples.
    multiple: the number that divides all axes that are convolved.
  """
  found = []
  if 'stft' in views:
    for window in windows:
      spectrum = compressed_spectrum(x, window)
      edges = band_edges(window, bands, multiple)
      found += [
        (spectrum[:, :, low:high], 2) for low, high in itertools.pairwise(edges)
      ]
  if 'period' in views:
    found += [(phases(x, period, multiple), 1) for period in periods]
  names = names_of(views, windows, bands, periods)
  return [View(n, *view) for n, view in zip(names, found, strict=True)]


def band_edges(window: int, bands: Sequence[float], multiple: int) -> list[int]:
  """Returns the frequencies at which a spectrum is cut, and its two ends.

  They are the nearest multiples, so that blocks can halve each band.
  """
  number = window // 2
  inner = [round(share * number / multiple) * multiple for share in bands]
  return [0, *inner, number]


def can_halve(window: int, num_samples: int, multiple: int) -> bool:
  """Returns whether `multiple` divides a spectrum's frames and frequencies."""
  return not (4 * num_samples % (window * multiple) or window % (2 * multiple))


def compressed_spectrum(x: jax.Array, window: int) -> jax.Array:
  """Computes the complex spectrum with compressed magnitudes.

  Without compression all but the loudest partials would be next to 0. The
  phase stays. The highest frequency is left out, so that K is even.

  Args:
    x: [B, T, C].
    window: see `spectra.stft`.

  Returns:
    [B, N, K, 2 C]: real parts and imaginary parts, K = window / 2.
  """
  z = spectra.stft(x, window)[:, :, :-1]
  factor = (spectra.power(z) + spectra.FLOOR) ** ((_POWER - 1) / 2)
  return jnp.concatenate([z.real * factor, z.imag * factor], axis=-1)


def phases(x: jax.Array, period: int, multiple: int) -> jax.Array:
  """Returns every `period`-th sample from each start (arXiv 2010.05646).

  Silence at the end completes the last one: [B, T, C] to [B, period, T', C],
  with T' a multiple of `multiple`.
  """
  step = period * multiple
  x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % step), (0, 0)))
  return x.reshape(x.shape[0], -1, period, x.shape[-1]).swapaxes(1, 2)
