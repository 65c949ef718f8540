"""The scores of a run: from the values of its examples to one line.

Axes: B examples, N examples of a set, P pictures of an example for pretrained
networks, F features; S, one to three of space.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from absl import logging

from vaegan_jax.evaluation import metrics
from vaegan_jax.evaluation.frechet import frechet_distance, frechet_floor
from vaegan_jax.evaluation.kid import kernel_distance
from vaegan_jax.models.latents.codes import codebook_metrics

Scores = dict[str, float | None]
_SAMPLED = '_sampled'  # Ends the names of metrics of samples.
_BAND = 'psnr_band_'  # Begins the names of bands, numbered from 0.


class Evaluation(NamedTuple):
  """The results of an evaluation."""

  scores: Scores  # Results of `summarize`.
  examples: Mapping[str, np.ndarray]  # Results of `by_example`.
  code_counts: np.ndarray  # Result of `count_codes`.


def quality_metrics() -> list[str]:
  """Returns the names of the metrics of reconstructions, in order."""
  return [metric.name for metric in metrics.TABLE if metric.quality]


def optional_metrics() -> list[str]:
  """Returns the names of the metrics that only some runs have."""
  return [metric.name for metric in metrics.TABLE if metric.optional]


def measure(
  x: jax.Array,
  x_recon: jax.Array,
  valid: jax.Array | None = None,
  *,
  by_band: bool = False,
  sample_rate: int = 16_000,
) -> dict[str, jax.Array]:
  """Computes the values of each example that need no network.

  Args:
    x, x_recon: [B, *S, C] in [-1, 1], and its reconstructions.
    valid: [B, *S, C] bool, the values that count; None: all.
    by_band: whether several channels are measured one by one, too.
    sample_rate: of sounds, in Hz.

  Returns:
    {name: [B]}: metrics; `band_errors` [B, C]; and the [B, K] of
    `metrics.high_frequency_products`.
  """
  given = (x, x_recon) if valid is None else (x, x_recon, valid)
  values = {
    metric.name: metric.function(
      *given, **({'sample_rate': sample_rate} if metric.of_rate else {})
    )
    for metric in metrics.TABLE
    if metric.function and x.ndim - 2 in metric.num_axes
  }
  if by_band and x.shape[-1] > 1:
    values['band_errors'] = metrics.band_errors(*given)
  return values | metrics.high_frequency_products(*given)


def summarize(
  values: Mapping[str, np.ndarray], *, num_codes: int = 0
) -> Scores:
  """Computes the scores of a set from the values of its examples.

  Args:
    values: {name: [N, ...]}: those of `measure`, perhaps `lpips` and
      `features_recon` [N, P, F], and the same of samples with `_sampled`;
      perhaps `features` of the originals, `kl`, `rate`, `distance`, `indices`
      and `constants`, the `constants.energies` of constant pictures; perhaps
      those of `own_judge.OwnJudge.measure`, of the examples that are judged.
    num_codes: the size of the codebook.

  Returns:
    Quality metrics; `frechet_floor`, `judge_floor`; `grid`; `kl` (nats), `rate`
    (bits), `distance`; PSNR by band; `perplexity`, `usage` and `largest_share`
    of codes; and the quality metrics of samples. Each is a mean or a ratio of
    sums over the set, or None if it is not finite, as JSON has no NaN.
  """
  kinds = [kind for kind in ('', _SAMPLED) if f'psnr{kind}' in values]
  scores, *sampled = (_metrics_for(values, kind) for kind in kinds)
  if 'features' in values:
    _warn_of_few(values['features'])
    scores['frechet_floor'] = frechet_floor(values['features'])
  if 'judge_features' in values:
    scores['judge_floor'] = frechet_floor(values['judge_features'])
  if 'constants' in values:
    off_mean, total = values['constants'].sum(axis=0, dtype=np.float64)
    scores['grid'] = off_mean / total if total else math.nan
  for name in ('kl', 'rate', 'distance'):
    scores[name] = values[name].mean() if name in values else math.nan
  if 'band_errors' in values:
    for band, value in enumerate(metrics.band_psnr(values['band_errors'])):
      scores[f'{_BAND}{band}'] = value
  if 'indices' in values:
    scores |= codebook_metrics(count_codes(values, num_codes), np)
  for others in sampled:
    scores |= others
  return {
    name: float(value) if math.isfinite(value) else None
    for name, value in scores.items()
  }


def by_example(
  values: Mapping[str, np.ndarray], judged: np.ndarray
) -> dict[str, np.ndarray]:
  """Returns the metrics that single examples have, {name: [N]} float64.

  They are NaN where an example does not count.

  Args:
    values: as `summarize` takes them, before any is left out.
    judged: [N] bool, the examples that the data's own judge may judge.
  """
  counted = values.get('counted', np.ones_like(judged))
  examples = {}
  for name in (*quality_metrics(), 'kl', 'rate', 'distance'):
    if name in values and values[name].ndim == 1:
      known = counted & judged if name == 'judge' else counted
      examples[name] = np.where(known, values[name].astype(float), np.nan)
  total, recon, common = (
    values[name].sum(axis=1, dtype=np.float64)
    for name in ('energy', 'energy_recon', 'energy_common')
  )
  with np.errstate(divide='ignore', invalid='ignore'):
    detail = np.where(counted, common / np.maximum(total, recon), np.nan)
  return examples | {'detail': detail}


def count_codes(values: Mapping[str, np.ndarray], num_codes: int) -> np.ndarray:
  """Returns how often each code occurs, [K]; [0] without codes."""
  indices = values.get('indices', np.zeros(0, int))
  return np.bincount(indices.reshape(-1), minlength=num_codes)


def _metrics_for(values, suffix) -> dict[str, float]:
  """Returns the quality metrics of reconstructions, or of samples."""
  own = {
    name.removesuffix(suffix): value
    for name, value in values.items()
    if name.endswith(suffix)
  }
  energies = own['energy'], own['energy_recon'], own['energy_common']
  scores = {name: own[name].mean() for name in quality_metrics() if name in own}
  scores |= {
    'detail': metrics.detail_share(*energies),
    'energy': metrics.energy_ratio(*energies[:2]),
    'false_detail': metrics.false_detail(*energies),
  }
  if 'features_recon' in own:
    pair = values['features'], own['features_recon']
    scores['kid'] = kernel_distance(*pair)
    scores['frechet'] = frechet_distance(*pair)
  if 'judge_features_recon' in own:
    pair = values['judge_features'], own['judge_features_recon']
    scores['judge_frechet'] = frechet_distance(*pair)
  return {
    f'{name}{suffix}': scores[name]
    for name in quality_metrics()
    if name in scores
  }


def _warn_of_few(features: np.ndarray) -> None:
  num_images, *_, num_features = features.shape
  if num_images <= num_features:
    logging.log_first_n(
      logging.WARNING,
      'The Frechet distance of %d images in %d features is unreliable: use '
      'more images than features.',
      1,
      num_images,
      num_features,
    )


def to_line(scores: Scores) -> str:
  """Formats scores as one line, without those of samples and bands."""
  return '  '.join(
    f'{name} {value:.4g}'
    for name, value in scores.items()
    if value is not None and is_main(name)
  )


def is_main(name: str) -> bool:
  """Returns whether a score is neither of samples nor of one band."""
  return not name.endswith(_SAMPLED) and not name.startswith(_BAND)
