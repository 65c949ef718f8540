"""Reads the folder of an autoencoder, as diffusers saves it.

It has a `config.json`, and the weights in one file or in several with an index.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from vaegan_jax.errors import UserError
from vaegan_jax.models import safetensors_files
from vaegan_jax.models.pretrained import diffusers
from vaegan_jax.models.pretrained.weights import read_state_dict

CONFIG = 'config.json'
KEPT = 'diffusers.json'  # In a workdir: the folder's that it began from.
WEIGHTS = 'diffusion_pytorch_model.safetensors'
_INDEX = f'{WEIGHTS}.index.json'
# With half the precision, and of versions that saved torch's own format.
_OTHERS = (
  'diffusion_pytorch_model.fp16.safetensors',
  'diffusion_pytorch_model.bf16.safetensors',
  'diffusion_pytorch_model.bin',
)


def read_config(folder: str) -> dict[str, Any] | None:
  """Reads the `config.json` of a folder.

  Returns:
    Its content; None if diffusers did not write the folder.

  Raises:
    UserError: it is a whole pipeline's folder.
  """
  root = epath.Path(folder)
  try:
    is_pipeline = (root / 'model_index.json').exists()
    content = {} if is_pipeline else json.loads((root / CONFIG).read_text())
  except Exception:  # Of a disk or a bucket; whoever reads a run's reports it.
    return None
  if is_pipeline:
    raise UserError(
      f'{folder} is the folder of a pipeline, with its autoencoder inside: '
      f'name that, such as {root / "vae"}'
    )
  found = isinstance(content, dict) and '_class_name' in content
  return content if found else None


def read_fields(folder: str, config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of a configuration; see `diffusers.fields_of`.

  Raises:
    UserError: networks of this class or size are not read.
  """
  try:
    return diffusers.fields_of(config)
  except ValueError as error:
    raise UserError(
      f'{folder} holds no autoencoder that can be read, because {error}: name '
      'another, such as the AutoencoderKL of SD 1.5, SDXL, SD3 or FLUX'
    ) from None
  except (TypeError, LookupError, AttributeError, ZeroDivisionError) as error:
    raise UserError(
      f'{folder}/{CONFIG} is damaged ({error!r}): download it again'
    ) from None


def read_kept(workdir: str) -> dict[str, Any]:
  """Reads the `config.json` that a run began from; {} if there was none."""
  path = epath.Path(workdir) / KEPT
  return json.loads(path.read_text()) if path.exists() else {}


def read_variables(folder: str, like: Mapping[str, Any]) -> dict[str, Any]:
  """Reads the weights.

  Args:
    folder: the folder.
    like: variables of the `Autoencoder`, or their shapes.

  Returns:
    The variables, float32.

  Raises:
    UserError: there are none, or they are not exactly this network's.
  """
  try:
    return diffusers.from_diffusers(_read_state(epath.Path(folder)), like)
  except (ValueError, OSError) as error:
    raise UserError(
      f'{folder} does not hold the weights of its {CONFIG}, because {error}: '
      'download it again, or save it with save_pretrained'
    ) from None


def _read_state(root: epath.Path) -> dict[str, np.ndarray]:
  """Returns {name: tensor} of all files.

  Raises:
    ValueError: there is no file of weights, or the index is damaged.
    OSError: a file is missing.
  """
  if (root / _INDEX).exists():
    try:
      table = json.loads((root / _INDEX).read_text())
      names = sorted({str(name) for name in table['weight_map'].values()})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
      raise ValueError(f'{_INDEX} is damaged ({error!r})') from None
    state = {}
    for name in names:
      if epath.Path(name).name != name:
        raise ValueError(
          f'{_INDEX} names {name!r}, which is not a file beside it'
        )
      state |= _read_file(root / name)
    return state
  for name in (WEIGHTS, *_OTHERS):
    if (root / name).exists():
      return _read_file(root / name)
  raise ValueError(f'it has no {WEIGHTS}')


def _read_file(path: epath.Path) -> dict[str, np.ndarray]:
  if path.suffix == '.safetensors':
    return safetensors_files.read(path.read_bytes())[0]
  return read_state_dict(path)  # Reads no pickle but one of tensors.
