"""The Frechet distance between two sets of features.

Axes: N, M images, P pictures of an image, F features of a picture.
"""

import math

import numpy as np

from vaegan_jax.runtime.progress import track


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
  """Computes the Frechet distance of two sets of features.

  `|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))`, the distance of normal
  distributions (arXiv 1706.08500, equation 6), in float64.

  Args:
    a: [N, F] features of a set; or [N, P, F], of P pictures of an image.
    b: [M, F] or [M, P, F], of another.

  Returns:
    At least 0; 0 between a set and itself. It is biased: it falls with N. NaN
    where N or M is below 2, or a feature is not finite. For P pictures it is
    the mean of P distances, in F features each: a distance in all P F would
    need matrices of their squared number.
  """
  if a.ndim == 3:
    pairs = list(zip(a.swapaxes(0, 1), b.swapaxes(0, 1), strict=True))
    if len(pairs) > 1:  # Each takes seconds with thousands of features.
      pairs = track(pairs, 'Frechet distances', len(pairs))
    return float(np.mean([frechet_distance(*pair) for pair in pairs]))
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

  It is that between one half of the originals (every second one) and the other.
  """
  return frechet_distance(features[0::2], features[1::2])


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  features = np.asarray(features, np.float64)
  return features.mean(axis=0), np.cov(features, rowvar=False)
