"""Encodes and decodes inputs of any size in overlapping tiles.

All tiles of an input have one shape, and one batch of them at a time is on the
devices; the whole input and output are in the host's memory.

Tiles of a network of convolutions overlap by their reach. Each position comes
from the tile whose edge is farthest, so the result is that of the whole input,
up to rounding. Where every output depends on the whole input (GroupNorm,
InstanceNorm, attention, flat latents), tiles overlap by a quarter and are
blended. That result differs from the whole input's, but has no seams.

Tiles are placed by cells: the `factor` pixels along each axis that one position
of the latent's map stands for, or a single pixel if the latent is flat.
Axes: B batch, S axes of space (of an input its pixels, of a latent its map), C
channels, Z entries of a latent, N tiles.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from vaegan_jax.errors import UserError
from vaegan_jax.inference.posterior import Posterior
from vaegan_jax.inference.tile_grid import Canvas, Grid, Tiles, place_tiles
from vaegan_jax.runtime import devices

_SEES_ALL = (nn.GroupNorm, nn.InstanceNorm, nn.LayerNorm)
_PARTS = 4  # Blended tiles overlap by one in this many parts of a side.


@dataclasses.dataclass(frozen=True)
class Tiler:
  """Encodes and decodes single inputs in tiles.

  Attributes:
    model: a `TrainedModel`.
    tile: side of the tiles in pixels, for all axes or for each.
    batch_size: tiles of the training's size in a batch; of larger ones as many
      as have the same number of pixels.
    name: of `tile` in messages.
  """

  model: Any
  tile: Sequence[int]
  batch_size: int = 8
  name: str = 'tile'

  def __post_init__(self):
    """Checks the tiles.

    Raises:
      UserError: they have other axes than the model's inputs, are too small, or
        no multiple of its factor.
    """
    num_axes, given = len(self._trained), tuple(self.tile)
    if len(given) not in (1, num_axes):
      self._refuse(f'have 1 or {num_axes} sides', self._trained)
    tile = given * num_axes if len(given) == 1 else given
    object.__setattr__(self, 'tile', tile)
    if self.is_flat:
      if tile != self._trained:
        self._refuse(
          'be the shape of the training, because the latents are flat',
          self._trained,
        )
      return
    least = max(4, 1 + max(self._overlaps))
    if any(side % self._factor or side < least * self._factor for side in tile):
      fitting = (max(least, -(-n // self._factor)) * self._factor for n in tile)
      self._refuse(
        f'be a multiple of {self._factor}, and at least '
        f'{least * self._factor}, for this network',
        tuple(fitting),
      )

  @property
  def is_flat(self) -> bool:
    """Whether a tile has one latent vector."""
    return self.model.autoencoder.encoder.flat

  @functools.cached_property
  def is_exact(self) -> bool:
    """Whether the result is that of the whole input, up to rounding."""
    return not self.is_flat and max(self._reaches) < math.inf

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
      what: the name of the work on the line of progress.

    Returns:
      The posterior in NumPy, of [*S', Z], where S' is S over the factor,
      rounded up. Of a flat latent [N, Z], tile by tile.
    """
    cells = self._cells(x.shape[: len(self.tile)])
    grid = self.grid(cells, 0)
    canvases, found = {}, []

    def encode(batch):
      return self._model.encode(prepare(batch) if prepare else batch)

    batches = self._map(encode, Tiles(x, grid.scaled(self._factor)), what)
    for indices, posterior in batches:
      fields = {k: v for k, v in vars(posterior).items() if v is not None}
      if self.is_flat:
        found.append(fields)
        continue
      # Codes cannot be blended, and their vectors are those of one tile, too.
      smooth = not self.is_exact and posterior.indices is None
      for name, tiles in fields.items():
        canvas = canvases.setdefault(name, Canvas(grid, smooth))
        for index, tile in zip(indices, tiles, strict=True):
          canvas.add(index, tile)
    if self.is_flat:
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
    space = tuple(space) or tuple(n * self._factor for n in latents.shape[:-1])
    cells = wanted = self._cells(space)
    grid = self.grid(cells, 1) if len(cells) == len(self.tile) else None
    if self.is_flat and grid:
      wanted = (len(grid.tiles()),)
    if not grid or latents.shape[:-1] != wanted:
      raise UserError(
        f'latents have the shape {latents.shape}, and those of an input of '
        f'{space} in tiles of {self.tile} begin with {wanted}: encode it again'
      )
    examples = latents if self.is_flat else Tiles(latents, grid)

    def decode(batch):
      x = self._model.decode(batch)
      return finish(x) if finish else x

    canvas = Canvas(grid.scaled(self._factor), not self.is_exact, scratch)
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

  def grid(self, cells: Sequence[int], network: int) -> Grid:
    """Places tiles for the encoder, 0, or the decoder, 1."""
    if self.is_flat:  # A tile may be longer than the input, which is repeated.
      cells = tuple(map(max, cells, self.tile))
      overlap = [n // _PARTS for n in self.tile]
      return place_tiles(cells, self.tile, overlap)
    tile = [n // self._factor for n in self.tile]
    overlap = [self._overlaps[network]] * len(tile)
    if not self.is_exact:
      overlap = [n // _PARTS for n in tile]
    return place_tiles(cells, tile, overlap)

  def _map(self, function: Callable, examples: Any, what: str):
    """Applies a function to batches of tiles, on all devices."""
    number = math.prod(self._trained) * self.batch_size // math.prod(self.tile)
    # Inputs of several sizes have few batch sizes, each compiled once.
    most = 2 ** (len(examples) - 1).bit_length()
    return devices.map_batches(
      function, examples, batch_size=min(max(number, 1), most), what=what
    )

  def _cells(self, space: Sequence[int]) -> tuple[int, ...]:
    return tuple(-(-n // self._factor) for n in space)

  @functools.cached_property
  def _model(self) -> Any:
    return devices.replicate(self.model)

  @property
  def _trained(self) -> tuple[int, ...]:
    return tuple(self.model.image_shape[:-1])

  @property
  def _factor(self) -> int:
    return 1 if self.is_flat else self.model.autoencoder.encoder.factor

  @functools.cached_property
  def _reaches(self) -> tuple[float, float]:
    return tuple(reach(self.model, name) for name in ('encoder', 'decoder'))

  @property
  def _overlaps(self) -> tuple[int, ...]:
    """Cells that the encoder's and the decoder's exact tiles share."""
    if not self.is_exact:
      return 0, 0
    return tuple(2 * math.ceil(n / self._factor) for n in self._reaches)

  def _refuse(self, rule: str, fitting: Sequence[int]) -> None:
    given, example = (
      ','.join(map(str, sides[:1] if len(set(sides)) == 1 else sides))
      for sides in (self.tile, fitting)
    )
    raise UserError(
      f'{self.name}={given} must {rule}: for example, {self.name}={example}'
    )


def codes_of(posterior: Posterior) -> np.ndarray:
  """Returns what `decode` takes: indices of codes, or the mode."""
  return posterior.latents if posterior.indices is None else posterior.indices


def reach(model: Any, network: str) -> float:
  """Computes how far an output's inputs are from it, at most, in pixels.

  It is half the receptive field of the convolutions; infinite where a norm
  depends on the whole input, as attention's does.

  Args:
    model: a `TrainedModel` with a map of latents.
    network: 'encoder' or 'decoder'.
  """
  space, total = model.image_shape[:-1], 0.0

  def add(call, args, kwargs, context):
    nonlocal total
    result = call(*args, **kwargs)
    if context.method_name != '__call__':
      return result
    if isinstance(context.module, _SEES_ALL):
      total = math.inf
    elif isinstance(context.module, nn.Conv):
      # A convolution that halves counts the pixels before, and one that
      # doubles those after.
      side = max(args[0].shape[1], result.shape[1])
      total += (context.module.kernel_size[0] - 1) / 2 * space[0] / side
    return result

  def apply(variables, x):
    return model.autoencoder.apply(
      variables, x, method=lambda module, x: getattr(module, network)(x)
    )

  shape = model.image_shape if network == 'encoder' else model.latent_shape
  x = jax.ShapeDtypeStruct((1, *shape), np.float32)
  with nn.intercept_methods(add):
    jax.eval_shape(apply, model.variables['autoencoder'], x)
  return total
