"""The terms of the distance that trains: critic's layers, and the image itself.

The trainer, its evaluation and `recipe.reconstruction_loss` share them.
Axes: B batch, S one to three axes of space, C channels.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.losses import masks
from vaegan_jax.losses.arguments import Weights
from vaegan_jax.losses.distances import Comparison, Sizes, layer_distances
from vaegan_jax.losses.layers import Features

Terms = dict[str, dict[str, jax.Array]]  # {'features' or 'image': {layer: [B]}}


class Weighting(NamedTuple):
  """Weights of the layers.

  Attributes:
    weights: of the critic's layers; see `distances.feature_distance`.
    image_weight: weight of each image layer; 0: none.
    image_halvings: see `image_layers`.
    min_sizes: least sizes of layers of either kind.
  """

  weights: Weights | None = None
  image_weight: float = 0.0
  image_halvings: int = 0
  min_sizes: Sizes | None = None


def distance_terms(
  x: jax.Array,
  x_recon: jax.Array,
  features_x: Features,
  features_recon: Features,
  how: Comparison,
  weighting: Weighting,
  where: jax.Array | None = None,
) -> Terms:
  """Computes the weighted distances of a critic's layers and of the image.

  Args:
    x, x_recon: [B, *S, C].
    features_x: {layer: [B, ...]} of x, in the order of the weights.
    features_recon: features of x_recon.
    how: how the layers are compared.
    weighting: their weights.
    where: mask, as `masks.apply` returns it beside images, or of each value,
      [B, *S, C]; the images are finite elsewhere, too.

  Returns:
    {'features': {layer: [B]}, 'image': {layer: [B]}}; see `total`.
  """
  terms = {
    'features': layer_distances(
      features_x,
      features_recon,
      how,
      weights=weighting.weights,
      min_sizes=_only(features_x, weighting.min_sizes),
      where=where
      if where is None or where.ndim < x.ndim
      else masks.positions(where),
    )
  }
  if weighting.image_weight:
    terms['image'] = _image_terms(x, x_recon, how, weighting, where)
  return terms


def _image_terms(x, x_recon, how, weighting, where):
  """Computes the distances {layer: [B]} of the image's layers."""
  (images, shares), (images_recon, _) = (
    masked_layers(each, weighting.image_halvings, where)
    for each in (x, x_recon)
  )
  # Images are divided by the batch's size for any `normalize`. Divided by its
  # own size, a flat image outweighs all others; at unit length it has no
  # contrast.
  normalize = 'none' if how.normalize == 'none' else 'batch'
  return layer_distances(
    images,
    images_recon,
    how._replace(normalize=normalize),
    weights=(weighting.image_weight,) * len(images),
    min_sizes=_only(images, weighting.min_sizes),
    where=shares,
  )


def total(terms: Terms) -> jax.Array:
  """Adds the terms of a distance: [B]."""
  return sum(sum(layers.values()) for layers in terms.values())


def image_layers(images: jax.Array, num_halvings: int) -> dict[str, jax.Array]:
  """Returns the image, and its means over squares, as layers of the distance.

  An error that is constant over a square does not average out. So colour and
  brightness count in every layer, and fine detail in the first alone (the
  Gaussian pyramid of Burt & Adelson, 1983, with squares for Gaussians).

  Returns:
    {'image': [B, *S, C], 'image_1': [B, *ceil(S / 2), C], ...}, with
    `num_halvings` layers beyond the first.
  """
  layers, square = {'image': images}, (2,) * (images.ndim - 2)
  for halving in range(1, num_halvings + 1):
    images = nn.avg_pool(
      images, square, square, 'SAME', count_include_pad=False
    )
    layers[f'image_{halving}'] = images
  return layers


def masked_layers(
  images: jax.Array, num_halvings: int, where: jax.Array | None
) -> tuple[dict[str, jax.Array], dict[str, jax.Array] | None]:
  """Returns `image_layers` of what a mask includes, and its share in each mean.

  `where` is as for `distance_terms`; None: the shares are None.
  """
  if where is None:
    return image_layers(images, num_halvings), None
  if where.ndim == images.ndim:
    included = where.astype(jnp.float32)
  else:
    included = masks.position_weights(where, images)
  sums = image_layers(images * included, num_halvings)
  shares = image_layers(included, num_halvings)
  means = {name: masks.divide(sums[name], shares[name]) for name in sums}
  return means, shares


def _only(layers: Features, sizes: Sizes | None) -> dict:
  """Returns the sizes of the given layers."""
  sizes = sizes or {}
  return {name: sizes[name] for name in layers if name in sizes}
