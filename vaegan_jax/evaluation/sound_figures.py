"""Plots of sounds: waveforms and spectrograms.

Powers are shown from -80 to 0 dB of a full-scale sine. Axes: N sounds, T
samples, K frequencies.
"""

import jax
import numpy as np

from vaegan_jax.evaluation import spectra
from vaegan_jax.evaluation.plots import create_figure, pixels_of, rasterize

_TILE = (3.0, 2.2)  # Inches.
_PAGE = (3.7, 6.6)  # Inches: the width of a column, and the height.
_FONT_SIZE = 7.5
_COLORS = 'magma'  # Perceptually uniform.
_INK, _RECON = '#1f4e79', '#e07b00'
_LABELS = ('original', 'reconstruction')
_ZOOM = 0.02  # Seconds, which show single waves.
_decibels = jax.jit(spectra.decibels)


def sound_tiles(x: np.ndarray, *, sample_rate: int) -> np.ndarray:
  """Plots the waveform of each sound [N, T, 1] over its spectrogram.

  The amplitudes are from -1 to 1; others are clipped, and NaN is silence. The
  result is [N, 220, 300, 3] uint8.
  """
  x = _as_played(x)
  figure = _create_figure(_TILE)
  canvas = figure.canvas
  above, below = figure.subplots(
    2, 1, sharex=True, gridspec_kw={'height_ratios': (2, 3)}
  )
  times, unit = _times(x.shape[1], sample_rate)
  (line,) = above.plot(times, np.zeros_like(times), color=_INK, linewidth=0.6)
  _set_amplitudes(above)
  powers = _powers(x)
  image = _plot_spectrogram(below, powers[0], times, sample_rate)
  below.set_xlabel(unit, labelpad=1)
  # Only what differs is drawn again: axes and labels take the time.
  line.set_animated(True)
  image.set_animated(True)
  canvas.draw()
  background = canvas.copy_from_bbox(figure.bbox)
  tiles = []
  for sound, of_sound in zip(x, powers, strict=True):
    canvas.restore_region(background)
    line.set_ydata(sound)
    above.draw_artist(line)
    image.set_data(of_sound)
    for artist in (image, *below.spines.values()):
      below.draw_artist(artist)
    tiles.append(pixels_of(canvas))
  return np.stack(tiles)


def sound_pairs(
  x: np.ndarray, x_recon: np.ndarray, *, sample_rate: int
) -> np.ndarray:
  """Plots a few sounds [N, T, 1] and their reconstructions on a page.

  A column shows the two waveforms, the 20 ms in which the original is loudest,
  and both spectrograms. Amplitudes have the scale of the larger one.
  """
  x, x_recon = _as_played(x), _as_played(x_recon)
  width, height = _PAGE
  figure = _create_figure((width * len(x), height))
  panels = figure.subplots(
    4, len(x), squeeze=False, gridspec_kw={'height_ratios': (3, 3, 4, 4)}
  )
  times, unit = _times(x.shape[1], sample_rate)
  powers = np.stack([_powers(x), _powers(x_recon)], axis=1)
  for column, pair, of_pair in zip(
    panels.T, np.stack([x, x_recon], axis=1), powers, strict=True
  ):
    wave, zoom, *spectrograms = column
    _plot_pair(wave, pair, times, width=0.6)
    loudest = _loudest(pair[0], sample_rate)
    wave.axvspan(*times[loudest][[0, -1]], color='0.8', zorder=0)
    _plot_pair(zoom, pair[:, loudest], times[loudest], width=1.1)
    zoom.set_title('the loudest part', fontsize=_FONT_SIZE, pad=3)
    zoom.xaxis.get_major_locator().set_params(nbins=6)
    for panel, of_one, label in zip(
      spectrograms, of_pair, _LABELS, strict=True
    ):
      image = _plot_spectrogram(panel, of_one, times, sample_rate)
      panel.set_title(label, fontsize=_FONT_SIZE, pad=3)
    for panel in column:
      panel.set_xlabel(unit, labelpad=1)
  lines = panels[0, 0].get_lines()
  legend = figure.legend(
    lines, _LABELS, loc='outside upper center', ncols=2, frameon=False
  )
  for handle in legend.get_lines():
    handle.set(linewidth=2, alpha=1)
  bar = figure.colorbar(image, ax=panels[2:], pad=0.01, fraction=0.02)
  bar.set_label('power (dB of a full-scale sine)', size=_FONT_SIZE)
  bar.ax.tick_params(labelsize=_FONT_SIZE - 0.5, length=2, pad=2)
  return rasterize(figure)


