"""The terms of the distance that trains: critic's layers, and the image itself.

The trainer, its evaluation and `recipe.reconstruction_loss` share them.
Axes: B batch, S one to three axes of space, C channels.
"""

from typing import NamedTuple

import flax.linen as nn
import jax

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
    where: mask, as `masks.apply` returns it beside images.

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
      where=where,
    )
  }
  if weighting.image_weight:
    terms['image'] = _image_terms(x, x_recon, how, weighting, where)
  return terms


def _image_terms(x, x_recon, how, weighting, where):
  """Computes the distances {layer: [B]} of the image's layers."""
  images, images_recon = (
    image_layers(each, weighting.image_halvings) for each in (x, x_recon)
  )
  shares = None
  if where is not None:  # The means are over what is included.
    included = masks.position_weights(where, x)
    shares = image_layers(included, weighting.image_halvings)
    images, images_recon = (
      {name: masks.divide(each[name], shares[name]) for name in each}
      for each in (images, images_recon)
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
  layers = {'image': images}
  for halving in range(1, num_halvings + 1):
    images = halve(images)
    layers[f'image_{halving}'] = images
  return layers


def halve(x: jax.Array) -> jax.Array:
  """Averages over squares of 2 per axis: [B, *S, C] to [B, *ceil(S / 2), C]."""
  square = (2,) * (x.ndim - 2)
  return nn.avg_pool(x, square, square, 'SAME', count_include_pad=False)


def _only(layers: Features, sizes: Sizes | None) -> dict:
  """Returns the sizes of the given layers."""
  sizes = sizes or {}
  return {name: sizes[name] for name in layers if name in sizes}
