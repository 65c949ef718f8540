"""What chance gives a step: flips, latent noise, samples of the prior, mixing.

Nothing random is stored. A draw is a function of the seed, the step, what it is
for and the image's place in the global batch, so that a batch gets the same on
one device and on many, and a resumed run the same as one that never stopped.
Axes: B images on one device, H height, W width, C channels, Z latent.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vaegan_jax.training import devices

# One stream of randomness for each use.
FLIP_STREAM, NOISE_STREAM, PRIOR_STREAM, MIX_STREAM = range(4)
NUM_STREAMS = 8  # Room for more, without a change to what these draw.

Draw = dict[str, jax.Array]


def create_draw(
  preprocess: Callable[[jax.Array, jax.Array], jax.Array],
  *,
  seed: int,
  latent_dim: int,
  num_parts: int,
  with_prior: bool,
) -> Callable[[jax.Array, jax.Array, jax.Array], list[Draw]]:
  """Builds what draws for one update on one device.

  Args:
    preprocess: (images [B, H, W, C] uint8, flip [B] bool) -> x [B, H, W, C]
      float32 in [-1, 1].
    seed: of everything that is drawn.
    latent_dim: Z.
    num_parts: K, parts of the batch, one a critic step.
    with_prior: whether samples of the prior are drawn.

  Returns:
    (step [], number of rollbacks [], images [K B, H, W, C] uint8) -> K dicts:
    x [B, H, W, C], flipped at random, noise [B, Z], mix [B] uniform in [0, 1],
    and perhaps prior [B, Z].
  """

  def normal(key):
    return jax.random.normal(key, (latent_dim,))

  def draw(step, num_rollbacks, images):
    batch_size = images.shape[0] // num_parts
    key = jax.random.fold_in(jax.random.key(seed), step)
    places = _places(num_parts, batch_size)

    def random(stream, function):
      # A step that is taken again after a rollback gets other randomness.
      of_stream = jax.random.fold_in(key, stream + NUM_STREAMS * num_rollbacks)
      return jax.vmap(lambda i: function(jax.random.fold_in(of_stream, i)))(
        places
      )

    flip = random(FLIP_STREAM, jax.random.bernoulli)
    draws = {
      'x': preprocess(images, flip),
      'noise': random(NOISE_STREAM, normal),
      'mix': random(MIX_STREAM, jax.random.uniform),
    }
    if with_prior:
      draws['prior'] = random(PRIOR_STREAM, normal)
    parts = jax.tree.map(
      lambda a: a.reshape(num_parts, batch_size, *a.shape[1:]), draws
    )
    return [{k: v[i] for k, v in parts.items()} for i in range(num_parts)]

  return draw


def _places(num_parts, batch_size) -> jax.Array:
  """Places in the global batch of this device's images, [K B]."""
  part_size = devices.psum(batch_size)
  place = devices.index() * batch_size + jnp.arange(batch_size)
  places = jnp.arange(num_parts)[:, None] * part_size + place
  return places.reshape(-1)
