"""Masks: which examples, and which of their positions, a loss includes.

A mask is boolean, [B], [B, *S] or [B, *S, 1] for images [B, *S, C]. The weight
of a feature's position is the included share of the area that it stands for.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np


def apply(
  where: jax.Array | None, x: jax.Array, y: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """Puts 0 where a mask excludes images x and y [B, *S, C], also for NaN.

  Returns x, y and the mask as [B] or [B, *S]; None changes nothing.

  Raises:
    ValueError: the mask is not boolean, or its shape does not fit.
  """
  if where is None:
    return x, y, None
  shapes = (x.shape[:1], x.shape[:-1], (*x.shape[:-1], 1))
  if not _is_boolean(where) or where.shape not in shapes:
    raise ValueError(
      f'where is {_describe(where)}; expected booleans, one per example '
      f'{shapes[0]} or per position {shapes[1]}'
    )
  included = _append_axes(where, len(x.shape))
  x, y = (jnp.where(included, images, 0) for images in (x, y))
  return x, y, where[..., 0] if len(where.shape) == x.ndim else where


def positions(valid: jax.Array | None) -> jax.Array | None:
  """Returns positions [B, *S] with a valid value in any of their channels.

  `valid` is [B, *S, C]; None stays None. A network's features mix channels, so
  they are compared where there is anything to compare.
  """
  return None if valid is None else valid.any(axis=-1)


def position_weights(where: jax.Array | None, feature: jax.Array):
  """Returns the weights [B, *S', 1] of a feature's positions; None without one.

  A feature [B, *S', C] with the axes of space of the mask is laid over it. An
  example counts whole in others, unless all of it is excluded.

  Raises:
    ValueError: the mask is not boolean, or of another batch.
  """
  if where is None:
    return None
  if not _is_boolean(where) or where.shape[:1] != feature.shape[:1]:
    raise ValueError(
      f'where is {_describe(where)}; expected booleans, one per example '
      f'{feature.shape[:1]} or per position of the images'
    )
  space, sides = feature.shape[1:-1], where.shape[1:]
  weights = jnp.asarray(where, jnp.float32)
  if len(space) != len(sides):
    weights = weights.max(axis=tuple(range(1, weights.ndim)))
  else:
    for axis, (side, cells) in enumerate(zip(sides, space, strict=True), 1):
      if side != cells:
        shares = jnp.asarray(_cell_shares(side, cells))
        weights = jnp.moveaxis(
          jnp.tensordot(weights, shares, (axis, 0)), -1, axis
        )
  return _append_axes(weights, max(feature.ndim, 2))


def layer_weights(
  where: jax.Array | Mapping[str, jax.Array] | None,
  name: str,
  feature: jax.Array,
) -> jax.Array | None:
  """Returns `position_weights` of a layer, or those that `where` has for it."""
  if isinstance(where, Mapping):
    return where[name]
  return position_weights(where, feature)


def weighted_sums(
  values: jax.Array, weights: jax.Array, axes: Sequence[int] | None = None
) -> tuple[jax.Array, jax.Array]:
  """Returns the weighted sum of values over axes, and the sum of weights."""
  weights = jnp.broadcast_to(weights, values.shape)
  return jnp.sum(weights * values, axis=axes), jnp.sum(weights, axis=axes)


def mean(
  values: jax.Array,
  weights: jax.Array | None,
  axes: Sequence[int] | None = None,
) -> jax.Array:
  """Averages values over axes; 0 where all weights are 0."""
  if weights is None:
    return jnp.mean(values, axis=axes)
  return divide(*weighted_sums(values, weights, axes))


def divide(values: jax.Array, weights: jax.Array) -> jax.Array:
  """Divides sums by the sums of their weights; 0 where these are 0."""
  return jnp.where(weights > 0, values / jnp.where(weights > 0, weights, 1), 0)


def _is_boolean(where) -> bool:
  return hasattr(where, 'shape') and where.dtype == np.bool_


def _describe(where) -> str:
  if hasattr(where, 'shape'):
    return f'{where.dtype} of shape {where.shape}'
  return f'a {type(where).__name__}'


def _append_axes(array, ndim):
  """Appends axes of size 1 up to a number of axes."""
  return array.reshape(*array.shape, *[1] * (ndim - array.ndim))


def _cell_shares(side: int, cells: int) -> np.ndarray:
  """Returns the share [side, cells] of each pixel in each of equal cells."""
  pixel, cell = np.arange(side)[:, None], np.arange(cells) * (side / cells)
  ends = np.minimum(pixel + 1, cell + side / cells)
  overlap = np.maximum(ends - np.maximum(pixel, cell), 0)
  return (overlap * cells / side).astype(np.float32)
