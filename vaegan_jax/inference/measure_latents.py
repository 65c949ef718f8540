"""Measures the latents of a finished run, and writes `latents.json`."""

import contextlib
import functools
import math
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from vaegan_jax.data.split import Images
from vaegan_jax.errors import UserError
from vaegan_jax.inference import latent_structure
from vaegan_jax.inference.encode import encode_batches
from vaegan_jax.inference.latent_statistics import (
  FILE,
  as_items,
  moments_of,
  num_measured,
  read_statistics,
  summarize,
)
from vaegan_jax.inference.load import load_model
from vaegan_jax.inference.model import TrainedModel
from vaegan_jax.runtime import distributed
from vaegan_jax.runtime.checkpoints import Checkpoints
from vaegan_jax.runtime.files import write_text
from vaegan_jax.runtime.preemption import Preempted, Stopper
from vaegan_jax.training.loop import DONE


def measure_finished(
  config: ml_collections.ConfigDict,
  workdir: str,
  images: Images,
  stopper: Stopper,
) -> int:
  """Measures the latents of a run at its end, unless that was done.

  All processes compute the same, and the first one writes. A signal stops it,
  and the next start makes up for it. An error is a warning, and the run ends
  well.

  Args:
    workdir: folder of the run, whose last step is saved.
    images: the training split.

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
      measure(model, images, stopper.poll)
  except Preempted:
    status = stopper.status
  except (UserError, OSError) as error:
    logging.warning(
      '%s was not written (%s); --mode=encode --split=train --workdir=%s '
      'writes it.',
      FILE,
      error,
      workdir,
    )
  # A process that leaves earlier would end the others, too.
  distributed.every_process(True)
  return status


def measure(
  model: TrainedModel, images: Images, poll: Callable[[], None] | None = None
) -> TrainedModel:
  """Measures the latents of a model, and writes them into its folder.

  Args:
    images: the training split. `num_measured` of them are encoded, at even
      distances.
    poll: called before each batch; it may raise what ends the work.

  Returns:
    The model, with its statistics.

  Raises:
    UserError: the latents are not finite.
    OSError: the file cannot be written.
  """
  number = num_measured(len(images), math.prod(model.latent_shape[:-1]))
  batches = encode_batches(
    model,
    images,
    batch_size=max(1, model.config.batch_size // jax.process_count()),
    what='Measuring the latents',
    indices=np.arange(number) * len(images) // number,
    poll=poll,
  )
  pairs = (
    (
      moments_of(p.latents, p.logvar),
      latent_structure.moments_of(p.latents, p.logvar),
    )
    for _, p in batches
  )
  moments, structure = functools.reduce(
    lambda a, b: (a[0] + b[0], a[1].add(b[1])), pairs
  )
  statistics = summarize(moments, step=model.step, num_images=number)
  try:
    found = latent_structure.describe(structure, model.latent_shape[:-1])
    statistics = statistics.replace(structure=as_items(found))
    text = statistics.to_json()
  except ValueError as error:
    raise UserError(
      f'the latents of {model.source} at step {model.step:,} are not all '
      'finite: it has diverged, so train it again with lower learning rates'
    ) from error
  if distributed.is_first():
    write_text(epath.Path(model.source) / FILE, text)
    values = (f'{name} {value:.3g}' for name, value in found.items())
    print('Latents:', *values, sep='  ', flush=True)
  return model.replace(statistics=statistics)


def _is_measured(workdir: str) -> bool:
  statistics = None
  with contextlib.suppress(UserError):  # A damaged file is written again.
    statistics = read_statistics(workdir)
  steps = Checkpoints(workdir).steps()
  return bool(statistics and steps and statistics.step == steps[-1])
