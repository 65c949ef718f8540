"""What chance gives a step: flips, crops, noise, samples of the prior, mixing.

Nothing random is stored. A draw is a function of the seed, the step, what it is
for and the image's place in the global batch, so that a batch gets the same on
one device and on many, and a resumed run the same as one that never stopped.
Axes: B images on one device, S axes of space, C channels.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vaegan_jax.config.shapes import MAX_AXES
from vaegan_jax.models.autoencoder import Autoencoder
from vaegan_jax.runtime import devices

# One stream of randomness for each use.
FLIP_STREAM, NOISE_STREAM, PRIOR_STREAM, MIX_STREAM = range(4)
_FLIP_STREAMS = (FLIP_STREAM, 4, 5)  # Of each axis that is mirrored.
CROP_STREAM = 6
NUM_STREAMS = 8  # Room for more, without a change to what these draw.

Draw = dict[str, Any]


def create_draw(
  preprocess: Callable[..., jax.Array],
  *,
  seed: int,
  autoencoder: Autoencoder,
  num_parts: int,
  with_prior: bool,
  num_flips: int = 1,
  crop_margin: int = 0,
) -> Callable[[jax.Array, jax.Array, jax.Array], list[Draw]]:
  """Builds what draws for one update on one device.

  Args:
    preprocess: (images [B, *S, C] of any type, a flip [B] bool for each axis
      that is mirrored, and where each crop begins, [B, 3] whole numbers) ->
      x [B, *S', C] float32 in [-1, 1].
    seed: of everything that is drawn.
    autoencoder: for whose latent noise and prior are drawn.
    num_parts: K, parts of the batch, one a critic step.
    with_prior: whether samples of the prior are drawn.
    num_flips: axes that are mirrored.
    crop_margin: how far a crop may begin from an image's own; 0: none is cut.

  Returns:
    (step [], number of rollbacks [], images [K B, *S, C]) -> K dicts:
    x [B, *S', C], cut and flipped, mix [B] uniform in [0, 1], and the latent's
    noise, and perhaps prior.
  """
  chances, latent = _chances(num_flips, crop_margin), autoencoder.latent

  def draw(step, num_rollbacks, images):
    batch_size = images.shape[0] // num_parts
    key = jax.random.fold_in(jax.random.key(seed), step)
    part_size = devices.psum(batch_size)
    places = _places(num_parts, batch_size, part_size)

    def key_of(stream):
      # A step that is taken again after a rollback gets other randomness.
      return jax.random.fold_in(key, stream + NUM_STREAMS * num_rollbacks)

    def random(stream, function):
      keys = jax.vmap(lambda i: jax.random.fold_in(key_of(stream), i))
      return jax.vmap(function)(keys(places.reshape(-1)))

    draws = {
      'x': preprocess(images, *(random(*chance) for chance in chances)),
      'mix': random(MIX_STREAM, jax.random.uniform),
    }
    parts = _split(draws, num_parts)
    space = autoencoder.latent_space(parts[0]['x'].shape[1:-1])
    for part, own in zip(parts, places, strict=True):
      part['noise'] = latent.draw_noise(
        key_of(NOISE_STREAM), own, part_size, space
      )
      if with_prior:
        part['prior'] = latent.draw_prior(key_of(PRIOR_STREAM), own, space)
    return parts

  return draw


def _chances(num_flips, margin) -> list[tuple[int, Callable]]:
  """(stream, (key) -> draw of one image) of all that `preprocess` takes."""
  chances = [(s, jax.random.bernoulli) for s in _FLIP_STREAMS[:num_flips]]
  if margin:  # On each of as many axes as there may be.
    ends = (MAX_AXES,), 0, margin + 1
    chances.append((CROP_STREAM, lambda key: jax.random.randint(key, *ends)))
  return chances


def _split(draws: Draw, num_parts: int) -> list[Draw]:
  """The draws [K B, ...] of each of the K parts, [B, ...]."""
  parts = jax.tree.map(lambda a: a.reshape(num_parts, -1, *a.shape[1:]), draws)
  return [{k: v[i] for k, v in parts.items()} for i in range(num_parts)]


def _places(num_parts, batch_size, part_size) -> jax.Array:
  """Places in the global batch of this device's images, [K, B]."""
  place = devices.index() * batch_size + jnp.arange(batch_size)
  return jnp.arange(num_parts)[:, None] * part_size + place
