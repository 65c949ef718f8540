"""What can be seen in the metrics of an ill run, and why it may be so.

Owns what counts as ill in one log; how long it must last is `health.py`'s
business, and what to change `advice.py`'s. Plain Python on floats, no JAX.
"""

import math
import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

from vaegan_jax.training.suggestions import Advisor, Change, join

# Around the loss of a critic that says the same to every image. With logits of
# about 1, the chance of a batch alone carries it further than this.
_UNDECIDED_TOLERANCE = 0.01  # Of that loss ...
_UNDECIDED_MARGIN = 1e-6  # ... but where that is 0, a float32's noise about 1.
# The critics of docs/results.md had 0.07 to 0.3 on smooth patterns, and came
# to a third of where they began in 8,000 steps: this is no drift any more.
_MAX_GROWTH = 100.0
_NUM_FIRST_SCALES = 5  # Whose median the growth is measured from.
_MIN_EXPLODED = 1.0  # Features that began near 0 may grow, as images have.
# For a run that resumes too late for its first values to tell: the distance
# squares this and sums over a layer, and a float32 has seven digits.
_MAX_SCALE = 1e4
# In the quick start reconstructions have 45% of the photographs' deviation
# before the first step and 73% to 93% after 500: this is all but constant.
_MIN_OUTPUT_SPREAD = 0.05

Metrics = Mapping[str, float]


class _DeadLoss(NamedTuple):
  """Where a critic that learns nothing has its loss.

  Attributes:
    separated: below this it tells the two sides apart without fail, and its
      gradient vanishes.
    undecided: the least it can have by saying the same to every image.
  """

  separated: float
  undecided: float


# A hundredth of a margin, or of a nat: all but a few images are beyond doubt.
_CROSS_ENTROPY = _DeadLoss(separated=0.01, undecided=2 * math.log(2))
# It has no margin: a sure critic's loss goes on falling, below zero.
_WASSERSTEIN = _DeadLoss(separated=-math.inf, undecided=0.0)
_DEAD_LOSSES = {
  'geometric': _DeadLoss(separated=0.01, undecided=2.0),
  'wasserstein': _WASSERSTEIN,
  'wasserstein_gp': _WASSERSTEIN,
  'vanilla': _CROSS_ENTROPY,
  'non_saturating': _CROSS_ENTROPY,
  # Half a squared distance: the logits are within a tenth of their targets.
  'least_squares': _DeadLoss(separated=0.005, undecided=0.25),
}


class Symptom(NamedTuple):
  """What one look at the metrics saw, when it saw something.

  Attributes:
    seen: in words, with the values.
    cause: the likely one.
    changes: of the configuration, that may help.
    together: whether all of them are needed.
    urgent: whether it asks for no patience, as it does not pass by itself.
  """

  seen: str
  cause: str
  changes: tuple[Change, ...]
  together: bool = False
  urgent: bool = False


