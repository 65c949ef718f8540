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
  remedy,
)

# A lasting condition must also be in this many logs, as a run that logs rarely
# has few values within its patience. A healthy critic may be near zero one time
# in five: 16 of 82 logs of `geometric_0` in docs/results.md, two in a row.
_MIN_SIGHTINGS = 5


@dataclasses.dataclass(frozen=True)
class Finding:
  """One thing that is wrong with a run.

  Attributes:
    kind: a key of `health_checks.KINDS`.
    message: what was observed, the likely cause, and the fields to change.
    since: the first step at which it may have begun: the one after the last
      logged step without it. Checkpoints from here on are suspect.
  """

  kind: str
  message: str
  since: int


@dataclasses.dataclass
class _Watch:
  """Memory of one check from log to log."""

  last_clear: int | None = None  # The last logged step without the condition.
  first_seen: int | None = None  # The first one with it, if it holds now.
  sightings: int = 0  # Logs with it since then.
  reported: bool = False


class HealthMonitor:
  """Health checks of one run, applied to each log.

  A log without a check's metrics, or with non-finite ones, is no evidence: the
  check's state stays as it was.
  """

  def __init__(
    self, fields: Fields, *, separated_loss: float, undecided_loss: float
  ):
    """Creates the checks that apply to a run.

    A condition is reported once it has lasted for `health.patience_steps` and
    5 logs. At the start of a run, for example, a decoder outputs nearly the
    same for all images. Exploding features and repeated non-finite updates are
    reported at once.

    Args:
      fields: {field: value} of the run's configuration.
      separated_loss: that of the run's `Objective`.
      undecided_loss: likewise; without a critic both are ignored.
    """
    self._patience_steps = fields['health.patience_steps']
    self._limits = Limits(
      separated_loss,
      undecided_loss,
      fields['health.min_kl'],
      fields['health.min_usage'],
    )
    self._checks = [
      (check, check.cause(fields) + remedy(check, fields))
      for check in CHECKS
      if check.applies(fields)
    ]
    self.reset()

  @property
  def healthy(self) -> bool:
    """Whether no reported condition still holds."""
    return not any(watch.reported for watch in self._watches)

  def reset(self) -> None:
    """Forgets all conditions, as after a rollback.

    The features' first scale is kept: it belongs to the same run.
    """
    self._watches = [_Watch() for _ in self._checks]

  def check(self, step: int, metrics: Metrics) -> list[Finding]:
    """Checks the metrics of one logged step.

    Args:
      step: number of the update; larger than at the last call, or after
        `reset`.
      metrics: metrics of that update; every one should be finite.

    Returns:
      New findings. A condition that stays is reported once, and again only
      after a log without it.
    """
    findings = []
    for (check, advice), watch in zip(self._checks, self._watches, strict=True):
      given = metrics
      if check.metrics is not None:
        given = {k: metrics.get(k, math.nan) for k in check.metrics}
        if not all(map(math.isfinite, given.values())):
          continue
      observed = check.condition(given, self._limits)
      if observed is None:
        watch.last_clear, watch.reported = step, False
        watch.first_seen, watch.sightings = None, 0
      elif self._is_due(watch, step, check.urgent(given)):
        findings.append(
          Finding(
            check.kind,
            f'{KINDS[check.kind]} since step {watch.first_seen:,}: {observed} '
            f'at step {step:,}, likely because {advice}',
            watch.first_seen
            if watch.last_clear is None
            else watch.last_clear + 1,
          )
        )
    return findings

  def _is_due(self, watch: _Watch, step: int, urgent: bool) -> bool:
    """Counts a sighting; returns whether to report it, for the first time."""
    if watch.first_seen is None:
      watch.first_seen = step
    watch.sightings += 1
    lasts = step - watch.first_seen >= self._patience_steps
    due = urgent or (lasts and watch.sightings >= _MIN_SIGHTINGS)
    is_new = due and not watch.reported
    watch.reported |= due
    return is_new


def last_healthy_step(
  checkpoint_steps: Iterable[int], unhealthy_since: int
) -> int | None:
  """Returns the checkpoint to roll back to.

  Args:
    checkpoint_steps: steps that were saved, in any order.
    unhealthy_since: the earliest `since` of the findings.

  Returns:
    The newest step before that one; None if there is none.
  """
  return max((s for s in checkpoint_steps if s < unhealthy_since), default=None)
