"""The command `decode`: decodes latents to images."""

import ml_collections
import numpy as np

from vaegan_jax.config.cli import Use
from vaegan_jax.data.pictures import png_names
from vaegan_jax.errors import UserError
from vaegan_jax.inference.command_io import open_model, write_pictures
from vaegan_jax.inference.latent_files import read_latents
from vaegan_jax.runtime import devices


def decode(config: ml_collections.ConfigDict, workdir: str, use: Use) -> None:
  """Decodes latents into PNG files, or arrays into `.npy` files.

  Files are named as the encoded images were, or by number.

  Raises:
    UserError: the model or the latents cannot be read, they are of another
      model, or the folder cannot be written.
  """
  model = open_model(config, workdir, use)
  replicated, number = devices.replicate(model), 0
  for latents, names in read_latents(use.input, model):
    if not latents.ndim or latents.dtype.kind not in 'fiu':
      raise UserError(
        f'--input={use.input} holds {latents.dtype} of shape {latents.shape}, '
        'and latents are an array of numbers, such as --mode=encode writes'
      )
    if latents.dtype.kind == 'f':
      latents = latents.astype(np.float32)
    numbers = range(number, number + len(latents))
    names = png_names(names or [f'{index:08}.png' for index in numbers])
    for indices, images in devices.map_batches(
      replicated.decode, latents, batch_size=config.batch_size, what='Decoding'
    ):
      part = [names[index] for index in indices]
      write_pictures(use.output, part, images, model.config.data)
    number += len(latents)
  print(f'Decoded {number:,} examples: {use.output}', flush=True)
