"""Encodes examples on all devices, into memory or into a folder of latents."""

import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from vaegan_jax.data.pictures import Pictures
from vaegan_jax.data.split import Images
from vaegan_jax.inference.latent_files import LatentWriter, to_arrays
from vaegan_jax.inference.latent_statistics import LatentStatistics, moments_of
from vaegan_jax.inference.model import TrainedModel
from vaegan_jax.inference.posterior import Posterior
from vaegan_jax.inference.preprocess import prepare
from vaegan_jax.runtime import devices

PART = 4096  # Examples in a file; an interruption loses at most as many.


def encode_batches(
  model: TrainedModel, examples: Images | Pictures, **options: Any
) -> Iterator[tuple[np.ndarray, Posterior]]:
  """Encodes examples in batches that all local devices share.

  Yields:
    The indices of each batch, and its posterior in NumPy.
  """
  encode = functools.partial(_encode, devices.replicate(model))
  return devices.map_batches(encode, examples, **options)


@jax.jit
def _encode(model: TrainedModel, batch: jax.Array) -> Posterior:
  return model.encode(prepare(batch, model.config.data))


def write_latents(
  model: TrainedModel,
  examples: Images | Pictures,
  folder: str,
  facts: Mapping[str, Any],
  *,
  batch_size: int,
) -> LatentStatistics:
  """Encodes examples into a folder, without those that are there already.

  Returns:
    The statistics of all latents.

  Raises:
    UserError: the folder has latents of another model.
  """
  writer = LatentWriter(folder, model, facts)
  starts = range(0, len(examples), PART)
  done = 0  # Parts are written in order: the first missing one is the next.
  while done < len(starts) and writer.keep(done, _describe(examples, done)):
    done += 1
  if done:
    print(f'{done} of {len(starts)} parts are there already.', flush=True)
  batches = encode_batches(
    model,
    examples,
    batch_size=batch_size,
    what='Encoding',
    indices=range(done * PART, len(examples)),
    part_size=PART,
  )
  for part, group in itertools.groupby(batches, lambda b: int(b[0][0]) // PART):
    posterior = jax.tree.map(
      lambda *leaves: np.concatenate(leaves),
      *(posterior for _, posterior in group),
    )
    arrays = to_arrays(posterior)
    if isinstance(examples, Pictures):
      names = examples.names[part * PART : (part + 1) * PART]
      arrays['names'] = np.array(names)
    moments = moments_of(posterior.latents, posterior.logvar)
    writer.write(part, _describe(examples, part), arrays, moments)
  return writer.finish()


def _describe(examples: Images | Pictures, part: int) -> str:
  first, last = part * PART, min((part + 1) * PART, len(examples))
  if isinstance(examples, Pictures):
    return examples.describe(first, last)
  return f'{getattr(examples, "fingerprint", "")} {first} {last}'
