"""Measures the latents of a run and writes them down, as `latents.json`.

It is done when training ends, and for a run that an earlier version has trained
by the modes that need it.
"""

import contextlib

import jax
import ml_collections
from absl import logging
from etils import epath

from vaegan_jax.data.split import Images
from vaegan_jax.errors import UserError
from vaegan_jax.inference.latent_statistics import (
  FILE,
  compute_statistics,
  read_statistics,
)
from vaegan_jax.inference.load import load_model
from vaegan_jax.inference.model import TrainedModel
from vaegan_jax.runtime import distributed
from vaegan_jax.runtime.checkpoints import Checkpoints
from vaegan_jax.runtime.files import write_text
from vaegan_jax.runtime.preemption import Preempted, Stopper
from vaegan_jax.runtime.progress import track
from vaegan_jax.training.loop import DONE


def measure_finished(
  config: ml_collections.ConfigDict,
  workdir: str,
  images: Images,
  stopper: Stopper,
) -> int:
  """Measures a run at its end, unless that was done.

  Of several processes all compute the same, and the first writes. A signal ends
  it, and the next start does it; an error costs the file alone, and is told.

  Args:
    config: of the run.
    workdir: of the run, whose last step is saved.
    images: that it was trained on.
    stopper: what notices signals.

  Returns:
    The process's exit status.
  """
  if distributed.from_first(lambda: _is_measured(workdir)):
    return DONE
  status = DONE
  try:
    with stopper.deferred():
      stopper.poll()
      model = load_model(workdir, config)
      measure(model, images, stopper)
  except Preempted:
    status = stopper.status
  except (UserError, OSError) as error:
    logging.warning(
      '%s was not written (%s); --mode=encode --split=train --workdir=%s does '
      'it.',
      FILE,
      error,
      workdir,
    )
  # Whoever leaves while another computes takes that one along.
  distributed.every_process(True)
  return status


def measure(
  model: TrainedModel, images: Images, stopper: Stopper | None = None
) -> TrainedModel:
  """Measures the latents of a model, and writes them into its folder.

  Args:
    model: as it was loaded.
    images: that it was trained on.
    stopper: polled before each batch, if given.

  Returns:
    The model, with its statistics.

  Raises:
    UserError: its latents are not finite.
    OSError: the file cannot be written.
    Preempted: it is time to stop.
  """

  def polled(steps):
    for step in track(steps, 'Measuring the latents', len(steps)):
      if stopper:
        stopper.poll()
      yield step

  statistics = compute_statistics(
    model.autoencoder,
    model.variables['autoencoder'],
    images,
    step=model.step,
    batch_size=max(1, model.config.batch_size // jax.device_count()),
    value_range=model.config.data.value_range,
    track=polled,
  )
  try:
    text = statistics.to_json()
  except ValueError as error:
    raise UserError(
      f'the latents of {model.source} at step {model.step:,} are not all '
      'finite: it has diverged, so train it again with lower learning rates'
    ) from error
  if distributed.is_first():
    write_text(epath.Path(model.source) / FILE, text)
  return model.replace(statistics=statistics)


def _is_measured(workdir: str) -> bool:
  statistics = None
  with contextlib.suppress(UserError):  # A damaged one is written again.
    statistics = read_statistics(workdir)
  steps = Checkpoints(workdir).steps()
  return bool(statistics and steps and statistics.step == steps[-1])
