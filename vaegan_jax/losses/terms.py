"""The terms of the distance that trains: layers of the critic and the example.

An image itself is a layer in several sizes, and a sound in its log-mel spectra.
The trainer, its evaluation and `recipe.reconstruction_loss` share them.
Axes: B batch, S one to three axes of space, C channels.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax.losses import masks, spectra
from vaegan_jax.losses.arguments import Weights
from vaegan_jax.losses.distances import (
  Comparison,
  Sizes,
  batch_mean,
  layer_distances,
  magnitude,
)
from vaegan_jax.losses.layers import Features

_HIGH_PASS = 'high_pass'
# The finest band of photographs has a hundredth to a tenth of the image's mean
# square. Data without one, as enlarged images, must not be divided by nothing.
_MIN_BAND = 1e-3

# {'features', 'image' or 'spectra': {layer: [B]}}
Terms = dict[str, dict[str, jax.Array]]


class Weighting(NamedTuple):
  """Weights of the layers."""

  # Those of the critic's layers; see `distances.feature_distance`.
  weights: Weights | None = None
  image_weight: float = 0.0  # Weight of the image as a layer; 0: it is none.
  image_halvings: int = 0  # See `image_layers`.
  image_growth: float = 1.0  # Factor of `image_weight` for each halving.
  min_sizes: Sizes | None = None  # Least sizes of layers of any kind.
  high_pass: float = 0.0  # Weight of the finest band, times `image_weight`.
  spectrum_weight: float = 0.0  # Weight of each log-mel spectrum of a sound.
  sample_rate: int = 16_000  # Sample rate of sounds, in Hz.


def distance_terms(
  x: jax.Array,
  x_recon: jax.Array,
  features_x: Features,
  features_recon: Features,
  how: Comparison,
  weighting: Weighting,
  where: jax.Array | None = None,
) -> Terms:
  """Computes the weighted distances of a critic's layers and the examples'.

  Args:
    x, x_recon: [B, *S, C].
    features_x: {layer: [B, ...]} of x, in the order of the weights; {}: there
      is no critic.
    features_recon: features of x_recon.
    how: how the layers are compared.
    weighting: their weights.
    where: mask, as `masks.apply` returns it beside images, or of each value,
      [B, *S, C]; the images are finite elsewhere, too.

  Returns:
    {'features', 'image' and 'spectra': {layer: [B]}}; see `total`.
  """
  positions = where
  if where is not None and where.ndim == x.ndim:
    positions = masks.positions(where)
  terms = {}
  if features_x:
    terms['features'] = layer_distances(
      features_x,
      features_recon,
      how,
      weights=weighting.weights,
      min_sizes=_only(features_x, weighting.min_sizes),
      where=positions,
    )
  if weighting.image_weight:
    terms['image'] = _image_terms(x, x_recon, how, weighting, where)
  if weighting.spectrum_weight:
    layers, layers_recon = (
      spectra.mel_layers(each, weighting.sample_rate) for each in (x, x_recon)
    )
    terms['spectra'] = layer_distances(
      layers,
      layers_recon,
      _by_batch(how),
      weights=dict.fromkeys(layers, weighting.spectrum_weight),
      min_sizes=_only(layers, weighting.min_sizes),
      where=positions,
    )
  return terms


def _by_batch(how: Comparison) -> Comparison:
  """Returns how examples are compared: divided by the batch's size.

  Divided by its own size, a flat image outweighs all others; at unit length it
  has no contrast.
  """
  return how._replace(normalize='none' if how.normalize == 'none' else 'batch')


def _image_terms(x, x_recon, how, weighting, where):
  """Computes the distances {layer: [B]} of the image's layers."""
  high_pass = weighting.high_pass > 0
  included = value_weights(where, x)
  (images, shares), (images_recon, _) = (
    image_layers(each, weighting.image_halvings, included, high_pass=high_pass)
    for each in (x, x_recon)
  )
  weights = dict.fromkeys(images, weighting.image_weight)
  for halving in range(1, weighting.image_halvings + 1):
    weights[f'image_{halving}'] *= weighting.image_growth**halving
  min_sizes = _only(images, weighting.min_sizes)
  how = _by_batch(how)
  if high_pass:
    weights[_HIGH_PASS] *= weighting.high_pass
    if how.normalize == 'batch':
      size = batch_mean(magnitude(x, how.norm), how.axis_name, included)
      least = min_sizes.get(_HIGH_PASS, 0.0)
      share = math.sqrt(_MIN_BAND) if how.norm == 'l1' else _MIN_BAND
      min_sizes[_HIGH_PASS] = jnp.maximum(least, share * size)
  return layer_distances(
    images,
    images_recon,
    how,
    weights=weights,
    min_sizes=min_sizes,
    where=shares,
  )


