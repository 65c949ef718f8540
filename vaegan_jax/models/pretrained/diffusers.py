"""Exchanges autoencoders with diffusers: their networks and their weights.

A layout of `config.model` is that of a class there, layer by layer; a module
for each has their names. `diffusers_files.py` reads the folders.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from vaegan_jax.errors import UserError
from vaegan_jax.models.latents import vq
from vaegan_jax.models.pretrained import (
  diffusers_ldm,
  diffusers_oobleck,
  diffusers_tiny,
  weights,
)

Path = tuple[str, ...]

_LAYOUTS = {
  'ldm': diffusers_ldm,
  'tiny': diffusers_tiny,
  'oobleck': diffusers_oobleck,
}
_CLASSES = {
  'AutoencoderKL': diffusers_ldm,
  'VQModel': diffusers_ldm,
  'AutoencoderTiny': diffusers_tiny,
  'AutoencoderOobleck': diffusers_oobleck,
}
LAYOUTS = tuple(_LAYOUTS)
# The fields of `config.model` that all of these networks have.
SHARED = {
  'network': 'residual',
  'latent_shape': 'map',
  'attention_sides': (),
  'activation': 'own',
  'strides': (),
  'kernel_size': 3,
  'patch_size': 1,
}
# Entries of a config.json that a layout's description may lack.
_BESIDE = {
  *('block_out_channels', 'force_upcast', 'latent_magnitude', 'latent_shift'),
  *('latents_mean', 'latents_std', 'lookup_from_codebook', 'sample_size'),
  *('sampling_rate', 'scaling_factor', 'shift_factor'),
}
_CODEBOOK = 'quantize.embedding.weight'
# The names in published files of earlier versions.
_EARLIER = {
  '.query.': '.to_q.',
  '.key.': '.to_k.',
  '.value.': '.to_v.',
  '.proj_attn.': '.to_out.0.',
}


def fields_of(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of a run's configuration that describe a network.

  Args:
    config: the `config.json` of a class of diffusers.

  Returns:
    {field: value} of `model` and `data.channels`.

  Raises:
    ValueError: no layout has such a network.
    TypeError: a value is not of its type.
  """
  name = config.get('_class_name', '')
  if name not in _CLASSES:
    *most, last = _CLASSES
    raise ValueError(
      f'it is of the class {name!r}, and {", ".join(most)} and {last} are read'
    )
  shared = {f'model.{field}': value for field, value in SHARED.items()}
  return shared | _CLASSES[name].fields_of(config)


