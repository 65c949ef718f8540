"""AutoencoderOobleck of diffusers in NumPy, from its config and state dict.

Axes, as there: B, C, T.
"""

import numpy as np


def encode(state, config, x):
  """Returns the mean and logvar of sounds x, [B, 2 Z, T'] float64."""
  net = _Network(state)
  h = net.conv('encoder.conv1', x)
  for i, ratio in enumerate(config['downsampling_ratios']):
    name = f'encoder.block.{i}'
    h = net.snake(f'{name}.snake1', net.units(name, h))
    h = net.conv(f'{name}.conv1', h, stride=ratio, padding=ratio // 2)
  h = net.conv('encoder.conv2', net.snake('encoder.snake1', h))
  mean, scale = np.split(h, 2, axis=1)
  deviation = np.log1p(np.exp(scale)) + 1e-4
  return np.concatenate([mean, np.log(deviation**2)], axis=1)


def decode(state, config, z):
  """Returns sounds [B, C, T] float64 of latents z."""
  net = _Network(state)
  h = net.conv('decoder.conv1', z)
  for i, ratio in enumerate(reversed(config['downsampling_ratios'])):
    name = f'decoder.block.{i}'
    h = net.snake(f'{name}.snake1', h)
    h = net.units(name, net.transposed_conv(f'{name}.conv_t1', h, ratio))
  return net.conv('decoder.conv2', net.snake('decoder.snake1', h))


class _Network:
  """The layers by name."""

  def __init__(self, state):
    self.state = {k: np.asarray(v, np.float64) for k, v in state.items()}

  def kernel(self, name):
    direction = self.state[f'{name}.weight_v']
    lengths = [np.linalg.norm(row) for row in direction]
    scale = self.state[f'{name}.weight_g'][:, 0, 0] / lengths
    return direction * scale[:, None, None]

  def bias(self, name):
    return self.state.get(f'{name}.bias', np.zeros(1))[:, None]

  def conv(self, name, x, stride=1, dilation=1, padding=None):
    kernel = self.kernel(name)
    reach = (kernel.shape[-1] - 1) * dilation
    pad = reach // 2 if padding is None else padding
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad)))
    view = np.lib.stride_tricks.sliding_window_view(x, reach + 1, 2)
    view = view[:, :, ::stride, ::dilation]
    return np.einsum('bctk,fck->bft', view, kernel) + self.bias(name)

  def transposed_conv(self, name, x, stride):
    kernel, (batch, _, size) = self.kernel(name), x.shape
    y = np.zeros((batch, kernel.shape[1], (size + 1) * stride))
    for t in range(size):
      here = slice(t * stride, (t + 2) * stride)
      y[:, :, here] += np.einsum('bc,cfk->bfk', x[:, :, t], kernel)
    return y[:, :, stride // 2 : -(stride // 2)] + self.bias(name)

  def snake(self, name, x):
    scale, divisor = (
      np.exp(self.state[f'{name}.{k}']) for k in ('alpha', 'beta')
    )
    return x + np.sin(scale * x) ** 2 / divisor

  def units(self, name, x):
    for i, dilation in enumerate((1, 3, 9), start=1):
      unit = f'{name}.res_unit{i}'
      h = self.snake(f'{unit}.snake1', x)
      h = self.conv(f'{unit}.conv1', h, dilation=dilation)
      h = self.conv(f'{unit}.conv2', self.snake(f'{unit}.snake2', h))
      x = x + h
    return x
