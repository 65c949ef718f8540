"""The mode `reconstruct`: images and what the autoencoder makes of them.

Two folders of PNG files, or of arrays `.npy` files: `originals` (the crops that
it is fed with) and `reconstructions`, whose files have the same names: fit for
any tool that compares folders.
"""

import ml_collections
import numpy as np
from etils import epath

from vaegan_jax.config.cli import Use
from vaegan_jax.data import pixels
from vaegan_jax.data.pictures import png_names
from vaegan_jax.inference.using import (
  batches_of,
  open_model,
  open_pictures,
  open_split,
  write_pictures,
)
from vaegan_jax.runtime import devices


def reconstruct(
  config: ml_collections.ConfigDict, workdir: str, use: Use
) -> None:
  """Reconstructs images without chance.

  Args:
    config: of the run.
    workdir: of the run, or an export.
    use: which images, and where the pictures go.

  Raises:
    UserError: the model or the images cannot be read, or the folder cannot be
      written.
  """
  model = devices.replicate(open_model(config, workdir, use))
  if use.split:
    images = open_split(config, workdir, use.split)
    names = [f'{index:08}.png' for index in range(len(images))]
  else:
    images = open_pictures(config, use.input)
    names = png_names(images.names)
  data = model.config.data
  batches = batches_of(images, config.batch_size, 'Reconstructing')
  for places, batch in batches:
    x = pixels.to_float(batch, data.value_range)
    pictures = {'originals': x, 'reconstructions': model.reconstruct(x)}
    for folder, whole in pictures.items():
      write_pictures(
        epath.Path(use.output) / folder,
        [names[place] for place in places],
        np.asarray(whole)[: len(places)],
        data,
      )
  print(f'Reconstructed {len(images):,} pictures: {use.output}', flush=True)
