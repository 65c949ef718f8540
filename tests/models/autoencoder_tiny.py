"""AutoencoderTiny of diffusers in NumPy, from its config and its state dict.

Axes, as there: B, C, H, W.
"""

import numpy as np

from tests.models.autoencoder_kl import Network


def encode(state, config, x):
  """Returns the latents of images x, [B, Z, H', W'] float64."""
  net, h, index = Network(state), (x + 1) / 2, 0
  for level, number in enumerate(config['num_encoder_blocks']):
    h = net.conv(f'encoder.layers.{index}', h, stride=1 + (level > 0))
    index += 1
    for _ in range(number):
      h = _block(net, f'encoder.layers.{index}', h)
      index += 1
  return net.conv(f'encoder.layers.{index}', h)


def decode(state, config, z):
  """Returns images [B, C, H, W] float64 of latents z."""
  net = Network(state)
  h = np.maximum(net.conv('decoder.layers.0', 3 * np.tanh(z / 3)), 0)
  index, last = 2, len(config['num_decoder_blocks']) - 1
  for level, number in enumerate(config['num_decoder_blocks']):
    for _ in range(number):
      h = _block(net, f'decoder.layers.{index}', h)
      index += 1
    if level < last:
      h = h.repeat(2, 2).repeat(2, 3)
      index += 1
    h = net.conv(f'decoder.layers.{index}', h)
    index += 1
  return 2 * h - 1


def _block(net, name, x):
  h = np.maximum(net.conv(f'{name}.conv.0', x), 0)
  h = np.maximum(net.conv(f'{name}.conv.2', h), 0)
  return np.maximum(net.conv(f'{name}.conv.4', h) + x, 0)