def unread(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what a `config.json` has that may change the network unnoticed.

  `config` is one that `fields_of` reads.
  """
  fields = fields_of(config)
  model = {name.removeprefix('model.'): v for name, v in fields.items()}
  layout = _CLASSES[config['_class_name']]
  known = _BESIDE | layout.describe(model, fields['data.channels']).keys()
  return {
    name: value
    for name, value in config.items()
    if name not in known and not name.startswith('_')
  }


def class_of(model: Mapping[str, Any]) -> str:
  """Returns the name of the class that has a network's layout and latent."""
  if model['layout'] == 'ldm':
    return 'VQModel' if model['latent'] == 'vq' else 'AutoencoderKL'
  return (
    'AutoencoderTiny' if model['layout'] == 'tiny' else 'AutoencoderOobleck'
  )


def describe(
  model: Mapping[str, Any],
  image_shape: tuple[int, ...],
  began: Mapping[str, Any],
  statistics: Any,
  sample_rate: int = 0,
) -> dict[str, Any]:
  """Returns the `config.json` of a network there.

  Args:
    model: the fields of `config.model`, with one of the layouts.
    image_shape: (H, W, C) of the training.
    began: the `config.json` of the folder that the training began from, or {}.
    statistics: `LatentStatistics` of the latents; None: they are as they began,
      or were not measured.
    sample_rate: of sounds, in Hz.

  Returns:
    Plain JSON values. The latents are scaled and shifted in the way of `began`.
  """
  kept = {name: v for name, v in began.items() if not name.startswith('_')}
  is_sound = model['layout'] == 'oobleck'  # Its latents are not scaled.
  if statistics and not is_sound:
    kept |= _scaling(began, statistics)
  about = _LAYOUTS[model['layout']].describe(model, image_shape[-1])
  about['_class_name'] = class_of(model)
  if model['layout'] == 'ldm':
    about['sample_size'] = began.get('sample_size', image_shape[0])
  if is_sound:
    about['sampling_rate'] = sample_rate
  return kept | about


def _scaling(began, statistics) -> dict[str, Any]:
  """Returns what brings latents to mean 0, where it did, and deviation 1."""
  measured = {
    'scaling_factor': float(statistics.scaling_factor),
    'shift_factor': float(np.mean(statistics.mean)),
    'latents_mean': np.asarray(statistics.mean, np.float64).tolist(),
    'latents_std': np.asarray(statistics.std, np.float64).tolist(),
  }
  return {
    name: value
    for name, value in measured.items()
    if name == 'scaling_factor' or began.get(name) is not None
  }


def to_diffusers(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Converts the variables of an `Autoencoder` with one of the layouts.

  Returns:
    The class's `state_dict` {name: array}, with kernels [F, C, H, W] and [F,
    C].

  Raises:
    UserError: they belong to another network.
  """
  flat = traverse_util.flatten_dict(variables['params'])
  layout, names = _names(flat)
  state = {
    f'{name}.{end}': np.ascontiguousarray(tensor)
    for path, name in names.items()
    for end, tensor in layout.write(path, np.asarray(flat[path])).items()
  }
  if stats := variables.get('batch_stats'):
    state[_CODEBOOK] = np.asarray(vq.codebook_of(stats['latent']))
  return state


def from_diffusers(
  state_dict: Mapping[str, np.ndarray], like: Mapping[str, Any]
) -> dict[str, Any]:
  """Converts the weights of a class; accepts names of earlier versions.

  Args:
    state_dict: {name: array} of any floating type.
    like: the variables of the `Autoencoder` with one of the layouts, as arrays
      or as their shapes; see `fields_of` for its number of groups, which no
      weight shows.

  Returns:
    Its variables, float32.

  Raises:
    ValueError: a weight is missing, unexpected, of another shape, no floating
      point number or not finite.
  """
  state = {_rename(name): value for name, value in state_dict.items()}
  shapes = traverse_util.flatten_dict(like['params'])
  layout, names = _names(shapes)
  ends = {
    path: layout.write(path, np.zeros(shapes[path].shape)) for path in names
  }
  wanted = {
    f'{name}.{end}': tensor.shape
    for path, name in names.items()
    for end, tensor in ends[path].items()
  }
  stats = like.get('batch_stats')
  if stats:
    wanted[_CODEBOOK] = stats['latent']['sums'].shape
  tensors = weights.exactly(state, wanted)
  params = {
    path: np.ascontiguousarray(
      layout.read(path, {end: tensors[f'{name}.{end}'] for end in ends[path]})
    )
    for path, name in names.items()
  }
  return {
    'params': traverse_util.unflatten_dict(params),
    'batch_stats': {'latent': vq.state_of(tensors[_CODEBOOK])} if stats else {},
  }


def _names(flat: Mapping[Path, Any]) -> tuple[Any, dict[Path, str]]:
  """Returns the layout, and {path of an array here: its layer's name there}.

  Raises:
    UserError: they belong to another network.
  """
  layout = diffusers_ldm
  if ('encoder', 'conv_0', 'kernel') in flat:
    has_snake = ('encoder', 'snake', 'log_scale') in flat
    layout = diffusers_oobleck if has_snake else diffusers_tiny
  table = layout.name_layers(flat)
  for *path, _ in flat:
    if tuple(path) not in table:
      raise UserError(
        f'the layer {"/".join(path)} does not belong to an autoencoder of '
        'diffusers: only a run with --config.model.layout=ldm, tiny or '
        'oobleck has its layers'
      )
  return layout, {path: table[path[:-1]] for path in flat}


def _rename(name: str) -> str:
  for earlier, today in _EARLIER.items():
    name = name.replace(earlier, today)
  return name
