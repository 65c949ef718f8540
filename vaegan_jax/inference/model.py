"""A finished model, for use in other code.

    model = vaegan_jax.load('runs/celeba')
    x = model.preprocess(images)
    posterior = model.encode(x)
    x_recon = model.decode(posterior.sample(jax.random.key(0)))

Axes: B batch, S axes of space (of an image its height and width, of a latent
those of its map, () where it is flat), C channels, Z entries of a latent, T
entries of Z that make one code.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import struct

from vaegan_jax.config.shapes import example_shape
from vaegan_jax.data import pixels
from vaegan_jax.errors import UserError
from vaegan_jax.inference.latent_statistics import LatentStatistics
from vaegan_jax.inference.posterior import Posterior
from vaegan_jax.inference.preprocess import preprocess
from vaegan_jax.losses import reconstruction
from vaegan_jax.models.tensors import digest, to_tensors


class TrainedModel(struct.PyTreeNode):
  """Autoencoder with averaged weights, and the critic trained beside it.

  It is a pytree, for arguments of `jax.jit`, `jax.device_put` and the like. Its
  methods are compiled, and may be called in other compiled functions. Images
  are float32 in [-1, 1], as `preprocess` returns them.

  Attributes:
    variables: {'autoencoder', 'critic': those of Flax}; no critic where there
      is none. 'layer_sizes' are those of the distance's layers in the data.
    statistics: statistics of the latents; None where they were not measured.
    autoencoder: the Flax module.
    critic: the Flax module, or None.
    loss: settings of the distance.
    config: every field of the run, frozen.
    step: number of updates of the weights.
    source: the folder that it was loaded from.
  """

  variables: Mapping[str, Any]
  statistics: LatentStatistics | None
  autoencoder: nn.Module = struct.field(pytree_node=False)
  critic: nn.Module | None = struct.field(pytree_node=False)
  loss: reconstruction.LossConfig = struct.field(pytree_node=False)
  config: ml_collections.FrozenConfigDict = struct.field(pytree_node=False)
  step: int = struct.field(pytree_node=False)
  source: str = struct.field(pytree_node=False)

  @property
  def image_shape(self) -> tuple[int, ...]:
    """The shape (*S, C) of its training examples."""
    return example_shape(self.config.data)

  @property
  def latent_shape(self) -> tuple[int, ...]:
    """The shape (*S, Z) of the latents of such an example."""
    space = self.autoencoder.latent_space(self.image_shape[:-1])
    return (*space, self.config.model.latent_dim)

  @property
  def latent_mean(self) -> jax.Array:
    """Mean [Z] of samples of the posterior, over the training images."""
    return self._measured().mean

  @property
  def latent_std(self) -> jax.Array:
    """Standard deviation [Z] of the same samples."""
    return self._measured().std

  @property
  def scaling_factor(self) -> jax.Array:
    """1 / the standard deviation of all entries together, []."""
    return self._measured().scaling_factor

  @property
  def fingerprint(self) -> str:
    """Identifies the autoencoder's weights, in workdirs and exports."""
    return digest(to_tensors(self.variables['autoencoder']))[:16]

  def preprocess(self, images: Any) -> jax.Array:
    """Prepares images as training did, without flips.

    Args:
      images: [B, H, W, C] or [H, W, C] uint8, or a list of [H, W, C] of any
        sizes, or of Pillow's images. Other sizes and channels than the
        training's are converted by Pillow. A run on arrays takes arrays of real
        numbers in the data's own units, and cuts out their middle. NaN and
        `data.nodata` mean no data, which is filled as in training. Within
        `jax.jit` and the like they must have the training's shape.

    Returns:
      [B, *S, C] float32 in [-1, 1], of the training's shape.

    Raises:
      UserError: they are not uint8 (arrays: not real numbers), too small, have
        more no data than `data.max_nodata` or, within `jax.jit`, another shape.
    """
    return preprocess(images, self.config.data)

  def to_values(self, x: jax.Array) -> jax.Array:
    """Maps [..., C] in [-1, 1] to the data's own units, as float32."""
    data = self.config.data
    return pixels.to_values(x, data.value_range, data.mid_side)

  @jax.jit
  def encode(self, x: jax.Array) -> Posterior:
    """Encodes images x, [B, *S, C] float32 in [-1, 1].

    Raises:
      UserError: the encoder does not take their channels or sides.
    """
    self._check_images(x)
    variables = self.variables['autoencoder']
    return Posterior(**self.autoencoder.apply(variables, x, method='encode'))

  @jax.jit
  def decode(self, latents: jax.Array) -> jax.Array:
    """Decodes latents to images, [B, *S, C] float32 in [-1, 1].

    Args:
      latents: [B, *S, Z] float32; or indices of codes, [B, *S, Z / T] whole
        numbers.

    Raises:
      UserError: their shape is not this model's.
    """
    whole = jnp.issubdtype(latents.dtype, jnp.integer)
    self._check_latents(latents, whole)
    return self.autoencoder.apply(
      self.variables['autoencoder'],
      latents,
      method='from_prior' if whole else 'decode',
    )

  @jax.jit
  def reconstruct(self, x: jax.Array) -> jax.Array:
    """Encodes and decodes images x, [B, *S, C] in [-1, 1], from the mode.

    Where the latent is a map, the sides may be any: the last row and column are
    repeated until the encoder takes them.

    Raises:
      UserError: as `encode`.
    """
    sides = x.shape[1:-1]
    if not self.autoencoder.encoder.flat:
      factor = self.autoencoder.encoder.factor
      for axis, side in enumerate(sides, start=1):
        # `jnp.pad` with 'edge' is refused on an explicit mesh.
        last = jax.lax.slice_in_dim(x, side - 1, side, axis=axis)
        x = jnp.concatenate([x, *[last] * (-side % factor)], axis=axis)
    x_recon = self.decode(self.encode(x).mode())
    return x_recon[:, *(slice(side) for side in sides)]

  def reconstruct_tiled(
    self, x: np.ndarray, tile: int | Sequence[int], batch_size: int = 8
  ) -> np.ndarray:
    """Does what `reconstruct` does in overlapping tiles; see `tiling.py`.

    Args:
      x: [B, *S, C] in [-1, 1], S of any lengths; it may be a memory map.
      tile: side of the tiles in pixels, for all axes or for each.
      batch_size: tiles of the training's size that are computed at a time.

    Returns:
      [B, *S, C] float32, in the host's memory.

    Raises:
      UserError: the network does not take such inputs or tiles.
    """
    # Imported here: loading and encoding need none of `runtime`.
    from vaegan_jax.inference.tiling import Tiler

    sides = (tile,) if isinstance(tile, int) else tuple(tile)
    self._check_channels(x)
    tiler = Tiler(self, sides, batch_size)
    return np.stack([tiler.reconstruct(example) for example in x])

  @functools.partial(jax.jit, static_argnums=2)
  def sample(self, key: jax.Array, n: int) -> jax.Array:
    """Decodes samples of the prior, [n, *S, C] in [-1, 1].

    A plain autoencoder ('none') has no prior and samples a normal distribution.
    """
    return self.autoencoder.apply(
      self.variables['autoencoder'],
      self.sample_prior(key, n),
      method='from_prior',
    )

  @functools.partial(jax.jit, static_argnums=2)
  def sample_prior(self, key: jax.Array, n: int) -> jax.Array:
    """Samples latents for `decode`: [n, *S, Z], or [n, *S, Z / T] of codes.

    Each depends on the key and on its own index alone.
    """
    space = self.latent_shape[:-1]
    return self.autoencoder.latent.sample_prior(key, jnp.arange(n), space)

  draw_prior = sample_prior  # The name in earlier versions.

  @jax.jit
  def features(self, x: jax.Array) -> dict[str, jax.Array]:
    """Returns the critic's features of images x, [B, *S, C] in [-1, 1].

    They are {layer: [B, ...]}, those of the distance, in forward order.

    Raises:
      UserError: the run has no critic, or x has other channels.
    """
    if self.critic is None:
      raise UserError(
        f'{self.source} has no critic, as objective is '
        f'{self.config.objective!r}, or as it was exported without: load a run '
        'that has one'
      )
    self._check_channels(x)
    return reconstruction.loss_features(
      self.loss, self.critic, self.variables['critic'], x
    )

  @jax.jit
  def distance(self, x: jax.Array, y: jax.Array) -> jax.Array:
    """Computes the run's perceptual distance [B] of images [B, *S, C].

    Gradients reach y alone: x is the reference, and the critic is frozen, as in
    `perceptual_distance`. With `config.loss.normalize` 'local' or 'batch' the
    distance depends on the batch.

    Raises:
      UserError: as `features`.
    """
    x = jax.lax.stop_gradient(x)
    frozen = self.replace(variables=jax.lax.stop_gradient(self.variables))
    return reconstruction.compare(
      self.loss,
      x,
      y,
      frozen.features(x),
      frozen.features(y),
      sizes=frozen.variables.get('layer_sizes'),
    )

  def _measured(self) -> LatentStatistics:
    if self.statistics is None:
      raise UserError(
        f'the latents of {self.source} at step {self.step:,} were not '
        'measured, as an earlier version trained it or training has not ended: '
        f'--mode=encode --split=train --workdir={self.source} writes '
        'latents.json'
      )
    return self.statistics

  def _check_images(self, x) -> None:
    self._check_channels(x)
    factor = self.autoencoder.encoder.factor
    sides, wanted = x.shape[1:-1], self.image_shape[:-1]
    if self.autoencoder.encoder.flat and sides != wanted:
      rule = f'have the sides {wanted} of its training'
    elif any(side % factor for side in sides):
      rule = f'have sides that {factor} divides'
    else:
      return
    raise UserError(
      f'x has the sides {sides}, and must {rule}: model.preprocess(images) '
      'cuts and resizes as training did'
    )

  def _check_channels(self, x) -> None:
    channels, ndim = self.config.data.channels, 1 + len(self.image_shape)
    if x.ndim != ndim or x.shape[-1] != channels:
      space = ('T', 'H, W', 'D, H, W')[ndim - 3]
      raise UserError(
        f'x has the shape {x.shape}, and images for {self.source} are '
        f'[B, {space}, {channels}]: model.preprocess(images) converts them'
      )
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise UserError(
        f'x is {x.dtype}, and must be float32 in [-1, 1]: '
        'model.preprocess(images) makes that of uint8'
      )

  def _check_latents(self, latents, whole: bool) -> None:
    latent, (*space, size) = self.autoencoder.latent, self.latent_shape
    if whole and not hasattr(latent, 'codebook_size'):
      raise UserError(
        f'latents are {latents.dtype}, and those of {self.source}, whose '
        f'model.latent is {self.config.model.latent!r}, have no indices: give '
        'float32'
      )
    size = size // latent.code_dim if whole else size
    if latents.ndim != len(space) + 2 or latents.shape[-1] != size:
      raise UserError(
        f'latents have the shape {latents.shape}, and those of {self.source} '
        f'are [B, {", ".join(map(str, (*space, size)))}]: they are of another '
        'model'
      )
