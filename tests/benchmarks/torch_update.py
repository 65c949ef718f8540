"""The default update in tuned PyTorch, for `peers.py`.

It is written for speed: channels last, no gradient into the frozen critic or
the photographs, fused Adam, and optionally `torch.compile`. Its weights come
from the JAX state, so that the two can be compared. Axes: B images, C channels,
S image size, Z entries of a latent.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

# As in `models/blocks.py`, `losses/distances.py` and `losses/reconstruction.py`
# in float32; the tests compare the results.
_SLOPE = 0.2
_EPSILON = 1e-8
_BATCH_SHARE = 0.1
_MIN_VARIANCE = 1e-6


class Critic(nn.Module):
  """Strided convolutions and a dense layer; also used as the encoder."""

  def __init__(self, params: Mapping[str, Any]):
    super().__init__()
    self.convs = nn.ModuleList(
      _conv(params[name]['Conv_0'], stride=2) for name in _blocks(params)
    )
    self.head = _linear(params['Dense_0'])

  def features(self, x: torch.Tensor) -> list[torch.Tensor]:
    """Returns the blocks' outputs, each [B, C, S, S], for x [B, C, S, S]."""
    found = []
    for conv in self.convs:
      x = F.leaky_relu(conv(x), _SLOPE)
      found.append(x)
    return found

  def logits(self, feature: torch.Tensor) -> torch.Tensor:
    """Returns the head's output; flattens the feature in JAX's order."""
    with torch.autocast(feature.device.type, enabled=False):
      return self.head(feature.float().permute(0, 2, 3, 1).flatten(1))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Returns the head's output for the last feature, [B, outputs]."""
    return self.logits(self.features(x)[-1])


