"""Networks: plain Flax modules with typed fields, one architecture a file.

Owns the networks, how a configuration names them, and the reading of weights
that others have trained. May import: `losses`, `errors`.

A critic maps (x: [B, H, W, C] in [-1, 1], train) to logits or features, and
has `layer_names`, the layers of the perceptual distance in forward order.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from vaegan_jax.models.autoencoder import Autoencoder
from vaegan_jax.models.critic import Critic
from vaegan_jax.models.lpips import LPIPS, load_lpips
from vaegan_jax.models.vgg import VGG, load_vgg

VGG_DEPTHS = {'vgg16': 16, 'vgg19': 19}


def create_modules(
  *,
  with_critic: bool,
  data: Mapping[str, Any],
  model: Mapping[str, Any],
  critic: Mapping[str, Any],
) -> dict[str, nn.Module]:
  """Builds the networks that a configuration describes.

  Args:
    with_critic: whether the objective uses one.
    data: the fields of `config.data`.
    model: the fields of `config.model`.
    critic: the fields of `config.critic`.

  Returns:
    {'autoencoder': Autoencoder, 'critic': Critic, VGG or LPIPS}, or without
    the critic.
  """

  def fields(section):
    names = ('width', 'channel_multipliers', 'norm')
    return {name: section[name] for name in names}

  modules = {
    'autoencoder': Autoencoder(
      data['image_size'],
      data['channels'],
      model['latent_dim'],
      **fields(model),
    )
  }
  network = critic['network']
  if with_critic and network in VGG_DEPTHS:
    modules['critic'] = VGG(VGG_DEPTHS[network])
  elif with_critic and network == 'lpips':
    modules['critic'] = LPIPS()
  elif with_critic:
    modules['critic'] = Critic(
      **fields(critic), spectral_norm=critic['spectral_norm']
    )
  return modules


def is_frozen(module: nn.Module) -> bool:
  """Whether a network is used as it was read from a file, never trained."""
  return isinstance(module, (VGG, LPIPS))


def load_pretrained(
  modules: Mapping[str, nn.Module], weights: str
) -> dict[str, Any]:
  """Reads the variables of the frozen networks.

  Args:
    modules: from `create_modules`.
    weights: what is in `config.critic.weights`: of LPIPS two paths, with a
      comma between them.

  Returns:
    {name: variables}; {} where nothing is frozen.

  Raises:
    UserError: a file cannot be read, or is of another network.
  """

  def load(module):
    if isinstance(module, LPIPS):
      return load_lpips(*weights.split(','))
    return load_vgg(weights, module.depth)

  return {name: load(m) for name, m in modules.items() if is_frozen(m)}
