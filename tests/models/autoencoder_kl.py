"""AutoencoderKL and VQModel of diffusers in NumPy, from config and state dict.

Axes, as there: B, C, H, W.
"""

import numpy as np


def encode(state, config, x):
  """Returns the mean and logvar of images x, [B, 2 Z, H', W'] float64.

  Those of VQModel are the nearest codes, [B, Z, H', W'].
  """
  net = Network(state, config['norm_num_groups'])
  h = net.conv('encoder.conv_in', x)
  for level in range(len(config['block_out_channels'])):
    name = f'encoder.down_blocks.{level}'
    h = net.blocks(name, h)
    if f'{name}.downsamplers.0.conv.weight' in state:
      padded = np.pad(h, ((0, 0), (0, 0), (0, 1), (0, 1)))
      h = net.conv(f'{name}.downsamplers.0.conv', padded, stride=2, padding=0)
  h = net.head('encoder', net.middle('encoder.mid_block', h))
  h = net.conv('quant_conv', h) if config.get('use_quant_conv', True) else h
  return net.quantize(h) if config['_class_name'] == 'VQModel' else h


def decode(state, config, z):
  """Returns images [B, C, H, W] float64 of latents z."""
  net = Network(state, config['norm_num_groups'])
  has_conv = config.get('use_post_quant_conv', True)
  h = net.conv('post_quant_conv', z) if has_conv else z
  h = net.middle('decoder.mid_block', net.conv('decoder.conv_in', h))
  for level in range(len(config['block_out_channels'])):
    name = f'decoder.up_blocks.{level}'
    h = net.blocks(name, h)
    if f'{name}.upsamplers.0.conv.weight' in state:
      h = net.conv(f'{name}.upsamplers.0.conv', h.repeat(2, 2).repeat(2, 3))
  return net.head('decoder', h)


class Network:
  """The layers by name."""

  def __init__(self, state, groups=0):
    self.state = {k: np.asarray(v, np.float64) for k, v in state.items()}
    self.groups = groups

  def conv(self, name, x, stride=1, padding=None):
    kernel = self.state[f'{name}.weight']
    bias = self.state.get(f'{name}.bias', np.zeros(len(kernel)))
    size = kernel.shape[-1]
    pad = size // 2 if padding is None else padding
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    view = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))
    view = view[:, :, ::stride, ::stride]
    y = np.einsum('bchwij,fcij->bfhw', view, kernel, optimize=True)
    return y + bias[:, None, None]

  def quantize(self, h):
    codes = self.state['quantize.embedding.weight']
    vectors = np.moveaxis(h, 1, -1)
    distances = np.square(vectors[..., None, :] - codes).sum(-1)
    return np.moveaxis(codes[distances.argmin(-1)], -1, 1)

  def norm(self, name, x):
    batch, channels, *space = x.shape
    grouped = x.reshape(batch, self.groups, -1)
    mean = grouped.mean(-1, keepdims=True)
    deviation = np.sqrt(grouped.var(-1, keepdims=True) + 1e-6)
    x = ((grouped - mean) / deviation).reshape(batch, channels, *space)
    scale, shift = self.state[f'{name}.weight'], self.state[f'{name}.bias']
    return x * scale[:, None, None] + shift[:, None, None]

  def block(self, name, x):
    h = self.conv(f'{name}.conv1', _silu(self.norm(f'{name}.norm1', x)))
    h = self.conv(f'{name}.conv2', _silu(self.norm(f'{name}.norm2', h)))
    if f'{name}.conv_shortcut.weight' in self.state:
      x = self.conv(f'{name}.conv_shortcut', x)
    return x + h

  def blocks(self, name, x):
    i = 0
    while f'{name}.resnets.{i}.conv1.weight' in self.state:
      x = self.block(f'{name}.resnets.{i}', x)
      i += 1
    return x

  def attention(self, name, x):
    batch, channels, *space = x.shape
    h = self.norm(f'{name}.group_norm', x).reshape(batch, channels, -1)

    def dense(layer, h):
      weight, bias = (
        self.state[f'{name}.{layer}.{k}'] for k in ('weight', 'bias')
      )
      return np.einsum('fc,bcn->bfn', weight, h) + bias[:, None]

    query, key, value = (dense(f'to_{k}', h) for k in 'qkv')
    scores = np.einsum('bcn,bcm->bnm', query, key) / np.sqrt(channels)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    h = dense('to_out.0', np.einsum('bnm,bcm->bcn', scores, value))
    return x + h.reshape(batch, channels, *space)

  def middle(self, name, x):
    x = self.block(f'{name}.resnets.0', x)
    if f'{name}.attentions.0.to_q.weight' in self.state:
      x = self.attention(f'{name}.attentions.0', x)
    return self.block(f'{name}.resnets.1', x)

  def head(self, half, x):
    return self.conv(
      f'{half}.conv_out', _silu(self.norm(f'{half}.conv_norm_out', x))
    )


def _silu(x):
  return x / (1 + np.exp(-x))
