"""Random inputs of an update: flips, crops, noise, prior samples, weights.

No random state is stored. Each value is a function of the seed, the step, its
use and the example's index in the global batch. So a batch gets the same values
on one device and on many, and in a resumed and an uninterrupted run.
Axes: B examples on one device, S axes of space, C channels.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vaegan_jax.config.shapes import MAX_AXES
from vaegan_jax.data import pixels
from vaegan_jax.models.autoencoder import Autoencoder
from vaegan_jax.runtime import devices

# Each use has its own stream of randomness.
FLIP_STREAM, NOISE_STREAM, PRIOR_STREAM, INTERPOLATION_STREAM = range(4)
_FLIP_STREAMS = (FLIP_STREAM, 4, 5)  # One for each mirrored axis.
CROP_STREAM = 6
NUM_STREAMS = 8  # New streams up to here leave the values above unchanged.

Inputs = dict[str, Any]


def create_random_inputs(
  preprocess: Callable[..., jax.Array],
  *,
  seed: int,
  autoencoder: Autoencoder,
  num_microbatches: int,
  with_prior: bool,
  num_flips: int = 1,
  crop_margin: int = 0,
  masked: bool = False,
  num_chunks: int = 1,
) -> Callable[[jax.Array, jax.Array, jax.Array], list[Inputs]]:
  """Creates the function that samples the inputs of one update on one device.

  Args:
    preprocess: (images [B, *S, C] of any type, a flip [B] bool for each
      mirrored axis, crop offsets [B, 3] int if there are crops) ->
      x [B, *S', C] float32 in [-1, 1].
    autoencoder: module that the latent noise and the prior samples are for.
    num_microbatches: K, one microbatch for each critic step.
    num_flips: number of mirrored axes.
    crop_margin: largest offset of a crop; 0: no crops.
    masked: whether NaN marks missing values, to be filled.
    num_chunks: A, in which microbatches are [A, B / A, ...]; see `chunks.py`.

  Returns:
    (step [], number of rollbacks [], images [K B, *S, C]) -> K dicts: x and,
    perhaps, valid [B, *S', C], interpolation [B], noise, perhaps prior.
  """
  augmentations = _augmentations(num_flips, crop_margin)
  latent = autoencoder.latent

  def random_inputs(step, num_rollbacks, images):
    batch_size = images.shape[0] // num_microbatches
    key_of = functools.partial(_stream_key, seed, step, num_rollbacks)
    global_size = devices.psum(batch_size)
    indices = _example_indices(num_microbatches, batch_size, global_size)

    def sample(stream, function):
      keys = jax.vmap(lambda i: jax.random.fold_in(key_of(stream), i))
      return jax.vmap(function)(keys(indices.reshape(-1)))

    inputs = {
      'x': preprocess(images, *(sample(*args) for args in augmentations)),
      'interpolation': sample(INTERPOLATION_STREAM, jax.random.uniform),
    }
    if masked:
      inputs['x'], inputs['valid'] = pixels.fill(inputs['x'])
    space = autoencoder.latent_space(inputs['x'].shape[1:-1])
    chunks = _split(inputs, num_microbatches * num_chunks)
    key, indices = key_of(NOISE_STREAM), indices.reshape(len(chunks), -1)
    for chunk, own in zip(chunks, indices, strict=True):
      chunk['noise'] = latent.sample_noise(key, own, global_size, space)
      if with_prior:
        chunk['prior'] = latent.sample_prior(key_of(PRIOR_STREAM), own, space)
    return chunks if num_chunks == 1 else _stack(chunks, num_chunks)

  return random_inputs


def _stream_key(seed, step, num_rollbacks, stream) -> jax.Array:
  """Returns the key of a stream; a rollback changes it for repeated steps."""
  key = jax.random.fold_in(jax.random.key(seed), step)
  return jax.random.fold_in(key, stream + NUM_STREAMS * num_rollbacks)


def _augmentations(num_flips, margin) -> list[tuple[int, Callable]]:
  """Lists (stream, (key) -> value of one example) for `preprocess`."""
  sampled = [(s, jax.random.bernoulli) for s in _FLIP_STREAMS[:num_flips]]
  if margin:  # An offset for each axis that an example may have.
    args = (MAX_AXES,), 0, margin + 1
    sampled.append((CROP_STREAM, lambda key: jax.random.randint(key, *args)))
  return sampled


def _split(inputs: Inputs, number: int) -> list[Inputs]:
  """Splits arrays [K B, ...] into K dicts of arrays [B, ...]."""
  inputs = {k: v.reshape(number, -1, *v.shape[1:]) for k, v in inputs.items()}
  return [{k: v[i] for k, v in inputs.items()} for i in range(number)]


def _stack(chunks: list[Inputs], number: int) -> list[Inputs]:
  """Stacks each microbatch's chunks."""
  return [
    jax.tree.map(lambda *leaves: jnp.stack(leaves), *chunks[i : i + number])
    for i in range(0, len(chunks), number)
  ]


def _example_indices(num_microbatches, batch_size, global_size) -> jax.Array:
  """Returns this device's example indices in the global batch, [K, B]."""
  index = devices.index() * batch_size + jnp.arange(batch_size)
  return jnp.arange(num_microbatches)[:, None] * global_size + index
