"""The layout 'tiny' as diffusers' AutoencoderTiny has it."""

from collections.abc import Mapping
from typing import Any

from vaegan_jax.models.pretrained.diffusers_layers import check, read, write

__all__ = 'describe', 'fields_of', 'name_layers', 'read', 'write'

Path = tuple[str, ...]

_DEFAULTS = {
  'act_fn': 'relu',
  'decoder_block_out_channels': (64,) * 4,
  'encoder_block_out_channels': (64,) * 4,
  'in_channels': 3,
  'latent_channels': 4,
  'num_decoder_blocks': (3, 3, 3, 1),
  'num_encoder_blocks': (1, 3, 3, 3),
  'out_channels': 3,
  'upsample_fn': 'nearest',
  'upsampling_scaling_factor': 2,
}
_NEEDED = {
  'act_fn': 'relu',
  'upsample_fn': 'nearest',
  'upsampling_scaling_factor': 2,
}


def fields_of(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of a network; see `diffusers.fields_of`."""
  config = check(config, _DEFAULTS, _NEEDED)
  width = config['encoder_block_out_channels'][0]
  num_blocks = config['num_encoder_blocks'][1]
  depth = len(config['num_encoder_blocks']) - 1
  fields = {
    'data.channels': config['in_channels'],
    'model.layout': 'tiny',
    'model.latent': 'none',
    'model.latent_dim': config['latent_channels'],
    'model.width': width,
    'model.depth': depth,
    'model.channel_multipliers': (1,) * (depth + 1),
    'model.num_res_blocks': num_blocks,
    'model.middle_attention': False,
    'model.num_groups': 0,
    'model.quant_convs': True,
    'loss.rate': 0.0,  # It is not known.
  }
  model = {k.removeprefix('model.'): v for k, v in fields.items()}
  for name, value in describe(model, config['in_channels']).items():
    found = config[name]
    found = list(found) if isinstance(value, list) else found
    if found != value:
      raise ValueError(
        f'its {name} is {found}, and the mirror-symmetric {value} of one width '
        'is read'
      )
  return fields


def describe(model: Mapping[str, Any], channels: int) -> dict[str, Any]:
  """Returns the `config.json` of a network; see `diffusers.describe`."""
  num_blocks = [1, *[model['num_res_blocks']] * model['depth']]
  widths = [model['width']] * len(num_blocks)
  return {
    'act_fn': 'relu',
    'in_channels': channels,
    'out_channels': channels,
    'latent_channels': model['latent_dim'],
    'encoder_block_out_channels': widths,
    'decoder_block_out_channels': widths,
    'num_encoder_blocks': num_blocks,
    'num_decoder_blocks': num_blocks[::-1],
    'upsample_fn': 'nearest',
    'upsampling_scaling_factor': 2,
  }


def name_layers(paths: Any) -> dict[Path, str]:
  """Returns {path of a layer here: its name there}, from arrays' paths.

  There the layers of each half are numbered in the order of their calls; an
  activation and an upsampling have a number, too.
  """
  layers = {path[1] for path in paths}
  depth = sum(name.startswith('down_') for name in layers)
  table = {}
  for half in ('encoder', 'decoder'):
    is_encoder = half == 'encoder'
    names = ['conv_0'] if is_encoder else ['conv_0', 'relu']
    levels = range(depth + 1)
    for level in levels if is_encoder else reversed(levels):
      if is_encoder and level:
        names.append(f'down_{level}')
      prefix = f'level_{level}_'
      names += sorted(
        (name for name in layers if name.startswith(prefix)),
        key=lambda name: int(name.rpartition('_')[2]),
      )
      if not is_encoder and level:
        names += ['upsample', f'up_{level}']
    for index, name in enumerate([*names, 'conv_out']):
      there = f'{half}.layers.{index}'
      table[half, name] = there
      for i in range(3):
        table[half, name, f'conv_{i}'] = f'{there}.conv.{2 * i}'
  return table
