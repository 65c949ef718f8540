"""The table of health checks: what each needs and finds.

`health.py` has the time for which a condition must hold, `health_remedies.py`
the changes that it suggests. Plain Python on floats.
"""

import collections
import dataclasses
import functools
import math
import statistics
from collections.abc import Callable, Mapping
from typing import NamedTuple

from vaegan_jax.training.health_remedies import (
  Fields,
  Suggestion,
  as_flag,
  bound_critic,
  bounds_critic,
  even_codes,
  lower_adversarial,
  lower_kl,
  raise_adversarial,
  raise_min_size,
  slow_autoencoder,
  slow_critic,
  trains_critic,
)

Metrics = Mapping[str, float]

# Around the loss of a critic with the same logit for every image. With logits
# of about 1, the noise of a batch exceeds this.
_UNDECIDED_TOLERANCE = 0.01  # Relative to that loss ...
_UNDECIDED_MARGIN = 1e-6  # ... but at least the noise of a float32 near 1.
# The critics of docs/results.md had 0.07 to 0.3 on smooth patterns, and fell to
# a third of that in 8,000 steps: a growth by this factor is more than drift.
_MAX_GROWTH = 100.0
_NUM_FIRST_SCALES = 5  # The growth is relative to their median.
_MIN_EXPLODED = 1.0  # Features that begin near 0 may grow to the images' scale.
# For a run that resumes with exploded features: the distance sums squares over
# a layer, and a float32 has seven digits.
_MAX_SCALE = 1e4
# In the quick start, reconstructions have 45% of the images' deviation before
# the first step and 73% to 93% after 500: below this they are nearly constant.
_MIN_OUTPUT_SPREAD = 0.05
# The losses that the median is of, and how far above it one is reported.
_NUM_LOSSES, _MIN_LOSSES, _MAX_LOSS = 100, 5, 1000.0
_DEAD_UNITS = ', as with units that died in too large a step'


@dataclasses.dataclass
class Limits:
  """Limits of one run: of its objective, its fields, and its first logs."""

  separated_loss: float
  undecided_loss: float
  min_kl: float
  min_usage: float
  first_scales: list[float] = dataclasses.field(default_factory=list)
  losses: collections.deque[float] = dataclasses.field(
    default_factory=lambda: collections.deque(maxlen=_NUM_LOSSES)
  )


# Conditions: (metrics, limits) -> what is unhealthy, or None.


def _non_finite(metrics: Metrics, _) -> str | None:
  skipped = metrics.get('skipped_in_a_row', 0.0)
  names = [name for name, v in metrics.items() if not math.isfinite(v)]
  if not names and skipped <= 0:
    return None
  verb = 'are' if names[1:] else 'is'
  text = f'{" and ".join(names)} {verb} not finite'
  text = text if names else 'an update was skipped'
  return text + (
    f', with {skipped:.0f} skipped in a row,' if skipped > 0 else ''
  )


def _exploded(metrics: Metrics, limits: Limits) -> str | None:
  scale, limit, began = metrics['feature_scale'], _MAX_SCALE, ''
  if limits.first_scales:
    first = statistics.median(limits.first_scales)
    limit = min(limit, max(_MAX_GROWTH * first, _MIN_EXPLODED))
    began = f', from {first:.3g} at first'
  if scale > limit:
    return f'feature_scale is above {limit:.3g} ({scale:.3g}{began})'
  if len(limits.first_scales) < _NUM_FIRST_SCALES:
    limits.first_scales.append(scale)
  return None


def _outlier(metrics: Metrics, limits: Limits) -> str | None:
  largest, losses = metrics['largest_loss'], limits.losses
  median = statistics.median(losses) if len(losses) >= _MIN_LOSSES else math.inf
  losses.append(abs(metrics['loss']))
  if largest <= _MAX_LOSS * median:
    return None
  return (
    f'largest_loss ({largest:.3g}) is more than {_MAX_LOSS:,.0f} times the '
    f'median of loss ({median:.3g})'
  )


def _undecided(metrics: Metrics, limits: Limits) -> str | None:
  loss, value = metrics['critic_loss'], limits.undecided_loss
  margin = max(_UNDECIDED_TOLERANCE * value, _UNDECIDED_MARGIN)
  text = f'critic_loss stayed within {margin:.2g} of {value:.3g} ({loss:.3g})'
  return text if abs(loss - value) <= margin else None


def _below(limit_of: Callable[[Metrics, Limits], float], text: str):
  """Returns the condition that the first metric in `text` is below a limit."""
  metric = text.split()[0]

  def condition(metrics: Metrics, limits: Limits) -> str | None:
    value, limit = metrics[metric], limit_of(metrics, limits)
    text_of = functools.partial(text.format, value=value, limit=limit)
    return text_of(**metrics) if value < limit else None

  return condition


