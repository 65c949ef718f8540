"""Metrics in pretrained networks: LPIPS, DISTS, Frechet distance, KID.

The user has the files of the networks, and no run was trained with them. Every
network takes what a screen would show: pictures clipped to [-1, 1] and rounded
to 8 bits. A photograph is one picture, without its alpha. So is an array of one
or three bands; of other arrays each band is a grey picture of its own. Grey is
repeated to three channels. VGG16 takes sides below 64 pixels enlarged to it
(bilinear), Inception takes 299x299. Axes: B images, H height, W width, C
channels, P pictures of an image, F features.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vaegan_jax.errors import UserError, naming
from vaegan_jax.evaluation.paired_metrics import (
  compare_pairs,
  load_paired_metrics,
)
from vaegan_jax.losses.perceptual import capture_features
from vaegan_jax.models.pretrained import inception, lpips, vgg, weights
from vaegan_jax.runtime import devices

_VGG_LAYER = 'conv5_3'  # The last layer, for the Frechet distance.

# 'features' [B, F] of the Frechet distance, and what `compare_pairs` takes.
Features = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class FeatureMetrics:
  """Metrics in the features of pretrained networks."""

  # One a network, (pictures [B, H, W, C] in [-1, 1]) -> Features.
  embedders: tuple[Callable[[jax.Array], Features], ...] = ()
  protocol: tuple[str, ...] = ()  # A line about each metric.
  arrays: bool = False  # Examples are arrays, not photographs.
  num_features: int = 0  # F of the Frechet distance; 0: it is not computed.

  def measure(
    self, x: jax.Array, recons: Mapping[str, jax.Array]
  ) -> dict[str, jax.Array]:
    """Compares originals x [B, H, W, C] with several kinds of reconstructions.

    One picture of each example is embedded at a time, so that the memory does
    not grow with the number of bands.

    Returns:
      The values of the loaded metrics: 'features' [B, P, F] of the originals
      and, for each suffix of `recons`, 'features_recon' [B, P, F] and the
      paired metrics [B], means over the pictures.
    """
    if not self.embedders:
      return {}
    parts = []
    for picture, *others in zip(
      *map(self._pictures, (x, *recons.values())), strict=True
    ):
      features = self._embed(picture)
      part = {k: v for k, v in features.items() if k == 'features'}
      for suffix, other in zip(recons, others, strict=True):
        compared = _compare(features, self._embed(other))
        part |= {f'{name}{suffix}': value for name, value in compared.items()}
      parts.append(part)
    stacked = {k: jnp.stack([p[k] for p in parts], axis=1) for k in parts[0]}
    return {
      k: v if k.startswith('features') else v.mean(axis=1)
      for k, v in stacked.items()
    }

  def embed(self, images: jax.Array) -> jax.Array:
    """Returns the features [B, P, F] of the Frechet distance."""
    features = [self._embed(p)['features'] for p in self._pictures(images)]
    return jnp.stack(features, axis=1)

  def num_pictures(self, channels: int) -> int:
    """Returns P, the pictures that an image with these channels is."""
    return channels if self.arrays and channels not in (1, 3) else 1

  def _pictures(self, images: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the P pictures of each image, [B, H, W, C'] each."""
    alone = self.num_pictures(images.shape[-1]) == 1
    return (images,) if alone else _split_bands(images)

  def _embed(self, pictures: jax.Array) -> Features:
    features = {}
    for embed in self.embedders:
      features |= embed(pictures)
    return features

  def describe(self, channels: int) -> tuple[str, ...]:
    """Returns the lines of the protocol for examples with these channels."""
    if not self.embedders:
      return ()
    taken = _describe_pictures(channels, self.arrays)
    line = f'the networks take {taken}; values are clipped, rounded to 8 bits'
    return (*self.protocol, line)


