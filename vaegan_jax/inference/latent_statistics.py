"""What the latents of a run are like: means, deviations, one factor.

Who trains a model on latents wants them of mean 0 and deviation 1. They are
written as `latents.json` when training ends.
Axes: B batch, S axes of space, Z entries of a latent.
"""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from etils import epath
from flax import struct

from vaegan_jax.data import pixels
from vaegan_jax.errors import UserError

FILE = 'latents.json'
NUM_IMAGES = 10_000  # Of the training images, at most.


class LatentStatistics(struct.PyTreeNode):
  """Of samples of the posterior; of codes, of their vectors.

  Attributes:
    mean: [Z] over images, and over the places of a map.
    std: [Z], the standard deviation.
    scaling_factor: [], 1 / the standard deviation of all entries together, by
      which latents are multiplied where one number is to do (arXiv 2112.10752,
      appendix G).
    step: of the weights.
    num_images: over how many.
  """

  mean: jax.Array
  std: jax.Array
  scaling_factor: jax.Array
  step: int = struct.field(pytree_node=False)
  num_images: int = struct.field(pytree_node=False)

  def to_json(self) -> str:
    """What `read_statistics` reads.

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
    return json.dumps(content, allow_nan=False) + '\n'


def read_statistics(folder: os.PathLike | str) -> LatentStatistics | None:
  """Reads `latents.json`.

  Args:
    folder: a workdir, or an export.

  Returns:
    What it holds; None if there is none.

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
    )
  except (ValueError, LookupError, TypeError) as error:
    raise UserError(
      f'{path} is damaged ({error!r}): delete it, and --mode=encode or '
      '--mode=export writes it again'
    ) from error


def compute_statistics(
  autoencoder: nn.Module,
  variables: Mapping[str, Any],
  images: Any,
  *,
  step: int,
  batch_size: int,
  value_range: pixels.ValueRange = 'dtype',
  track: Callable[[range], Any] = iter,
) -> LatentStatistics:
  """Encodes images, and measures their latents.

  Args:
    autoencoder: the module.
    variables: its variables, averaged over the steps.
    images: the training images: a length, and uint8 by index or, with a range,
      any type. Of more than `NUM_IMAGES` as many are taken, evenly.
    step: of the weights.
    batch_size: images at a time.
    value_range: as `pixels.to_float` takes it.
    track: what to make of the range of batches, to say how far they are.

  Returns:
    The statistics.
  """

  @jax.jit
  def encode(variables, batch):
    x = pixels.to_float(batch, value_range)
    return autoencoder.apply(variables, x, method='encode')

  number = min(NUM_IMAGES, len(images))
  chosen = np.arange(number) * len(images) // number
  moments = 0.0
  for first in track(range(0, number, batch_size)):
    # The last batch is filled up, so that there is one shape to compile.
    places = chosen[np.arange(first, first + batch_size) % number]
    encoded = jax.device_get(encode(variables, images[places]))
    encoded = {k: v[: number - first] for k, v in encoded.items()}
    moments += moments_of(encoded['latents'], encoded.get('logvar'))
  return summarize(moments, step=step, num_images=number)


def moments_of(latents: np.ndarray, logvar: np.ndarray | None) -> np.ndarray:
  """What `summarize` needs; of parts of a set it is to be added up.

  Args:
    latents: [B, *S, Z] of a Gaussian, its means.
    logvar: [B, *S, Z] of a Gaussian; None of anything else.

  Returns:
    [3, Z] float64: how many, sums, sums of squares.
  """
  latents = np.asarray(latents, np.float64)
  squares = latents**2
  if logvar is not None:  # The variance of a sample, without chance.
    squares = squares + np.exp(np.asarray(logvar, np.float64))
  latents, squares = (a.reshape(-1, a.shape[-1]) for a in (latents, squares))
  counts = np.full(latents.shape[-1], float(len(latents)))
  return np.stack([counts, latents.sum(0), squares.sum(0)])


def summarize(
  moments: np.ndarray, *, step: int, num_images: int
) -> LatentStatistics:
  """The statistics of a set.

  Args:
    moments: [3, Z] of the set; see `moments_of`.
    step: of the weights.
    num_images: of the set.
  """
  counts, sums, squares = moments
  mean = sums / counts
  variance = np.maximum(squares / counts - mean**2, 0.0)
  together = squares.sum() / counts.sum() - (sums.sum() / counts.sum()) ** 2
  return LatentStatistics(
    mean=np.float32(mean),
    std=np.float32(np.sqrt(variance)),
    scaling_factor=np.float32(1 / np.sqrt(max(together, 1e-12))),
    step=step,
    num_images=num_images,
  )
