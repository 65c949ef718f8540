"""The mode `sample`: pictures decoded from the prior."""

import jax
import ml_collections
import numpy as np
from etils import epath

from vaegan_jax.config.cli import Use
from vaegan_jax.config.shapes import shown_bands
from vaegan_jax.evaluation import signal_figures
from vaegan_jax.evaluation.figures import sample_figure
from vaegan_jax.inference.using import batches_of, open_model, write_pictures
from vaegan_jax.runtime import devices
from vaegan_jax.runtime.files import save_png

_IN_FIGURE = 64  # As evaluation draws.


def sample(config: ml_collections.ConfigDict, workdir: str, use: Use) -> None:
  """Draws samples: a file each, and the first together in `samples.png`.

  The first are those that evaluation draws; `--config.seed` gives others.

  Args:
    config: of the run.
    workdir: of the run, or an export.
    use: how many, and where the pictures go.

  Raises:
    UserError: the model cannot be read, or the folder cannot be written.
  """
  model = open_model(config, workdir, use)
  prior = np.asarray(
    model.draw_prior(jax.random.key(config.seed), use.num_samples)
  )
  everywhere, first_images = devices.replicate(model), []
  for places, batch in batches_of(prior, config.batch_size, 'Sampling'):
    images = np.asarray(everywhere.decode(batch))[: len(places)]
    names = [f'{i:08}.png' for i in places]
    write_pictures(use.output, names, images, model.config.data)
    first_images.extend(images[: _IN_FIGURE - len(first_images)])
  _draw(np.stack(first_images), model.config.data, use.output)
  print(f'Drew {len(prior):,} samples: {use.output}', flush=True)


def _draw(x: np.ndarray, data, folder: str) -> None:
  """The first samples in one picture."""
  shown = signal_figures.as_pictures(
    x, bands=shown_bands(data), sample_rate=data.sample_rate
  )
  scale = signal_figures.scale_of(shown, x.ndim - 2)
  figure = sample_figure(shown, scale=scale)
  save_png(epath.Path(folder) / 'samples.png', figure)
