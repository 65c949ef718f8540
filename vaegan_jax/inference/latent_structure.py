"""Measures how hard latents are to model: spectrum, rank, crossing paths.

It needs no labels and no generative model. All of it follows from the mean and
from two covariances, one over the channels and one over the positions. Axes: B
batch, S axes of space, P positions, Z entries of a latent.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

_MOST_POSITIONS = 1024  # A covariance has their square.
_DEAD = 0.01  # Of the variance of an average entry.


class Moments(NamedTuple):
  """Sums over examples; those of the parts of a set add up."""

  count: np.ndarray  # Number of examples, [].
  means: np.ndarray  # Latents, or posterior means, [P, Z].
  positions: np.ndarray  # Their products over channels, [P, P].
  channels: np.ndarray  # Their products over positions, [Z, Z].
  noise: np.ndarray  # Variances of the posterior, [P, Z].

  def add(self, other: 'Moments') -> 'Moments':
    """Returns the moments of both parts."""
    return Moments(*map(np.add, self, other))


def moments_of(latents: np.ndarray, logvar: np.ndarray | None) -> Moments:
  """Returns the moments of latents.

  Args:
    latents: [B, *S, Z]; the means of a Gaussian. Maps with more than 1,024
      positions are measured in their middle.
    logvar: [B, *S, Z] of a Gaussian; None of other latents.
  """
  noise = np.zeros_like(latents) if logvar is None else np.exp(logvar)
  middle = _middle(latents.shape[1:-1])
  latents, noise = (
    np.asarray(a[:, *middle], np.float64).reshape(len(a), -1, a.shape[-1])
    for a in (latents, noise)
  )
  return Moments(
    np.float64(len(latents)),
    latents.sum(axis=0),
    np.tensordot(latents, latents, [(0, 2), (0, 2)]),
    np.tensordot(latents, latents, [(0, 1), (0, 1)]),
    noise.sum(axis=0),
  )


def _middle(space: tuple[int, ...]) -> tuple[slice, ...]:
  """Returns the slices of the part that is measured."""
  most = math.floor(_MOST_POSITIONS ** (1 / max(len(space), 1)) + 1e-9)
  starts = [max(side - most, 0) // 2 for side in space]
  return tuple(slice(start, start + most) for start in starts)


def describe(
  moments: Moments, space: tuple[int, ...]
) -> dict[str, float | int]:
  """Describes the distribution of latents [B, *space, Z], from their moments.

  Returns:
    'effective_rank': the exponential of the entropy of the eigenvalues of the
      covariance of the channels, from 1 to Z.
    'dead_channels': number of channels whose means vary by less than a
      hundredth of the variance of an average one.
    'velocity_variance' (VIV, arXiv 2606.03578): the variance that remains of a
      flow's velocity at a point of its path, averaged over the path, per entry;
      see `_velocity_variance`.
    'spectral_energy' (SEC, there too), of maps: the share of variance at
      frequencies above a quarter, where 1 is that of the finest on all axes.

  Raises:
    ValueError: a latent is not finite.
  """
  count, sums, positions, channels, noise = moments
  means = sums / count
  positions = positions / count - means @ means.T
  channels = channels / count - means.T @ means
  varied = np.diag(channels).copy()
  positions += np.diag(noise.sum(axis=1)) / count
  channels += np.diag(noise.sum(axis=0)) / count
  if not (np.isfinite(positions).all() and np.isfinite(channels).all()):
    raise ValueError('not all latents are finite')
  shares = _eigenvalue_shares(channels)
  found = {
    'effective_rank': _exp_entropy(shares),
    'dead_channels': int(np.sum(varied <= _DEAD * np.diag(channels).mean())),
    'velocity_variance': _velocity_variance(
      np.outer(shares, _eigenvalue_shares(positions))
    ),
  }
  if len(positions) > 1:
    sides = [
      len(range(s)[m]) for s, m in zip(space, _middle(space), strict=True)
    ]
    found['spectral_energy'] = _high_share(positions, sides)
  return found


def _eigenvalue_shares(covariance: np.ndarray) -> np.ndarray:
  values = np.maximum(np.linalg.eigvalsh(covariance), 0)
  return values / max(values.sum(), np.finfo(np.float64).tiny)


def _exp_entropy(shares: np.ndarray) -> float:
  shares = shares[shares > 0]
  return float(np.exp(-np.sum(shares * np.log(shares))))


def _velocity_variance(shares: np.ndarray) -> float:
  """Returns VIV of normal latents of variance 1, from shares of eigenvalues.

  The path is (1 - t) z + t e, with noise e of variance 1, and its velocity is
  e - z. Along an eigenvector with the value v, the variance of the velocity at
  a point is v / ((1 - t)^2 v + t^2), and its mean over t is pi / 2 sqrt(v).
  """
  return float(math.pi / 2 * np.sqrt(shares * shares.size).mean())


def _high_share(covariance: np.ndarray, sides: list[int]) -> float:
  """Returns the share of variance at high frequencies, by cosine transform."""
  basis = functools.reduce(np.kron, map(_dct_matrix, sides))
  energy = np.sum((basis @ covariance) * basis, axis=1)
  axes = np.ix_(*(np.arange(side) / side for side in sides))
  frequency = functools.reduce(np.add, axes).reshape(-1) / len(sides)
  total = max(energy.sum(), np.finfo(np.float64).tiny)
  return float(energy[frequency > 0.25].sum() / total)


def _dct_matrix(size: int) -> np.ndarray:
  """Returns the orthonormal DCT-II, [size, size], a frequency a row."""
  k, n = np.mgrid[:size, :size]
  matrix = np.sqrt(2 / size) * np.cos(np.pi * k * (n + 0.5) / size)
  matrix[0] /= np.sqrt(2)
  return matrix
