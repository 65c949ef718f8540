"""An autoencoder that is applied in tiles, for images above its memory.

The images and their reconstructions are on the devices whole; the networks see
one tile of each at a time. See `models/tile_plan.py` for the tiles.
Axes: B examples; S axes of space, S' those of a latent map; C channels; Z
entries of a latent.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaegan_jax.models.tile_grid import Grid
from vaegan_jax.models.tile_plan import DECODER, ENCODER, TilePlan
from vaegan_jax.runtime import devices

Variables = Mapping[str, Any]


class TiledAutoencoder:
  """The functions of an autoencoder that evaluations need, in tiles.

  Each takes the variables and arrays on the devices.
  """

  def __init__(self, plan: TilePlan, batch_size: int, seed: int):
    """Takes the tiles, images that `decode` takes at a time, and the seed."""
    self._plan, self._batch_size = plan, batch_size
    latent = plan.autoencoder.latent
    self._is_smooth = not plan.is_exact
    # Codes cannot be blended: each is that of one tile.
    self._blends_latents = self._is_smooth and not hasattr(
      latent, 'codebook_size'
    )
    self._apply = functools.partial(_apply, plan.autoencoder)
    self._sample = functools.partial(_sample, plan.autoencoder, seed)

  def reconstruct(self, variables: Variables, x: jax.Array):
    """Returns x_recon [B, *S, C], latents [B, *S', Z], and their measures."""
    encoded = self._apply(_encode, variables, self._encoder(variables, x))
    x_recon = self._decoder(variables, encoded['latents'])
    measured = self._plan.autoencoder.latent.measure(encoded)
    return x_recon, encoded['latents'], measured

  def sample(self, variables: Variables, x, indices) -> jax.Array:
    """Reconstructs from a sample of each latent, a function of its index."""
    h = self._encoder(variables, x)
    return self._decoder(variables, self._sample(variables, h, indices))

  def decode(self, variables: Variables, latents: np.ndarray) -> np.ndarray:
    """Maps latents [N, *S', Z] to [N, *S, C], one batch at a time."""
    batches = devices.map_batches(
      functools.partial(self._decoder, variables),
      latents,
      batch_size=self._batch_size,
      what='Decoding',
    )
    return np.concatenate([images for _, images in batches])

  def from_prior(self, variables: Variables, prior: jax.Array) -> np.ndarray:
    """Decodes what `latent.sample_prior` returned, as `decode` does."""
    latents = self._apply(_from_prior, variables, prior)
    return self.decode(variables, np.asarray(latents))

  def _decoder(self, variables, latents) -> jax.Array:
    grid = self._plan.grid(latents.shape[1:-1], DECODER)
    grids = grid, grid.scaled(self._plan.factor)
    decode = functools.partial(self._apply, _decoder, variables)
    return map_tiles(decode, latents, *grids, self._is_smooth)

  def _encoder(self, variables, x) -> jax.Array:
    """Returns the input of the latent, [B, *S', ...]."""
    grid = self._plan.grid(self._plan.cells(x.shape[1:-1]), ENCODER)
    encode = functools.partial(self._apply, _encoder, variables)
    grids = grid.scaled(self._plan.factor), grid
    return map_tiles(encode, x, *grids, self._blends_latents)


def map_tiles(
  function: Callable[[jax.Array], jax.Array],
  x: jax.Array,
  sources: Grid,
  targets: Grid,
  smooth: bool,
) -> jax.Array:
  """Applies a function to overlapping tiles, and joins what it returns.

  Args:
    function: maps [B, *tile of `sources`, C] to [B, *tile of `targets`, D].
    x: [B, *S, C].
    sources, targets: the places of the same tiles in x and in the result.
    smooth: whether overlapping tiles are blended.

  Returns:
    [B, *S', D], S' the shape that `targets` covers.
  """
  joined = None
  for places in targets.tiles():
    y = function(_cut(x, sources.tile, _starts(sources, places)))
    if joined is None:
      shape = len(x), *targets.space, y.shape[-1]
      joined = jnp.zeros(shape, y.dtype, device=y.sharding)
    weights = [
      targets.weights(axis, place, smooth).astype(y.dtype)
      for axis, place in enumerate(places)
    ]
    joined = _add(joined, y, weights, _starts(targets, places))
  return joined


def _starts(grid: Grid, places: tuple[int, ...]) -> np.ndarray:
  """Returns the first positions of a tile [axes of space], int32."""
  pairs = zip(grid.starts, places, strict=True)
  return np.array([starts[place] for starts, place in pairs], np.int32)


@functools.partial(jax.jit, static_argnums=1)
def _cut(x, tile, starts) -> jax.Array:
  sizes = len(x), *tile, x.shape[-1]
  return jax.lax.dynamic_slice(x, (0, *starts, 0), sizes)


@functools.partial(jax.jit, donate_argnums=0)
def _add(joined, y, weights, starts) -> jax.Array:
  """Adds a weighted tile to what is joined so far."""
  for axis, weight in enumerate(weights):
    y = y * weight.reshape([-1] + [1] * (y.ndim - axis - 2))
  starts = 0, *starts, 0
  y = y + jax.lax.dynamic_slice(joined, starts, y.shape)
  return jax.lax.dynamic_update_slice(joined, y, starts)


# Those of equal modules share what is compiled, as in a study.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(autoencoder, method, variables, *arrays):
  return autoencoder.apply(variables, *arrays, method=method)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sample(autoencoder, seed, variables, h, indices):
  noise = autoencoder.latent.sample_noise(
    jax.random.key(seed), indices, len(h), h.shape[1:-1]
  )
  return autoencoder.apply(variables, h, noise, method=_latents)


def _encoder(module, x):
  return module.encoder(x)


def _decoder(module, latents):
  return module.decoder(latents)


def _encode(module, h):
  return module.latent.encode(h)


def _latents(module, h, noise):
  return module.latent(h, noise)[0]


def _from_prior(module, prior):
  return module.latent.from_prior(prior)