class Looks:
  """One look at the metrics for each thing that may be wrong with a run.

  Each returns what it saw, or None where all is well. A metric that it needs
  and does not find is a KeyError: there is no evidence.
  """

  def __init__(self, fields: Mapping[str, Any]):
    """Takes {field: value} of the configuration, those of `health.FIELDS`."""
    self._advisor = Advisor(fields)
    self._objective = fields['objective']
    self._min_kl = fields['health.min_kl']
    self._min_usage = fields['health.min_usage']
    self._first_scales = []

  def at_non_finite(self, metrics: Metrics) -> Symptom | None:
    """Whether values are not finite; of all metrics, the others' too."""
    # A value that is not finite makes its update a skipped one, so after one
    # the weights are what they were. One is bad luck; if the next batch with
    # its other noise fails too, it is the weights, and those stay.
    skipped = metrics.get('skipped_in_a_row', 0.0)
    names = [name for name, v in metrics.items() if not math.isfinite(v)]
    if not names and skipped <= 0:
      return None
    verb = 'are' if names[1:] else 'is'
    seen = 'an update was skipped'
    if names:
      seen = f'{join(names, "and")} {verb} not finite'
    if skipped > 0:
      seen += f', with {skipped:.0f} skipped in a row,'
    return Symptom(
      seen,
      cause='a step was too long and left weights that overflow',
      changes=self._advisor.slow_autoencoder() + self._advisor.slow_critic(),
      together=True,
      urgent=skipped != 1,
    )

  def at_features(self, metrics: Metrics) -> Symptom | None:
    """Whether the critic's features explode; those of a frozen one cannot."""
    scale = metrics['feature_scale']
    if not self._advisor.trains_critic:
      return None
    limit = _MAX_SCALE
    if self._first_scales:
      first = statistics.median(self._first_scales)
      limit = min(limit, max(_MAX_GROWTH * first, _MIN_EXPLODED))
    if scale <= limit:
      if len(self._first_scales) < _NUM_FIRST_SCALES:
        self._first_scales.append(scale)
      return None
    began = f', from {first:.3g} at first' if self._first_scales else ''
    cause = "nothing holds the critic's weights and it learns too fast"
    if self._advisor.holds_critic:
      cause = 'the critic learns too fast for what holds its weights'
    # Urgent, as images are bounded: only the weights can do this.
    return Symptom(
      f'feature_scale is above {limit:.3g} ({scale:.3g}{began})',
      cause,
      changes=self._advisor.slow_critic() + self._advisor.hold_critic(),
      urgent=True,
    )

  def for_separation(self, metrics: Metrics) -> Symptom | None:
    """Whether the critic has nothing left to learn."""
    loss, limit = metrics['critic_loss'], self._dead_loss.separated
    if loss >= limit:
      return None
    return Symptom(
      f'critic_loss stayed below {limit:g} ({loss:.3g})',
      cause='the critic tells every reconstruction from a photograph and has '
      'no gradient left to learn from',
      changes=self._advisor.heed_critic() + self._advisor.slow_critic(),
    )

  def for_indecision(self, metrics: Metrics) -> Symptom | None:
    """Whether the critic does not tell images apart."""
    loss, value = metrics['critic_loss'], self._dead_loss.undecided
    margin = max(_UNDECIDED_TOLERANCE * value, _UNDECIDED_MARGIN)
    if abs(loss - value) > margin:
      return None
    return Symptom(
      f'critic_loss stayed within {margin:.2g} of {value:.3g} ({loss:.3g})',
      cause='the critic says the same to every image, as one does whose '
      'units died of too long a step',
      changes=self._advisor.slow_critic() + self._advisor.heed_critic_less(),
    )

  def at_latent(self, metrics: Metrics) -> Symptom | None:
    """Whether the latent holds next to nothing."""
    kl = metrics['kl']
    if kl >= self._min_kl:
      return None
    cause = (
      'its price outweighs the distance, so that the latent says nothing of '
      'the image'
    )
    changes = self._advisor.free_latent()
    if not changes:
      cause = (
        'the encoder says the same of every image, as one does whose units '
        'died of too long a step'
      )
      changes = self._advisor.slow_autoencoder()
    return Symptom(
      f'kl stayed below health.min_kl={self._min_kl:g} nats ({kl:.3g})',
      cause,
      changes,
    )

  def at_codebook(self, metrics: Metrics) -> Symptom | None:
    """Whether next to all tokens become a few of the codes."""
    usage = metrics['usage']
    if usage >= self._min_usage:
      return None
    return Symptom(
      f'usage stayed below health.min_usage={self._min_usage:g} of the codes '
      f'({usage:.3g}; the most common one takes '
      f'{metrics["largest_share"]:.0%})',
      cause='the encoder keeps to a corner of the codebook, or the images need '
      'no more codes',
      changes=self._advisor.open_codebook(),
    )

  def at_output(self, metrics: Metrics) -> Symptom | None:
    """Whether every image gets the same reconstruction."""
    output, given = metrics['output_std'], metrics['input_std']
    if output >= _MIN_OUTPUT_SPREAD * given:
      return None
    advisor = self._advisor
    return Symptom(
      f'output_std stayed below {_MIN_OUTPUT_SPREAD:.0%} of input_std '
      f'({output:.3g} of {given:.3g})',
      cause='the decoder gives every image the same picture, as one does '
      'whose units died of too long a step',
      changes=advisor.slow_autoencoder() + advisor.heed_critic_less(),
    )

  @property
  def _dead_loss(self) -> _DeadLoss:
    """Of the objective; a KeyError, hence no evidence, without a critic."""
    return _DEAD_LOSSES[self._objective]
