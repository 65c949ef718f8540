"""Is this run still healthy? A judgement on the metrics as they are logged.

Owns what counts as ill, for how long it must last, and what to say of it: what
was seen, the likely cause and the field to change. What is done about it is the
loop's business. Plain Python on floats, no JAX; every process of a run logs the
same metrics and so comes to the same judgement.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping
from typing import NamedTuple

# Every kind of finding, and how its message begins.
KINDS = {
  'non_finite': 'Non-finite values',
  'exploding_features': 'Exploding features',
  'dead_critic': 'Dead critic',
  'latent_collapse': 'Latent collapse',
  'output_collapse': 'Output collapse',
}

# What lasts must also have been seen this often, as a run that logs rarely has
# few values within its patience. A critic in good health may be near zero one
# time in five: 16 of 82 logs of the README's `geometric_0`, two in a row.
_MIN_SIGHTINGS = 5
# Around the loss of a critic that says the same to every image. With logits of
# about 1, the chance of a batch alone carries it further than this.
_UNDECIDED_TOLERANCE = 0.01  # Of that loss ...
_UNDECIDED_MARGIN = 1e-6  # ... but where that is 0, a float32's noise about 1.
# The critics of the README's runs had 0.07 to 0.3 on smooth patterns, and came
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


@dataclasses.dataclass(frozen=True)
class Finding:
  """One thing that is wrong with a run.

  Attributes:
    kind: one of `KINDS`.
    message: what was seen, the likely cause, and the field to change.
    since: the first step at which it may have begun: the one after the last
      logged step without it. What was saved from here on is suspect.
  """

  kind: str
  message: str
  since: int


class _Symptom(NamedTuple):
  """What one look at the metrics saw, when it saw something."""

  seen: str
  cause: str
  remedy: str
  flag: str  # An example of the remedy, without `--config.`.
  urgent: bool = False  # No patience: it does not pass by itself.


@dataclasses.dataclass
class _Watch:
  """What is remembered of one condition from log to log."""

  last_clear: int | None = None  # The last logged step without it.
  first_seen: int | None = None  # The first one with it, if it has it now.
  sightings: int = 0  # Since then.
  reported: bool = False

  def clear(self, step: int) -> None:
    """Notes that the condition does not hold: it may be reported again."""
    self.last_clear = step
    self.first_seen, self.sightings, self.reported = None, 0, False

  def see(self, step: int) -> None:
    """Notes that the condition holds."""
    if self.first_seen is None:
      self.first_seen = step
    self.sightings += 1

  def lasts(self, step: int, patience_steps: int) -> bool:
    """Whether it has been there for long, and in many logs."""
    long = step - self.first_seen >= patience_steps
    return long and self.sightings >= _MIN_SIGHTINGS

  @property
  def since(self) -> int:
    """The first step at which it may have begun."""
    known = self.last_clear is not None
    return self.last_clear + 1 if known else self.first_seen


class HealthMonitor:
  """Watches the metrics of one run, as often as they are logged.

  A metric that is missing or not finite tells nothing of the conditions that
  need it: they stay as they were. So a run without a critic needs no setting.
  """

  def __init__(self, *, objective: str, patience_steps: int, min_kl: float):
    """Begins with no opinion.

    Args:
      objective: of the critic, or 'mse'.
      patience_steps: how long a condition must last before it is reported; it
        must also be in 5 logs. At the start of a run a decoder outputs nearly
        the same for all images, which is ill only if it stays so. Exploding
        features and updates that stay non-finite are reported at once.
      min_kl: nats an image; a latent with less has collapsed. 0: none has.
    """
    self._objective = objective
    self._patience_steps = patience_steps
    self._min_kl = min_kl
    self._first_scales = []
    self._looks = (
      ('exploding_features', self._look_at_features),
      ('dead_critic', self._look_for_separation),
      ('dead_critic', self._look_for_indecision),
      ('latent_collapse', self._look_at_latent),
      ('output_collapse', self._look_at_output),
    )
    self.reset()

  @property
  def healthy(self) -> bool:
    """Whether nothing that was reported is still so."""
    return not any(watch.reported for watch in self._watches)

  def reset(self) -> None:
    """Forgets what is wrong, as after a rollback.

    The features' first scale is kept: it is of the same run.
    """
    # One for the non-finite values, then one for each look.
    self._watches = [_Watch() for _ in range(1 + len(self._looks))]

  def check(self, step: int, metrics: Metrics) -> list[Finding]:
    """Looks at the metrics of one logged step.

    Args:
      step: which update; later than in the call before, or after `reset`.
      metrics: of that update, by name, as in the update's result; every one
        should be finite.

    Returns:
      What is newly found. What stays wrong is reported once, and again only
      after a log without it.
    """
    first, *rest = self._watches
    found = [
      self._judge(step, 'non_finite', first, self._look_for_non_finite(metrics))
    ]
    finite = {k: v for k, v in metrics.items() if math.isfinite(v)}
    for (kind, look), watch in zip(self._looks, rest, strict=True):
      try:
        symptom = look(finite)
      except KeyError:
        continue  # A metric that it needs is not there: no evidence.
      found.append(self._judge(step, kind, watch, symptom))
    return [finding for finding in found if finding]

  def _judge(
    self, step: int, kind: str, watch: _Watch, symptom: _Symptom | None
  ) -> Finding | None:
    """Updates a watch; returns what is to be reported, if anything is."""
    if symptom is None:
      watch.clear(step)
      return None
    watch.see(step)
    due = symptom.urgent or watch.lasts(step, self._patience_steps)
    if watch.reported or not due:
      return None
    watch.reported = True
    message = (
      f'{KINDS[kind]} since step {watch.first_seen:,}: {symptom.seen} at step '
      f'{step:,}, likely because {symptom.cause}; {symptom.remedy}, in a new '
      f'--workdir: for example, --config.{symptom.flag}'
    )
    return Finding(kind, message, watch.since)

  def _look_for_non_finite(self, metrics: Metrics) -> _Symptom | None:
    # A value that is not finite makes its update a skipped one, so after one
    # the weights are what they were. One is bad luck; if the next batch with
    # its other noise fails too, it is the weights, and those stay.
    skipped = metrics.get('skipped_in_a_row', 0.0)
    names = [name for name, v in metrics.items() if not math.isfinite(v)]
    if not names and skipped <= 0:
      return None
    seen = f'{_join(names)} not finite' if names else 'an update was skipped'
    if skipped > 0:
      seen += f', with {skipped:.0f} skipped in a row,'
    trains_critic = 'critic_loss' in metrics
    return _Symptom(
      seen,
      cause='a step was too long and left weights that overflow',
      remedy='lower optimizer.autoencoder_learning_rate'
      + trains_critic * ' and optimizer.critic_learning_rate',
      flag='optimizer.autoencoder_learning_rate=1e-4',
      urgent=skipped != 1,
    )

  def _look_at_features(self, metrics: Metrics) -> _Symptom | None:
    scale = metrics['feature_scale']
    limit = _MAX_SCALE
    if self._first_scales:
      first = statistics.median(self._first_scales)
      limit = min(limit, max(_MAX_GROWTH * first, _MIN_EXPLODED))
    if scale <= limit:
      if len(self._first_scales) < _NUM_FIRST_SCALES:
        self._first_scales.append(scale)
      return None
    began = f', from {first:.3g} at first' if self._first_scales else ''
    # Urgent, as images are bounded: only the weights can do this.
    return _Symptom(
      f'feature_scale is above {limit:.3g} ({scale:.3g}{began})',
      cause="nothing holds the critic's weights and it learns too fast",
      remedy='lower optimizer.critic_learning_rate or set critic.norm',
      flag='optimizer.critic_learning_rate=1e-4',
      urgent=True,
    )

  def _look_for_separation(self, metrics: Metrics) -> _Symptom | None:
    loss, limit = metrics['critic_loss'], self._dead_loss.separated
    if loss >= limit:
      return None
    return _Symptom(
      f'critic_loss stayed below {limit:g} ({loss:.3g})',
      cause='the critic tells every reconstruction from a photograph and has '
      'no gradient left to learn from',
      remedy='raise loss.adversarial_weight or lower '
      'optimizer.critic_learning_rate',
      flag='loss.adversarial_weight=0.5',
    )

  def _look_for_indecision(self, metrics: Metrics) -> _Symptom | None:
    loss, value = metrics['critic_loss'], self._dead_loss.undecided
    margin = max(_UNDECIDED_TOLERANCE * value, _UNDECIDED_MARGIN)
    if abs(loss - value) > margin:
      return None
    return _Symptom(
      f'critic_loss stayed within {margin:.2g} of {value:.3g} ({loss:.3g})',
      cause='the critic says the same to every image, as one does whose '
      'units died of too long a step',
      remedy='lower optimizer.critic_learning_rate or loss.adversarial_weight',
      flag='optimizer.critic_learning_rate=1e-4',
    )

  def _look_at_latent(self, metrics: Metrics) -> _Symptom | None:
    kl = metrics['kl']
    if kl >= self._min_kl:
      return None
    # A tenth of the default, which differs with what the distance sums.
    example = '0.1' if self._objective == 'mse' else '1e-4'
    return _Symptom(
      f'kl stayed below health.min_kl={self._min_kl:g} nats ({kl:.3g})',
      cause='its price outweighs the distance, so that the latent says '
      'nothing of the image',
      remedy='lower loss.kl_weight',
      flag=f'loss.kl_weight={example}',
    )

  def _look_at_output(self, metrics: Metrics) -> _Symptom | None:
    output, given = metrics['output_std'], metrics['input_std']
    if output >= _MIN_OUTPUT_SPREAD * given:
      return None
    has_critic = self._objective in _DEAD_LOSSES
    return _Symptom(
      f'output_std stayed below {_MIN_OUTPUT_SPREAD:.0%} of input_std '
      f'({output:.3g} of {given:.3g})',
      cause='the decoder gives every image the same picture, as one does '
      'whose units died of too long a step',
      remedy='lower optimizer.autoencoder_learning_rate'
      + has_critic * ' or loss.adversarial_weight',
      flag='optimizer.autoencoder_learning_rate=1e-4',
    )

  @property
  def _dead_loss(self) -> _DeadLoss:
    """Of the objective; a KeyError, hence no evidence, without a critic."""
    return _DEAD_LOSSES[self._objective]


def last_healthy_step(
  checkpoint_steps: Iterable[int], unhealthy_since: int
) -> int | None:
  """Where to roll back to.

  Args:
    checkpoint_steps: the steps that were saved, in any order.
    unhealthy_since: the earliest `since` of the findings.

  Returns:
    The newest of them before that step; None if there is none.
  """
  return max((s for s in checkpoint_steps if s < unhealthy_since), default=None)


def _join(names: list[str]) -> str:
  """Returns 'a is' or 'a, b and c are'."""
  *most, last = names
  return f'{", ".join(most)} and {last} are' if most else f'{last} is'
