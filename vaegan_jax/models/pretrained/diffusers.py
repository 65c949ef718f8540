"""The layout 'ldm' as diffusers' AutoencoderKL has it: networks and weights.

Both are latent-diffusion's autoencoder (arXiv 2112.10752), layer by layer. The
f4 of that paper has width 128, multipliers 1, 2, 4 and latent_dim 3; its f8 1,
2, 4, 4 and 4; both 2 blocks a level. `diffusers_files.py` reads its folders.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from vaegan_jax.errors import UserError
from vaegan_jax.models.blocks import MAX_GROUPS
from vaegan_jax.models.pretrained import weights

Path = tuple[str, ...]

_OUTER = {
  ('encoder', 'from_image'): 'encoder.conv_in',
  ('encoder', 'norm'): 'encoder.conv_norm_out',
  ('encoder', 'conv_out'): 'encoder.conv_out',
  ('encoder', 'to_latent'): 'quant_conv',
  ('decoder', 'post_quant'): 'post_quant_conv',
  ('decoder', 'from_latent'): 'decoder.conv_in',
  ('decoder', 'norm'): 'decoder.conv_norm_out',
  ('decoder', 'to_image'): 'decoder.conv_out',
}
_BLOCK = {
  'norm_0': 'norm1',
  'conv_0': 'conv1',
  'norm_1': 'norm2',
  'conv_1': 'conv2',
  'shortcut': 'conv_shortcut',
}
_ATTENTION = {
  'norm': 'group_norm',
  'query': 'to_q',
  'key': 'to_k',
  'value': 'to_v',
  'out': 'to_out.0',
}
# The defaults of its arguments, which a config.json may lack.
_DEFAULTS = {
  '_class_name': '',
  'act_fn': 'silu',
  'block_out_channels': (64,),
  'down_block_types': ('DownEncoderBlock2D',),
  'in_channels': 3,
  'latent_channels': 4,
  'layers_per_block': 1,
  'mid_block_add_attention': True,
  'norm_num_groups': 32,
  'out_channels': 3,
  'up_block_types': ('UpDecoderBlock2D',),
  'use_post_quant_conv': True,
  'use_quant_conv': True,
}
# The names in published files of earlier versions.
_EARLIER = {
  '.query.': '.to_q.',
  '.key.': '.to_k.',
  '.value.': '.to_v.',
  '.proj_attn.': '.to_out.0.',
}


# What AutoencoderKL's config.json must have; other values are other networks.
_NEEDED = {
  'act_fn': 'silu',
  'down_block_types': 'DownEncoderBlock2D',
  'up_block_types': 'UpDecoderBlock2D',
}


def fields_of(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of a run's configuration that describe a network.

  Args:
    config: AutoencoderKL's `config.json`.

  Returns:
    {field: value} of `model` and `data.channels`.

  Raises:
    ValueError: it is none of the networks of the layout 'ldm'.
    TypeError: a value is not of its type.
  """
  config = _DEFAULTS | config
  if config['_class_name'] != 'AutoencoderKL':
    raise ValueError(
      f'it is of the class {config["_class_name"]!r}, and AutoencoderKL is read'
    )
  for name, default in _DEFAULTS.items():
    kind = (list, tuple) if isinstance(default, tuple) else type(default)
    is_bool = isinstance(config[name], bool)  # Python's are integers, too.
    if not isinstance(config[name], kind) or (is_bool and kind is int):
      raise TypeError(f'{name} is {config[name]!r}')
  for name, needed in _NEEDED.items():
    values = config[name]
    for value in [values] if isinstance(values, str) else values:
      if value != needed:
        raise ValueError(f'its {name} has {value!r}, and {needed!r} is read')
  for one, other in (
    ('in_channels', 'out_channels'),
    ('use_quant_conv', 'use_post_quant_conv'),
  ):
    if config[one] != config[other]:
      raise ValueError(
        f'its {one}={config[one]} and {other}={config[other]} differ'
      )
  widths = config['block_out_channels']
  width = math.gcd(*widths)
  return {
    'data.channels': config['in_channels'],
    'model.network': 'residual',
    'model.layout': 'ldm',
    'model.latent': 'gaussian',
    'model.latent_shape': 'map',
    'model.latent_dim': config['latent_channels'],
    'model.width': width,
    'model.depth': len(widths) - 1,
    'model.channel_multipliers': tuple(each // width for each in widths),
    'model.num_res_blocks': config['layers_per_block'],
    'model.attention_sides': (),
    'model.strides': (),
    'model.activation': 'own',
    'model.kernel_size': 3,
    'model.middle_attention': config['mid_block_add_attention'],
    'model.num_groups': config['norm_num_groups'],
    'model.quant_convs': config['use_quant_conv'],
  }


def describe(
  model: Mapping[str, Any],
  image_shape: tuple[int, ...],
  began: Mapping[str, Any],
  statistics: Any,
) -> dict[str, Any]:
  """Returns AutoencoderKL's `config.json` for a network.

  Args:
    model: the fields of `config.model`, with the layout 'ldm'.
    image_shape: (H, W, C) of the training.
    began: the `config.json` of the folder that the training began from, or {}.
    statistics: `LatentStatistics` of the latents; None: they are as they began,
      or were not measured.

  Returns:
    Plain JSON values. The latents are scaled and shifted in the way of `began`.
  """
  num_levels = len(model['channel_multipliers'])
  kept = {name: v for name, v in began.items() if not name.startswith('_')}
  if statistics:
    kept |= _scaling(began, statistics)
  return kept | {
    '_class_name': 'AutoencoderKL',
    'act_fn': 'silu',
    'in_channels': image_shape[-1],
    'out_channels': image_shape[-1],
    'latent_channels': model['latent_dim'],
    'block_out_channels': [
      model['width'] * m for m in model['channel_multipliers']
    ],
    'layers_per_block': model['num_res_blocks'],
    'norm_num_groups': model['num_groups']
    or math.gcd(MAX_GROUPS, model['width']),
    'mid_block_add_attention': model['middle_attention'],
    'use_quant_conv': model['quant_convs'],
    'use_post_quant_conv': model['quant_convs'],
    'down_block_types': ['DownEncoderBlock2D'] * num_levels,
    'up_block_types': ['UpDecoderBlock2D'] * num_levels,
    'sample_size': began.get('sample_size', image_shape[0]),
  }


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


def to_diffusers(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Converts the params of an `Autoencoder` with the layout 'ldm'.

  Returns:
    AutoencoderKL's `state_dict` {name: array}, with kernels [F, C, H, W] and
    [F, C].

  Raises:
    UserError: they belong to another network.
  """
  flat = traverse_util.flatten_dict(params)
  return {
    name: np.moveaxis(np.asarray(flat[path]), *_axes(path))
    for path, name in _names(params).items()
  }


def from_diffusers(
  state_dict: Mapping[str, np.ndarray], like: Mapping[str, Any]
) -> dict[str, Any]:
  """Converts AutoencoderKL's weights; accepts names of earlier versions.

  Args:
    state_dict: {name: array} of any floating type.
    like: the params of the `Autoencoder` with the layout 'ldm', as arrays or as
      their shapes; see `fields_of` for its number of groups, which no weight
      shows.

  Returns:
    Its params, float32.

  Raises:
    ValueError: a weight is missing, unexpected, of another shape, no floating
      point number or not finite.
  """
  state = {_rename(name): value for name, value in state_dict.items()}
  shapes = traverse_util.flatten_dict(like)
  names = _names(like)
  wanted = {
    name: _moved_shape(path, shapes[path].shape) for path, name in names.items()
  }
  tensors = weights.exactly(state, wanted)
  return traverse_util.unflatten_dict(
    {
      path: np.ascontiguousarray(np.moveaxis(tensors[name], *_axes(path)[::-1]))
      for path, name in names.items()
    }
  )


def _names(params: Mapping[str, Any]) -> dict[Path, str]:
  """Returns {path of an array here: its name there}.

  Raises:
    UserError: they belong to another network.
  """
  flat = traverse_util.flatten_dict(params)
  table = _name_layers(
    _count(path[1] for path in flat if path[0] == 'encoder'),
    _count(path[2] for path in flat if path[:2] == ('encoder', 'level_0')),
  )
  names = {}
  for *path, leaf in flat:
    name = table.get(tuple(path))
    if name is None:
      raise UserError(
        f'the layer {"/".join(path)} is none of an AutoencoderKL: only a run '
        'with --config.model.layout=ldm has its layers'
      )
    leaf_there = 'bias' if leaf == 'bias' else 'weight'
    names[*path, leaf] = f'{name}.{leaf_there}'
  return names


def _axes(path: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """Returns where axes of an array are, and where they are there."""
  return ((-1, -2), (0, 1)) if path[-1] == 'kernel' else ((), ())


def _moved_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
  if path[-1] != 'kernel':
    return shape
  *space, num_inputs, features = shape
  return features, num_inputs, *space


def _name_layers(num_levels: int, num_blocks: int) -> dict[Path, str]:
  """Returns {path of a layer here: its name there} for all possible layers."""
  table = dict(_OUTER)
  for half, kind in (('encoder', 'down'), ('decoder', 'up')):
    for level in range(num_levels):
      # There the decoder's are counted in the order of their calls.
      index = level if half == 'encoder' else num_levels - 1 - level
      name = f'{half}.{kind}_blocks.{index}'
      for i in range(num_blocks + (half == 'decoder')):
        path = half, f'level_{level}', f'block_{i}'
        table |= _inside(path, f'{name}.resnets.{i}', _BLOCK)
      sampler = f'{name}.{kind}samplers.0.conv'
      # Here `down_1` leads to level 1, and `up_1` comes from it.
      sampled = level + 1 if half == 'encoder' else level
      table[half, f'{kind}_{sampled}'] = sampler
    middle, name = (half, 'middle'), f'{half}.mid_block'
    for i in range(2):
      table |= _inside((*middle, f'block_{i}'), f'{name}.resnets.{i}', _BLOCK)
    attention = f'{name}.attentions.0'
    table |= _inside((*middle, 'attention'), attention, _ATTENTION)
  return table


def _inside(path: Path, name: str, layers: Mapping[str, str]) -> dict:
  return {(*path, ours): f'{name}.{theirs}' for ours, theirs in layers.items()}


def _count(names) -> int:
  """Counts `level_0`, `level_1`, ..., or `block_0`, `block_1`, ..."""
  numbers = {
    name.removeprefix('level_').removeprefix('block_') for name in names
  }
  return sum(number.isdigit() for number in numbers)


def _rename(name: str) -> str:
  for earlier, today in _EARLIER.items():
    name = name.replace(earlier, today)
  return name
