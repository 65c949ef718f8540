"""The command `export`: writes a run as a folder that outlives this code.

It holds `model.safetensors` (the averaged weights), `config.json`,
`latents.json`, a model card (`README.md`) and figures. NumPy alone can read the
weights, and `vaegan_jax.load` needs no orbax. A model of the layout 'ldm' gets
an AutoencoderKL in `diffusers/`, too.
"""

import json

import ml_collections
from etils import epath

from vaegan_jax.config.cli import Use
from vaegan_jax.config.migrations import stamp
from vaegan_jax.config.schema import path_fields
from vaegan_jax.inference.command_io import open_model, with_statistics
from vaegan_jax.inference.latent_statistics import FILE
from vaegan_jax.inference.load import EXPORT_VERSION, WEIGHTS_FILE
from vaegan_jax.inference.model import TrainedModel
from vaegan_jax.inference.model_card import write_card
from vaegan_jax.inference.tensors import digest, to_tensors
from vaegan_jax.models import safetensors_files
from vaegan_jax.models.pretrained import diffusers
from vaegan_jax.runtime.files import replacing, write_text

_DIFFUSERS_FILE = 'diffusion_pytorch_model.safetensors'


def export(config: ml_collections.ConfigDict, workdir: str, use: Use) -> None:
  """Exports a model.

  Raises:
    UserError: the model cannot be loaded, or the folder cannot be written.
  """
  model = with_statistics(open_model(config, workdir, use), config)
  variables = dict(model.variables)
  if not use.with_critic:
    variables.pop('critic', None)
  folder = epath.Path(use.output)
  text = json.dumps(stamp(_without_paths(config)), indent=2) + '\n'
  write_text(folder / 'config.json', text)
  if model.statistics:
    write_text(folder / FILE, model.statistics.to_json())
  write_card(model, to_tensors(variables), folder)
  _write_weights(model, to_tensors(variables), folder)
  if config.model.layout == 'ldm':
    _write_for_diffusers(model, folder / 'diffusers')
  print(f'Exported step {model.step:,} of {workdir} to {folder}', flush=True)


def _write_weights(model: TrainedModel, tensors, folder: epath.Path) -> None:
  metadata = {
    'format': 'vaegan_jax',
    'version': str(EXPORT_VERSION),
    'step': str(model.step),
    'fingerprint': model.fingerprint,
    'sha256': digest(tensors),
  }
  with replacing(folder / WEIGHTS_FILE) as path, path.open('wb') as file:
    safetensors_files.write(file, tensors, metadata)


def _write_for_diffusers(model: TrainedModel, folder: epath.Path) -> None:
  """Writes the files that `AutoencoderKL.from_pretrained` opens."""
  factor = model.statistics and float(model.scaling_factor)
  config = diffusers.describe(model.config.model, model.image_shape, factor)
  write_text(folder / 'config.json', json.dumps(config, indent=2) + '\n')
  params = model.variables['autoencoder']['params']
  with replacing(folder / _DIFFUSERS_FILE) as path, path.open('wb') as file:
    safetensors_files.write(
      file, diffusers.to_diffusers(params), {'format': 'pt'}
    )


def _without_paths(config: ml_collections.ConfigDict) -> dict:
  """Returns the fields, with paths reduced to their last names."""
  fields = config.to_dict()
  for name in path_fields():
    section, _, field = name.rpartition('.')
    values = fields[section] if section else fields
    paths = values[field].split(',')
    values[field] = ','.join(epath.Path(p).name if p else '' for p in paths)
  return fields
