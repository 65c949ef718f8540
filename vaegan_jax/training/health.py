"""Health of a run, from the metrics that it logs.

Owns how long a condition must hold before it is reported, and the report;
`health_checks.py` has the conditions. The loop decides what follows. Plain
Python on floats: every process logs the same metrics and finds the same.
"""

import dataclasses
import math
from collections.abc import Iterable

from vaegan_jax.training.health_checks import (
  CHECKS,
  KINDS,
  Fields,
  Limits,
  Metrics,
  advice,
)

# A lasting condition must also be in this many logs, as a run that logs rarely
# has few values within its patience. A healthy critic may be near zero one time
# in five: 16 of 82 logs of `geometric_0` in docs/results.md, two in a row.
_MIN_SIGHTINGS = 5


@dataclasses.dataclass(frozen=True)
class Finding:
  """One thing that is wrong with a run."""

  kind: str  # A key of `health_checks.KINDS`.
  message: str  # Observation, likely cause, and fields to change.
  # First step at which it may have begun: the one after the last logged
  # step without it. Checkpoints from here on are suspect.
  since: int


@dataclasses.dataclass
class _Watch:
  """Memory of one check from log to log."""

  last_clear: int | None = None  # The last logged step without the condition.
  first_seen: int | None = None  # The first one with it, if it holds now.
  sightings: int = 0  # Logs with it since then.
  reported: bool = False

  def clear(self, step: int) -> None:
    """Notes that the condition does not hold at a step."""
    self.last_clear, self.first_seen = step, None
    self.sightings, self.reported = 0, False

  def see(self, step: int, urgent: bool, patience_steps: int) -> bool:
    """Notes that the condition holds; returns whether to report it now."""
    if self.first_seen is None:
      self.first_seen = step
    self.sightings += 1
    lasts = step - self.first_seen >= patience_steps
    due = urgent or (lasts and self.sightings >= _MIN_SIGHTINGS)
    is_new = due and not self.reported
    self.reported |= due
    return is_new

  @property
  def since(self) -> int:
    """The first step at which the condition may have begun."""
    return self.first_seen if self.last_clear is None else self.last_clear + 1


class HealthMonitor:
  """Health checks of one run, applied to each log.

  A condition is reported once it has lasted for `health.patience_steps` and 5
  logs: a decoder's first outputs, for example, are nearly the same for all
  images. Exploding features and repeated non-finite updates are reported at
  once. A log without a check's metrics, or with non-finite ones, is no
  evidence: the check's state stays as it was.
  """

  def __init__(
    self, fields: Fields, *, separated_loss: float, undecided_loss: float
  ):
    """Creates the checks that apply to a run with these fields.

    The losses are those of its `Objective`; without a critic they are ignored.
    """
    self._patience_steps = fields['health.patience_steps']
    self._limits = Limits(
      separated_loss,
      undecided_loss,
      fields['health.min_kl'],
      fields['health.min_usage'],
    )
    self._checks = [
      (check, advice(check, fields), _Watch())
      for check in CHECKS
      if check.applies(fields)
    ]

  @property
  def healthy(self) -> bool:
    """Whether no reported condition still holds."""
    return not any(watch.reported for *_, watch in self._checks)

  def check(self, step: int, metrics: Metrics) -> list[Finding]:
    """Checks the metrics of one logged step.

    Args:
      step: number of the update; larger than at the last call.
      metrics: metrics of that update; every one should be finite.

    Returns:
      New findings. A condition that stays is reported once, and again only
      after a log without it.
    """
    findings = []
    for check, cause_and_remedy, watch in self._checks:
      given = metrics
      if check.metrics is not None:
        given = {name: metrics.get(name, math.nan) for name in check.metrics}
        if not all(map(math.isfinite, given.values())):
          continue
      observed = check.condition(given, self._limits)
      if observed is None:
        watch.clear(step)
      elif watch.see(step, check.urgent(given), self._patience_steps):
        message = (
          f'{KINDS[check.kind]} since step {watch.first_seen:,}: {observed} at '
          f'step {step:,}, likely because {cause_and_remedy}'
        )
        findings.append(Finding(check.kind, message, watch.since))
    return findings


def last_healthy_step(
  checkpoint_steps: Iterable[int], unhealthy_since: int
) -> int | None:
  """Returns the newest saved step before `unhealthy_since`, or None."""
  return max((s for s in checkpoint_steps if s < unhealthy_since), default=None)
