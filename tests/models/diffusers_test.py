"""Weights are exchanged with diffusers' AutoencoderKL, which agrees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import networks
from tests.models import autoencoder_kl
from tests.models.residual_test import random, random_variables
from vaegan_jax.errors import UserError
from vaegan_jax.models.pretrained import diffusers as weights

WIDTH, MULTIPLIERS, LATENT = 32, (1, 2, 2), 3
FIELDS = {
  'network': 'residual',
  'layout': 'ldm',
  'width': WIDTH,
  'channel_multipliers': MULTIPLIERS,
  'num_res_blocks': 2,
  'middle_attention': True,
  'latent_shape': 'map',
}


@functools.cache
def created(**fields):
  """Returns an autoencoder with the layout, and weights without zeros."""
  module = networks.autoencoder(16, 3, LATENT, **FIELDS | fields)
  x = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
  params = random_variables(module, x)['params']
  # Scaled for about unit variance in all layers.
  return module, jax.tree.map(
    lambda w: np.float32(w * 3 / np.sqrt(w[..., 0].size) if w.ndim > 1 else w),
    params,
  )


def test_the_conversion_is_invertible_from_any_floating_type():
  _, params = created()
  state = weights.to_diffusers(params)
  assert len(state) == len(jax.tree.leaves(params))
  back = weights.from_diffusers(state, like=params)
  jax.tree.map(np.testing.assert_array_equal, back, params)
  for dtype in (np.float16, jnp.bfloat16):
    halved = {name: value.astype(dtype) for name, value in state.items()}
    back = weights.from_diffusers(halved, like=params)
    assert {leaf.dtype for leaf in jax.tree.leaves(back)} == {np.dtype('f4')}
    close = functools.partial(np.testing.assert_allclose, rtol=1e-2, atol=1e-6)
    jax.tree.map(close, back, params)


def test_names_and_shapes_are_those_of_published_files():
  state = weights.to_diffusers(created()[1])
  for name, shape in {
    'encoder.conv_in.weight': (32, 3, 3, 3),
    'encoder.down_blocks.1.resnets.0.conv_shortcut.weight': (64, 32, 1, 1),
    'encoder.down_blocks.0.downsamplers.0.conv.weight': (32, 32, 3, 3),
    'encoder.mid_block.attentions.0.to_q.weight': (64, 64),
    'encoder.mid_block.attentions.0.group_norm.weight': (64,),
    'encoder.conv_out.weight': (2 * LATENT, 64, 3, 3),
    'quant_conv.weight': (2 * LATENT, 2 * LATENT, 1, 1),
    'post_quant_conv.bias': (LATENT,),
    'decoder.conv_in.weight': (64, LATENT, 3, 3),
    'decoder.up_blocks.1.upsamplers.0.conv.weight': (64, 64, 3, 3),
    'decoder.up_blocks.2.resnets.2.norm1.bias': (32,),
    'decoder.conv_out.bias': (3,),
  }.items():
    assert state[name].shape == shape, name
  assert 'encoder.down_blocks.2.downsamplers.0.conv.weight' not in state
  assert 'decoder.up_blocks.2.upsamplers.0.conv.weight' not in state


def test_names_of_earlier_files_are_accepted():
  _, params = created()
  earlier = {
    'to_q': 'query',
    'to_k': 'key',
    'to_v': 'value',
    'to_out.0': 'proj_attn',
  }

  def rename(name):
    for today, was in earlier.items():
      name = name.replace(f'.{today}.', f'.{was}.')
    return name

  state = weights.to_diffusers(params)
  renamed = {rename(name): value for name, value in state.items()}
  assert len(renamed.keys() - state.keys()) == 2 * 4 * 2
  back = weights.from_diffusers(renamed, like=params)
  jax.tree.map(np.testing.assert_array_equal, back, params)


def test_weights_of_another_network_are_refused():
  with pytest.raises(UserError, match='is none of an AutoencoderKL'):
    plain = networks.autoencoder(8, 1)
    x = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    weights.to_diffusers(random_variables(plain, x)['params'])
  _, params = created()
  state = weights.to_diffusers(params)
  name = 'quant_conv.weight'
  for change, told in (
    ({name: None}, f'no {name}'),
    ({'encoder.down_blocks.0.attentions.0.x': np.ones(3)}, 'attentions.0.x'),
    ({name: state[name][:, :2]}, r'\[6, 2, 1, 1\] and not \[6, 6, 1, 1\]'),
    ({name: state[name] * np.nan}, f'{name} has numbers that are not finite'),
  ):
    changed = {k: v for k, v in (state | change).items() if v is not None}
    with pytest.raises(ValueError, match=told):
      weights.from_diffusers(changed, like=params)


@pytest.mark.parametrize(
  ('change', 'told'),
  [
    ({'_class_name': 'AutoencoderTiny'}, "'AutoencoderTiny', and Autoencoder"),
    ({'act_fn': 'relu'}, "act_fn has 'relu', and 'silu' is read"),
    ({'up_block_types': ['AttnUpDecoderBlock2D']}, "'AttnUpDecoderBlock2D'"),
    ({'out_channels': 4}, 'in_channels=3 and out_channels=4 differ'),
    ({'use_quant_conv': False}, 'use_quant_conv=False and use_post'),
  ],
)
def test_networks_that_are_not_read_are_named(change, told):
  with pytest.raises(ValueError, match=told):
    weights.fields_of({'_class_name': 'AutoencoderKL'} | change)


# Those of SD 1.5, and of FLUX and SD3; then what the class allows beside them.
@pytest.mark.parametrize(
  'changes',
  [
    {},
    {'quant_convs': False, 'num_groups': 16},
    {'middle_attention': False, 'num_groups': 8, 'channel_multipliers': (2, 3)},
  ],
  ids=str,
)
def test_latents_and_images_equal_a_plain_reference(changes):
  module, params = created(**changes)
  state = weights.to_diffusers(params)
  model = networks.model_fields(**FIELDS, latent_dim=LATENT) | changes
  config = weights.describe(model, (16, 16, 3), {}, None)
  described = weights.fields_of(config)
  assert described['model.quant_convs'] == model['quant_convs']
  assert described['model.middle_attention'] == model['middle_attention']
  widths = [
    described['model.width'] * m for m in described['model.channel_multipliers']
  ]
  assert widths == [WIDTH * m for m in model['channel_multipliers']]
  x = np.asarray(random(2, 16, 24, 3))
  encoded = jax.jit(
    lambda x: module.apply({'params': params}, x, method='encode')
  )(x)
  images = jax.jit(
    lambda z: module.apply({'params': params}, z, method='decode')
  )(encoded['mean'])
  moments = autoencoder_kl.encode(state, config, np.moveaxis(x, -1, 1))
  mean, logvar = np.split(np.moveaxis(moments, 1, -1), 2, axis=-1)
  decoded = autoencoder_kl.decode(state, config, np.moveaxis(mean, -1, 1))
  assert np.abs(mean).max() > 0.1 and np.abs(decoded).max() > 0.1
  for ours, other in (
    (encoded['mean'], mean),
    (encoded['logvar'], logvar),
    (images, np.moveaxis(decoded, 1, -1)),
  ):
    np.testing.assert_allclose(ours, other, rtol=1e-4, atol=1e-4)


def test_latents_and_images_equal_those_of_diffusers():
  torch = pytest.importorskip('torch')
  diffusers = pytest.importorskip('diffusers')
  module, params = created()
  theirs = diffusers.AutoencoderKL(
    block_out_channels=[WIDTH * m for m in MULTIPLIERS],
    layers_per_block=2,
    latent_channels=LATENT,
    norm_num_groups=32,
    down_block_types=['DownEncoderBlock2D'] * len(MULTIPLIERS),
    up_block_types=['UpDecoderBlock2D'] * len(MULTIPLIERS),
  )
  state = weights.to_diffusers(params)
  # Strict: exactly its weights.
  theirs.load_state_dict({k: torch.tensor(v) for k, v in state.items()})
  x = random(2, 16, 24, 3)
  encoded = module.apply({'params': params}, x, method='encode')
  images = module.apply({'params': params}, encoded['mean'], method='decode')
  with torch.no_grad():
    channels_first = torch.tensor(np.moveaxis(np.asarray(x), -1, 1))
    latents = theirs.encode(channels_first).latent_dist
    decoded = theirs.decode(latents.mode()).sample
  assert np.abs(encoded['mean']).max() > 0.1 and np.abs(images).max() > 0.1
  for ours, other in (
    (encoded['mean'], latents.mean),
    (encoded['logvar'], latents.logvar),
    (images, decoded),
  ):
    np.testing.assert_allclose(
      ours, np.moveaxis(other.numpy(), 1, -1), rtol=1e-4, atol=1e-4
    )
