"""The layout 'ldm' as diffusers' AutoencoderKL and VQModel have it.

Both are latent-diffusion's autoencoder (arXiv 2112.10752), layer by layer, with
a Gaussian latent or a codebook. The f4 of that paper has width 128, multipliers
1, 2, 4 and latent_dim 3; its f8 1, 2, 4, 4 and 4; both 2 blocks a level.
"""

import math
from collections.abc import Mapping
from typing import Any

from vaegan_jax.models.blocks import MAX_GROUPS
from vaegan_jax.models.pretrained.diffusers_layers import check, read, write

__all__ = 'describe', 'fields_of', 'name_layers', 'read', 'write'

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
# The defaults of the arguments of both, which a config.json may lack.
_DEFAULTS = {
  'act_fn': 'silu',
  'block_out_channels': (64,),
  'down_block_types': ('DownEncoderBlock2D',),
  'in_channels': 3,
  'layers_per_block': 1,
  'mid_block_add_attention': True,
  'norm_num_groups': 32,
  'out_channels': 3,
  'up_block_types': ('UpDecoderBlock2D',),
}
_OWN_DEFAULTS = {
  'AutoencoderKL': {
    'latent_channels': 4,
    'use_post_quant_conv': True,
    'use_quant_conv': True,
  },
  'VQModel': {
    'latent_channels': 3,
    'norm_type': 'group',
    'num_vq_embeddings': 256,
  },
}
# What a config.json must have; other values are other networks.
_NEEDED = {
  'act_fn': 'silu',
  'down_block_types': 'DownEncoderBlock2D',
  'up_block_types': 'UpDecoderBlock2D',
  'norm_type': 'group',
}


def fields_of(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of a network; see `diffusers.fields_of`."""
  class_name = config['_class_name']
  config = check(config, _DEFAULTS | _OWN_DEFAULTS[class_name], _NEEDED)
  pairs = [('in_channels', 'out_channels')]
  if class_name == 'AutoencoderKL':
    pairs.append(('use_quant_conv', 'use_post_quant_conv'))
  elif config.get('vq_embed_dim') is not None:
    pairs.append(('latent_channels', 'vq_embed_dim'))
  for one, other in pairs:
    if config[one] != config[other]:
      raise ValueError(
        f'its {one}={config[one]} and {other}={config[other]} differ'
      )
  widths = config['block_out_channels']
  if len(widths) < 2:
    raise ValueError(
      f'its block_out_channels are {[*widths]}, and two or more are read'
    )
  width = math.gcd(*widths)
  fields = {
    'data.channels': config['in_channels'],
    'model.layout': 'ldm',
    'model.latent': 'gaussian',
    'model.latent_dim': config['latent_channels'],
    'model.width': width,
    'model.depth': len(widths) - 1,
    'model.channel_multipliers': tuple(each // width for each in widths),
    'model.num_res_blocks': config['layers_per_block'],
    'model.middle_attention': config['mid_block_add_attention'],
    'model.num_groups': config['norm_num_groups'],
    'model.quant_convs': config.get('use_quant_conv', True),
  }
  if class_name == 'VQModel':
    fields |= {
      'model.latent': 'vq',
      'model.code_dim': config['latent_channels'],
      'model.codebook_size': config['num_vq_embeddings'],
      'model.unit_codes': False,
      'loss.rate': 0.0,  # Its rate is fixed.
    }
  return fields


def describe(model: Mapping[str, Any], channels: int) -> dict[str, Any]:
  """Returns the `config.json` of a network; see `diffusers.describe`."""
  num_levels = len(model['channel_multipliers'])
  about = {
    'act_fn': 'silu',
    'in_channels': channels,
    'out_channels': channels,
    'latent_channels': model['latent_dim'],
    'block_out_channels': [
      model['width'] * m for m in model['channel_multipliers']
    ],
    'layers_per_block': model['num_res_blocks'],
    'norm_num_groups': model['num_groups']
    or math.gcd(MAX_GROUPS, model['width']),
    'mid_block_add_attention': model['middle_attention'],
    'down_block_types': ['DownEncoderBlock2D'] * num_levels,
    'up_block_types': ['UpDecoderBlock2D'] * num_levels,
  }
  if model['latent'] == 'vq':
    return about | {
      'norm_type': 'group',
      'num_vq_embeddings': model['codebook_size'],
      'vq_embed_dim': model['latent_dim'],
    }
  return about | {
    'use_quant_conv': model['quant_convs'],
    'use_post_quant_conv': model['quant_convs'],
  }


def name_layers(paths: Any) -> dict[Path, str]:
  """Returns {path of a layer here: its name there}, from arrays' paths."""
  num_levels = _count(path[1] for path in paths if path[0] == 'encoder')
  num_blocks = _count(
    path[2] for path in paths if path[:2] == ('encoder', 'level_0')
  )
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
