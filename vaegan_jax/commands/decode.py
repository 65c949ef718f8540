"""The mode `decode`: latents back to pictures."""

import ml_collections
import numpy as np

from vaegan_jax.config.cli import Use
from vaegan_jax.data.pictures import png_names
from vaegan_jax.errors import UserError
from vaegan_jax.inference.latent_files import read_latents
from vaegan_jax.inference.using import batches_of, open_model, write_pictures
from vaegan_jax.runtime import devices


def decode(config: ml_collections.ConfigDict, workdir: str, use: Use) -> None:
  """Decodes latents into PNG files, named as the images were, or by number.

  Latents of arrays become `.npy` files.

  Args:
    config: of the run.
    workdir: of the run, or an export.
    use: which latents, and where the pictures go.

  Raises:
    UserError: the model or the latents cannot be read, they are of another
      model, or the folder cannot be written.
  """
  model = open_model(config, workdir, use)
  everywhere, number = devices.replicate(model), 0
  for latents, names in read_latents(use.input, model):
    if not latents.ndim or latents.dtype.kind not in 'fiu':
      raise UserError(
        f'--input={use.input} holds {latents.dtype} of shape {latents.shape}, '
        'and latents are an array of numbers, such as --mode=encode writes'
      )
    if latents.dtype.kind == 'f':
      latents = latents.astype(np.float32)
    names = png_names(
      names or [f'{i:08}.png' for i in range(number, number + len(latents))]
    )
    for places, batch in batches_of(latents, config.batch_size, 'Decoding'):
      images = np.asarray(everywhere.decode(batch))[: len(places)]
      part = [names[place] for place in places]
      write_pictures(use.output, part, images, model.config.data)
    number += len(latents)
  print(f'Decoded {number:,} pictures: {use.output}', flush=True)
