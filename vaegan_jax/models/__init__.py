"""Networks: plain Flax modules with typed fields, one architecture a file.

Owns the networks, how a configuration names them, and the reading of weights
that others have trained. May import: `losses`, `errors`.

A critic maps (x: [B, *S, C] in [-1, 1], train) to logits or features, and has
`layer_names`, the layers of the perceptual distance in forward order. Logits
are [B], or of each place [B, *S']; an example's verdict is their mean.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vaegan_jax.models import plain, residual
from vaegan_jax.models.autoencoder import Autoencoder
from vaegan_jax.models.critic import Critic
from vaegan_jax.models.latents.base import Gaussian, Plain
from vaegan_jax.models.latents.fsq import FSQ
from vaegan_jax.models.latents.lfq import LFQ
from vaegan_jax.models.latents.vq import VQ
from vaegan_jax.models.pretrained.lpips import LPIPS, load_lpips
from vaegan_jax.models.pretrained.vgg import VGG, load_vgg

VGG_DEPTHS = {'vgg16': 16, 'vgg19': 19}
_OF_CRITIC = (
  *('network', 'width', 'channel_multipliers', 'norm', 'spectral_norm'),
  *('head', 'num_scales'),
)


def create_modules(
  *,
  with_critic: bool,
  sides: Sequence[int],
  channels: int,
  model: Mapping[str, Any],
  critic: Mapping[str, Any],
) -> dict[str, nn.Module]:
  """Builds the networks that a configuration describes.

  Args:
    with_critic: whether the objective uses one.
    sides, channels: as `create_autoencoder` takes them.
    model: the fields of `config.model`.
    critic: the fields of `config.critic`.

  Returns:
    {'autoencoder': Autoencoder, 'critic': Critic, VGG or LPIPS}, or without
    the critic.
  """

  modules = {'autoencoder': create_autoencoder(sides, channels, **model)}
  network = critic['network']
  if with_critic and network in VGG_DEPTHS:
    modules['critic'] = VGG(VGG_DEPTHS[network])
  elif with_critic and network == 'lpips':
    modules['critic'] = LPIPS()
  elif with_critic:
    fields = {name: critic[name] for name in _OF_CRITIC}
    modules['critic'] = Critic(dtype=_dtype(critic['dtype']), **fields)
  return modules


def create_autoencoder(
  sides: Sequence[int], channels: int, **model: Any
) -> Autoencoder:
  """Builds the autoencoder that a configuration describes.

  Args:
    sides: of the examples, in places of each of one to three axes.
    channels: of the examples.
    **model: the fields of `config.model`.

  Returns:
    The module.
  """
  latent = _create_latent(**model)
  flat = model['latent_shape'] == 'flat'
  names = ['width', 'channel_multipliers', 'remat']
  fields = {'dtype': _dtype(model['dtype'])}
  if model['network'] == 'plain':
    network, names = plain, [*names, 'norm']
  else:
    network = residual
    names += ['num_res_blocks', 'middle_attention', 'layout']
    fields['attention_levels'] = _attention_levels(min(sides), **model)
  fields |= {name: model[name] for name in names}
  factor = 2 ** model['depth']
  flat_space = tuple(side // factor for side in sides) if flat else ()
  return Autoencoder(
    encoder=network.Encoder(latent.num_inputs, flat, **fields),
    latent=latent,
    decoder=network.Decoder(channels, flat_space, **fields),
  )


def _dtype(name: str) -> Any:
  """None is float32 here, and in other programs what their images have."""
  return jnp.bfloat16 if name == 'bfloat16' else None


def _attention_levels(
  side: int, depth: int, attention_sides: Sequence[int], **model
) -> tuple[int, ...]:
  """The levels whose maps, of the training's images, have these shorter sides.

  Levels, because a map of latents takes images of other sizes too.
  """
  del model
  sides = [side // 2**level for level in range(depth + 1)]
  return tuple(i for i, side in enumerate(sides) if side in attention_sides)


def _create_latent(latent: str, latent_dim: int, **model) -> nn.Module:
  """By its name; see `latents.py` and `codes.py`."""
  if latent == 'gaussian':
    return Gaussian(latent_dim)
  if latent == 'none':
    return Plain(latent_dim)
  if latent == 'fsq':
    return FSQ(latent_dim, model['fsq_levels'])
  if latent == 'lfq':
    return LFQ(latent_dim, model['code_dim'])
  names = ('codebook_size', 'code_dim', 'unit_codes')
  return VQ(latent_dim, **{name: model[name] for name in names})


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
