"""The page of a run in training, written anew at every evaluation."""

import functools
import time
from collections.abc import Mapping
from typing import Any

from etils import epath

from vaegan_jax.evaluation.evaluator import Evaluator
from vaegan_jax.evaluation.reconstructor import Variables
from vaegan_jax.evaluation.scores import Evaluation
from vaegan_jax.names import REPORT_FILE
from vaegan_jax.report.page import ReportedRun, build_page
from vaegan_jax.runtime.files import write_text
from vaegan_jax.runtime.progress import WarnOnce

_MIN_RELOAD, _MAX_RELOAD = 10, 300  # Seconds.


class LivePage:
  """Writes the page of one run; an error costs one warning, not the run."""

  def __init__(
    self,
    config: Mapping[str, Any],
    workdir: epath.PathLike,
    evaluator: Evaluator,
  ):
    """Starts the clock; the run's folder gets `report.html`."""
    workdir = epath.Path(workdir)
    self._write = functools.partial(write_page, workdir, config, evaluator)
    self._total = config['num_train_steps']
    self._errors = WarnOnce(f'Writing {workdir / REPORT_FILE}')
    self._last = time.monotonic()

  def write(
    self, step: int, variables: Variables, evaluation: Evaluation
  ) -> None:
    """Writes the page after an evaluation; it reloads until the last step."""
    with self._errors:
      passed, self._last = time.monotonic() - self._last, time.monotonic()
      training = None
      if step < self._total:
        reload = round(min(max(passed, _MIN_RELOAD), _MAX_RELOAD))
        training = {'step': step, 'total': self._total, 'reload': reload}
      self._write(step, variables, evaluation, training)


def write_page(
  workdir: epath.Path,
  config: Mapping[str, Any],
  evaluator: Evaluator,
  step: int,
  variables: Variables,
  evaluation: Evaluation,
  training: Mapping[str, Any] | None = None,
) -> None:
  """Writes the page of one run into its workdir.

  Args:
    workdir, config, evaluator: as `LivePage` takes them.
    step: of the weights.
    training: as `build_page` takes it.
  """
  label = workdir.name
  run = ReportedRun.of(
    label, str(workdir), config, step, evaluator, variables, evaluation
  )
  page = build_page(
    [run], title=label, protocol=evaluator.protocol, training=training
  )
  write_text(workdir / REPORT_FILE, page)
