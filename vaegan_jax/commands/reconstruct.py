"""The command `reconstruct`: writes images and their reconstructions.

It writes two folders whose files have the same names, for tools that compare
folders: `originals`, as the autoencoder takes them, and `reconstructions`. In
tiles, files are taken whole, and written in their own formats. No data stays no
data.
"""

import jax.numpy as jnp
import ml_collections
from etils import epath

from vaegan_jax.config.cli import Use
from vaegan_jax.data.pictures import Pictures, png_names
from vaegan_jax.data.split import Images
from vaegan_jax.inference.command_io import (
  open_examples,
  open_model,
  open_tiler,
  write_pictures,
)
from vaegan_jax.inference.model import TrainedModel
from vaegan_jax.inference.preprocess import prepare
from vaegan_jax.inference.tiled_files import reconstruct_files
from vaegan_jax.runtime import devices


def reconstruct(
  config: ml_collections.ConfigDict, workdir: str, use: Use
) -> None:
  """Reconstructs images without randomness, into PNG or `.npy` files.

  Raises:
    UserError: the model or the images cannot be read, or the folder cannot be
      written.
  """
  model = open_model(config, workdir, use)
  tiler = open_tiler(model, config, use)
  images = open_examples(config, workdir, use)
  if tiler:
    reconstruct_files(tiler, images, use.output)
  else:
    _reconstruct(model, images, config.batch_size, use)
  print(f'Reconstructed {len(images):,} examples: {use.output}', flush=True)


def _reconstruct(
  model: TrainedModel, images: Images | Pictures, batch_size: int, use: Use
) -> None:
  """Reconstructs examples of the training's size."""
  model = devices.replicate(model)
  names = png_names(
    [f'{index:08}.png' for index in range(len(images))]
    if use.split
    else images.names
  )
  data = model.config.data

  def pair(batch):
    x = prepare(batch, data)
    pair = {'originals': x, 'reconstructions': model.reconstruct(x)}
    if not data.max_nodata:
      return pair
    return {k: jnp.where(jnp.isnan(batch), jnp.nan, v) for k, v in pair.items()}

  for indices, pictures in devices.map_batches(
    pair, images, batch_size=batch_size, what='Reconstructing'
  ):
    part = [names[index] for index in indices]
    for folder, content in pictures.items():
      write_pictures(epath.Path(use.output) / folder, part, content, data)
