"""The mode `encode`: images to a folder of latents, on all devices.

The folder is described in `latent_files.py`.
"""

import collections
import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import jax
import ml_collections
import numpy as np

from vaegan_jax.config.cli import Use
from vaegan_jax.data import pixels
from vaegan_jax.data.pictures import Pictures
from vaegan_jax.data.split import Images
from vaegan_jax.inference.latent_files import LatentWriter, to_arrays
from vaegan_jax.inference.latent_statistics import LatentStatistics, moments_of
from vaegan_jax.inference.model import TrainedModel
from vaegan_jax.inference.posterior import Posterior
from vaegan_jax.inference.using import (
  measured,
  open_model,
  open_pictures,
  open_split,
)
from vaegan_jax.runtime import devices
from vaegan_jax.runtime.progress import track

PART = 4096  # Images, of which an interruption costs at most as many.
_AHEAD = 4  # Batches that are read, or computed, before they are needed.


def encode(config: ml_collections.ConfigDict, workdir: str, use: Use) -> None:
  """Encodes images; what was interrupted goes on where it stopped.

  Args:
    config: of the run.
    workdir: of the run, or an export.
    use: which images, and where the latents go.

  Raises:
    UserError: the model or the images cannot be read, or the folder cannot be
      written or has latents of another model.
  """
  model = open_model(config, workdir, use)
  if use.split:
    images = open_split(config, workdir, use.split)
    if use.split == 'train':  # They are here: of an older run, too.
      measured(model, config, images)
    source = f'{use.split} split of {config.data.name}'
  else:
    images = open_pictures(config, use.input)
    source = use.input
  statistics = write_latents(
    model,
    images,
    use.output,
    {'source': source},
    batch_size=config.batch_size,
  )
  print(
    f'Encoded {statistics.num_images:,} images with step {model.step:,} of '
    f'{workdir}: {use.output}',
    flush=True,
  )


def write_latents(
  model: TrainedModel,
  images: Images | Pictures,
  folder: str,
  facts: Mapping[str, Any],
  *,
  batch_size: int,
) -> LatentStatistics:
  """Encodes images into a folder.

  Args:
    model: that encodes.
    images: of the shape that it takes.
    folder: that is written.
    facts: what else its manifest is to say.
    batch_size: images at a time, over all devices.

  Returns:
    The statistics of all latents.

  Raises:
    UserError: the folder has latents of another model.
  """
  writer = LatentWriter(folder, model, facts)
  firsts = range(0, len(images), PART)
  parts = [
    _Part(first, min(first + PART, len(images)), images, batch_size)
    for first in firsts
  ]
  # They are written in this order: the first that lacks is the next.
  done = 0
  while done < len(parts) and writer.has(done, parts[done].described):
    done += 1
  if done:
    print(f'{done} of {len(parts)} parts are there already.', flush=True)
  batches = [places for part in parts[done:] for places in part.batches]
  encoded = encode_batches(model, images, batches, batch_size)
  encoded = track(encoded, 'Encoding', len(batches))
  for index, part in enumerate(parts[done:], start=done):
    found = list(itertools.islice(encoded, len(part.batches)))
    arrays = {
      name: np.concatenate([batch[name] for batch in found])
      for name in found[0]
    }
    latents = arrays.pop('codes', None)
    if latents is None:
      latents = arrays.get('mean', arrays.get('latents'))
    moments = moments_of(latents, arrays.get('logvar'))
    if part.names is not None:
      arrays['names'] = np.array(part.names)
    writer.write(index, part.described, arrays, moments)
  next(encoded, None)  # Lets its threads and its progress end.
  return writer.finish()


class _Part:
  """Some thousand images that are written together."""

  def __init__(self, first, last, images, batch_size):
    self.names = None
    # Names the images, and the way they are decoded.
    self.described = f'{getattr(images, "fingerprint", "")} {first} {last}'
    if isinstance(images, Pictures):
      self.names = images.names[first:last]
      self.described = images.describe(first, last)
    self.batches = [
      np.arange(start, min(start + batch_size, last))
      for start in range(first, last, batch_size)
    ]


def encode_batches(
  model: TrainedModel,
  images: Images | Pictures,
  batches: Sequence[np.ndarray],
  batch_size: int,
) -> Iterator[dict[str, np.ndarray]]:
  """Encodes batches, while the next ones are read.

  Args:
    model: that encodes.
    images: uint8 by index.
    batches: places in them, at most `batch_size` each.
    batch_size: images at a time; rounded up so that the devices share it.

  Yields:
    Of each batch {name: [B, ...]}: what `to_arrays` keeps of its posterior, and
    the vectors of `codes`.
  """
  model = devices.replicate(model)
  size = devices.shareable(batch_size)

  def read(places):
    # Every batch is filled up, so that there is one shape to compile.
    return images[np.resize(places, size)]

  def fetch(places, posterior):
    arrays = to_arrays(posterior)
    if posterior.codes is not None:
      arrays['codes'] = np.asarray(posterior.codes)
    return {name: array[: len(places)] for name, array in arrays.items()}

  ahead, computed = collections.deque(), collections.deque()
  with futures.ThreadPoolExecutor(1) as pool:
    for places in batches[:_AHEAD]:
      ahead.append(pool.submit(read, places))
    for index, places in enumerate(batches):
      batch = ahead.popleft().result()
      if index + _AHEAD < len(batches):
        ahead.append(pool.submit(read, batches[index + _AHEAD]))
      computed.append((places, _encode(model, devices.share_out(batch))))
      if len(computed) > 1:  # One is computed while the last is fetched.
        yield fetch(*computed.popleft())
    while computed:
      yield fetch(*computed.popleft())


@jax.jit
def _encode(model: TrainedModel, batch: jax.Array) -> Posterior:
  x = pixels.to_float(batch, model.config.data.value_range)
  return model.encode(x)
