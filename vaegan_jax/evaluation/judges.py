"""Judges that no run was trained against: LPIPS and the Frechet distance.

They look through networks that others have trained, whose files the user has;
what is measured is a matter of the protocol too, so that is written down here:
the picture that would be shown (clipped to [-1, 1], rounded to 8 bits), grey
repeated to three channels, alpha left out, the bands of anything else looked at
one by one as grey pictures, and sides below 64 pixels enlarged to it, bilinear.
Axes: B images, H height, W width, C channels, F features.
"""

import contextlib
import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vaegan_jax.errors import UserError
from vaegan_jax.losses.perceptual import capture_features, perceptual_distance
from vaegan_jax.models.vgg import (
  LPIPS_LAYERS,
  VGG,
  load_lpips_weights,
  load_vgg,
)

MIN_SIDE = 64  # Pixels; smaller pictures are enlarged.
_FRECHET_LAYER = 'conv5_3'  # Of VGG16, its last convolution.


@dataclasses.dataclass(frozen=True)
class Judges:
  """What looks at originals and reconstructions; None: it is not asked.

  Attributes:
    lpips: (x, x_recon), each [B, H, W, C] in [-1, 1] -> [B].
    features: (x [B, H, W, C]) -> [B, F], for the Frechet distance.
    protocol: what the two are, a line each.
  """

  lpips: Callable[[jax.Array, jax.Array], jax.Array] | None = None
  features: Callable[[jax.Array], jax.Array] | None = None
  protocol: tuple[str, ...] = ()


def load_judges(*, lpips_weights: str, features_weights: str) -> Judges:
  """Reads the weights of the judges that there are; compiles nothing.

  Args:
    lpips_weights: the files of VGG16 and of LPIPS's heads, with a comma between
      them; '': no LPIPS.
    features_weights: the file of VGG16; '': no Frechet distance.

  Returns:
    The judges.

  Raises:
    UserError: a file is missing, damaged or of another network.
  """
  lpips = features = None
  protocol = []
  if lpips_weights:
    trunk, heads = lpips_weights.split(',')
    with _telling(f'evaluation.lpips_weights={lpips_weights}'):
      weights = load_vgg(trunk, 16), load_lpips_weights(heads)
    lpips = functools.partial(jax.jit(_lpips), *jax.device_put(weights))
    protocol.append(
      'lpips: v0.1 in VGG16 (arXiv 1801.03924), '
      f'{_describe(trunk)} and {_describe(heads)}'
    )
  if features_weights:
    with _telling(f'evaluation.features_weights={features_weights}'):
      variables = jax.device_put(load_vgg(features_weights, 16))
    features = functools.partial(jax.jit(_vgg_features), variables)
    protocol.append(
      f'frechet: in the mean over the places of VGG16 {_FRECHET_LAYER} (512 '
      f'features; not the FID of the literature), {_describe(features_weights)}'
    )
  return Judges(lpips, features, tuple(protocol))


@contextlib.contextmanager
def _telling(field: str) -> Iterator[None]:
  """Names the field whose file is wrong."""
  try:
    yield
  except UserError as error:
    raise UserError(f'{field} cannot be used: {error}') from error


def as_judged(images: jax.Array) -> jax.Array:
  """The pictures that a judge sees.

  Args:
    images: [B, H, W, C] in [-1, 1], C any number of channels.

  Returns:
    [N B, H', W', 1 or 3] float32 in [-1, 1], with N pictures for each image:
    one, or as many as it has bands; those of an image are B apart.
  """
  channels = images.shape[-1]
  images = jnp.clip(images.astype(jnp.float32), -1, 1)
  images = jnp.round((images + 1) * 127.5) / 127.5 - 1
  if channels in (2, 4):  # The last is alpha.
    images = images[..., :-1]
  elif channels > 4:
    images = jnp.concatenate(jnp.split(images, channels, axis=-1))
  batch, height, width, channels = images.shape
  scale = MIN_SIDE / min(height, width)
  if scale <= 1:
    return images
  sides = round(scale * height), round(scale * width)
  return jax.image.resize(images, (batch, *sides, channels), 'bilinear')


def _lpips(variables, heads, x, x_recon):
  distances = perceptual_distance(
    VGG(16),
    variables,
    as_judged(x),
    as_judged(x_recon),
    layers=LPIPS_LAYERS,
    weights=heads,
    normalize='unit',
    reduction='spatial',
  )
  return distances.reshape(-1, len(x)).mean(axis=0)  # Over the bands.


def _vgg_features(variables, x):
  _, features = capture_features(
    VGG(16), variables, as_judged(x), layers=(_FRECHET_LAYER,)
  )
  means = features[_FRECHET_LAYER].mean(axis=(1, 2))
  # The bands of an image beside each other.
  return jnp.concatenate(jnp.split(means, len(means) // len(x)), axis=-1)


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
  digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:8]
  return f'{Path(path).name} (sha256 {digest})'