def _create_figure(size):
  figure = create_figure(size, layout='constrained')
  figure.get_layout_engine().set(w_pad=0.05, h_pad=0.04, hspace=0.02)
  return figure


def _as_played(x: np.ndarray) -> np.ndarray:
  """Returns the first channel, clipped to [-1, 1]: [N, T, C] -> [N, T]."""
  return np.clip(np.nan_to_num(np.asarray(x, np.float32)[..., 0]), -1, 1)


def _powers(x: np.ndarray) -> np.ndarray:
  """Returns spectrograms [N, K, frames] of [N, T], in dB."""
  return np.asarray(_decibels(x[..., None]))[..., 0].swapaxes(1, 2)


def _times(num_samples: int, sample_rate: int) -> tuple[np.ndarray, str]:
  """Returns the time of each sample and its unit: s, or ms below one second."""
  factor, unit = (1, 's') if num_samples >= sample_rate else (1000, 'ms')
  return np.arange(num_samples) * (factor / sample_rate), f'time ({unit})'


def _loudest(x: np.ndarray, sample_rate: int) -> slice:
  """Returns where a sound [T] has the most energy, for `_ZOOM` seconds."""
  size = min(len(x), max(round(_ZOOM * sample_rate), 2))
  energy = np.cumsum(np.square(np.concatenate([[0.0], x])))
  first = int(np.argmax(energy[size:] - energy[:-size]))
  return slice(first, first + size)


def _plot_pair(panel, pair, times, *, width: float) -> None:
  """Plots two waveforms over each other, on the scale of the larger one."""
  for sound, color in zip(pair, (_INK, _RECON), strict=True):
    panel.plot(times, sound, color=color, linewidth=width, alpha=0.75)
  _set_amplitudes(panel, 1.05 * max(np.abs(pair).max(), 1e-3))


def _set_amplitudes(panel, scale: float = 1.0) -> None:
  panel.set(ylim=(-scale, scale), ylabel='amplitude')
  panel.margins(x=0)
  panel.grid(alpha=0.3, linewidth=0.5)
  _set_fonts(panel)


def _plot_spectrogram(panel, powers, times, sample_rate):
  """Plots [K, frames] in dB; returns the artist that holds them."""
  num_samples, (num_frequencies, num_frames) = len(times), powers.shape
  hop = times[-1] * spectra.hop_size(num_samples) / max(num_samples - 1, 1)
  step = sample_rate / spectra.window_size(num_samples) / 1000
  image = panel.imshow(
    powers,
    origin='lower',
    aspect='auto',
    # Frames and frequencies are in the middle of their cells.
    extent=(
      *(np.array([-0.5, num_frames - 0.5]) * max(hop, 1e-6)),
      *(np.array([-0.5, num_frequencies - 0.5]) * step),
    ),
    vmin=spectra.FLOOR,
    vmax=0,
    cmap=_COLORS,
  )
  panel.set(ylabel='kHz', ylim=(0, sample_rate / 2000))
  panel.set_xlim(times[0], max(times[-1], 1e-6))
  _set_fonts(panel)
  return image


def _set_fonts(panel) -> None:
  panel.tick_params(labelsize=_FONT_SIZE - 0.5, length=2, pad=2)
  panel.xaxis.label.set_size(_FONT_SIZE)
  panel.yaxis.label.set_size(_FONT_SIZE)
