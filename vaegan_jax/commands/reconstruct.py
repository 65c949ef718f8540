"""The command `reconstruct`: writes images and their reconstructions.

It writes two folders whose files have the same names, for tools that compare
folders: `originals`, as the autoencoder takes them, and `reconstructions`.
"""

import ml_collections
from etils import epath

from vaegan_jax.config.cli import Use
from vaegan_jax.data import pixels
from vaegan_jax.data.pictures import png_names
from vaegan_jax.inference.command_io import (
  open_examples,
  open_model,
  write_pictures,
)
from vaegan_jax.runtime import devices


def reconstruct(
  config: ml_collections.ConfigDict, workdir: str, use: Use
) -> None:
  """Reconstructs images without randomness, into PNG or `.npy` files.

  Raises:
    UserError: the model or the images cannot be read, or the folder cannot be
      written.
  """
  model = devices.replicate(open_model(config, workdir, use))
  images = open_examples(config, workdir, use)
  names = png_names(
    [f'{index:08}.png' for index in range(len(images))]
    if use.split
    else images.names
  )
  data = model.config.data

  def pair(batch):
    x = pixels.to_float(batch, data.value_range)
    return {'originals': x, 'reconstructions': model.reconstruct(x)}

  for indices, pictures in devices.map_batches(
    pair, images, batch_size=config.batch_size, what='Reconstructing'
  ):
    part = [names[index] for index in indices]
    for folder, content in pictures.items():
      write_pictures(epath.Path(use.output) / folder, part, content, data)
  print(f'Reconstructed {len(images):,} examples: {use.output}', flush=True)
