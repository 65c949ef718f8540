"""Synthetic satellite images of land, in thirteen bands.

Five kinds of ground have a spectrum each, as reflectance times 10,000 in 16
bits, like satellite products. All bands share the fine detail: shores, furrows,
tree crowns, roads and the blocks of a town.

Randomness comes from `RandomState`, whose stream NumPy has frozen.
"""

import numpy as np

from vaegan_jax.data.source_bases import SyntheticSource

SHAPE = (64, 64, 13)

# Reflectance from violet to the middle infrared.
_WATER = (12, 10, 8, 6, 4, 3, 3, 2, 2, 1, 1, 1, 1)
_WOOD = (4, 4, 7, 5, 9, 22, 30, 33, 34, 33, 14, 16, 8)
_CROP = (5, 6, 10, 7, 14, 36, 46, 50, 52, 50, 20, 24, 11)
_EARTH = (9, 11, 15, 20, 22, 24, 26, 28, 29, 29, 30, 38, 34)
_TOWN = (18, 20, 22, 24, 25, 26, 27, 28, 28, 28, 25, 31, 29)
_ROAD = (11, 12, 13, 13, 14, 14, 15, 15, 15, 15, 14, 17, 16)
_SPECTRA = np.array([_WATER, _WOOD, _CROP, _EARTH, _TOWN, _ROAD]) * 100.0
_ROAD_KIND = len(_SPECTRA) - 1
_MAX_TURN = 0.25  # Radians.
_NOISE = 25.0  # Standard deviation of the instrument noise.


def draw(index: int) -> np.ndarray:
  """Draws one scene [64, 64, 13] uint16, reflectance times 10,000."""
  rng = np.random.RandomState(index)
  middles = np.array(SHAPE[:2]).reshape(2, 1, 1) / 2 - 0.5
  y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] - middles
  turn = rng.uniform(-_MAX_TURN, _MAX_TURN)
  # Two roads cross where both are 0; the parcels follow their directions.
  along = np.cos(turn) * x + np.sin(turn) * y - rng.uniform(-6, 6)
  across = np.cos(turn) * y - np.sin(turn) * x - rng.uniform(-8, 4)
  parcels = 2 * (along > 0) + (across > 0)
  kinds = rng.randint(1, _ROAD_KIND, 4)[parcels]
  level = rng.uniform(0.8, 1.2, 4)[parcels] * _texture(along, across, kinds)
  road = np.minimum(np.abs(along), np.abs(across)) < 1.2
  bend = rng.uniform(0, 2 * np.pi)
  water = across > rng.uniform(16, 24) + 3 * np.sin(along / 8 + bend)
  kinds = np.where(water, 0, np.where(road, _ROAD_KIND, kinds))
  level = np.where(road | water, 1.0, level)
  image = level[..., None] * _SPECTRA[kinds] + rng.normal(0, _NOISE, SHAPE)
  return np.clip(np.round(image), 0, 2**16 - 1).astype(np.uint16)


def _texture(along, across, kinds) -> np.ndarray:
  """Returns the brightness of each place of the ground [H, W], about 1."""
  wood = 1 + 0.45 * np.sin(0.4 * np.pi * along) * np.sin(0.4 * np.pi * across)
  furrows = 1 + 0.2 * np.sign(np.sin(0.5 * np.pi * across))
  blocks = (np.sin(0.25 * np.pi * along) > -0.5) & (furrows > 1)
  even = np.ones_like(along)
  textures = [even, wood, furrows, even, 0.6 + 0.6 * blocks]
  return np.choose(kinds, textures)


class Source(SyntheticSource):
  """4,000 scenes to train with and 512 held out."""

  name = 'drawn_bands'
  generate = staticmethod(draw)
