"""The numbers that are reported of a run: from examples to one line.

Owns their names, their order, and how each is summed up over a set.
Axes: B examples, N examples of a set, F features; S, one to three of space.
"""

import math
from collections.abc import Mapping

import jax
import numpy as np
from absl import logging

from vaegan_jax.evaluation import metrics
from vaegan_jax.evaluation.feature_metrics import (
  frechet_distance,
  frechet_floor,
)
from vaegan_jax.models.latents.codes import codebook_metrics

Scores = dict[str, float | None]
# Of each example, by name: (x, x_recon), each [B, *S, C] in [-1, 1] -> [B].
_METRICS = {
  'psnr': metrics.psnr,
  'ssim': metrics.ssim,
  'low_frequency_psnr': metrics.low_frequency_psnr,
}
# And of those with one axis of space.
_SOUND_METRICS = {'log_spectral_distance': metrics.log_spectral_distance}
# In the order of the tables. Each is told of reconstructions from the latent's
# mean and, as `..._sampled`, from a sample. The last two are the judges'.
QUALITY = (*_METRICS, *_SOUND_METRICS, 'detail', 'energy', 'lpips', 'frechet')
_BAND = 'psnr_band_'  # And its number, from 0.
OF_SOUNDS = tuple(_SOUND_METRICS)
JUDGED = ('lpips', 'frechet', 'frechet_floor')


def measure(
  x: jax.Array, x_recon: jax.Array, by_band: bool = False
) -> dict[str, jax.Array]:
  """What is measured of each example without a network.

  Args:
    x: [B, *S, C] in [-1, 1].
    x_recon: [B, *S, C] its reconstructions.
    by_band: whether each of several channels is measured too.

  Returns:
    {name: [B]}: metrics, and the energies that `summarize` makes some of; and
    `band_errors` [B, C].
  """
  asked = _METRICS | (_SOUND_METRICS if x.ndim == 3 else {})
  measured = {name: metric(x, x_recon) for name, metric in asked.items()}
  if by_band and x.shape[-1] > 1:
    measured['band_errors'] = metrics.band_errors(x, x_recon)
  return measured | metrics.high_frequency_products(x, x_recon)


def summarize(
  values: Mapping[str, np.ndarray], *, num_codes: int = 0
) -> Scores:
  """Sums a set of examples up.

  Args:
    values: of every example: those of `measure`, and `lpips` and
      `features_recon`, if it was asked for, each a second time with `_sampled`;
      `features` of the originals; perhaps `kl`, `rate`, `distance` and the
      `indices` of codes, of which there are
    num_codes: in the codebook.

  Returns:
    `psnr` (dB), `ssim`, `low_frequency_psnr` (dB), of sounds
    `log_spectral_distance` (dB), `detail` and `energy` (shares), with judges
    `lpips` and `frechet` with its `frechet_floor`; `kl` (nats), `rate` (bits)
    and `distance`; PSNR by band; of codes how they are used over the set; and,
    where there are samples, the first ones of samples. Means over the set, and
    ratios of sums. None for what is not finite, as JSON has no NaN.
  """
  kinds = [kind for kind in ('', '_sampled') if f'psnr{kind}' in values]
  found, *sampled = (_of_one_kind(values, kind) for kind in kinds)
  if 'features' in values:
    _warn_of_few(values['features'])
    found['frechet_floor'] = frechet_floor(values['features'])
  for name in ('kl', 'rate', 'distance'):
    found[name] = values[name].mean() if name in values else math.nan
  if 'band_errors' in values:
    for band, value in enumerate(metrics.band_psnr(values['band_errors'])):
      found[f'{_BAND}{band}'] = value
  if 'indices' in values:
    counts = np.bincount(values['indices'].reshape(-1), minlength=num_codes)
    found |= codebook_metrics(counts, np)
  for scores in sampled:
    found |= scores
  return {
    name: float(value) if math.isfinite(value) else None
    for name, value in found.items()
  }


def _of_one_kind(values, suffix) -> dict[str, float]:
  """{name + suffix: value} of the reconstructions of one kind, in order."""
  own = {
    name: values[f'{name}{suffix}']
    for name in (*QUALITY, 'energy_recon', 'energy_common', 'features_recon')
    if f'{name}{suffix}' in values
  }
  scores = {name: own[name].mean() for name in QUALITY if name in own}
  energies = own['energy'], own['energy_recon']
  scores['detail'] = metrics.detail_share(*energies, own['energy_common'])
  scores['energy'] = metrics.energy_ratio(*energies)
  if 'features_recon' in own:
    scores['frechet'] = frechet_distance(
      values['features'], own['features_recon']
    )
  return {f'{name}{suffix}': scores[name] for name in QUALITY if name in scores}


def _warn_of_few(features: np.ndarray) -> None:
  num_images, num_features = features.shape
  if num_images <= num_features:
    logging.log_first_n(
      logging.WARNING,
      'The Frechet distance of %d images in %d features says little: there '
      'should be more images than features.',
      1,
      num_images,
      num_features,
    )


def to_line(scores: Scores) -> str:
  """Scores on one line, for people, without those of samples and bands."""
  return '  '.join(
    f'{name} {value:.4g}'
    for name, value in scores.items()
    if value is not None and is_main(name)
  )


def is_main(name: str) -> bool:
  """Whether a score is neither of samples nor of one band."""
  return not name.endswith('_sampled') and not name.startswith(_BAND)