class Decoder(nn.Module):
  """Dense layer, then nearest-neighbour upsampling and 3x3 convolutions."""

  def __init__(self, params: Mapping[str, Any]):
    super().__init__()
    self.dense = _linear(params['Dense_0'])
    self.convs = nn.ModuleList(
      _conv(params[name]['Conv_0']) for name in _blocks(params)
    )
    self.to_image = _conv(params['to_image'])
    self.channels = params['block_0']['Conv_0']['kernel'].shape[2]

  def forward(self, latents: torch.Tensor) -> torch.Tensor:
    """Returns images [B, C, S, S] of latents [B, Z]."""
    with torch.autocast(latents.device.type, enabled=False):
      x = F.leaky_relu(self.dense(latents), _SLOPE)
    side = math.isqrt(x.shape[1] // self.channels)
    x = x.view(-1, side, side, self.channels).permute(0, 3, 1, 2)
    for conv in self.convs:
      x = F.interpolate(x, scale_factor=2, mode='nearest')
      x = F.leaky_relu(conv(x), _SLOPE)
    return torch.tanh(self.to_image(x).float())


class Autoencoder(nn.Module):
  """Encoder, sample, decoder."""

  def __init__(self, params: Mapping[str, Any]):
    super().__init__()
    self.encoder = Critic(params['encoder'])
    self.decoder = Decoder(params['decoder'])

  def forward(self, x, noise):
    """Returns x_recon [B, C, S, S] and KL [B]; noise is [B, Z] or None."""
    mean, logvar = self.encoder(x).chunk(2, dim=1)
    if noise is None:
      return self.decoder(mean), None
    x_recon = self.decoder(mean + torch.exp(0.5 * logvar) * noise)
    return x_recon, 0.5 * (logvar.exp() + mean**2 - 1 - logvar).sum(1)


class Update:
  """One training step in the alternating order, and the averaged weights."""

  def __init__(
    self, params: Mapping[str, Any], config, *, compiled: bool = False
  ):
    """Takes {network: parameters} of a JAX state, and its configuration.

    With `compiled`, everything except R1 goes through `torch.compile`, which
    cannot differentiate a gradient.
    """
    self.config = config
    self.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    self.dtype = getattr(torch, config.model.dtype)
    self.networks = {'autoencoder': Autoencoder(params['autoencoder'])}
    if 'critic' in params:
      self.networks['critic'] = Critic(params['critic'])
    for network in self.networks.values():
      network.to(self.device, memory_format=torch.channels_last)
    self.autoencoder = self.networks['autoencoder']
    self.critic = self.networks.get('critic')
    self.ema = [p.detach().clone() for p in self.autoencoder.parameters()]
    self.optimizers = {
      name: torch.optim.Adam(
        network.parameters(),
        lr=config.optimizer[f'{name}_learning_rate'],
        betas=(config.optimizer.b1, config.optimizer.b2),
        fused=True,
      )
      for name, network in self.networks.items()
    }
    wrap = torch.compile if compiled else lambda function: function
    self._autoencode = wrap(self._autoencode)
    self._critic_loss = wrap(self._critic_loss)
    self._reconstruction_losses = wrap(self._reconstruction_losses)

  def __call__(
    self, images: torch.Tensor, noise: torch.Tensor, lazy: bool
  ) -> dict[str, torch.Tensor]:
    """Takes one step.

    Args:
      images: [B, S, S, C] uint8.
      noise: [B, Z].
      lazy: whether the step has the R1 penalty.

    Returns:
      The losses {name: []}.
    """
    x = _to_float(images)
    x_recon, kl = self._autoencode(x, noise)
    metrics = {'kl': kl}
    if self.critic is not None:
      metrics['critic_loss'] = self._step_critic(x, x_recon.detach(), lazy)
      self.critic.requires_grad_(False)
    metrics |= self._reconstruction_losses(x, x_recon)
    weights = self.config.loss
    metrics['loss'] = (
      metrics['distance']
      + weights.adversarial_weight * metrics.get('adversarial', 0.0)
      + weights.kl_weight * kl
    )
    self._step('autoencoder', metrics['loss'])
    if self.critic is not None:
      self.critic.requires_grad_(True)
    with torch.no_grad():
      torch._foreach_lerp_(
        self.ema,
        list(self.autoencoder.parameters()),
        1 - self.config.ema_decay,
      )
    return {name: value.detach() for name, value in metrics.items()}

  @torch.no_grad()
  def reconstruct(self, images: torch.Tensor) -> torch.Tensor:
    """Returns noiseless reconstructions [B, C, S, S] of [B, S, S, C] uint8."""
    with self._precision():
      return self.autoencoder(_to_float(images), None)[0]

  def _precision(self):
    enabled = self.dtype != torch.float32
    return torch.autocast(self.device, self.dtype, enabled=enabled)

  def _autoencode(self, x, noise):
    with self._precision():
      x_recon, kl = self.autoencoder(x, noise)
    return x_recon, kl.mean()

  def _critic_loss(self, x, x_recon):
    with self._precision():
      real, fake = self.critic(x), self.critic(x_recon)
    return (F.relu(1 - real) + F.relu(1 + fake)).mean()

  def _step_critic(self, x, x_recon, lazy):
    """Updates the critic with the hinge loss, and R1 in float32."""
    loss = self._critic_loss(x, x_recon)
    total, fields = loss, self.config.critic
    if lazy:
      x = x.detach().requires_grad_()
      (slope,) = torch.autograd.grad(self.critic(x).sum(), x, create_graph=True)
      penalty = 0.5 * (slope**2).sum((1, 2, 3)).mean()
      total = loss + fields.r1_weight * fields.r1_every_steps * penalty
    self._step('critic', total)
    return loss

  def _reconstruction_losses(self, x, x_recon):
    """Returns distance and adversarial loss; gradients reach x_recon alone."""
    if self.critic is None:
      return {'distance': _negative_log_likelihood(x, x_recon)}
    with self._precision():
      with torch.no_grad():
        references = self.critic.features(x)
      features = self.critic.features(x_recon)
    fields = self.config.loss
    pairs = zip(references, features, strict=True)
    distance = sum(_local_distance(a.float(), b.float()) for a, b in pairs)
    distance = distance + fields.image_weight * _image_distance(
      x,
      x_recon,
      fields.image_halvings,
      fields.image_growth,
      fields.image_high_pass,
    )
    return {
      'distance': distance,
      'adversarial': -self.critic.logits(features[-1]).mean(),
    }

  def _step(self, name, loss):
    self.optimizers[name].zero_grad(set_to_none=True)
    loss.backward()
    self.optimizers[name].step()

  def first_moments(self) -> dict[str, list[np.ndarray]]:
    """Returns Adam's first moments per network, in the order of `leaves`."""
    return {
      name: [
        optimizer.state[p]['exp_avg'].cpu().numpy()
        for p in optimizer.param_groups[0]['params']
      ]
      for name, optimizer in self.optimizers.items()
    }


def leaves(params: Mapping[str, Any]) -> list[np.ndarray]:
  """Returns a JAX network's parameters in PyTorch's order and layout."""
  if 'encoder' in params:
    return leaves(params['encoder']) + leaves(params['decoder'])
  layers = [params[name]['Conv_0'] for name in _blocks(params)]
  if 'to_image' in params:
    layers = [params['Dense_0'], *layers, params['to_image']]
  else:
    layers = [*layers, params['Dense_0']]
  return [array for layer in layers for array in _arrays(layer)]


def _to_float(images):
  """Returns [B, C, S, S] in [-1, 1], in channels-last memory format."""
  return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def _local_distance(x, x_recon):
  """Returns the distance of one layer, with local normalisation."""
  least = _BATCH_SHARE * (x**2).mean() + _EPSILON
  x, x_recon = (
    f * torch.rsqrt((f**2).mean(1, keepdim=True) + least) for f in (x, x_recon)
  )
  return ((x - x_recon) ** 2).mean()


def _image_distance(x, x_recon, num_halvings, growth, high_pass):
  """Returns the distance of the image layers, with batch normalisation."""
  pairs, halved = [(x, x_recon, 1.0)], (x, x_recon)
  for halving in range(1, num_halvings + 1):
    halved = tuple(map(_halve, halved))
    pairs.append((*halved, growth**halving))
  if high_pass:
    fine = (
      i - F.interpolate(_halve(i), scale_factor=2, mode='nearest')
      for i in (x, x_recon)
    )
    pairs.append((*fine, high_pass))
  return sum(
    weight * ((a - b) ** 2).mean() / ((a**2).mean() + _EPSILON)
    for a, b, weight in pairs
  )


def _halve(images):
  return F.avg_pool2d(images, 2, ceil_mode=True, count_include_pad=False)


def _negative_log_likelihood(x, x_recon):
  """Returns the images' loss under a Gaussian with the batch's variance."""
  errors = (x - x_recon) ** 2
  variance = errors.detach().mean().clamp_min(_MIN_VARIANCE)
  log_norm = 0.5 * math.prod(x.shape[1:]) * torch.log(2 * math.pi * variance)
  return errors.sum((1, 2, 3)).mean() / (2 * variance) + log_norm


def _blocks(params: Mapping[str, Any]) -> list[str]:
  return sorted(name for name in params if name.startswith('block_'))


def _arrays(layer: Mapping[str, Any]) -> Sequence[np.ndarray]:
  """Returns copies of a layer's weight [F, C, ...] and bias [F]."""
  kernel = np.moveaxis(np.asarray(layer['kernel']), (-1, -2), (0, 1))
  return np.array(kernel, order='C'), np.array(layer['bias'])


def _conv(layer, stride: int = 1) -> nn.Conv2d:
  weight, bias = map(torch.from_numpy, _arrays(layer))
  features, channels, taps, _ = weight.shape
  conv = nn.Conv2d(channels, features, taps, stride, padding=1)
  return _with(conv, weight, bias)


def _linear(layer) -> nn.Linear:
  weight, bias = map(torch.from_numpy, _arrays(layer))
  return _with(nn.Linear(*reversed(weight.shape)), weight, bias)


def _with(layer, weight, bias):
  layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
  return layer
