"""The drawing of an embedded dataset: volumes of blobs and vessels.

An organ in grey tissue, with a few bright nodules, and a vessel that passes
through it and forks. What a blur destroys is the walls of all of them, and the
vessel itself, which is two or three places thick.

Chance comes from `RandomState`, whose stream NumPy has frozen.
"""

import numpy as np

SHAPE = (32, 32, 32, 1)

_TISSUE, _ORGAN, _NODULE, _VESSEL = 40.0, 110.0, 190.0, 240.0
_NOISE = 4.0  # Standard deviation of the instrument's.


def draw(index: int) -> np.ndarray:
  """Draws one volume.

  Args:
    index: which; any non-negative integer.

  Returns:
    [32, 32, 32, 1] uint8.
  """
  rng = np.random.RandomState(index)
  *sides, _ = SHAPE
  space = np.stack(np.meshgrid(*map(np.arange, sides), indexing='ij'), -1)
  space = space - (np.array(sides) - 1) / 2
  volume = np.full(sides, _TISSUE)
  center = rng.uniform(-2, 2, 3)
  radii = rng.uniform(8, 12, 3)
  inside = np.sum(((space - center) / radii) ** 2, -1)
  volume[inside < 1] = _ORGAN
  volume[(inside < 1) & (inside > 0.8)] = 0.6 * _ORGAN  # Its wall.
  for _ in range(rng.randint(1, 4)):
    place = center + rng.uniform(-0.5, 0.5, 3) * radii
    near = np.sum((space - place) ** 2, -1) < rng.uniform(1.5, 3) ** 2
    volume[near] = _NODULE
  _draw_vessel(rng, space, volume)
  volume += rng.normal(0, _NOISE, sides)
  return np.clip(np.round(volume), 0, 255).astype(np.uint8)[..., None]


def _draw_vessel(rng, space, volume):
  """A stem from the floor up, and two branches from its end to the roof."""
  height, *_ = np.array(SHAPE) / 2
  foot, fork = (np.r_[h, rng.uniform(-7, 7, 2)] for h in (-height, 0.0))
  _draw_tube(space, volume, foot, fork, 1.7)
  for _ in range(2):
    end = np.r_[height, rng.uniform(-12, 12, 2)]
    _draw_tube(space, volume, fork, end, 1.2)


def _draw_tube(space, volume, start, end, radius):
  """What is within a radius of the way from one place to another."""
  way = end - start
  share = np.clip((space - start) @ way / (way @ way), 0, 1)
  nearest = start + share[..., None] * way
  volume[np.sum((space - nearest) ** 2, -1) < radius**2] = _VESSEL
