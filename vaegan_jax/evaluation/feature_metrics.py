"""Metrics in the features of pretrained networks: LPIPS, Frechet distance.

The user has the files of the networks, and no run was trained with them. Every
network takes what a screen would show: pictures clipped to [-1, 1] and rounded
to 8 bits, without alpha. Grey ones are repeated to three channels, and each
band of other signals is a grey picture of its own. VGG16 takes sides below 64
pixels enlarged to it (bilinear), Inception takes 299x299. Axes: B images, H
height, W width, C channels, N pictures of an image, F features.
"""

import contextlib
import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaegan_jax.errors import UserError
from vaegan_jax.losses.distances import feature_distance
from vaegan_jax.losses.perceptual import capture_features
from vaegan_jax.models.pretrained import inception, lpips, vgg, weights
from vaegan_jax.runtime import devices

_VGG_LAYER = 'conv5_3'  # The last layer, for the Frechet distance.

# {'lpips': {layer: [B, N, H, W, C]}, 'features': [B, N F] of the Frechet
# distance}, or one of the two.
Features = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class FeatureMetrics:
  """Metrics in the features of pretrained networks.

  Attributes:
    embedders: one a network, (images [B, H, W, C] in [-1, 1]) -> Features.
    protocol: a line about each metric.
  """

  embedders: tuple[Callable[[jax.Array], Features], ...] = ()
  protocol: tuple[str, ...] = ()

  def embed(self, images: jax.Array) -> Features:
    """Returns the features of images [B, H, W, C] in every network."""
    features = {}
    for embed in self.embedders:
      features |= embed(images)
    return features

  def compare(
    self, features: Features, x_recon: jax.Array
  ) -> dict[str, jax.Array]:
    """Compares reconstructions with originals.

    Args:
      features: features of the originals.
      x_recon: [B, H, W, C] their reconstructions, in [-1, 1].

    Returns:
      Those of the metrics that are loaded: 'lpips' [B], the mean over the
      pictures of an image, and 'features_recon' [B, N F].
    """
    return _compare(features, self.embed(x_recon)) if features else {}


def load_feature_metrics(
  *, lpips_weights: str, features_weights: str
) -> FeatureMetrics:
  """Reads the weights of the networks; compiles nothing.

  Args:
    lpips_weights: the files of VGG16 and of LPIPS's heads, separated by a
      comma; '': no LPIPS.
    features_weights: the file of VGG16 or of the Inception of 2015, told apart
      by its content; '': no Frechet distance.

  Returns:
    The metrics. LPIPS and the Frechet distance share the passes of one VGG16.

  Raises:
    UserError: a file is missing, damaged or of another network.
  """
  networks, protocol = [], []  # (embed, variables)
  embed_for_lpips = functools.partial(
    _embed_in_vgg, lpips.LPIPS(), vgg.LPIPS_LAYERS
  )
  trunk, heads = (lpips_weights or ',').split(',')
  if lpips_weights:
    with _naming(f'evaluation.lpips_weights={lpips_weights}'):
      variables = lpips.load_lpips(trunk, heads)
    networks.append((functools.partial(embed_for_lpips, ''), variables))
    protocol.append(
      'lpips: v0.1 in VGG16 (arXiv 1801.03924), pictures enlarged to at least '
      f'{lpips.MIN_SIDE} pixels, {_describe(trunk)} and {_describe(heads)}'
    )
  if features_weights:
    with _naming(f'evaluation.features_weights={features_weights}'):
      network, description = _load_features(features_weights)
    if trunk and _digest(trunk) == _digest(features_weights):
      layer = f'vgg/{_VGG_LAYER}'
      networks = [(functools.partial(embed_for_lpips, layer), variables)]
    else:
      networks.append(network)
    protocol.append(f'frechet: {description}, {_describe(features_weights)}')
  embedders = (
    functools.partial(jax.jit(embed), devices.replicate(variables))
    for embed, variables in networks
  )
  return FeatureMetrics(tuple(embedders), tuple(protocol))


