"""The command `sample`: decodes images from the prior."""

import jax
import ml_collections
import numpy as np
from etils import epath

from vaegan_jax.config.cli import Use
from vaegan_jax.config.shapes import shown_bands
from vaegan_jax.evaluation import signal_figures
from vaegan_jax.evaluation.figures import sample_figure
from vaegan_jax.evaluation.reconstructor import NUM_SAMPLES
from vaegan_jax.inference.command_io import open_model, write_pictures
from vaegan_jax.runtime import devices
from vaegan_jax.runtime.files import save_png


def sample(config: ml_collections.ConfigDict, workdir: str, use: Use) -> None:
  """Samples into a file each, and plots the first ones in `samples.png`.

  They begin with those of the evaluation; `--config.seed` gives others.

  Raises:
    UserError: the model cannot be read, or the folder cannot be written.
  """
  model = open_model(config, workdir, use)
  data, first_samples = model.config.data, []
  prior = model.sample_prior(jax.random.key(config.seed), use.num_samples)
  for indices, samples in devices.map_batches(
    devices.replicate(model).decode,
    np.asarray(prior),
    batch_size=config.batch_size,
    what='Sampling',
  ):
    names = [f'{index:08}.png' for index in indices]
    write_pictures(use.output, names, samples, data)
    first_samples.extend(samples[: NUM_SAMPLES - len(first_samples)])
  x = np.stack(first_samples)
  pictures = signal_figures.as_pictures(
    x, bands=shown_bands(data), sample_rate=data.sample_rate
  )
  scale = signal_figures.scale_of(pictures, x.ndim - 2)
  path = epath.Path(use.output) / 'samples.png'
  save_png(path, sample_figure(pictures, scale=scale))
  print(f'Sampled {len(prior):,} pictures: {use.output}', flush=True)
