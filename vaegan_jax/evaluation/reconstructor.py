"""Held-out examples, and what an autoencoder makes of them.

Axes: N examples; S, one to three axes of space; S' those of a latent map; C
channels; Z entries of a latent.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaegan_jax.data import pixels
from vaegan_jax.data.split import Images
from vaegan_jax.evaluation.tiled import TiledAutoencoder
from vaegan_jax.models.autoencoder import Autoencoder
from vaegan_jax.models.tile_plan import TilePlan
from vaegan_jax.runtime import devices

NUM_COLUMNS = 8  # In figures of images; half of the originals shown.
NUM_SAMPLES = 64
Variables = Mapping[str, Any]  # {network: what `module.apply` takes}.
Poll = Callable[[], None]  # Called between batches; may raise to end the work.


def never_stop() -> None:
  """Does nothing: the default of `poll`."""


class Reconstructor:
  """Held-out examples, and what an autoencoder makes of them."""

  def __init__(
    self,
    autoencoder: Autoencoder,
    images: Images,
    *,
    batch_size: int,
    seed: int,
    value_range: pixels.ValueRange = 'dtype',
    masked: bool = False,
    mid_side: bool = False,
    tiles: TilePlan | None = None,
  ):
    """Prepares the compiled functions; computes nothing yet.

    Args:
      batch_size: examples in a batch, shared over this process's devices.
      seed: seed of the samples from the prior and from the latent.
      value_range: as `pixels.to_float` takes it.
      masked: whether NaN in the examples means no data.
      mid_side: whether the networks take mid and side of left and right.
      tiles: in which the autoencoder is applied; None: it takes whole examples.
    """
    self._images = images
    self._batch_size, self._seed = batch_size, seed
    self._value_range = value_range
    self._masked, self._mid_side = masked, mid_side
    self._latent = autoencoder.latent
    self._latent_space = autoencoder.latent_space
    self._reconstruct = functools.partial(_reconstruct, autoencoder)
    self._decode, self._from_prior = (
      functools.partial(_apply, autoencoder, method)
      for method in ('decode', 'from_prior')
    )
    self._sample = functools.partial(_sample, autoencoder, seed)
    self._tile_notes = (tiles.description,) if tiles else ()
    if tiles:
      tiled = TiledAutoencoder(tiles, batch_size, seed)
      self._reconstruct, self._sample = tiled.reconstruct, tiled.sample
      self._decode, self._from_prior = tiled.decode, tiled.from_prior

  @functools.cached_property
  def shape(self) -> tuple[int, ...]:
    """The shape (*S, C) of an example."""
    return self._images[np.arange(1)].shape[1:]

  @property
  def has_codes(self) -> bool:
    """Whether the latent is discrete."""
    return hasattr(self._latent, 'codebook_size')

  def reconstruct(
    self, variables: Variables, indices: Sequence[int], poll: Poll = never_stop
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reconstructs chosen examples; their program is that of `evaluate`.

    Args:
      indices: of the held-out examples; later ones than there are are skipped.

    Returns:
      The examples and their reconstructions, [N, *S, C], both NaN where there
      is no data, and their latents [N, *S', Z].
    """
    autoencoder = devices.replicate(variables['autoencoder'])

    def reconstruct(images):
      x, valid = self._prepare(images)
      x_recon, latents, _ = self._reconstruct(autoencoder, x)
      if self._masked:
        x, x_recon = (jnp.where(valid, i, jnp.nan) for i in (x, x_recon))
      x, x_recon = map(self._heard, (x, x_recon))
      return {'x': x, 'x_recon': x_recon, 'latents': latents}

    batches = devices.map_batches(
      reconstruct,
      self._images,
      batch_size=self._batch_size,
      what='Reconstructing',
      indices=[i for i in indices if i < len(self._images)],
      poll=poll,
    )
    values = concatenate(batches)
    return values['x'], values['x_recon'], values['latents']

  def sample(self, variables: Variables) -> np.ndarray:
    """Decodes 64 samples of the prior, [64, *S, C]."""
    key, space = jax.random.key(self._seed), self._latent_space(self.shape[:-1])
    prior = self._latent.sample_prior(key, np.arange(NUM_SAMPLES), space)
    autoencoder = devices.replicate(variables['autoencoder'])
    return np.asarray(self._heard(self._from_prior(autoencoder, prior)))

  def interpolate(
    self, variables: Variables, first: np.ndarray, last: np.ndarray
  ) -> np.ndarray:
    """Decodes the way between two latents [*S', Z], [8, *S, C]."""
    weights = np.linspace(0.0, 1.0, NUM_COLUMNS, dtype=np.float32)
    weights = weights.reshape(-1, *[1] * first.ndim)
    path = (1 - weights) * first + weights * last
    autoencoder = devices.replicate(variables['autoencoder'])
    return np.asarray(self._heard(self._decode(autoencoder, path)))

  def _prepare(self, images) -> tuple[jax.Array, jax.Array | None]:
    """Returns x [B, *S, C] in [-1, 1], and which values count; None: all."""
    x = pixels.to_float(images, self._value_range, self._mid_side)
    return pixels.fill(x) if self._masked else (x, None)

  def _heard(self, x: jax.Array) -> jax.Array:
    """Returns what is measured, shown and played: never mid and side."""
    return pixels.left_right(x) if self._mid_side else x


def concatenate(batches) -> dict[str, np.ndarray]:
  """Joins the values [b, ...] of (indices, {name: values}), name by name."""
  parts = [values for _, values in batches]
  return {k: np.concatenate([p.pop(k) for p in parts]) for k in list(parts[0])}


# Those of equal modules share what is compiled, as in a study.


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(autoencoder, method, variables, latents):
  return autoencoder.apply(variables, latents, method=method)


@functools.partial(jax.jit, static_argnums=0)
def _reconstruct(autoencoder, variables, x):
  """Returns reconstructions, latents, and what `Latent.measure` returns."""
  encoded = autoencoder.apply(variables, x, method='encode')
  x_recon = autoencoder.apply(variables, encoded['latents'], method='decode')
  return x_recon, encoded['latents'], autoencoder.latent.measure(encoded)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sample(autoencoder, seed, variables, x, indices) -> jax.Array:
  """Reconstructs from a sample of each latent, a function of its index."""
  space = autoencoder.latent_space(x.shape[1:-1])
  noise = autoencoder.latent.sample_noise(
    jax.random.key(seed), indices, len(x), space
  )
  return autoencoder.apply(variables, x, noise)[0]
