"""Is this run still healthy? A judgement on the metrics as they are logged.

Owns for how long something must last, and what is said of it: what was seen and
the likely cause, as `symptoms.py` has them, and what to change, as `advice.py`
has it. What is done about it is the loop's business. Plain Python on floats, no
JAX; every process of a run logs the same metrics and so comes to the same
judgement.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from vaegan_jax.training import suggestions
from vaegan_jax.training.health_checks import Looks, Metrics, Symptom

# What it must know of a run's configuration.
FIELDS = (
  *suggestions.FIELDS,
  *('health.patience_steps', 'health.min_kl', 'health.min_usage'),
)
# Every kind of finding, and how its message begins.
KINDS = {
  'non_finite': 'Non-finite values',
  'exploding_features': 'Exploding features',
  'dead_critic': 'Dead critic',
  'latent_collapse': 'Latent collapse',
  'codebook_collapse': 'Codebook collapse',
  'output_collapse': 'Output collapse',
}

# What lasts must also have been seen this often, as a run that logs rarely has
# few values within its patience. A critic in good health may be near zero one
# time in five: 16 of 82 logs of `geometric_0` in docs/results.md, two in a row.
_MIN_SIGHTINGS = 5


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
  need it: they stay as they were.
  """

  def __init__(self, fields: Mapping[str, Any]):
    """Begins with no opinion.

    Args:
      fields: {field: value} of the run's configuration, those of `FIELDS`.
        What is advised is derived from them. `health.patience_steps` is how
        long a condition must last before it is reported; it must also be in 5
        logs. At the start of a run a decoder outputs nearly the same for all
        images, which is ill only if it stays so. Exploding features and
        updates that stay non-finite are reported at once. A latent with less
        than `health.min_kl` nats an image has collapsed, and a codebook of
        which less than `health.min_usage` is used. 0: none has.
    """
    # One that lacks is told here; in a look it would pass for a metric.
    looks = Looks({field: fields[field] for field in FIELDS})
    self._patience_steps = fields['health.patience_steps']
    self._look_at_all = looks.at_non_finite
    self._looks = (
      ('exploding_features', looks.at_features),
      ('dead_critic', looks.for_separation),
      ('dead_critic', looks.for_indecision),
      ('latent_collapse', looks.at_latent),
      ('codebook_collapse', looks.at_codebook),
      ('output_collapse', looks.at_output),
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
    found = [self._judge(step, 'non_finite', first, self._look_at_all(metrics))]
    finite = {k: v for k, v in metrics.items() if math.isfinite(v)}
    for (kind, look), watch in zip(self._looks, rest, strict=True):
      try:
        symptom = look(finite)
      except KeyError:
        continue  # A metric that it needs is not there: no evidence.
      found.append(self._judge(step, kind, watch, symptom))
    return [finding for finding in found if finding]

  def _judge(
    self, step: int, kind: str, watch: _Watch, symptom: Symptom | None
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
      f'{step:,}, likely because {symptom.cause}'
    )
    if symptom.changes:
      message += (
        f'; {suggestions.to_sentence(symptom.changes, symptom.together)}'
      )
    return Finding(kind, message, watch.since)


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
