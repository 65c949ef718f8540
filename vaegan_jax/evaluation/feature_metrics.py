"""Judges that no run was trained against: LPIPS and the Frechet distance.

They look through networks that others have trained, whose files the user has,
once at each picture. What is measured is a matter of the protocol too, so that
is written down here: the picture that would be shown (clipped to [-1, 1],
rounded to 8 bits), grey repeated to three channels, alpha left out, and the
bands of anything else looked at one by one as grey pictures. VGG16 sees sides
below 64 pixels enlarged to it, bilinear, and Inception sees 299x299.
Axes: B images, H height, W width, C channels, N pictures an image, F features.
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

_VGG_LAYER = 'conv5_3'  # The last, for the Frechet distance.

# What was seen in images, as far as it was asked for: 'lpips', {layer:
# [B, N, H, W, C]}, and 'features', [B, N F], for the Frechet distance.
Look = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Judges:
  """Networks that look at originals and at reconstructions.

  Attributes:
    looks: of each network, (images [B, H, W, C] in [-1, 1]) -> Look.
    protocol: what is measured in them, a line each.
  """

  looks: tuple[Callable[[jax.Array], Look], ...] = ()
  protocol: tuple[str, ...] = ()

  def look(self, images: jax.Array) -> Look:
    """What all of them see in images [B, H, W, C], in a pass through each."""
    seen = {}
    for look in self.looks:
      seen |= look(images)
    return seen

  def compare(self, seen: Look, x_recon: jax.Array) -> dict[str, jax.Array]:
    """What they say of reconstructions.

    Args:
      seen: in the originals.
      x_recon: [B, H, W, C] their reconstructions, in [-1, 1].

    Returns:
      As far as it was asked for: 'lpips' [B], the mean over an image's
      pictures, and 'features_recon' [B, N F].
    """
    return _compare(seen, self.look(x_recon)) if seen else {}


def load_judges(*, lpips_weights: str, features_weights: str) -> Judges:
  """Reads the weights of the judges that there are; compiles nothing.

  Args:
    lpips_weights: the files of VGG16 and of LPIPS's heads, with a comma between
      them; '': no LPIPS.
    features_weights: the file of VGG16 or of the Inception of 2015, whichever
      it turns out to be; '': no Frechet distance.

  Returns:
    The judges. Where both are of the same VGG16, they share its passes.

  Raises:
    UserError: a file is missing, damaged or of another network.
  """
  networks, protocol = [], []  # (look, variables)
  trunk, heads = (lpips_weights or ',').split(',')
  if lpips_weights:
    with _telling(f'evaluation.lpips_weights={lpips_weights}'):
      networks.append((_look_for_lpips, lpips.load_lpips(trunk, heads)))
    protocol.append(
      'lpips: v0.1 in VGG16 (arXiv 1801.03924), pictures enlarged to at least '
      f'{lpips.MIN_SIDE} pixels, {_describe(trunk)} and {_describe(heads)}'
    )
  if features_weights:
    with _telling(f'evaluation.features_weights={features_weights}'):
      network, what = _load_features(features_weights)
    if trunk and _digest(trunk) == _digest(features_weights):
      networks = [(_look_for_both, networks[0][1])]
    else:
      networks.append(network)
    protocol.append(f'frechet: {what}, {_describe(features_weights)}')
  looks = (
    functools.partial(jax.jit(look), jax.device_put(variables))
    for look, variables in networks
  )
  return Judges(tuple(looks), tuple(protocol))


def _load_features(path):
  """((look, variables), what it is) of the network that the file is of."""
  state = weights.read_state_dict(path)
  if inception.is_inception(state):
    what = (
      'FID (arXiv 1706.08500), in the Inception of 2015 '
      f'({inception.NUM_FEATURES} features), between reconstructions and '
      "originals; the literature's is of 50,000 samples, and TensorFlow's "
      'places the pixels by their corners, where this, as the PyTorch port, '
      'does by their centres (bilinear to '
      f'{inception.SIDE}x{inception.SIDE}, no antialiasing)'
    )
    return (_look_in_inception, inception.to_variables(path, state)), what
  if not any(name.startswith('features.') for name in state):
    some = ', '.join(list(state)[:3])[:80] or 'none at all'
    raise UserError(
      f"{path} is of neither torchvision's VGG16 nor the Inception of 2015, as "
      f'its tensors are {some!r}: download {vgg.URLS[16]} or {inception.URL}.'
    )
  what = (
    f'in the mean over the places of VGG16 {_VGG_LAYER} (512 features; not the '
    f'FID of the literature), pictures enlarged to at least {lpips.MIN_SIDE} '
    'pixels'
  )
  return (_look_in_vgg, vgg.to_variables(path, state, 16)), what


@contextlib.contextmanager
def _telling(field: str) -> Iterator[None]:
  """Names the field whose file is wrong."""
  try:
    yield
  except UserError as error:
    raise UserError(f'{field} cannot be used: {error}') from error


def as_judged(images: jax.Array) -> jax.Array:
  """The pictures that a judge sees, in their own size.

  Args:
    images: [B, H, W, C] in [-1, 1], C any number of channels.

  Returns:
    [N B, H, W, 1 or 3] float32 in [-1, 1], with N pictures for each image: one,
    or as many as it has bands; those of an image are B apart.
  """
  channels = images.shape[-1]
  images = jnp.clip(images.astype(jnp.float32), -1, 1)
  images = jnp.round((images + 1) * 127.5) / 127.5 - 1
  if channels in (2, 4):  # The last is alpha.
    return images[..., :-1]
  if channels > 4:
    return jnp.concatenate(jnp.split(images, channels, axis=-1))
  return images


def _look_for_lpips(variables, images):
  seen = _see_in_vgg(lpips.LPIPS(), vgg.LPIPS_LAYERS, variables, images)
  return {'lpips': seen}


def _look_in_vgg(variables, images):
  seen = _see_in_vgg(vgg.VGG(16), (_VGG_LAYER,), variables, images)
  return {'features': _means(seen[_VGG_LAYER])}


def _look_for_both(variables, images):
  layer = f'vgg/{_VGG_LAYER}'
  layers = (*vgg.LPIPS_LAYERS, layer)
  seen = _see_in_vgg(lpips.LPIPS(), layers, variables, images)
  return {'features': _means(seen.pop(layer)), 'lpips': seen}


def _look_in_inception(variables, images):
  pictures = inception.resize(as_judged(images))
  features = inception.Inception().apply(variables, pictures)
  return {'features': _means(_by_image(features[:, None, None], len(images)))}


def _see_in_vgg(module, layers, variables, images):
  """{layer: [B, N, H, W, C]} of one pass."""
  pictures = lpips.enlarge(as_judged(images))
  _, features = capture_features(module, variables, pictures, layers=layers)
  return {name: _by_image(f, len(images)) for name, f in features.items()}


def _by_image(feature, num_images):
  """Puts the pictures of an image side by side: [N B, ...] -> [B, N, ...]."""
  feature = feature.reshape(-1, num_images, *feature.shape[1:])
  return jnp.moveaxis(feature, 0, 1)


def _means(feature):
  """Means over the places: [B, N, H, W, C] -> [B, N C]."""
  means = feature.mean(axis=(2, 3))
  return means.reshape(len(means), -1)


@jax.jit
def _compare(seen, seen_recon):
  verdicts = {}
  if 'lpips' in seen:
    verdicts['lpips'] = feature_distance(
      seen['lpips'], seen_recon['lpips'], reduction='spatial'
    )
  if 'features' in seen:
    verdicts['features_recon'] = seen_recon['features']
  return verdicts


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
  """Between two sets of features, as if they were normal (arXiv 1706.08500, 6).

  `|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))`, in float64 throughout.

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
  """What the distance cannot be expected to fall below, with so many images.

  Args:
    features: [N, F] of the originals.

  Returns:
    The distance between every second one and the others.
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
