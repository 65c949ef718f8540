"""Residual networks: blocks by hand, axes of space, dtypes and remat."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import networks
from tests.networks import abstract_apply, shapes, uniform
from vaegan_jax.models import blocks, plain, residual

PLAIN = {'width': 4, 'channel_multipliers': (2,)}
RESIDUAL = {
  'width': 4,
  'channel_multipliers': (1, 2),
  'attention_levels': (1,),
  'middle_attention': True,
}
ENCODERS = {
  'plain': plain.Encoder(3, False, **PLAIN),
  'residual': residual.Encoder(3, False, **RESIDUAL),
}
DECODERS = {
  'plain': plain.Decoder(2, (), **PLAIN),
  'residual': residual.Decoder(2, (), **RESIDUAL),
}


def by_hand_norm(x, params, num_groups):
  """Computes GroupNorm of [B, *S, C]: moments per image and group."""
  grouped = np.asarray(x).reshape(
    len(x), -1, num_groups, x.shape[-1] // num_groups
  )
  mean = grouped.mean((1, 3), keepdims=True)
  std = np.sqrt(grouped.var((1, 3), keepdims=True) + 1e-6)
  normed = ((grouped - mean) / std).reshape(x.shape)
  return normed * params['scale'] + params['bias']


def by_hand_conv(x, params):
  """Computes a 3x3 convolution with zero padding, of [B, H, W, C]."""
  padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
  h, w = x.shape[1:3]
  total = sum(
    padded[:, i : i + h, j : j + w] @ params['kernel'][i, j]
    for i in range(3)
    for j in range(3)
  )
  return total + params['bias']


def swish(x):
  return x / (1 + np.exp(-x))


@pytest.mark.parametrize('features', [8, 12])
def test_a_block_is_two_convolutions_and_a_shortcut(features):
  block = residual.ResidualBlock(features)
  x = uniform(2, 4, 5, 8)
  variables = networks.random_variables(block, x)
  params = variables['params']
  h = by_hand_conv(
    swish(by_hand_norm(x, params['norm_0'], 2)), params['conv_0']
  )
  groups = {8: 2, 12: 1}[features]  # The most, with 4 channels or more each.
  h = swish(by_hand_norm(h, params['norm_1'], groups))
  h = by_hand_conv(h, params['conv_1'])
  shortcut = np.asarray(x)
  assert ('shortcut' in params) == (features != 8)
  if features != 8:
    layer = params['shortcut']
    shortcut = x @ layer['kernel'][0, 0] + layer['bias']
  got = jax.jit(block.apply)(variables, x)
  np.testing.assert_allclose(got, shortcut + h, rtol=1e-4, atol=1e-5)


def test_attention_is_a_softmax_over_all_positions():
  module = residual.Attention()
  x = uniform(2, 2, 3, 8)
  variables = networks.random_variables(module, x)
  params = variables['params']
  normed = by_hand_norm(x, params['norm'], 2).reshape(2, 6, 8)
  query, key, value = (
    normed @ params[name]['kernel'] + params[name]['bias']
    for name in ('query', 'key', 'value')
  )
  wanted = np.array(x).reshape(2, 6, 8)
  for image in range(2):
    for i in range(6):
      scores = key[image] @ query[image, i] / np.sqrt(8)
      weights = np.exp(scores) / np.exp(scores).sum()
      seen = weights @ value[image]
      wanted[image, i] += seen @ params['out']['kernel'] + params['out']['bias']
  got = jax.jit(module.apply)(variables, x)
  np.testing.assert_allclose(got.reshape(2, 6, 8), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  'module', [residual.ResidualBlock(4), residual.Middle()]
)
def test_a_new_block_is_the_identity(module):
  x = uniform(1, 4, 4, 4)
  got = jax.jit(lambda x: module.init_with_output(jax.random.key(0), x)[0])(x)
  np.testing.assert_array_equal(got, x)


def test_norms_keep_the_brightness_of_a_channel():
  """With one channel per group, brightness would be divided away."""
  x = uniform(1, 4, 4, 8)
  norm = residual.ResidualBlock(8)
  scale = np.arange(8.0)  # A different brightness for each channel.
  variables = networks.random_variables(norm, x)
  apply = jax.jit(norm.apply)
  dark, bright = (apply(variables, x + b) - b for b in (0 * scale, scale))
  assert np.abs(dark - bright).max() > 0.1


@pytest.mark.parametrize('network', ['plain', 'residual'])
@pytest.mark.parametrize('num_axes', [1, 2, 3])
def test_networks_work_over_one_to_three_axes_of_space(network, num_axes):
  encoder, decoder = ENCODERS[network], DECODERS[network]
  space = (4, 6, 8)[:num_axes]
  x = jax.ShapeDtypeStruct((2, *space, 2), jnp.float32)
  _, h = abstract_apply(encoder, x)
  assert h.shape == (2, *(size // 2 for size in space), 3)
  assert encoder.factor == 2
  variables = networks.random_variables(decoder, h)
  x_recon = jax.eval_shape(decoder.apply, variables, h)
  assert x_recon.shape == x.shape
  if num_axes == 1:
    x_recon = jax.jit(decoder.apply)(variables, uniform(*h.shape))
    assert np.isfinite(x_recon).all() and np.abs(x_recon).max() <= 1
    assert x_recon.std() > 0


def by_hand_snake(x, scale):
  return x + np.sin(scale * x) ** 2 / scale


def test_networks_of_sounds_have_strides_kernels_and_a_periodic_activation():
  """The last block of a plain encoder with strides 2 and 3, by hand."""
  fields = {'width': 2, 'channel_multipliers': (1, 2), 'activation': 'snake'}
  encoder = plain.Encoder(5, False, strides=(2, 3), **fields)
  decoder = plain.Decoder(2, (), 7, strides=(2, 3), **fields)
  assert encoder.factor == 6
  x, h = uniform(1, 36, 2), uniform(1, 4, 5)
  variables = networks.random_variables(encoder, x)
  _, found = jax.jit(
    functools.partial(encoder.apply, capture_intermediates=True)
  )(variables, x)
  before, after = (
    np.asarray(found['intermediates'][f'block_{i}']['__call__'][0])
    for i in range(2)
  )
  block = variables['params']['block_1']
  kernel = np.asarray(block['Conv_0']['kernel'])
  assert kernel.shape == (6, 2, 4)
  padded = np.pad(before, [(0, 0), (1, 2), (0, 0)])
  linear = np.stack(
    [np.einsum('tc,tcf->f', padded[0, 3 * t :][:6], kernel) for t in range(6)]
  )
  scale = np.exp(block['Snake_0']['log_scale'])
  expected = by_hand_snake(linear + block['Conv_0']['bias'], scale)
  np.testing.assert_allclose(after[0], expected, rtol=1e-4, atol=1e-5)
  variables = networks.random_variables(decoder, h)
  assert shapes(variables['params'])['to_image']['kernel'] == (7, 2, 2)
  assert shapes(variables['params'])['block_0']['Conv_0']['kernel'] == (5, 4, 2)
  assert jax.eval_shape(decoder.apply, variables, h).shape == (1, 24, 2)


def test_a_snake_and_its_gradient_by_hand():
  x = np.linspace(-40, 40, 9001)[:, None]
  scale = 1.3
  params = {'params': {'log_scale': np.log([np.float32(scale)])}}

  @jax.jit
  def value_and_slope(x):
    y, pull_back = jax.vjp(functools.partial(blocks.Snake().apply, params), x)
    return y, pull_back(jnp.ones_like(y))[0]

  y, slope = value_and_slope(np.float32(x))
  np.testing.assert_allclose(y, by_hand_snake(x, scale), atol=2e-5)
  np.testing.assert_allclose(slope, 1 + np.sin(2 * scale * x), atol=2e-5)


def test_residual_networks_have_the_same_forms():
  fields = {'width': 4, 'channel_multipliers': (1, 2), 'kernel_size': 5}
  fields |= {'strides': (4,), 'activation': 'snake'}
  encoder = residual.Encoder(3, False, **fields)
  decoder = residual.Decoder(2, (), **fields)
  x = jax.ShapeDtypeStruct((2, 8, 12, 2), jnp.float32)
  variables, h = abstract_apply(encoder, x)
  assert encoder.factor == 4 and h.shape == (2, 2, 3, 3)
  block = shapes(variables['params'])['level_1']['block_0']
  assert block['conv_1']['kernel'] == (5, 5, 8, 8)
  assert block['Snake_1']['log_scale'] == (8,)
  variables, x_recon = abstract_apply(decoder, h)
  assert x_recon.shape == x.shape
  assert shapes(variables['params'])['up_1']['kernel'] == (7, 7, 8, 8)


def by_hand_patches(x, side):
  """Returns each patch's pixels, one after the other, as channels."""
  sides = [n // side for n in x.shape[1:-1]]
  patches = np.empty((len(x), *sides, side ** len(sides) * x.shape[-1]))
  for place in np.ndindex(*sides):
    square = tuple(slice(side * i, side * i + side) for i in place)
    patches[:, *place] = x[:, *square].reshape(len(x), -1)
  return patches.astype(np.float32)


@pytest.mark.parametrize('num_axes', [1, 2, 3])
def test_patches_are_channels_of_one_position(num_axes):
  x = uniform(2, *(4, 6, 8)[:num_axes], 3)
  patches = blocks.to_patches(x, 2)
  np.testing.assert_array_equal(patches, by_hand_patches(np.asarray(x), 2))
  np.testing.assert_array_equal(blocks.from_patches(patches, 2), x)


@pytest.mark.parametrize('network', ['plain', 'residual'])
def test_networks_of_patches_are_those_of_their_channels(network):
  """At a quarter of the positions, with four times the channels."""
  x, h = uniform(2, 8, 12, 2), uniform(2, 2, 3, 3)
  encoder, decoder = ENCODERS[network], DECODERS[network].clone(channels=8)
  of_patches = encoder.clone(patch_size=2)
  assert of_patches.factor == 4
  variables = networks.random_variables(of_patches, x)
  np.testing.assert_array_equal(
    networks.jitted(of_patches.apply, variables, x),
    networks.jitted(encoder.apply, variables, by_hand_patches(x, 2)),
  )
  of_patches = decoder.clone(channels=2, patch_size=2)
  variables = networks.random_variables(of_patches, h)
  x_recon = networks.jitted(of_patches.apply, variables, h)
  assert x_recon.shape == x.shape
  np.testing.assert_array_equal(
    by_hand_patches(np.asarray(x_recon), 2),
    networks.jitted(decoder.apply, variables, h),
  )


def test_a_signal_is_an_image_of_one_column():
  """A 1-D block equals a 2-D block with the kernel in the middle row."""
  block = residual.ResidualBlock(4)
  line = uniform(2, 6, 8)
  params = networks.random_variables(block, line)['params']
  square = jax.tree.map(np.copy, params)
  for name in ('conv_0', 'conv_1'):
    kernel = params[name]['kernel']
    square[name]['kernel'] = np.zeros((3, *kernel.shape), np.float32)
    square[name]['kernel'][1] = kernel
  square['shortcut']['kernel'] = params['shortcut']['kernel'][None]
  got = networks.jitted(block.apply, {'params': params}, line)
  same = networks.jitted(block.apply, {'params': square}, line[:, None])
  np.testing.assert_allclose(got, same[:, 0], rtol=1e-4, atol=1e-5)


def test_attention_follows_the_blocks_at_the_named_sizes():
  module = networks.autoencoder(
    16,
    1,
    network='residual',
    channel_multipliers=(1, 1, 2),
    attention_sides=(8, 4),
    num_res_blocks=2,
  )
  assert module.encoder.attention_levels == (1, 2)
  x = jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32)
  variables = jax.eval_shape(module.init, jax.random.key(0), x)
  for half in ('encoder', 'decoder'):
    params = variables['params'][half]
    assert 'middle' not in params
    for level in range(3):
      names = {f'block_{i}' for i in range(2)}
      if level:
        names |= {f'attention_{i}' for i in range(2)}
      assert set(params[f'level_{level}']) == names


