"""Weights of the layout 'ldm' in the names of diffusers' AutoencoderKL.

Both are latent-diffusion's autoencoder (arXiv 2112.10752), layer by layer:

    AutoencoderKL(
      in_channels=C, out_channels=C, latent_channels=latent_dim,
      block_out_channels=[width * m for m in channel_multipliers],
      layers_per_block=num_res_blocks, norm_num_groups=gcd(32, width),
      down_block_types=['DownEncoderBlock2D'] * len(channel_multipliers),
      up_block_types=['UpDecoderBlock2D'] * len(channel_multipliers))

The f4 of that paper has width 128, multipliers 1, 2, 4 and latent_dim 3; its f8
1, 2, 4, 4 and 4; both 2 blocks a level.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from vaegan_jax.errors import UserError
from vaegan_jax.models.blocks import MAX_GROUPS

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
# The names in published files of earlier versions.
_EARLIER = {
  '.query.': '.to_q.',
  '.key.': '.to_k.',
  '.value.': '.to_v.',
  '.proj_attn.': '.to_out.0.',
}


def describe(
  model: Mapping[str, Any],
  image_shape: tuple[int, ...],
  scaling_factor: float | None,
) -> dict[str, Any]:
  """Returns AutoencoderKL's `config.json` for such a network.

  Args:
    model: the fields of `config.model`, with the layout 'ldm'.
    image_shape: (H, W, C) of the training.
    scaling_factor: 1 / the latents' standard deviation; None: unknown.

  Returns:
    Plain JSON values.
  """
  num_levels = len(model['channel_multipliers'])
  return {
    '_class_name': 'AutoencoderKL',
    'act_fn': 'silu',
    'in_channels': image_shape[-1],
    'out_channels': image_shape[-1],
    'latent_channels': model['latent_dim'],
    'block_out_channels': [
      model['width'] * m for m in model['channel_multipliers']
    ],
    'layers_per_block': model['num_res_blocks'],
    'norm_num_groups': math.gcd(MAX_GROUPS, model['width']),
    'down_block_types': ['DownEncoderBlock2D'] * num_levels,
    'up_block_types': ['UpDecoderBlock2D'] * num_levels,
    'sample_size': image_shape[0],
  } | ({'scaling_factor': scaling_factor} if scaling_factor else {})


def to_diffusers(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Converts the params of an `Autoencoder` with the layout 'ldm'.

  Returns:
    AutoencoderKL's `state_dict` {name: array}, with kernels [F, C, H, W] and
    [F, C].

  Raises:
    UserError: they belong to another network.
  """
  flat = traverse_util.flatten_dict(params)
  paths = {path[:-1] for path in flat}
  table = _name_layers(
    _count(path[1] for path in paths if path[0] == 'encoder'),
    _count(path[2] for path in paths if path[:2] == ('encoder', 'level_0')),
  )
  state = {}
  for (*path, leaf), value in flat.items():
    name = table.get(tuple(path))
    if name is None:
      raise UserError(
        f'the layer {"/".join(path)} is none of an AutoencoderKL: only a run '
        'with --config.model.layout=ldm has its layers'
      )
    value = np.asarray(value)
    if leaf == 'kernel':
      value = np.moveaxis(value, (-1, -2), (0, 1))
    state[f'{name}.{"bias" if leaf == "bias" else "weight"}'] = value
  return state


def from_diffusers(state_dict: Mapping[str, Any]) -> dict[str, Any]:
  """Converts AutoencoderKL's weights back; accepts names of earlier versions.

  Returns:
    The params of an `Autoencoder` with the layout 'ldm'.

  Raises:
    UserError: they belong to another network.
  """
  state = {_rename(name): np.asarray(v) for name, v in state_dict.items()}
  table = _name_layers(
    _count(_within(state, 'encoder.down_blocks.')),
    _count(_within(state, 'encoder.down_blocks.0.resnets.')),
  )
  paths = {name: path for path, name in table.items()}
  flat = {}
  for name, value in state.items():
    layer, _, leaf = name.rpartition('.')
    if layer not in paths:
      raise UserError(
        f'{name!r} is no weight of an AutoencoderKL without attention in its '
        'blocks, which --config.model.layout=ldm is'
      )
    if leaf == 'weight' and value.ndim > 1:
      leaf, value = 'kernel', np.moveaxis(value, (0, 1), (-1, -2))
    elif leaf == 'weight':
      leaf = 'scale'
    flat[*paths[layer], leaf] = value
  return traverse_util.unflatten_dict(flat)


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
  """Counts `level_0`, `level_1`, ..., or `block_0`, ..., or '0', '1', ..."""
  numbers = {
    name.removeprefix('level_').removeprefix('block_') for name in names
  }
  return sum(number.isdigit() for number in numbers)


def _within(names, prefix: str) -> list[str]:
  """Returns the parts that follow the prefix in the names that have it."""
  return [
    name.removeprefix(prefix).partition('.')[0]
    for name in names
    if name.startswith(prefix)
  ]


def _rename(name: str) -> str:
  for earlier, today in _EARLIER.items():
    name = name.replace(earlier, today)
  return name
