"""Sounds of other sample rates and channels, converted by request.

Resampling is by windowed sincs (Smith, "Digital Audio Resampling", 1984), in
blocks that have one matrix of filters. Blocks begin at fixed places, so a part
of a sound equals that part of the whole sound, resampled. Axes: T samples, C
channels.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from vaegan_jax.data.reading import OtherAxes, Reading, UnreadableKind

_ZEROS = 64  # Zero crossings of a sinc on each side, at the lower rate.
_CUTOFF = 0.95  # Of half the lower rate.
_BETA = 9.0  # Kaiser's window: what is aliased is 90 dB lower.
_BLOCK = 128  # Outputs of a block, at least.
_MAX_FILTERS = 2**22  # Numbers in the matrix.
_TOGETHER = 2**18  # Outputs that are computed at once.


class Converted:
  """A sound [T, C] at another rate, or with other channels, read by slices.

  Integers are rounded and clipped.
  """

  def __init__(self, source: Any, sample_rate: int, reading: Reading):
    """Reads nothing yet of `source`, an array or what is sliced like one.

    Raises:
      OtherAxes: its channels cannot be mixed.
      UnreadableKind: the rates have too large a common multiple.
    """
    length, channels = source.shape
    self.source, self.dtype = source, source.dtype
    self.sample_rate = reading.sample_rate or sample_rate
    common = math.gcd(self.sample_rate, sample_rate)
    self._up, self._down = (
      rate // common for rate in (self.sample_rate, sample_rate)
    )
    self._channels = reading.channels or channels
    if self._channels not in (1, channels) and channels > 1:
      raise OtherAxes(
        f'it has {channels} channels: data.mix_channels makes one of several, '
        f'or several of one, not {self._channels}'
      )
    self.shape = (-(-length * self._up // self._down), self._channels)
    if math.prod(_layout(self._up, self._down)[-1]) > _MAX_FILTERS:
      raise UnreadableKind(
        f'{self._up:,} of its samples at the rate of data.sample_rate are '
        f'{self._down:,} at its own, which needs too many filters: resample it '
        'by another program, such as ffmpeg -i old.wav -ar '
        f'{self.sample_rate} new.wav'
      )

  def __getitem__(self, cuts: tuple[slice, slice]) -> np.ndarray:
    first, end, _ = cuts[0].indices(self.shape[0])
    if self._up == self._down:
      found = self._read(first, end)
    else:
      parts = [
        _resample(self._read, self._up, self._down, n, min(n + _TOGETHER, end))
        for n in range(first, end, _TOGETHER)
      ]
      found = np.concatenate([np.empty((0, self._channels)), *parts])
    if self.dtype.kind in 'iu':
      limits = np.iinfo(self.dtype)
      found = np.clip(np.rint(found), limits.min, limits.max)
    return found.astype(self.dtype)[:, cuts[1]]

  def _read(self, first: int, end: int) -> np.ndarray:
    """Returns mixed samples as floats; those beyond the ends are 0."""
    inside = slice(max(first, 0), min(max(end, 0), self.source.shape[0]))
    x = np.asarray(self.source[inside, :], np.float64)
    if x.shape[1] != self._channels:
      x = np.broadcast_to(x.mean(1, keepdims=True), (len(x), self._channels))
    return np.pad(x, [(inside.start - first, end - inside.stop), (0, 0)])


def convert(source: Any, sample_rate: int, reading: Reading) -> Any:
  """Returns a sound as it is read: a `Converted` one, or itself if it fits."""
  rate_fits = reading.sample_rate in (0, sample_rate)
  if rate_fits and reading.channels in (0, source.shape[1]):
    return source
  return Converted(source, sample_rate, reading)


def describe(source: Any, sample_rate: int) -> str:
  """Returns what a sound was before: '44,100 Hz, 2 channels'."""
  number = source.shape[1]
  return f'{sample_rate:,} Hz, {number} channel{"s" * (number > 1)}'


def check(source: Any) -> bool:
  """Returns whether a stored sound is silent: all of its samples are equal.

  Raises:
    ValueError: a sample is not finite.
  """
  low, high = np.inf, -np.inf
  for first in range(0, source.shape[0], _TOGETHER):
    part = source[first : first + _TOGETHER, :]
    low, high = np.minimum(low, part.min()), np.maximum(high, part.max())
  if source.shape[0] and not (np.isfinite(low) and np.isfinite(high)):
    raise ValueError('it has samples that are infinite or NaN')
  return bool(low == high)


def _layout(up: int, down: int) -> tuple[float, int, int, tuple[int, int]]:
  """Returns the cutoff, reach, periods and (outputs, inputs) of a block.

  The cutoff is of half the rate of the inputs, which begin `reach` before the
  block. A period has `up` outputs of `down` inputs.
  """
  cutoff = _CUTOFF * min(1, up / down)
  reach, periods = math.ceil(_ZEROS / cutoff), max(1, _BLOCK // up)
  return cutoff, reach, periods, (periods * up, periods * down + 2 * reach)


@functools.lru_cache(16)
def _filters(up: int, down: int) -> tuple[int, int, np.ndarray]:
  """Returns a block's reach, its periods and its filters [outputs, inputs]."""
  cutoff, reach, periods, size = _layout(up, down)
  at = np.arange(size[0])[:, None] * (down / up) + reach - np.arange(size[1])
  window = np.i0(_BETA * np.sqrt(np.maximum(1 - (at / reach) ** 2, 0)))
  filters = np.where(abs(at) < reach, window * np.sinc(cutoff * at), 0)
  return reach, periods, filters / filters.sum(1, keepdims=True)


def _resample(
  read: Callable[[int, int], np.ndarray],
  up: int,
  down: int,
  first: int,
  end: int,
) -> np.ndarray:
  """Returns outputs [end - first, C] of samples that `read` returns."""
  reach, periods, filters = _filters(up, down)
  outputs, inputs = periods * up, periods * down
  start, stop = first // outputs, -(-end // outputs)
  x = read(start * inputs - reach, stop * inputs + reach)
  size = inputs + 2 * reach
  windows = np.lib.stride_tricks.sliding_window_view(x, size, 0)[::inputs]
  blocks = np.ascontiguousarray(windows) @ filters.T  # [blocks, C, outputs]
  found = blocks.transpose(0, 2, 1).reshape(-1, x.shape[1])
  return found[first - start * outputs : end - start * outputs]