def test_a_latent_map_takes_images_of_any_divisible_size():
  module = networks.autoencoder(
    16,
    1,
    network='residual',
    channel_multipliers=(1, 2),
    latent_shape='map',
    attention_sides=(8,),
  )
  x = jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32)
  variables = jax.eval_shape(module.init, jax.random.key(0), x)
  other = jax.ShapeDtypeStruct((1, 6, 10, 1), jnp.float32)
  x_recon, *_ = jax.eval_shape(module.apply, variables, other)
  assert x_recon.shape == other.shape
  encoded = jax.eval_shape(
    lambda v, x: module.apply(v, x, method='encode'), variables, other
  )
  assert encoded['mean'].shape == (1, *module.latent_space((6, 10)), 4)


@pytest.mark.parametrize('network', ['plain', 'residual'])
def test_remat_changes_neither_names_nor_gradients(network):
  one = {'channel_multipliers': (1,), 'attention_levels': (0,)}
  kept = {
    'plain': ENCODERS['plain'],
    'residual': residual.Encoder(3, False, width=4, **one),
  }[network]
  module = kept.clone(remat=True)
  x = uniform(2, 4, 4, 2)
  variables = networks.random_variables(kept, x)
  assert shapes(networks.random_variables(module, x)) == shapes(variables)

  def gradient(module):
    def loss(variables):
      return jnp.square(module.apply(variables, x)).sum()

    return jax.jit(jax.grad(loss))(variables)

  networks.assert_close(gradient(module), gradient(kept), rtol=1e-3, atol=1e-4)
  again = jax.make_jaxpr(module.apply)(variables, x)
  assert 'remat' in str(again) or 'checkpoint' in str(again)


