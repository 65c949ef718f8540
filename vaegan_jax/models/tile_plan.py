"""Where an autoencoder's overlapping tiles are, and how they are joined.

Tiles of a network of convolutions overlap by their reach. Each position comes
from the tile whose edge is farthest, so the result is that of the whole input,
up to rounding. Where every output depends on the whole input (GroupNorm,
InstanceNorm, attention, flat latents), tiles overlap by a quarter and are
blended. That result differs from the whole input's, but has no seams.

Tiles are placed by cells: the `factor` pixels along each axis that one position
of the latent's map stands for, or a single pixel if the latent is flat.
Axes: S axes of space, C channels.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from vaegan_jax.errors import UserError
from vaegan_jax.models.autoencoder import Autoencoder
from vaegan_jax.models.spectral_mask import SpectralMask, noise_period
from vaegan_jax.models.tile_grid import Grid, place_tiles

ENCODER, DECODER = 'encoder', 'decoder'
_SEES_ALL = (nn.GroupNorm, nn.InstanceNorm, nn.LayerNorm)
_PARTS = 4  # Blended tiles overlap by one in this many parts of a side.


def examples_at_once(
  number: int, tile: Sequence[int], space: Sequence[int]
) -> int:
  """Returns how many examples of S have the positions of a number of tiles.

  It is at least 1, and `number` itself if `tile` is ().
  """
  if tile:
    number = number * math.prod(tile) // math.prod(space)
  return max(1, number)


@dataclasses.dataclass(frozen=True)
class TilePlan:
  """The tiles of inputs of any size."""

  autoencoder: Autoencoder
  variables: Mapping[str, Any]  # The module's, or their shapes.
  image_shape: Sequence[int]  # Shape (*S, C) of the training examples.
  tile: Sequence[int]  # Side in pixels, for all axes or for each.
  name: str = 'tile'  # Name of `tile` in messages.

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
    fitting = tuple(map(self.fitting, tile))
    if tile != fitting:
      self._refuse(
        f'be a multiple of {self.factor}, and at least {self.fitting(1)}, '
        'for this network',
        fitting,
      )

  def fitting(self, side: int) -> int:
    """Returns the least side of a tile that is no smaller, for a map."""
    overlap = max(map(self._overlap, (ENCODER, DECODER)))
    least = max(4, 2 * self._noise_cells - 1 + overlap)
    return max(least, -(-side // self.factor)) * self.factor

  @property
  def is_flat(self) -> bool:
    """Whether a tile has one latent vector."""
    return self.autoencoder.encoder.flat

  @functools.cached_property
  def is_exact(self) -> bool:
    """Whether the result is that of the whole input, up to rounding."""
    return not self.is_flat and max(self._reaches.values()) < math.inf

  @property
  def description(self) -> str:
    """A line of a protocol."""
    sides = 'x'.join(map(str, self.tile))
    if self.is_exact:
      return (
        f'the networks take overlapping tiles of {sides}: all values are those '
        'of whole examples, to rounding'
      )
    return (
      f'the networks take overlapping tiles of {sides}, which are blended: '
      'norms and attention see one tile, and whole examples give other values'
    )

  @property
  def factor(self) -> int:
    """The pixels along each axis of a cell."""
    return 1 if self.is_flat else self.autoencoder.encoder.factor

  def cells(self, space: Sequence[int]) -> tuple[int, ...]:
    """Returns the cells along each axis of an input of S."""
    return tuple(-(-n // self.factor) for n in space)

  def grid(self, cells: Sequence[int], network: str) -> Grid:
    """Places the tiles of the encoder or the decoder, in cells."""
    if self.is_flat:  # A tile may be longer than the input, which is repeated.
      cells = tuple(map(max, cells, self.tile))
      overlap = [n // _PARTS for n in self.tile]
      return place_tiles(cells, self.tile, overlap)
    tile = [n // self.factor for n in self.tile]
    overlap = [self._overlap(network)] * len(tile)
    if not self.is_exact:
      overlap = [n // _PARTS for n in tile]
    multiple = self._noise_cells if network == DECODER else 1
    return place_tiles(cells, tile, overlap, multiple)

  @property
  def _trained(self) -> tuple[int, ...]:
    return tuple(self.image_shape[:-1])

  @property
  def _noise_cells(self) -> int:
    """Cells after which the decoder's noise repeats, or 1 without noise."""
    decoder = self.autoencoder.decoder
    window = getattr(decoder, 'spectral_mask', 0)
    if not (window and decoder.spectral_noise):
      return 1
    return noise_period(window, self.factor)

  @functools.cached_property
  def _reaches(self) -> dict[str, float]:
    return {name: self._reach(name) for name in (ENCODER, DECODER)}

  def _overlap(self, network: str) -> int:
    """Returns the cells that exact tiles share."""
    if not self.is_exact:
      return 0
    return 2 * math.ceil(self._reaches[network] / self.factor)

  def _reach(self, network: str) -> float:
    """Computes how far an output's inputs are from it, at most, in pixels.

    It is half the receptive field of the convolutions; infinite where a norm
    depends on the whole input, as attention's does.
    """
    total = 0.0

    def add(call, args, kwargs, context):
      nonlocal total
      result, module = call(*args, **kwargs), context.module
      if context.method_name != '__call__':
        return result
      if isinstance(module, _SEES_ALL):
        total = math.inf
      elif isinstance(module, nn.Conv):
        # A convolution that halves counts the pixels before, and one that
        # doubles those after.
        side = max(args[0].shape[1], result.shape[1])
        dilation = np.ravel(module.kernel_dilation)[0]
        taps = dilation * (module.kernel_size[0] - 1)
        total += taps / 2 * self._trained[0] / side
      elif isinstance(module, SpectralMask):
        total += module.window  # A sample's frames, and all of their samples.
      return result

    def apply(variables, x):
      return self.autoencoder.apply(
        variables, x, method=lambda module, x: getattr(module, network)(x)
      )

    shape = self.image_shape
    if network == DECODER:
      encoded = self.autoencoder.latent.size
      shape = (*self.autoencoder.latent_space(self._trained), encoded)
    x = jax.ShapeDtypeStruct((1, *shape), np.float32)
    with nn.intercept_methods(add):
      jax.eval_shape(apply, self.variables, x)
    return total

  def _refuse(self, rule: str, fitting: Sequence[int]) -> None:
    given, example = (
      ','.join(map(str, sides[:1] if len(set(sides)) == 1 else sides))
      for sides in (self.tile, fitting)
    )
    raise UserError(
      f'{self.name}={given} must {rule}: for example, {self.name}={example}'
    )
