"""Encodes and decodes inputs of any size in overlapping tiles.

All tiles of an input have one shape, and one batch of them at a time is on the
devices; the whole input and output are in the host's memory.
`models/tile_plan.py` has the places of the tiles, and how they are joined.
Axes: B batch, S axes of space (of an input its pixels, of a latent its map), C
channels, Z entries of a latent, N tiles.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from vaegan_jax.errors import UserError
from vaegan_jax.inference.posterior import Posterior
from vaegan_jax.models.tile_grid import Canvas, Tiles
from vaegan_jax.models.tile_plan import DECODER, ENCODER, TilePlan
from vaegan_jax.runtime import devices


@dataclasses.dataclass(frozen=True)
class Tiler:
  """Encodes and decodes single inputs in tiles."""

  model: Any  # A `TrainedModel`.
  tile: Sequence[int]  # Side of the tiles in pixels, for all axes or for each.
  # Tiles of the training's size in a batch; of larger ones as many as have the
  # same number of pixels.
  batch_size: int = 8
  name: str = 'tile'  # Name of `tile` in messages.

  def __post_init__(self):
    _ = self.plan  # It checks the tiles.

  @functools.cached_property
  def plan(self) -> TilePlan:
    """The places of the tiles."""
    model = self.model
    return TilePlan(
      model.autoencoder,
      model.variables['autoencoder'],
      model.image_shape,
      self.tile,
      self.name,
    )

  def encode(
    self,
    x: np.ndarray,
    *,
    prepare: Callable[[jax.Array], jax.Array] | None = None,
    what: str = 'Encoding',
  ) -> Posterior:
    """Encodes one input.

    Args:
      x: [*S, C] in [-1, 1], S of any lengths.
      prepare: function of a batch of tiles on the devices, applied before the
        encoder; for values of other ranges.

    Returns:
      The posterior in NumPy, of [*S', Z], where S' is S over the factor,
      rounded up. A flat latent has [N, Z], tile by tile.
    """
    plan = self.plan
    cells = plan.cells(x.shape[: len(plan.tile)])
    grid = plan.grid(cells, ENCODER)
    canvases, found = {}, []

    def encode(batch):
      return self._model.encode(prepare(batch) if prepare else batch)

    batches = self._map(encode, Tiles(x, grid.scaled(plan.factor)), what)
    for indices, posterior in batches:
      fields = {k: v for k, v in vars(posterior).items() if v is not None}
      if plan.is_flat:
        found.append(fields)
        continue
      # Codes cannot be blended, and their vectors are those of one tile, too.
      smooth = not plan.is_exact and posterior.indices is None
      for name, tiles in fields.items():
        canvas = canvases.setdefault(name, Canvas(grid, smooth))
        for index, tile in zip(indices, tiles, strict=True):
          canvas.add(index, tile)
    if plan.is_flat:
      joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)
      return Posterior(**joined)
    return Posterior(**{k: c.result(cells) for k, c in canvases.items()})

  def decode(
    self,
    latents: np.ndarray,
    space: Sequence[int] = (),
    *,
    finish: Callable[[jax.Array], jax.Array] | None = None,
    what: str = 'Decoding',
    scratch: str = '',
  ) -> np.ndarray:
    """Decodes the latents of one input.

    Args:
      latents: [*S', Z] or indices, as `encode` returns them; of a flat latent
        [N, Z].
      space: S of the output; (): that of a whole map.
      finish: function of a batch of tiles on the devices, applied after the
        decoder; it must be affine, as `to_values` is.
      what: the name of the work on the line of progress.
      scratch: a folder for a temporary file with the output; '' keeps it in
        memory.

    Returns:
      [*S, C] float32, in [-1, 1] unless `finish` changes that.

    Raises:
      UserError: the latents are not of such an input.
    """
    plan = self.plan
    space = tuple(space) or tuple(n * plan.factor for n in latents.shape[:-1])
    cells = wanted = plan.cells(space)
    grid = plan.grid(cells, DECODER) if len(cells) == len(plan.tile) else None
    if plan.is_flat and grid:
      wanted = (len(grid.tiles()),)
    if not grid or latents.shape[:-1] != wanted:
      raise UserError(
        f'latents have the shape {latents.shape}, and those of an input of '
        f'{space} in tiles of {plan.tile} begin with {wanted}: encode it again'
      )
    examples = latents if plan.is_flat else Tiles(latents, grid)

    def decode(batch):
      x = self._model.decode(batch)
      return finish(x) if finish else x

    canvas = Canvas(grid.scaled(plan.factor), not plan.is_exact, scratch)
    for indices, tiles in self._map(decode, examples, what):
      for index, tile in zip(indices, tiles, strict=True):
        canvas.add(index, tile)
    return canvas.result(space)

  def reconstruct(self, x: np.ndarray) -> np.ndarray:
    """Encodes and decodes x, [*S, C] in [-1, 1], from the mode."""
    posterior = self.encode(x, what='Reconstructing: encoding')
    return self.decode(
      codes_of(posterior), x.shape[:-1], what='Reconstructing: decoding'
    )

  def _map(self, function: Callable, examples: Any, what: str):
    """Applies a function to batches of tiles, on all devices."""
    trained = self.model.image_shape[:-1]
    number = math.prod(trained) * self.batch_size // math.prod(self.plan.tile)
    # Inputs of several sizes have few batch sizes, each compiled once.
    most = 2 ** (len(examples) - 1).bit_length()
    return devices.map_batches(
      function, examples, batch_size=min(max(number, 1), most), what=what
    )

  @functools.cached_property
  def _model(self) -> Any:
    return devices.replicate(self.model)


def codes_of(posterior: Posterior) -> np.ndarray:
  """Returns what `decode` takes: indices of codes, or the mode."""
  return posterior.latents if posterior.indices is None else posterior.indices
