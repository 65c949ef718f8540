"""Synthetic volumes of an organ with a vessel.

Dark tissue holds a layered organ, two bright nodules, and a vessel that passes
through it and forks. The fine detail is in the layers, the walls, and the
vessel, which is two or three voxels thick.

Randomness comes from `RandomState`, whose stream NumPy has frozen.
"""

import numpy as np

from vaegan_jax.data.source_bases import SyntheticSource

SHAPE = (32, 32, 32, 1)

_TISSUE, _ORGAN, _NODULE, _VESSEL = 60.0, 130.0, 190.0, 240.0
_LAYER = 25.0  # Brightness by which the layers of the organ differ.
_NUM_LAYERS = 3  # From the middle of the organ to its wall.
_NOISE = 2.0  # Standard deviation of the instrument noise.


def draw(index: int) -> np.ndarray:
  """Draws one volume [32, 32, 32, 1] uint8."""
  rng = np.random.RandomState(index)
  *sides, _ = SHAPE
  space = np.stack(np.meshgrid(*map(np.arange, sides), indexing='ij'), -1)
  space = space - (np.array(sides) - 1) / 2
  center, radii = rng.uniform(-1.5, 1.5, 3), rng.uniform(9, 13, 3)
  radius = np.sqrt(np.sum(((space - center) / radii) ** 2, -1))
  layers = _LAYER * np.sign(np.sin(2 * np.pi * _NUM_LAYERS * radius))
  volume = np.where(radius < 1, _ORGAN + layers, _TISSUE)
  for side in (-1, 1):
    place = center + side * rng.uniform(0.2, 0.5, 3) * radii
    near = np.sum((space - place) ** 2, -1) < rng.uniform(2, 3) ** 2
    volume[near] = _NODULE
  _draw_vessel(rng, space, volume)
  volume += rng.normal(0, _NOISE, sides)
  return np.clip(np.round(volume), 0, 255).astype(np.uint8)[..., None]


def _draw_vessel(rng, space, volume):
  """Draws a stem from the floor up, and two branches to the roof."""
  height = SHAPE[0] / 2
  foot, fork = (np.r_[h, rng.uniform(-4, 4, 2)] for h in (-height, 0.0))
  _draw_tube(space, volume, foot, fork, 1.7)
  for side in (-1, 1):
    end = np.r_[height, side * 8 + rng.uniform(-3, 3), rng.uniform(-4, 4)]
    _draw_tube(space, volume, fork, end, 1.3)


def _draw_tube(space, volume, start, end, radius):
  """Fills what is within a radius of a line."""
  way = end - start
  share = np.clip((space - start) @ way / (way @ way), 0, 1)
  nearest = start + share[..., None] * way
  volume[np.sum((space - nearest) ** 2, -1) < radius**2] = _VESSEL


class Source(SyntheticSource):
  """4,000 volumes to train with and 512 held out."""

  name = 'drawn_volumes'
  generate = staticmethod(draw)