def load_feature_metrics(
  *, lpips_weights: str, features_weights: str, arrays: bool = False
) -> FeatureMetrics:
  """Reads the weights of the networks; compiles nothing.

  Args:
    lpips_weights: the files of LPIPS and DISTS, separated by commas, as
      `load_paired_metrics` takes them; '': none.
    features_weights: the file of VGG16 or of the Inception of 2015, told apart
      by its content; '': no Frechet distance.
    arrays: whether the examples are arrays, not photographs.

  Returns:
    The metrics. LPIPS and the Frechet distance share the passes of one VGG16;
    DISTS pools differently and has its own.

  Raises:
    UserError: a file is missing, damaged or of another network.
  """
  paired, num_features = [], 0
  if lpips_weights:
    with naming(f'evaluation.lpips_weights={lpips_weights} cannot be used'):
      paired = load_paired_metrics(lpips_weights.split(','))
  protocol = [
    f'{metric.description}, {" and ".join(map(_describe, metric.files))}'
    for metric in paired
  ]
  networks = {m.name: (m.embed, m.variables) for m in paired}
  if features_weights:
    with naming(
      f'evaluation.features_weights={features_weights} cannot be used'
    ):
      network, num_features, description = _load_features(features_weights)
    trunks = {m.name: m.files[0] for m in paired}
    shared = 'lpips' in trunks and (
      _digest(trunks['lpips']) == _digest(features_weights)
    )
    if shared:
      embed, variables = networks['lpips']
      embed = functools.partial(embed, layer=f'vgg/{_VGG_LAYER}')
      networks['lpips'] = embed, variables
    else:
      networks['features'] = network
    protocol += [
      f'frechet: {description}, {_describe(features_weights)}',
      'kid: KID (arXiv 1801.01401) in the same features, over pairs of '
      'different examples',
    ]
  embedders = (
    functools.partial(_embed_shown, embed, devices.replicate(variables))
    for embed, variables in networks.values()
  )
  return FeatureMetrics(tuple(embedders), tuple(protocol), arrays, num_features)


def _load_features(path):
  """Returns ((embed, variables), F, description) of the network in a file."""
  state = weights.read_state_dict(path)
  if inception.is_inception(state):
    description = (
      'FID (arXiv 1706.08500), in the Inception of 2015 '
      f'({inception.NUM_FEATURES} features), between reconstructions and '
      'originals, while the literature takes 50,000 samples; as in the PyTorch '
      f'port, images are resized to {inception.SIDE}x{inception.SIDE} by pixel '
      "centres (bilinear, no antialiasing), and TensorFlow's by corners"
    )
    network = _embed_in_inception, inception.to_variables(path, state)
    return network, inception.NUM_FEATURES, description
  if not any(name.startswith('features.') for name in state):
    some = ', '.join(list(state)[:3])[:80] or 'none at all'
    raise UserError(
      f"{path} is of neither torchvision's VGG16 nor the Inception of 2015, as "
      f'its tensors are {some!r}: download {vgg.URLS[16]} or {inception.URL}.'
    )
  description = (
    f'in the spatial mean of VGG16 {_VGG_LAYER} ({vgg.WIDTHS[-1]} features; '
    'not the FID of the literature), pictures enlarged to at least '
    f'{lpips.MIN_SIDE} pixels'
  )
  network = _embed_in_vgg, vgg.to_variables(path, state, 16)
  return network, vgg.WIDTHS[-1], description


@jax.jit
def _split_bands(images):
  return tuple(jnp.split(images, images.shape[-1], axis=-1))


def _describe_pictures(channels: int, arrays: bool) -> str:
  """Describes the pictures of examples, to follow "take"."""
  if channels == 1:
    return 'the one channel, as grey'
  if channels == 3:
    return 'the three channels, as red, green and blue'
  if arrays:
    return (
      f'each of the {channels} bands by itself, as a grey picture, and a '
      'metric is the mean over the bands'
    )
  colors = 'grey' if channels == 2 else 'red, green and blue'
  return f'{colors}, without the last channel, alpha'


def to_pictures(images: jax.Array) -> jax.Array:
  """Returns what the networks take, [B, H, W, 1 or 3] in [-1, 1], of 8 bits.

  The last of two or four channels of images [B, H, W, C] is alpha.
  """
  images = jnp.clip(images.astype(jnp.float32), -1, 1)
  images = jnp.round((images + 1) * 127.5) / 127.5 - 1
  return images[..., :-1] if images.shape[-1] in (2, 4) else images


@functools.partial(jax.jit, static_argnums=0)
def _embed_shown(embed, variables, images) -> Features:
  return embed(variables, to_pictures(images))


def _embed_in_vgg(variables, pictures):
  _, features = capture_features(
    vgg.VGG(16), variables, lpips.enlarge(pictures), layers=(_VGG_LAYER,)
  )
  return {'features': features[_VGG_LAYER].mean(axis=(1, 2))}


def _embed_in_inception(variables, pictures):
  pictures = inception.resize(pictures)
  return {'features': inception.Inception().apply(variables, pictures)}


@jax.jit
def _compare(features, features_recon):
  compared = compare_pairs(features, features_recon)
  if 'features' in features:
    compared['features_recon'] = features_recon['features']
  return compared


def _describe(path: str) -> str:
  return f'{Path(path).name} (sha256 {_digest(path)[:8]})'


def _digest(path: str) -> str:
  with Path(path).open('rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()
