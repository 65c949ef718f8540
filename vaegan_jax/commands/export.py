"""The command `export`: writes a run as a folder that outlives this code.

It holds `model.safetensors` (the averaged weights), `config.json`,
`latents.json`, a model card (`README.md`) and figures. NumPy alone can read the
weights, and `vaegan_jax.load` needs no orbax. A model with a published layout
gets a folder of diffusers in it, which is all that `--format=diffusers` writes.
`--format=stablehlo` writes two programs that need neither this code nor
Flax.
"""

import jax
import jax.export
import jax.numpy as jnp
import ml_collections
from etils import epath

from vaegan_jax.config.cli import Use
from vaegan_jax.config.migrations import stamp
from vaegan_jax.config.schema import path_fields
from vaegan_jax.errors import UserError
from vaegan_jax.inference.command_io import open_model, with_statistics
from vaegan_jax.inference.latent_statistics import FILE
from vaegan_jax.inference.model import TrainedModel
from vaegan_jax.inference.model_card import write_card
from vaegan_jax.models import safetensors_files
from vaegan_jax.models.pretrained import diffusers, diffusers_files
from vaegan_jax.models.tensors import digest
from vaegan_jax.runtime.files import (
  replacing,
  write_bytes,
  write_json,
  write_text,
)
from vaegan_jax.setup.exported_run import (
  EXPORT_VERSION,
  WEIGHTS_FILE,
  exported_tensors,
)

_PLATFORMS = ('cpu', 'cuda', 'tpu')


def export(config: ml_collections.ConfigDict, workdir: str, use: Use) -> None:
  """Exports a model.

  Raises:
    UserError: the model cannot be loaded, diffusers has no such network, or the
      folder cannot be written.
  """
  if use.format == 'diffusers' and config.model.layout not in diffusers.LAYOUTS:
    raise UserError(
      '--format=diffusers is for the networks that diffusers has, and '
      f'{workdir} was trained with model.layout={config.model.layout!r}: '
      'train with --config.model.layout=ldm or from a folder of diffusers, '
      'or use --format=own'
    )
  model = with_statistics(open_model(config, workdir, use), config)
  folder, variables = epath.Path(use.output), dict(model.variables)
  if use.format != 'own' or not use.with_critic:
    variables.pop('critic', None)
  tensors = exported_tensors(variables)
  write_card(model, tensors, folder, use.format)
  if use.format == 'own':
    _write_own(model, tensors, folder)
  elif use.format == 'diffusers':
    _write_for_diffusers(model, folder)
  else:
    _write_programs(model, folder)
  print(f'Exported step {model.step:,} of {workdir} to {folder}', flush=True)


def _write_own(model: TrainedModel, tensors, folder: epath.Path) -> None:
  """Writes the files that `vaegan_jax.load` opens."""
  write_json(folder / 'config.json', stamp(_without_paths(model.config)))
  if model.statistics:
    write_text(folder / FILE, model.statistics.to_json())
  metadata = {
    'format': 'vaegan_jax',
    'version': str(EXPORT_VERSION),
    'step': str(model.step),
    'fingerprint': model.fingerprint,
    'sha256': digest(tensors),
  }
  _write_tensors(folder / WEIGHTS_FILE, tensors, metadata)
  if model.config.model.layout in diffusers.LAYOUTS:
    _write_for_diffusers(model, folder / 'diffusers')


def _write_for_diffusers(model: TrainedModel, folder: epath.Path) -> None:
  """Writes the files that `from_pretrained` of diffusers opens."""
  began = diffusers_files.read_kept(model.source)
  statistics = model.statistics
  if began and model.config.model.train != 'all':  # They are as they were.
    statistics = None
  config = diffusers.describe(
    model.config.model,
    model.image_shape,
    began,
    statistics,
    model.config.data.sample_rate,
  )
  write_json(folder / diffusers_files.CONFIG, config)
  tensors = diffusers.to_diffusers(model.variables['autoencoder'])
  _write_tensors(folder / diffusers_files.WEIGHTS, tensors, {'format': 'pt'})


def _write_tensors(path: epath.Path, tensors, metadata) -> None:
  with replacing(path) as temporary, temporary.open('wb') as file:
    safetensors_files.write(file, tensors, metadata)


def _write_programs(model: TrainedModel, folder: epath.Path) -> None:
  """Writes the encoder and the decoder for batches of any size."""
  (batch,) = jax.export.symbolic_shape('batch')
  for name, function, shape in (
    ('encode', lambda x: model.encode(x).mode(), model.image_shape),
    ('decode', model.decode, model.latent_shape),
  ):
    example = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    exported = jax.export.export(jax.jit(function), platforms=_PLATFORMS)
    program = exported(example).serialize()
    write_bytes(folder / f'{name}.stablehlo', program)


def _without_paths(config: ml_collections.ConfigDict) -> dict:
  """Returns the fields, with paths reduced to their last names."""
  fields = config.to_dict()
  for name in path_fields():
    section, _, field = name.rpartition('.')
    values = fields[section] if section else fields
    paths = values[field].split(',')
    values[field] = ','.join(epath.Path(p).name if p else '' for p in paths)
  return fields