def _load_features(path):
  """Returns ((embed, variables), description) of the network in a file."""
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
    return network, description
  if not any(name.startswith('features.') for name in state):
    some = ', '.join(list(state)[:3])[:80] or 'none at all'
    raise UserError(
      f"{path} is of neither torchvision's VGG16 nor the Inception of 2015, as "
      f'its tensors are {some!r}: download {vgg.URLS[16]} or {inception.URL}.'
    )
  description = (
    f'in the spatial mean of VGG16 {_VGG_LAYER} (512 features; not the FID of '
    f'the literature), pictures enlarged to at least {lpips.MIN_SIDE} pixels'
  )
  embed = functools.partial(_embed_in_vgg, vgg.VGG(16), (), _VGG_LAYER)
  return (embed, vgg.to_variables(path, state, 16)), description


@contextlib.contextmanager
def _naming(field: str) -> Iterator[None]:
  """Names the field in the errors of its file."""
  try:
    yield
  except UserError as error:
    raise UserError(f'{field} cannot be used: {error}') from error


def to_pictures(images: jax.Array) -> jax.Array:
  """Returns the pictures that the networks take, in their own size.

  Args:
    images: [B, H, W, C] in [-1, 1], of any number of channels.

  Returns:
    [B N, H, W, 1 or 3] float32 in [-1, 1]: the N pictures of the first image,
    one or as many as it has bands, then those of the next.
  """
  channels = images.shape[-1]
  images = jnp.clip(images.astype(jnp.float32), -1, 1)
  images = jnp.round((images + 1) * 127.5) / 127.5 - 1
  if channels in (2, 4):  # The last one is alpha.
    return images[..., :-1]
  if channels > 4:
    bands = jnp.moveaxis(images, -1, 1)
    return bands.reshape(-1, *bands.shape[2:], 1)
  return images


def _embed_in_vgg(module, lpips_layers, layer, variables, images):
  """Embeds in VGG16, in one pass; without `layer` for LPIPS alone."""
  pictures = lpips.enlarge(to_pictures(images))
  layers = (*lpips_layers, layer) if layer else lpips_layers
  _, features = capture_features(module, variables, pictures, layers=layers)
  features = {
    name: feature.reshape(len(images), -1, *feature.shape[1:])
    for name, feature in features.items()
  }
  embedded = {'features': _means(features.pop(layer))} if layer else {}
  return embedded | ({'lpips': features} if lpips_layers else {})


def _embed_in_inception(variables, images):
  pictures = inception.resize(to_pictures(images))
  features = inception.Inception().apply(variables, pictures)
  return {'features': features.reshape(len(images), -1)}


def _means(feature):
  """Averages over space: [B, N, H, W, C] -> [B, N C]."""
  means = feature.mean(axis=(2, 3))
  return means.reshape(len(means), -1)


@jax.jit
def _compare(features, features_recon):
  compared = {}
  if 'lpips' in features:
    compared['lpips'] = feature_distance(
      features['lpips'], features_recon['lpips'], reduction='spatial'
    )
  if 'features' in features:
    compared['features_recon'] = features_recon['features']
  return compared


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
  """Computes the Frechet distance of two sets of features.

  `|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))`, the distance of normal
  distributions (arXiv 1706.08500, equation 6), in float64.

  Args:
    a: [N, F] features of a set.
    b: [M, F] of another.

  Returns:
    At least 0; 0 between a set and itself. It is biased: it falls with N. NaN
    where N or M is below 2, or a feature is not finite.
  """
  enough = min(len(a), len(b)) > 1
  if not enough or not (np.isfinite(a).all() and np.isfinite(b).all()):
    return math.nan
  (mean_a, cov_a), (mean_b, cov_b) = map(_moments, (a, b))
  # The root's trace is that of the symmetric S_a^(1/2) S_b S_a^(1/2).
  values, vectors = np.linalg.eigh(cov_a)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  common = np.linalg.eigvalsh(root @ cov_b @ root)
  cross = np.sqrt(np.maximum(common, 0)).sum()
  distance = np.sum((mean_a - mean_b) ** 2)
  distance += np.trace(cov_a) + np.trace(cov_b) - 2 * cross
  return float(max(distance, 0.0))


def frechet_floor(features: np.ndarray) -> float:
  """Returns the least distance to expect with this number of images.

  Args:
    features: [N, F] of the originals.

  Returns:
    The distance between one half of them (every second one) and the other.
  """
  return frechet_distance(features[0::2], features[1::2])


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  features = np.asarray(features, np.float64)
  return features.mean(axis=0), np.cov(features, rowvar=False)


def _describe(path: str) -> str:
  return f'{Path(path).name} (sha256 {_digest(path)[:8]})'


def _digest(path: str) -> str:
  with Path(path).open('rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()
