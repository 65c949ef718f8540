"""Builds the networks that a configuration's fields describe.

A critic maps (x: [B, *S, C] in [-1, 1], train) to logits or features, and has
`layer_names`, the layers of the perceptual distance in forward order. Logits
are [B], or a map [B, *S'], whose mean is the example's logit.
"""

import dataclasses
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

_LATENTS = {
  'gaussian': Gaussian,
  'none': Deterministic,
  'vq': VQ,
  'fsq': FSQ,
  'lfq': LFQ,
}
_NETWORKS = {'plain': plain, 'residual': residual}
_LAYOUTS = {'oobleck': oobleck, 'tiny': tiny}  # They have their own networks.


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
    fields = {**critic, 'dtype': _dtype(critic['dtype'])}
    modules['critic'] = _from_fields(Critic, fields)
  return modules


def _from_fields(cls: type[nn.Module], fields: Mapping[str, Any]) -> nn.Module:
  """Builds a module from those fields that it has."""
  own = {field.name for field in dataclasses.fields(cls)}
  return cls(**{name: v for name, v in fields.items() if name in own})


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
  own = {'size': model['latent_dim'], 'levels': model['fsq_levels']}
  latent = _from_fields(_LATENTS[model['latent']], model | own)
  sides = [feature_sizes(size, model) for size in space]
  flat = model['latent_shape'] == 'flat'
  fields = model | {
    'size': latent.num_inputs,
    'channels': channels,
    'flat': flat,
    'flat_space': tuple(each[-1] for each in sides) if flat else (),
    'strides': strides_of(model['strides'], model['depth']),
    # A latent map takes images of other sizes, too: levels, and not sides.
    'attention_levels': tuple(
      level
      for level, side in enumerate(min(sides))
      if side in model['attention_sides']
    ),
    'dtype': _dtype(model['dtype']),
  }
  network = _LAYOUTS.get(model['layout']) or _NETWORKS[model['network']]
  return Autoencoder(
    _from_fields(network.Encoder, fields),
    latent,
    _from_fields(network.Decoder, fields),
  )


def _dtype(name: str) -> Any:
  """Returns None for float32: a module then computes in its input's dtype."""
  return jnp.bfloat16 if name == 'bfloat16' else None


def feature_sizes(size: int, model: Mapping[str, Any]) -> list[int]:
  """Returns the sides of an autoencoder's feature maps, the largest first."""
  strides = strides_of(model['strides'], model['depth'])
  first = size // model['patch_size']
  return list(itertools.accumulate(strides, operator.floordiv, initial=first))


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
