"""Examples as texts that a page embeds: pictures and sounds.

A photograph is an RGB picture of its own size. An array is a sheet of grey
tiles, one for each channel and slice, from which the page composes what it
shows. A sound is a spectrogram to look at and a WAV to play. Axes: N examples;
S, one to three of space (of sounds T, of images H and W, of volumes D, H and
W); C channels.
"""

import base64
import functools
import io
import math
import wave
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from vaegan_jax.evaluation import figures, spectra

Item = dict[str, str]  # 'picture' and, of sounds, 'sound': data URIs.

_MIN_WIDTH = 256  # Pixels of a spectrogram.
_decibels = jax.jit(spectra.decibels)


class Media(NamedTuple):
  """Forms in which examples of a data set are shown."""

  shape: tuple[int, ...]  # (*S, C) of an example.
  bands: tuple[int, ...]  # Shown channels of arrays; (): of photographs.
  sample_rate: int  # Sample rate of sounds, in Hz.

  @property
  def kind(self) -> str:
    """One of 'sound', 'image', 'volume'."""
    return ('sound', 'image', 'volume')[len(self.shape) - 2]

  def describe(self) -> dict[str, Any]:
    """Returns what the page must know to read the items."""
    *space, channels = self.shape
    facts = {'kind': self.kind, 'channels': 1, 'bands': [0], 'depth': 1}
    if self.kind == 'sound':
      width, height = _spectrogram_size(space[0])
      seconds = space[0] / self.sample_rate
      facts |= {'seconds': seconds, 'kilohertz': self.sample_rate / 2000}
    else:
      *depth, height, width = space
      facts |= {'depth': depth[0] if depth else 1}
      if self.bands:
        facts |= {'channels': channels, 'bands': list(self.bands)}
    sheet = self.kind != 'sound' and bool(self.bands)
    return facts | {'width': width, 'height': height, 'sheet': sheet}

  def encode(self, x: np.ndarray) -> Item:
    """Encodes an example [*S, C] in [-1, 1]; NaN is black and silent."""
    if self.kind == 'sound':
      shown = figures.choose_bands(x, self.bands)[..., :1]
      picture = to_png(_spectrogram(shown))
      played = x if x.shape[-1] <= 2 else shown
      return {'picture': picture, 'sound': to_wav(played, self.sample_rate)}
    if not self.bands:
      return {'picture': to_png(figures.to_uint8(x))}
    tiles = np.moveaxis(x, -1, 0)
    return {'picture': to_png(_sheet(tiles.reshape(-1, *x.shape[-3:-1])))}

  def of_middle(self, x: np.ndarray) -> np.ndarray:
    """Returns the middle slice [N, 1, H, W, C] of volumes; all of others."""
    if self.kind != 'volume':
      return x
    return x[:, x.shape[1] // 2][:, None]


def to_png(pixels: np.ndarray) -> str:
  """Returns a data URI of a PNG, of [H, W] or [H, W, 3] uint8."""
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, format='PNG')
  return _to_uri('image/png', file.getvalue())


def to_wav(x: np.ndarray, sample_rate: int) -> str:
  """Returns a data URI of a WAV of 16 bits, of [T, C] in [-1, 1]."""
  x = np.clip(np.nan_to_num(np.asarray(x, np.float32)), -1, 1)
  file = io.BytesIO()
  with wave.open(file, 'wb') as writer:
    writer.setparams((x.shape[-1], 2, sample_rate, 0, 'NONE', ''))
    writer.writeframes(np.round(x * 32767).astype('<i2').tobytes())
  return _to_uri('audio/wav', file.getvalue())


def _to_uri(kind: str, content: bytes) -> str:
  return f'data:{kind};base64,{base64.b64encode(content).decode()}'


def _sheet(tiles: np.ndarray) -> np.ndarray:
  """Arranges tiles [N, H, W] in [-1, 1] row by row, nearly square, as uint8."""
  tiles = figures.to_uint8(tiles[..., None])[..., 0]
  number, height, width = tiles.shape
  columns = math.ceil(math.sqrt(number))
  rows = math.ceil(number / columns)
  sheet = np.zeros((rows * columns, height, width), np.uint8)
  sheet[:number] = tiles
  sheet = sheet.reshape(rows, columns, height, width).swapaxes(1, 2)
  return sheet.reshape(rows * height, columns * width)


def _spectrogram_size(num_samples: int) -> tuple[int, int]:
  """Returns the width and height of the picture of a sound."""
  hop = spectra.hop_size(num_samples)
  frames = len(np.arange(0, num_samples + hop - 1, hop))
  repeats = math.ceil(_MIN_WIDTH / frames)
  return repeats * frames, spectra.window_size(num_samples) // 2 + 1


def _spectrogram(x: np.ndarray) -> np.ndarray:
  """Returns the spectrogram of a sound [T, 1], [K, W, 3] uint8."""
  x = np.clip(np.nan_to_num(np.asarray(x, np.float32)), -1, 1)
  powers = np.asarray(_decibels(x[None]))[0, ..., 0].T[::-1]
  width, _ = _spectrogram_size(len(x))
  levels = np.round(255 * (1 - np.clip(powers / spectra.FLOOR, 0, 1)))
  pixels = _colors()[levels.astype(np.uint8)]
  return pixels.repeat(width // powers.shape[1], axis=1)


@functools.cache
def _colors() -> np.ndarray:
  """Returns the colours [256, 3] uint8 of powers, as in the figures."""
  from matplotlib import colormaps  # Imported late; it takes a while.

  return colormaps['magma'](np.arange(256), bytes=True)[:, :3]