def total(terms: Terms) -> jax.Array:
  """Adds the terms of a distance: [B]."""
  return sum(sum(layers.values()) for layers in terms.values())


def image_layers(
  images: jax.Array,
  num_halvings: int,
  included: jax.Array | None = None,
  *,
  high_pass: bool = False,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array] | None]:
  """Returns the image, and its means over squares, as layers of the distance.

  An error that is constant over a square does not average out. So colour and
  brightness count in every layer, and fine detail in the first alone (the
  Gaussian pyramid of Burt & Adelson, 1983, with squares for Gaussians). With
  `high_pass` the image less its means over the smallest squares is one more
  layer, in which fine detail alone counts.

  Args:
    images: [B, *S, C], finite where excluded.
    num_halvings: number of layers of means.
    included: weights [B, *S, 1 or C] of the positions; None: all count.
    high_pass: whether to add that layer.

  Returns:
    {'image': [B, *S, C], 'image_1': [B, *ceil(S / 2), C], ..., 'high_pass': [B,
    *S, C]}, and the weights [..., 1 or C] of the layers' positions, or None.
  """
  if included is not None:
    images = images * included
  layers = _pyramid(images, max(num_halvings, int(high_pass)))
  shares = None
  if included is not None:  # The means are over what is included.
    shares = _pyramid(included, len(layers) - 1)
    layers = {name: masks.divide(layers[name], shares[name]) for name in layers}
  if high_pass:
    means = double(layers['image_1'], images.shape[1:-1])
    layers[_HIGH_PASS] = layers['image'] - means
    if shares is not None:
      shares[_HIGH_PASS] = shares['image']
    if not num_halvings:
      del layers['image_1']
  return layers, shares


def value_weights(
  where: jax.Array | None, images: jax.Array
) -> jax.Array | None:
  """Returns the weights of images' values by a mask as for `distance_terms`."""
  if where is None or where.ndim < images.ndim:
    return masks.position_weights(where, images)
  return where.astype(jnp.float32)


def _pyramid(images, num_halvings):
  """Returns images and their means {'image': ..., 'image_1': ..., ...}."""
  layers = {'image': images}
  for halving in range(1, num_halvings + 1):
    images = halve(images)
    layers[f'image_{halving}'] = images
  return layers


def halve(x: jax.Array) -> jax.Array:
  """Averages over squares of 2 per axis: [B, *S, C] to [B, *ceil(S / 2), C]."""
  square = (2,) * (x.ndim - 2)
  return nn.avg_pool(x, square, square, 'SAME', count_include_pad=False)


def double(x: jax.Array, space: tuple[int, ...]) -> jax.Array:
  """Repeats what `halve` returned over its squares: to [B, *space, C]."""
  for axis, size in enumerate(space, start=1):
    x = jnp.repeat(x, 2, axis)
    x = jax.lax.slice_in_dim(x, 0, size, axis=axis)
  return x


def _only(layers: Features, sizes: Sizes | None) -> dict:
  """Returns the sizes of the given layers."""
  sizes = sizes or {}
  return {name: sizes[name] for name in layers if name in sizes}
