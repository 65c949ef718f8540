"""Statistics of a model's latents: means, deviations, one scaling factor.

Generative models of latents want them with mean 0 and deviation 1. Training
writes the statistics as `latents.json` at its end. Axes: B batch, S axes of
space, Z entries of a latent.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import struct

from vaegan_jax.errors import UserError

FILE = 'latents.json'
NUM_IMAGES = 10_000  # Training images that are measured, at most.
# A latent map has many vectors, so fewer images have enough.
_NUM_VECTORS, _MIN_IMAGES = 2**17, 1_000


def num_measured(num_images: int, num_positions: int) -> int:
  """Returns how many of all images to measure.

  Their latent maps have `num_positions`, 1 if they are flat.
  """
  enough = max(_NUM_VECTORS // num_positions, _MIN_IMAGES)
  return min(num_images, NUM_IMAGES, enough)


class LatentStatistics(struct.PyTreeNode):
  """Statistics of samples of the posterior, or of the vectors of codes."""

  mean: jax.Array  # [Z] over images, and over the positions of a map.
  std: jax.Array  # [Z], the standard deviation.
  # [], 1 / the standard deviation of all entries together (arXiv 2112.10752,
  # appendix G).
  scaling_factor: jax.Array
  step: int = struct.field(pytree_node=False)  # Step of the weights.
  num_images: int = struct.field(pytree_node=False)  # Measured ones.
  # Sorted items of `latent_structure.describe`; (): they were not measured.
  structure: tuple[tuple[str, float], ...] = struct.field(
    pytree_node=False, default=()
  )

  def to_json(self) -> str:
    """Returns the content of `latents.json`.

    Raises:
      ValueError: a number is not finite.
    """
    content = {
      'step': self.step,
      'num_images': self.num_images,
      'mean': np.asarray(self.mean, np.float64).tolist(),
      'std': np.asarray(self.std, np.float64).tolist(),
      'scaling_factor': float(self.scaling_factor),
    }
    if self.structure:
      content['structure'] = dict(self.structure)
    return json.dumps(content, allow_nan=False) + '\n'


def read_statistics(folder: os.PathLike | str) -> LatentStatistics | None:
  """Reads the `latents.json` of a workdir or an export; None without one.

  Raises:
    UserError: it is damaged.
  """
  path = epath.Path(folder) / FILE
  if not path.exists():
    return None
  try:
    content = json.loads(path.read_text())
    return LatentStatistics(
      mean=np.array(content['mean'], np.float32),
      std=np.array(content['std'], np.float32),
      scaling_factor=np.float32(content['scaling_factor']),
      step=int(content['step']),
      num_images=int(content['num_images']),
      structure=as_items(content.get('structure', {})),
    )
  except (ValueError, LookupError, TypeError, AttributeError) as error:
    raise UserError(
      f'{path} is damaged ({error!r}): delete it, and --mode=encode or '
      '--mode=export writes it again'
    ) from error


def as_items(structure: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
  """Returns the field `structure`, which must be hashable."""
  return tuple(sorted((name, float(v)) for name, v in structure.items()))


def moments_of(latents: np.ndarray, logvar: np.ndarray | None) -> np.ndarray:
  """Returns [3, Z] float64: counts, sums and sums of squares, which add up.

  Args:
    latents: [B, *S, Z]; the means of a Gaussian.
    logvar: [B, *S, Z] of a Gaussian; None of other latents.
  """
  latents = np.asarray(latents, np.float64)
  squares = latents**2
  if logvar is not None:  # A sample's expected square, without randomness.
    squares = squares + np.exp(np.asarray(logvar, np.float64))
  latents, squares = (a.reshape(-1, a.shape[-1]) for a in (latents, squares))
  counts = np.full(latents.shape[-1], float(len(latents)))
  return np.stack([counts, latents.sum(0), squares.sum(0)])


def summarize(
  moments: np.ndarray, *, step: int, num_images: int
) -> LatentStatistics:
  """Returns the statistics of a set with these moments, by `moments_of`."""
  counts, sums, squares = moments
  mean = sums / counts
  variance = np.maximum(squares / counts - mean**2, 0.0)
  pooled = squares.sum() / counts.sum() - (sums.sum() / counts.sum()) ** 2
  return LatentStatistics(
    mean=np.float32(mean),
    std=np.float32(np.sqrt(variance)),
    scaling_factor=np.float32(1 / np.sqrt(max(pooled, 1e-12))),
    step=step,
    num_images=num_images,
  )
