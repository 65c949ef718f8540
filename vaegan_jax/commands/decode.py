"""The command `decode`: decodes latents to images."""

from collections.abc import Iterator

import ml_collections
import numpy as np

from vaegan_jax.config.cli import Use
from vaegan_jax.data.pictures import png_names
from vaegan_jax.errors import UserError
from vaegan_jax.inference.command_io import (
  open_model,
  open_tiler,
  write_pictures,
)
from vaegan_jax.inference.latent_files import read_latents
from vaegan_jax.inference.tiled_files import decode_part
from vaegan_jax.inference.tiling import Tiler
from vaegan_jax.runtime import devices


def decode(config: ml_collections.ConfigDict, workdir: str, use: Use) -> None:
  """Decodes latents into PNG files, or arrays into `.npy` files.

  Files are named as the encoded images were, or by number. A file that was
  encoded in tiles is decoded in tiles, into its own format.

  Raises:
    UserError: the model or the latents cannot be read, they are of another
      model, or the folder cannot be written.
  """
  model = open_model(config, workdir, use)
  tiler, number = open_tiler(model, config, use), 0
  replicated = devices.replicate(model)
  for part in read_latents(use.input, model):
    part = part._replace(latents=_check(part.latents, use))
    if part.tiles:
      tiler = tiler or open_tiler(model, config, use, part.tiles['tile'])
      decode_part(tiler, part, use.output)
      number += 1
      continue
    numbers = range(number, number + len(part.latents))
    names = png_names(part.names or [f'{index:08}.png' for index in numbers])
    if tiler:
      batches = _decode_in_tiles(tiler, part.latents, use)
    else:
      batches = devices.map_batches(
        replicated.decode,
        part.latents,
        batch_size=config.batch_size,
        what='Decoding',
      )
    for indices, images in batches:
      chosen = [names[index] for index in indices]
      write_pictures(use.output, chosen, images, model.config.data)
    number += len(part.latents)
  print(f'Decoded {number:,} examples: {use.output}', flush=True)


def _check(latents: np.ndarray, use: Use) -> np.ndarray:
  """Returns latents, as float32 unless they are indices."""
  if not latents.ndim or latents.dtype.kind not in 'fiu':
    raise UserError(
      f'--input={use.input} holds {latents.dtype} of shape {latents.shape}, '
      'and latents are an array of numbers, such as --mode=encode writes'
    )
  return latents.astype(np.float32) if latents.dtype.kind == 'f' else latents


def _decode_in_tiles(
  tiler: Tiler, latents: np.ndarray, use: Use
) -> Iterator[tuple[list[int], np.ndarray]]:
  """Decodes maps [B, *S', Z] one by one, as `map_batches` does in batches."""
  if tiler.plan.is_flat:
    raise UserError(
      f'--tile is for maps of latents, and for what --mode=encode --tile '
      f'wrote, and --input={use.input} has flat latents of whole examples: '
      'leave --tile out'
    )
  for index, latent in enumerate(latents):
    yield [index], tiler.decode(latent)[None]
