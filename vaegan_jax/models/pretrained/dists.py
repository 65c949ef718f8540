"""DISTS (arXiv 2004.07728): means and covariances of the maps of VGG16.

VGG16 here pools by the root of Hann-weighted squares instead of the maximum.
The image is one more layer. Axes: B images, H height, W width, C channels.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaegan_jax.errors import UserError
from vaegan_jax.models.pretrained import weights
from vaegan_jax.models.pretrained.vgg import LPIPS_LAYERS, VGG
from vaegan_jax.models.pretrained.vgg import WIDTHS as VGG_WIDTHS
from vaegan_jax.models.pretrained.weights import FilePath, State

URL = 'https://github.com/dingkeyan93/DISTS/raw/master/DISTS_pytorch/weights.pt'
LAYERS = ('image', *LPIPS_LAYERS)
WIDTHS = (3, *VGG_WIDTHS)
_STABLE = 1e-6  # c1 and c2 of equations 8 and 9.

Maps = Mapping[str, jax.Array]  # {layer: [B, H', W', C']} of `LAYERS`.


def maps_of(variables: Mapping[str, Any], x: jax.Array) -> dict[str, jax.Array]:
  """Returns the maps of images.

  Args:
    variables: those of `VGG(16)`.
    x: [B, H, W, C] in [-1, 1], colour (C = 3) or grey (C = 1); H and W at
      least 16.

  Returns:
    {layer: [B, H', W', C']} of `LAYERS`; the image is in [0, 1].
  """
  features = VGG(16, pool=l2_pool).apply(variables, x, method='features')
  image = jnp.broadcast_to((x + 1) / 2, (*x.shape[:3], 3))
  return {'image': image} | {name: features[name] for name in LPIPS_LAYERS}


def l2_pool(x: jax.Array) -> jax.Array:
  """Pools by the root of the mean of squares, in a Hann window of 3x3.

  Maps x: [B, H, W, C] to [B, (H + 1) // 2, (W + 1) // 2, C].
  """
  x = jnp.square(x)
  for axis in (1, 2):
    x = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(4)])
    side = (x.shape[axis] - 1) // 2
    before, middle, after = (
      jax.lax.slice_in_dim(x, i, i + 2 * side - 1, 2, axis) for i in range(3)
    )
    x = (before + 2 * middle + after) / 4
  return jnp.sqrt(x + 1e-12)


def distance(
  maps_x: Maps, maps_y: Maps, factors: Mapping[str, jax.Array]
) -> jax.Array:
  """Computes DISTS (equation 10) from the maps of two batches.

  Args:
    maps_x, maps_y: as `maps_of` returns them.
    factors: {layer: [2, C]}, alpha and beta; the sum of all is 1.

  Returns:
    [B] float32; 0 for equal images.
  """
  similarity = 0.0
  for name in LAYERS:
    x, y = (maps[name].astype(jnp.float32) for maps in (maps_x, maps_y))
    mean_x, mean_y = x.mean(axis=(1, 2)), y.mean(axis=(1, 2))
    x, y = x - mean_x[:, None, None], y - mean_y[:, None, None]
    common, square_x, square_y = (
      p.mean(axis=(1, 2)) for p in (x * y, x * x, y * y)
    )
    means = 2 * mean_x * mean_y + _STABLE, mean_x**2 + mean_y**2 + _STABLE
    texture = 2 * common + _STABLE, square_x + square_y + _STABLE
    alpha, beta = factors[name]
    terms = alpha * (means[0] / means[1]) + beta * (texture[0] / texture[1])
    similarity += terms.sum(axis=1)
  return 1 - similarity


def to_factors(path: FilePath, state: State) -> dict[str, np.ndarray]:
  """Converts the authors' alpha and beta to the factors of `distance`.

  Returns:
    {layer: [2, C]} float32; the sum of all is 1.

  Raises:
    UserError: the file holds something else, or a negative factor.
  """
  shape = (1, sum(WIDTHS), 1, 1)
  title = "DISTS's weights"
  shapes = {'alpha': shape, 'beta': shape}
  tensors = weights.select(path, state, shapes, title, URL)
  both = np.stack([t.reshape(-1) for t in tensors.values()])
  if both.min() < 0 or both.sum() <= 0:
    raise UserError(
      f'{path} does not hold {title}, because a factor is {both.min()} and '
      f'each must be at least 0: download {URL}.'
    )
  both = np.float32(both / both.sum(dtype=np.float64))
  parts = np.split(both, np.cumsum(WIDTHS)[:-1], axis=1)
  return dict(zip(LAYERS, parts, strict=True))
