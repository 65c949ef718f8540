"""The drawing of an embedded dataset: land from above, in thirteen bands.

Five kinds of ground with a spectrum each, as reflectance times 10,000 in 16
bits, which satellites deliver. What a blur destroys is in all bands at once:
shores, furrows, the crowns of a wood, roads and the blocks of a town.

Chance comes from `RandomState`, whose stream NumPy has frozen.
"""

import numpy as np

SHAPE = (64, 64, 13)
DTYPE = np.uint16

# Reflectance from violet to the middle infrared.
_WATER = (12, 10, 8, 6, 4, 3, 3, 2, 2, 1, 1, 1, 1)
_WOOD = (4, 4, 7, 5, 9, 22, 30, 33, 34, 33, 14, 16, 8)
_CROP = (5, 6, 10, 7, 14, 36, 46, 50, 52, 50, 20, 24, 11)
_EARTH = (9, 11, 15, 20, 22, 24, 26, 28, 29, 29, 30, 38, 34)
_TOWN = (18, 20, 22, 24, 25, 26, 27, 28, 28, 28, 25, 31, 29)
_ROAD = (11, 12, 13, 13, 14, 14, 15, 15, 15, 15, 14, 17, 16)
_SPECTRA = np.array([_WATER, _WOOD, _CROP, _EARTH, _TOWN, _ROAD]) * 100.0
_ROAD_KIND = len(_SPECTRA) - 1
_NOISE = 25.0  # Standard deviation of the instrument's.


def draw(index: int) -> np.ndarray:
  """Draws one scene.

  Args:
    index: which; any non-negative integer.

  Returns:
    [64, 64, 13] uint16, reflectance times 10,000.
  """
  rng = np.random.RandomState(index)
  y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] - np.array([[[31.5]], [[31.5]]])
  turn = rng.uniform(0, np.pi)
  along = np.cos(turn) * x + np.sin(turn) * y
  across = np.cos(turn) * y - np.sin(turn) * x
  # Parcels between two roads that cross, and water behind a winding shore.
  first, second = rng.uniform(-10, 10, 2)
  sides = 2 * (along > first) + (across > second)
  kinds = rng.randint(1, _ROAD_KIND, 4)[sides]
  shade = rng.uniform(0.8, 1.2, 4)[sides]
  texture = _furrows(rng, along, across, kinds)
  road = np.minimum(np.abs(along - first), np.abs(across - second)) < 1.2
  kinds = np.where(road, _ROAD_KIND, kinds)
  bend, phase = rng.uniform(2, 5), rng.uniform(0, 2 * np.pi)
  shore = rng.uniform(14, 24) + bend * np.sin(along / 8 + phase)
  water = across > shore
  kinds = np.where(water, 0, kinds)
  level = np.where(road | water, 1.0, shade * texture)
  image = level[..., None] * _SPECTRA[kinds]
  image += rng.normal(0, _NOISE, SHAPE)
  return np.clip(np.round(image), 0, 2**16 - 1).astype(DTYPE)


def _furrows(rng, along, across, kinds) -> np.ndarray:
  """[H, W], about 1: how bright each place of a kind of ground is."""
  phases = rng.uniform(0, 2 * np.pi, 4)
  rows = np.sign(np.sin(2 * np.pi * across / 4 + phases[0]))
  crowns = np.sin(2 * np.pi * along / 5 + phases[1])
  crowns *= np.sin(2 * np.pi * across / 5 + phases[2])
  blocks = (np.sin(2 * np.pi * along / 8 + phases[3]) > -0.5) & (rows > -0.5)
  flat = np.ones_like(along)
  of_kind = [flat, 1 + 0.45 * crowns, 1 + 0.2 * rows, flat, 0.6 + 0.6 * blocks]
  return np.choose(np.minimum(kinds, len(of_kind) - 1), of_kind)
