"""Weights are exchanged with the classes of diffusers, which agree."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import networks
from tests.models import autoencoder_kl, autoencoder_oobleck, autoencoder_tiny
from tests.networks import assert_equal, uniform
from vaegan_jax.errors import UserError
from vaegan_jax.models import safetensors_files
from vaegan_jax.models.latents.vq import state_of
from vaegan_jax.models.pretrained import diffusers as weights
from vaegan_jax.models.pretrained import diffusers_files

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
  space = (64,) if fields.get('layout') == 'oobleck' else (16, 16)
  module = networks.autoencoder(space, 3, LATENT, **FIELDS | fields)
  x = jax.ShapeDtypeStruct((1, *space, 3), jnp.float32)
  variables = networks.random_variables(module, x)
  # Scaled for about unit variance in all layers.
  params = jax.tree.map(
    lambda w: np.float32(w * 3 / np.sqrt(w[..., 0].size) if w.ndim > 1 else w),
    variables['params'],
  )
  codes = {}
  if 'batch_stats' in variables:
    codes = {'latent': state_of(uniform(16, LATENT))}
  return module, {'params': params, 'batch_stats': codes}


def test_the_conversion_is_invertible_from_any_floating_type():
  _, variables = created()
  state = weights.to_diffusers(variables)
  assert len(state) == len(jax.tree.leaves(variables))
  back = weights.from_diffusers(state, like=variables)
  assert_equal(back, variables)
  for dtype in (np.float16, jnp.bfloat16):
    halved = {name: value.astype(dtype) for name, value in state.items()}
    back = weights.from_diffusers(halved, like=variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(back)} == {np.dtype('f4')}
    networks.assert_close(back, variables, rtol=1e-2, atol=1e-6)


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
  _, variables = created()
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

  state = weights.to_diffusers(variables)
  renamed = {rename(name): value for name, value in state.items()}
  assert len(renamed.keys() - state.keys()) == 2 * 4 * 2
  back = weights.from_diffusers(renamed, like=variables)
  assert_equal(back, variables)


def test_weights_of_another_network_are_refused():
  with pytest.raises(
    UserError, match='does not belong to an autoencoder of diff'
  ):
    plain = networks.autoencoder(8, 1)
    x = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    weights.to_diffusers(networks.random_variables(plain, x))
  _, variables = created()
  state = weights.to_diffusers(variables)
  name = 'quant_conv.weight'
  for change, told in (
    ({name: None}, f'no {name}'),
    ({'encoder.down_blocks.0.attentions.0.x': np.ones(3)}, 'attentions.0.x'),
    ({name: state[name][:, :2]}, r'\[6, 2, 1, 1\] and not \[6, 6, 1, 1\]'),
    ({name: state[name] * np.nan}, f'{name} has numbers that are not finite'),
  ):
    changed = {k: v for k, v in (state | change).items() if v is not None}
    with pytest.raises(ValueError, match=told):
      weights.from_diffusers(changed, like=variables)


VQ, TINY, OOBLECK = (
  {'_class_name': name}
  for name in ('VQModel', 'AutoencoderTiny', 'AutoencoderOobleck')
)


@pytest.mark.parametrize(
  ('change', 'told'),
  [
    ({'_class_name': 'AutoencoderDC'}, "'AutoencoderDC', and Autoencoder"),
    ({'act_fn': 'relu'}, "act_fn has 'relu', and 'silu' is read"),
    ({'up_block_types': ['AttnUpDecoderBlock2D']}, "'AttnUpDecoderBlock2D'"),
    ({'out_channels': 4}, 'in_channels=3 and out_channels=4 differ'),
    (OOBLECK | {'decoder_channels': 64}, 'decoder_channels=64 and twice'),
    (OOBLECK | {'downsampling_ratios': [3]}, r'ratios are \(3,\), and 5 even'),
    ({}, r'block_out_channels are \[64\], and two or more are read'),
    ({'use_quant_conv': False}, 'use_quant_conv=False and use_post'),
    (VQ | {'vq_embed_dim': 8}, 'latent_channels=3 and vq_embed_dim=8 differ'),
    (VQ | {'norm_type': 'spatial'}, "norm_type has 'spatial', and 'group' is"),
    (TINY | {'act_fn': 'silu'}, "act_fn has 'silu', and 'relu' is read"),
    (TINY | {'num_decoder_blocks': [1, 3, 3, 3]}, r'mirror.* \[3, 3, 3, 1\]'),
  ],
)
def test_networks_that_are_not_read_are_named(change, told):
  with pytest.raises(ValueError, match=told):
    weights.fields_of({'_class_name': 'AutoencoderKL'} | change)


# Those of SD 1.5, of FLUX and SD3, and what the classes allow beside them.
CASES = {
  'kl': {},
  'kl without quant': {'quant_convs': False, 'num_groups': 16},
  'vq': {
    'latent': 'vq',
    'code_dim': LATENT,
    'codebook_size': 16,
    'middle_attention': False,
    'num_groups': 8,
    'channel_multipliers': (2, 3),
  },
  'tiny': {
    'layout': 'tiny',
    'latent': 'none',
    'width': 4,
    'channel_multipliers': (1, 1, 1),
    'middle_attention': False,
  },
  'oobleck': {
    'layout': 'oobleck',
    'width': 2 * LATENT,
    'channel_multipliers': (1, 1, 2),
    'strides': (2, 4),
    'num_res_blocks': 1,
    'middle_attention': False,
  },
}
DESCRIBED = ('width', 'channel_multipliers', 'num_groups')
REFERENCES = {
  'ldm': autoencoder_kl,
  'tiny': autoencoder_tiny,
  'oobleck': autoencoder_oobleck,
}


@functools.cache
def ours(case):
  """Returns fields, `config.json`, state dict, images, latents and decoded."""
  changes = CASES[case]
  module, variables = created(**changes)
  model = networks.model_fields(**FIELDS | {'latent_dim': LATENT} | changes)
  config = weights.describe(model, (16, 16, 3), {}, None, 8000)
  space = (48,) if model['layout'] == 'oobleck' else (16, 24)
  x = uniform(2, *space, 3)

  @jax.jit
  def run(x):
    encoded = module.apply(variables, x, method='encode')
    latents = encoded['latents']
    return encoded, module.apply(variables, latents, method='decode')

  return model, config, weights.to_diffusers(variables), x, run(x)


def assert_agree(ours, theirs):
  for one, other in zip(ours, theirs, strict=True):
    assert np.abs(one).max() > 0.1
    np.testing.assert_allclose(
      one, np.moveaxis(other, 1, -1), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize('case', CASES)
def test_latents_and_images_equal_a_plain_reference(case):
  model, config, state, x, (encoded, images) = ours(case)
  described = weights.fields_of(config)
  assert not weights.unread(config | {'_a': 1, 'sample_size': 8})
  assert weights.unread(config | {'padding': 'zeros'}) == {'padding': 'zeros'}
  for field, value in described.items():
    section, _, name = field.partition('.')
    # The width and the number of groups may be given in another form.
    if section == 'model' and name not in DESCRIBED:
      assert model[name] == value, field
  widths = [
    described['model.width'] * m for m in described['model.channel_multipliers']
  ]
  assert widths == [model['width'] * m for m in model['channel_multipliers']]
  reference = REFERENCES[model['layout']]
  latents = reference.encode(state, config, np.moveaxis(x, -1, 1))
  found = [encoded['latents'], images]
  if model['latent'] == 'gaussian':
    latents, logvar = np.split(latents, 2, axis=1)
    assert_agree([encoded['logvar']], [logvar])
  assert_agree(found, [latents, reference.decode(state, config, latents)])


@pytest.mark.filterwarnings('ignore:.*weight_norm:FutureWarning')
@pytest.mark.parametrize('case', CASES)
def test_latents_and_images_equal_those_of_diffusers(case, tmp_path):
  """It opens what an export writes, and what it saves itself is the same."""
  torch = pytest.importorskip('torch')
  diffusers = pytest.importorskip('diffusers')
  _, config, state, x, (encoded, images) = ours(case)
  (tmp_path / diffusers_files.CONFIG).write_text(json.dumps(config))
  with (tmp_path / diffusers_files.WEIGHTS).open('wb') as file:
    safetensors_files.write(file, state, {'format': 'pt'})
  theirs, found = getattr(diffusers, config['_class_name']).from_pretrained(
    tmp_path, output_loading_info=True, low_cpu_mem_usage=False
  )
  assert not found['missing_keys'] and not found['unexpected_keys']
  theirs.save_pretrained(tmp_path / 'again')
  again = diffusers_files._read_state(tmp_path / 'again')
  assert again.keys() == state.keys()
  for name, value in again.items():
    np.testing.assert_allclose(value, state[name], rtol=1e-6, err_msg=name)
  with torch.no_grad():
    found = theirs.encode(torch.tensor(np.moveaxis(x, -1, 1)))
    if 'latent_dist' in found:
      latents = found.latent_dist.mode()
    else:
      latents = found.latents
    decoded = theirs.decode(latents).sample
    if case == 'vq':
      latents, _, _ = theirs.quantize(latents)
  assert_agree([encoded['latents'], images], [latents.numpy(), decoded.numpy()])
