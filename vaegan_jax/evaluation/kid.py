"""KID: the maximum mean discrepancy of two sets of features.

Axes: N images, P pictures of an image, F features of a picture.
"""

import math

import numpy as np

_MOST = 2_000  # Images of a part: its kernel matrices take 32 MB each.


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
  """Computes KID (arXiv 1801.01401) between originals and reconstructions.

  The kernel is `(<u, v> / F + 1)^3`. The sum runs over pairs of different
  images (Gretton et al., 2012, lemma 6), so that it is unbiased although each
  reconstruction resembles its original. Larger sets are split into parts of at
  most 2,000 images, and the value is the mean over the parts, unbiased too.

  Args:
    a: [N, F] features of originals; or [N, P, F], of P pictures of an image.
    b: those of their reconstructions, in the same order.

  Returns:
    0 for identical sets and, on average, for sets of one distribution, so it
    may be slightly negative. For P pictures it is the mean of P distances. NaN
    if N is below 2, or a feature is not finite.
  """
  if a.ndim == 3:
    pairs = zip(a.swapaxes(0, 1), b.swapaxes(0, 1), strict=True)
    return float(np.mean([kernel_distance(*pair) for pair in pairs]))
  if len(a) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
    return math.nan
  number = -(-len(a) // _MOST)
  parts = [(a[i::number], b[i::number]) for i in range(number)]
  return float(np.mean([_distance_of_pairs(*part) for part in parts]))


def _distance_of_pairs(a: np.ndarray, b: np.ndarray) -> float:
  a, b = (np.asarray(features, np.float64) for features in (a, b))

  def kernel(u, v):
    return (u @ v.T / u.shape[1] + 1) ** 3

  terms = kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)
  number = len(a)
  return (terms.sum() - np.trace(terms)) / (number * (number - 1))
