"""Synthetic sounds: plucked strings and chirps.

Each lasts half a second: two plucked notes of a scale, and sometimes a chirp.
The fine detail is above a quarter of the sample rate: the attack of a string,
its upper partials, the end of a chirp.

Randomness comes from `RandomState`, whose stream NumPy has frozen.
"""

import numpy as np

from vaegan_jax.data.source_bases import SyntheticSource

SAMPLE_RATE = 16_000
SHAPE = (8192, 1)

_SCALE = (0, 2, 4, 7, 9)  # Semitones of the pentatonic scale.
_LOWEST = 220.0  # Hz.
_NUM_PARTIALS = 28
_ONSETS = 8  # Places of the grid on which a note begins.


def draw(index: int) -> np.ndarray:
  """Draws one sound [8192, 1] int16, at 16,000 samples per second."""
  rng = np.random.RandomState(index)
  sound = np.zeros(SHAPE[0])
  for half in range(2):
    onset = half * _ONSETS // 2 + rng.randint(_ONSETS // 2)
    _add(sound, onset, _pluck(rng))
  if rng.uniform() < 0.5:
    _add(sound, rng.randint(_ONSETS // 2), _chirp(rng))
  sound = 0.45 * sound + rng.normal(0, 5e-4, SHAPE[0])
  levels = np.round(np.clip(sound, -1, 1) * (2**15 - 1))
  return levels.astype(np.int16)[:, None]


def _add(sound, onset, other):
  first = onset * SHAPE[0] // _ONSETS
  sound[first:] += other[: SHAPE[0] - first]


def _pluck(rng) -> np.ndarray:
  """Returns a string: its partials, the upper ones fading sooner."""
  time = np.arange(SHAPE[0]) / SAMPLE_RATE
  octave, degree = rng.randint(2), rng.randint(len(_SCALE))
  pitch = _LOWEST * 2 ** (octave + _SCALE[degree] / 12)
  place = rng.uniform(0.15, 0.35)  # Where the string is plucked.
  sound = np.zeros_like(time)
  for partial in range(1, _NUM_PARTIALS + 1):
    frequency = partial * pitch
    if frequency > 0.45 * SAMPLE_RATE:
      break
    size = np.sin(np.pi * partial * place) / partial
    fade = np.exp(-time * (4 + 0.9 * partial))
    sound += size * fade * np.sin(2 * np.pi * frequency * time)
  return rng.uniform(0.5, 1.0) * sound


def _chirp(rng) -> np.ndarray:
  """Returns a tone that rises or falls within an eighth of a second."""
  time = np.arange(SHAPE[0]) / SAMPLE_RATE
  ends = (1500.0, 6500.0)
  low, high = ends if rng.uniform() < 0.5 else ends[::-1]
  length = 0.128
  phase = 2 * np.pi * (low * time + (high - low) * time**2 / (2 * length))
  window = np.sin(np.pi * np.minimum(time / length, 1)) ** 2
  return rng.uniform(0.3, 0.6) * window * np.sin(phase)


class Source(SyntheticSource):
  """4,000 sounds to train with and 512 held out."""

  name = 'drawn_sounds'
  generate = staticmethod(draw)
  sample_rate = SAMPLE_RATE
