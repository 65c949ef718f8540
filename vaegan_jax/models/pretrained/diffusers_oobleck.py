"""The layout 'oobleck' as diffusers' AutoencoderOobleck has it.

There a kernel is stored as directions and lengths, one each for an entry of its
first axis (weight normalisation, arXiv 1602.07868). Here it is their product.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vaegan_jax.models.blocks import strides_of
from vaegan_jax.models.pretrained.diffusers_layers import check

Path = tuple[str, ...]

_DEFAULTS = {
  'audio_channels': 2,
  'channel_multiples': (1, 2, 4, 8, 16),
  'decoder_channels': 128,
  'decoder_input_channels': 64,
  'downsampling_ratios': (2, 4, 4, 8, 8),
  'encoder_hidden_size': 128,
  'sampling_rate': 44100,
}
_SNAKE = {'log_scale': 'alpha', 'log_divisor': 'beta'}


def fields_of(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of a network; see `diffusers.fields_of`."""
  config = check(config, _DEFAULTS, {})
  width, size = config['encoder_hidden_size'], config['decoder_input_channels']
  ratios = tuple(config['downsampling_ratios'])
  multiples = tuple(config['channel_multiples'])
  if not width == config['decoder_channels'] == 2 * size:
    raise ValueError(
      f'its encoder_hidden_size={width}, decoder_channels='
      f'{config["decoder_channels"]} and twice decoder_input_channels={size} '
      'differ'
    )
  if any(ratio % 2 for ratio in ratios) or len(ratios) != len(multiples):
    raise ValueError(
      f'its downsampling_ratios are {ratios}, and {len(multiples)} even '
      'numbers are read'
    )
  return {
    'data.channels': config['audio_channels'],
    'data.sample_rate': config['sampling_rate'],
    'model.layout': 'oobleck',
    'model.latent': 'gaussian',
    'model.latent_dim': size,
    'model.width': width,
    'model.depth': len(ratios),
    'model.channel_multipliers': (1, *multiples),
    'model.strides': ratios,
    'model.num_res_blocks': 1,
    'model.middle_attention': False,
    'model.num_groups': 0,
    'model.quant_convs': True,
  }


def describe(model: Mapping[str, Any], channels: int) -> dict[str, Any]:
  """Returns the `config.json` of a network; see `diffusers.describe`."""
  return {
    'audio_channels': channels,
    'channel_multiples': list(model['channel_multipliers'][1:]),
    'decoder_channels': model['width'],
    'decoder_input_channels': model['latent_dim'],
    'downsampling_ratios': list(strides_of(model['strides'], model['depth'])),
    'encoder_hidden_size': model['width'],
  }


def name_layers(paths: Any) -> dict[Path, str]:
  """Returns {path of a layer here: its name there}, from arrays' paths."""
  depth = len({path[1] for path in paths if path[1].startswith('level_')})
  table = {}
  for half, resize in (('encoder', 'conv1'), ('decoder', 'conv_t1')):
    for name, there in (
      ('conv_0', 'conv1'),
      ('snake', 'snake1'),
      ('conv_out', 'conv2'),
    ):
      table[half, name] = f'{half}.{there}'
    for level in range(1, depth + 1):
      # There the decoder's are counted in the order of their calls.
      index = level - 1 if half == 'encoder' else depth - level
      path, name = (half, f'level_{level}'), f'{half}.block.{index}'
      table[*path, 'snake'] = f'{name}.snake1'
      table[*path, 'resize'] = f'{name}.{resize}'
      for unit in range(3):
        for i in range(2):
          for kind in ('snake', 'conv'):
            there = f'{name}.res_unit{unit + 1}.{kind}{i + 1}'
            table[*path, f'unit_{unit}', f'{kind}_{i}'] = there
  return table


def write(path: Path, array: np.ndarray) -> dict[str, np.ndarray]:
  """Returns {end of a name there: tensor} of an array."""
  if path[-1] in _SNAKE:
    return {_SNAKE[path[-1]]: array[None, :, None]}
  if path[-1] == 'bias':
    return {'bias': array}
  weight = np.transpose(
    array[::-1] if _is_transposed(path) else array, (2, 1, 0)
  )
  if _is_transposed(path):
    weight = weight.swapaxes(0, 1)
  return {'weight_g': _length(weight), 'weight_v': weight}


def read(path: Path, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
  """Returns the array of these tensors, the inverse of `write`."""
  if path[-1] in _SNAKE:
    return tensors[_SNAKE[path[-1]]][0, :, 0]
  if path[-1] == 'bias':
    return tensors['bias']
  weight = tensors['weight_v']
  length = _length(weight)
  weight = weight * (tensors['weight_g'] / np.where(length > 0, length, 1))
  if _is_transposed(path):
    return np.transpose(weight.swapaxes(0, 1), (2, 1, 0))[::-1]
  return np.transpose(weight, (2, 1, 0))


def _is_transposed(path: Path) -> bool:
  """Returns whether a kernel is that of a transposed convolution there."""
  return path[0] == 'decoder' and path[-2] == 'resize'


def _length(weight: np.ndarray) -> np.ndarray:
  return np.sqrt(np.square(weight).sum((1, 2), keepdims=True))
