"""Reads the weights of an export, which `commands/export.py` has written."""

from collections.abc import Mapping

import flax
import flax.linen as nn
import ml_collections
import numpy as np
from etils import epath

from vaegan_jax.errors import UserError
from vaegan_jax.models import safetensors_files
from vaegan_jax.models.tensors import digest, from_tensors, to_tensors
from vaegan_jax.setup.modules import (
  Variables,
  create_modules,
  size_shapes,
  variable_shapes,
)

WEIGHTS_FILE = 'model.safetensors'
EXPORT_VERSION = 1  # Raised when the code before would misread an export.


def read_export(
  root: epath.Path, config: ml_collections.ConfigDict
) -> tuple[dict[str, nn.Module], dict[str, Variables], int]:
  """Reads an export, which may lack the critic.

  Returns:
    The modules, their variables for inference, and the step.

  Raises:
    UserError: it is damaged, or of a newer version.
  """
  path = root / WEIGHTS_FILE
  try:
    tensors, metadata = safetensors_files.read(path.read_bytes())
    version, step = int(metadata['version']), int(metadata['step'])
    if version <= EXPORT_VERSION and metadata['sha256'] != digest(tensors):
      raise ValueError('its SHA-256 differs')
  except (ValueError, LookupError) as error:
    raise UserError(
      f'{path} is not an export that can be read ({error}): export the run '
      'again, with --mode=export'
    ) from error
  if version > EXPORT_VERSION:
    raise UserError(
      f'{path} is an export of version {version}, and this code knows those up '
      f'to {EXPORT_VERSION}: install a newer vaegan_jax'
    )
  modules = create_modules(config)
  if not any(name.startswith('critic.') for name in tensors):
    modules.pop('critic', None)
  _check_tensors(path, tensors, modules, config)
  variables = from_tensors(tensors)
  if sizes := variables.get('critic', {}).pop('sizes', None):
    variables['layer_sizes'] = sizes
  return modules, variables, step


def exported_tensors(
  variables: Mapping[str, Variables],
) -> dict[str, np.ndarray]:
  """Names variables for inference as an export has them."""
  return to_tensors(_as_stored(variables))


def _as_stored(variables) -> dict[str, Variables]:
  """Puts the layers' sizes where a file has them: in the critic's variables."""
  networks = dict(variables)
  sizes = networks.pop('layer_sizes', None)
  if sizes and 'critic' in networks:
    networks['critic'] = {**networks['critic'], 'sizes': sizes}
  return networks


def _check_tensors(path, tensors, modules, config) -> None:
  wanted = _as_stored(
    variable_shapes(config, modules)
    | {'layer_sizes': size_shapes(config, modules)}
  )
  wanted = {
    name: leaf.shape
    for name, leaf in flax.traverse_util.flatten_dict(wanted, sep='.').items()
  }
  found = {name: array.shape for name, array in tensors.items()}
  for name in sorted(wanted.keys() | found.keys()):
    was, now = (shapes.get(name, 'absent') for shapes in (found, wanted))
    if was != now:
      raise UserError(
        f'{path} does not hold the networks of its config.json, as {name} is '
        f'{was} and not {now}: export the run again, with --mode=export'
      )