class Check(NamedTuple):
  """A check of the logged metrics: a row of `CHECKS`."""

  kind: str  # A key of `KINDS`.
  # Names of the metrics that the condition needs; a log in which one is missing
  # or not finite proves nothing. None: all, of any value.
  metrics: tuple[str, ...] | None
  condition: Callable[[Metrics, Limits], str | None]
  cause: str | Callable[[Fields], str]  # Likely cause.
  suggestions: tuple[Callable[[Fields], list[Suggestion]], ...]
  # (fields) -> whether the run is checked.
  applies: Callable[[Fields], bool] = lambda fields: True
  all_needed: bool = False  # All suggestions are needed together.
  # (metrics) -> whether the state cannot pass by itself.
  urgent: Callable[[Metrics], bool] = lambda metrics: False


# Each kind of finding, and the beginning of its message.
KINDS = {
  'non_finite': 'Non-finite values',
  'exploding_features': 'Exploding features',
  'outlier_loss': 'Outlier loss',
  'dead_critic': 'Dead critic',
  'latent_collapse': 'Latent collapse',
  'codebook_collapse': 'Codebook collapse',
  'output_collapse': 'Output collapse',
}
CHECKS = (
  Check(
    'non_finite',
    None,
    _non_finite,
    'a step was too large and left weights that overflow',
    (slow_autoencoder, slow_critic),
    all_needed=True,
    # A skipped update leaves the weights as they were. One is chance. If the
    # next batch with other noise fails too, the cause is the weights.
    urgent=lambda metrics: metrics.get('skipped_in_a_row') != 1,
  ),
  Check(
    'exploding_features',
    ('feature_scale',),
    _exploded,
    lambda fields: (
      'the critic learns too fast for what bounds its weights'
      if bounds_critic(fields)
      else "nothing bounds the critic's weights and it learns too fast"
    ),
    (slow_critic, bound_critic),
    applies=trains_critic,
    # Images are bounded, so only the weights can cause this.
    urgent=lambda metrics: True,
  ),
  Check(
    'outlier_loss',
    ('loss', 'largest_loss'),
    _outlier,
    lambda fields: (
      'a batch was nearly silent and was divided by its own size'
      if raise_min_size(fields)
      else 'a batch has values far outside of the others'
    ),
    (lambda fields: raise_min_size(fields) or slow_autoencoder(fields),),
    urgent=lambda metrics: True,
  ),
  Check(
    'dead_critic',
    ('critic_loss',),
    _below(
      lambda metrics, limits: limits.separated_loss,
      'critic_loss stayed below {limit:g} ({value:.3g})',
    ),
    'the critic separates all reconstructions from real images, where its '
    'gradient vanishes',
    (raise_adversarial, slow_critic),
    applies=trains_critic,
  ),
  Check(
    'dead_critic',
    ('critic_loss',),
    _undecided,
    'the critic gives every image the same logit' + _DEAD_UNITS,
    (slow_critic, lower_adversarial),
    applies=trains_critic,
  ),
  Check(
    'latent_collapse',
    ('kl',),
    _below(
      lambda metrics, limits: limits.min_kl,
      'kl stayed below health.min_kl={limit:g} nats ({value:.3g})',
    ),
    lambda fields: (
      'its weight outweighs the distance, so that the latent is independent of '
      'the image'
      if lower_kl(fields)
      else 'the encoder gives every image the same latent' + _DEAD_UNITS
    ),
    (lambda fields: lower_kl(fields) or slow_autoencoder(fields),),
  ),
  Check(
    'codebook_collapse',
    ('usage', 'largest_share'),
    _below(
      lambda metrics, limits: limits.min_usage,
      'usage stayed below health.min_usage={limit:g} of the codes ({value:.3g};'
      ' the most common one has {largest_share:.0%} of the tokens)',
    ),
    'the encoder uses a corner of the codebook, or the images need no more '
    'codes',
    (even_codes, slow_autoencoder),
  ),
  Check(
    'output_collapse',
    ('output_std', 'input_std'),
    _below(
      lambda metrics, limits: _MIN_OUTPUT_SPREAD * metrics['input_std'],
      f'output_std stayed below {_MIN_OUTPUT_SPREAD:.0%} of input_std '
      '({value:.3g} of {input_std:.3g})',
    ),
    'the decoder gives every image the same output' + _DEAD_UNITS,
    (slow_autoencoder, lower_adversarial),
  ),
)


def advice(check: Check, fields: Fields) -> str:
  """Returns the cause, and what to change in words and as flags."""
  cause = check.cause if isinstance(check.cause, str) else check.cause(fields)
  found = [s for suggest in check.suggestions for s in suggest(fields)]
  if not found:
    return cause
  word, space = (' and ', ' ') if check.all_needed else (' or ', ' or ')
  what = word.join(f'{verb} {field}' for verb, field, _ in found)
  flags = space.join(as_flag(field, value) for _, field, value in found)
  return f'{cause}; {what}, in a new --workdir: for example, {flags}'