def check_convolutions_alone_are_half(exact, x, others):
  """Checks that the operations `others`, and the output, stay float32."""
  module = exact.clone(dtype=jnp.bfloat16)
  variables = networks.random_variables(exact, x)
  fresh = jax.eval_shape(module.init, jax.random.key(0), x)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(fresh))
  jaxpr = jax.make_jaxpr(module.apply)(variables, x)
  for equation in equations(jaxpr.jaxpr):
    types = {v.aval.dtype for v in equation.invars}
    if equation.primitive.name == 'conv_general_dilated':
      assert types == {jnp.dtype('bfloat16')}
    if equation.primitive.name in others:
      assert types == {jnp.dtype('float32')}
  got, want = (jax.jit(m.apply)(variables, x) for m in (module, exact))
  assert got.dtype == jnp.float32
  assert 0 < np.abs(got - want).max() < 0.05 * np.abs(want).max()


@pytest.mark.parametrize('make', [ENCODERS, DECODERS])
def test_only_convolutions_compute_in_another_dtype(make):
  x = uniform(2, 4, 4, 2 if make is ENCODERS else 3)
  others = 'exp', 'rsqrt', 'reduce_sum'
  check_convolutions_alone_are_half(make['residual'], x, others)


def equations(jaxpr):
  """Yields all equations, those of inner functions too."""
  for equation in jaxpr.eqns:
    yield equation
    for value in equation.params.values():
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        yield from equations(inner)
