"""The command `encode`: encodes images to latents, on all devices."""

import ml_collections

from vaegan_jax.config.cli import Use
from vaegan_jax.inference.command_io import (
  open_examples,
  open_model,
  open_tiler,
  with_statistics,
)
from vaegan_jax.inference.encode import write_latents
from vaegan_jax.inference.tiled_files import encode_files


def encode(config: ml_collections.ConfigDict, workdir: str, use: Use) -> None:
  """Encodes images; an interrupted command continues where it stopped.

  Raises:
    UserError: the model or the images cannot be read, or the folder cannot be
      written or has latents of another model.
  """
  model = open_model(config, workdir, use)
  tiler = open_tiler(model, config, use)
  images, source = open_examples(config, workdir, use), use.input
  if use.split:
    source = f'{use.split} split of {config.data.name}'
  if use.split == 'train':  # Measures a run of an earlier version, too.
    with_statistics(model, config, images)
  facts = {'source': source}
  if tiler:
    statistics = encode_files(tiler, images, use.output, facts)
  else:
    statistics = write_latents(
      model, images, use.output, facts, batch_size=config.batch_size
    )
  print(
    f'Encoded {statistics.num_images:,} examples with step {model.step:,} of '
    f'{workdir}: {use.output}',
    flush=True,
  )
