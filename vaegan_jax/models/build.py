"""Builds the networks that a configuration's fields describe.

A critic maps (x: [B, *S, C] in [-1, 1], train) to logits or features, and has
`layer_names`, the layers of the perceptual distance in forward order. Logits
are [B], or a map [B, *S'], whose mean is the example's logit.
"""

import functools
import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vaegan_jax import names
from vaegan_jax.models import oobleck, plain, residual, tiny
from vaegan_jax.models.autoencoder import Autoencoder
from vaegan_jax.models.blocks import strides_of
from vaegan_jax.models.critic import Critic
from vaegan_jax.models.latents.base import Deterministic, Gaussian
from vaegan_jax.models.latents.fsq import FSQ
from vaegan_jax.models.latents.lfq import LFQ
from vaegan_jax.models.latents.vq import VQ
from vaegan_jax.models.pretrained.lpips import LPIPS, load_lpips
from vaegan_jax.models.pretrained.vgg import VGG, load_vgg

# Layouts with networks of their own.
_LAYOUTS = {'oobleck': oobleck.create, 'tiny': tiny.create}
_CRITIC_FIELDS = (
  *('network', 'width', 'channel_multipliers', 'norm', 'spectral_norm'),
  *('head', 'num_scales', 'views', 'stft_windows', 'stft_bands', 'periods'),
  'patch_size',
)


def create_modules(
  *,
  with_critic: bool,
  space: Sequence[int],
  channels: int,
  model: Mapping[str, Any],
  critic: Mapping[str, Any],
) -> dict[str, nn.Module]:
  """Builds the networks of a run.

  Args:
    with_critic: whether the objective uses one.
    space, channels: as `create_autoencoder` takes them.
    model: the fields of `config.model`.
    critic: the fields of `config.critic`.

  Returns:
    {'autoencoder': Autoencoder, 'critic': Critic, VGG or LPIPS}; 'critic' only
    if `with_critic`.
  """
  modules = {'autoencoder': create_autoencoder(space, channels, **model)}
  network = critic['network']
  if with_critic and network in names.VGG_CONVOLUTIONS:
    modules['critic'] = VGG(int(network.removeprefix('vgg')))
  elif with_critic and network == 'lpips':
    modules['critic'] = LPIPS()
  elif with_critic:
    fields = {name: critic[name] for name in _CRITIC_FIELDS}
    modules['critic'] = Critic(dtype=_dtype(critic['dtype']), **fields)
  return modules


@functools.partial(jax.jit, static_argnums=0)
def init_variables(
  module: nn.Module, key: jax.Array, x: jax.Array
) -> dict[str, Any]:
  """Initializes a network; equal ones are traced once."""
  return module.init(key, x)


def create_autoencoder(
  space: Sequence[int], channels: int, **model: Any
) -> Autoencoder:
  """Builds the autoencoder.

  Args:
    space: spatial shape of the examples, one to three axes.
    channels: channels of the examples.
    **model: the fields of `config.model`.

  Returns:
    The module.
  """
  latent = _create_latent(**model)
  flat = model['latent_shape'] == 'flat'
  fields = {'dtype': _dtype(model['dtype'])}
  if create := _LAYOUTS.get(model['layout']):
    halves = create(channels, latent.num_inputs, model, fields['dtype'])
    return Autoencoder(halves[0], latent, halves[1])
  copied = ['width', 'channel_multipliers', 'remat', 'activation', 'patch_size']
  if model['network'] == 'plain':
    network = plain
    copied += ['norm']
  else:
    network = residual
    copied += ['num_res_blocks', 'middle_attention', 'layout']
    copied += ['num_groups', 'quant_convs']
    fields['attention_levels'] = _attention_levels(min(space), model)
  fields |= {name: model[name] for name in copied}
  fields['strides'] = strides_of(model['strides'], model['depth'])
  last = tuple(feature_sizes(size, model)[-1] for size in space)
  own = {'kernel_size': model['kernel_size']}  # Of the decoder.
  if network is residual:
    fields |= own
  else:
    own |= {name: model[name] for name in ('spectral_mask', 'spectral_noise')}
  return Autoencoder(
    encoder=network.Encoder(latent.num_inputs, flat, **fields),
    latent=latent,
    decoder=network.Decoder(channels, last if flat else (), **fields | own),
  )


def _dtype(name: str) -> Any:
  """Returns None for float32: a module then computes in its input's dtype."""
  return jnp.bfloat16 if name == 'bfloat16' else None


def feature_sizes(size: int, model: Mapping[str, Any]) -> list[int]:
  """Returns the sides of an autoencoder's feature maps, the largest first."""
  strides = strides_of(model['strides'], model['depth'])
  first = size // model['patch_size']
  return list(itertools.accumulate(strides, operator.floordiv, initial=first))


def _attention_levels(size: int, model: Mapping[str, Any]) -> tuple[int, ...]:
  """Returns the levels whose maps have the `attention_sides` in training.

  A module stores levels, because a latent map takes images of other sizes too.
  """
  sizes = enumerate(feature_sizes(size, model))
  return tuple(i for i, side in sizes if side in model['attention_sides'])


def _create_latent(latent: str, latent_dim: int, **model) -> nn.Module:
  """Builds the latent of that name."""
  if latent == 'gaussian':
    return Gaussian(latent_dim)
  if latent == 'none':
    return Deterministic(latent_dim)
  if latent == 'fsq':
    return FSQ(latent_dim, model['fsq_levels'])
  if latent == 'lfq':
    return LFQ(latent_dim, model['code_dim'])
  fields = ('codebook_size', 'code_dim', 'unit_codes')
  return VQ(latent_dim, **{name: model[name] for name in fields})


def is_frozen(module: nn.Module) -> bool:
  """Returns whether a network is pretrained and never trained."""
  return isinstance(module, (VGG, LPIPS))


def load_pretrained(
  modules: Mapping[str, nn.Module], weights: str
) -> dict[str, Any]:
  """Reads the variables of the frozen networks.

  Args:
    modules: from `create_modules`.
    weights: `config.critic.weights`; for LPIPS two paths, with a comma between.

  Returns:
    {name: variables}; {} if nothing is frozen.

  Raises:
    UserError: a file cannot be read, or belongs to another network.
  """

  def load(module):
    if isinstance(module, LPIPS):
      return load_lpips(*weights.split(','))
    return load_vgg(weights, module.depth)

  return {name: load(m) for name, m in modules.items() if is_frozen(m)}
