"""The page of a run that is trained, written anew at every evaluation."""

import functools
import time
from collections.abc import Mapping
from typing import Any

from etils import epath

from vaegan_jax.evaluation.evaluator import Evaluator
from vaegan_jax.evaluation.reconstructor import Variables
from vaegan_jax.evaluation.scores import Evaluation
from vaegan_jax.report.examples import collect
from vaegan_jax.report.page import ReportedRun, build_page
from vaegan_jax.runtime.files import write_text
from vaegan_jax.runtime.progress import WarnOnce

FILE = 'report.html'
_MIN_RELOAD, _MAX_RELOAD = 10, 300  # Seconds.


class LivePage:
  """Writes the page of one run; an error costs one warning, not the run."""

  def __init__(
    self,
    config: Mapping[str, Any],
    workdir: epath.PathLike,
    evaluator: Evaluator,
  ):
    """Starts the clock.

    Args:
      config: the run's, with sections.
      workdir: the run's folder, which gets `report.html`.
      evaluator: of the held-out examples.
    """
    self._config, self._evaluator = config, evaluator
    self._workdir = epath.Path(workdir)
    self._errors = WarnOnce(f'Writing {self._workdir / FILE}')
    self._last = time.monotonic()

  def write(
    self, step: int, variables: Variables, evaluation: Evaluation
  ) -> None:
    """Writes the page after an evaluation; it reloads until the last step."""
    with self._errors:
      passed, self._last = time.monotonic() - self._last, time.monotonic()
      total, training = self._config['num_train_steps'], None
      if step < total:
        reload = round(min(max(passed, _MIN_RELOAD), _MAX_RELOAD))
        training = {'step': step, 'total': total, 'reload': reload}
      run = ReportedRun(
        label=self._workdir.name,
        step=step,
        config=self._config,
        evaluation=evaluation,
        collect=functools.partial(collect, self._evaluator, variables),
        workdir=str(self._workdir),
      )
      page = build_page(
        [run],
        title=self._workdir.name,
        protocol=self._evaluator.protocol,
        training=training,
      )
      write_text(self._workdir / FILE, page)
