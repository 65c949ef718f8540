"""Plain networks: shapes, the KL, norms and features."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import networks
from tests.networks import abstract_apply, assert_equal, shapes, uniform
from vaegan_jax import names
from vaegan_jax.config.io import load_config_file
from vaegan_jax.losses import perceptual
from vaegan_jax.models import blocks, create_modules
from vaegan_jax.models import critic as critic_lib
from vaegan_jax.models.latents.base import Gaussian, gaussian_kl

LATENT = 5
NETWORK = dict(width=4, channel_multipliers=(1, 2))


@pytest.fixture(scope='module')
def small():
  """Returns an autoencoder and its variables."""
  module = networks.autoencoder(8, 1, LATENT, **NETWORK)
  x, noise = uniform(2, 8, 8, 1), np.zeros((2, LATENT), np.float32)
  return module, jax.jit(module.init)(jax.random.key(0), x, noise)


@pytest.mark.parametrize('norm', names.NORMS)
@pytest.mark.parametrize('depth', [2, 4])
@pytest.mark.parametrize(('side', 'channels'), [(16, 4), (32, 1), (64, 3)])
def test_reconstructions_have_the_shape_of_images(side, channels, depth, norm):
  multipliers = tuple(2**i for i in range(depth))
  modules = create_modules(
    with_critic=True,
    space=(side, side),
    channels=channels,
    model=networks.model_fields(
      width=4,
      depth=depth,
      channel_multipliers=multipliers,
      latent_dim=LATENT,
      norm=norm,
    ),
    critic=networks.critic_fields(channel_multipliers=multipliers, norm=norm),
  )
  x = jax.ShapeDtypeStruct((3, side, side, channels), jnp.float32)
  noise = jax.ShapeDtypeStruct((3, LATENT), jnp.float32)
  variables, outputs = abstract_apply(modules['autoencoder'], x, noise)
  assert shapes(outputs) == (x.shape, {'kl': (3,)}, {'rate': ()})
  assert all(o.dtype == jnp.float32 for o in jax.tree.leaves(outputs))
  encoder = variables['params']['encoder']
  for i, multiplier in enumerate(multipliers):
    assert encoder[f'block_{i}']['Conv_0']['kernel'].shape[3] == 4 * multiplier
  variables, logits = abstract_apply(modules['critic'], x)
  assert logits.shape == (3,)
  kernel = variables['params'][f'block_{depth - 1}']['Conv_0']['kernel']
  assert kernel.shape[3] == 2 * multipliers[-1]


def test_a_critic_is_built_only_on_request():
  sections = dict(
    space=(8, 8),
    channels=1,
    model=networks.model_fields(
      depth=2, latent_dim=LATENT, norm='group', **NETWORK
    ),
    critic=networks.critic_fields(**NETWORK),
  )
  modules = create_modules(with_critic=True, **sections)
  assert list(modules) == ['autoencoder', 'critic']
  assert (modules['autoencoder'].encoder.norm, modules['critic'].norm) == (
    'group',
    'none',
  )
  assert list(create_modules(with_critic=False, **sections)) == ['autoencoder']


@pytest.mark.parametrize(
  ('mean', 'logvar', 'kl'),
  [
    ([0.0, 0.0], [0.0, 0.0], 0.0),
    ([3.0, 0.0], [0.0, 0.0], 4.5),  # mean^2 / 2
    ([0.0, 0.0], [1.0, 0.0], (np.e - 2) / 2),
    ([1.0, -2.0], [np.log(4.0)] * 2, (5 + 2 * (4 - 1 - np.log(4))) / 2),
  ],
)
def test_kl_by_hand(mean, logvar, kl):
  got = gaussian_kl(np.float32([mean]), np.float32([logvar]))
  np.testing.assert_allclose(got, [kl], rtol=1e-5, atol=1e-6)


def test_a_log_variance_beyond_its_bounds_is_finite_and_leads_back():
  """In range, neither the KL nor its gradient changes by a bit."""
  h = np.float32([-1e3, -31, -30, -4.1, 0.3, 5, 20, 1e3])
  h = np.stack([np.linspace(-2, 2, 8, dtype=np.float32), h], axis=-1)
  latent = Gaussian(1)

  def loss(h):
    latents, losses, _ = latent.apply({}, h, np.ones((8, 1), np.float32))
    return losses['kl'].sum(), (latents[:, 0], losses['kl'])

  (_, (latents, kl)), slopes = networks.jitted(
    jax.value_and_grad(loss, has_aux=True), h
  )
  assert np.isfinite(latents).all()
  mean, bounded = h[:, 0], np.clip(h[:, 1], -30, 20).astype(np.float64)
  expected = (np.exp(bounded) + mean**2 - 1 - bounded) / 2
  np.testing.assert_allclose(kl, expected, rtol=1e-6)
  np.testing.assert_allclose(
    slopes[:, 1],
    np.expm1(bounded) / 2 * np.exp(np.minimum(5 - bounded, 0)),
    rtol=1e-5,
  )
  raw, raw_slopes = jax.jit(
    jax.value_and_grad(lambda *h: gaussian_kl(*h).sum(), (0, 1))
  )(h[2:6, :1], h[2:6, 1:])
  np.testing.assert_array_equal(kl[2:6].sum(), raw)
  np.testing.assert_array_equal(slopes[2:6], np.hstack(raw_slopes))


def test_kl_equals_its_integral():
  mean, logvar = np.array([0.7, -1.5, 0.0]), np.array([-2.0, 0.5, 1.0])
  z = np.linspace(-20, 20, 40_001)[:, None]

  def log_density(mean, logvar):
    square = (z - mean) ** 2 / np.exp(logvar)
    return -(np.log(2 * np.pi) + logvar + square) / 2

  q, p = log_density(mean, logvar), log_density(0.0, 0.0)
  integral = np.trapezoid(np.exp(q) * (q - p), z, axis=0)
  got = [
    gaussian_kl(np.float32([[m]]), np.float32([[v]]))[0]
    for m, v in zip(mean, logvar, strict=True)
  ]
  np.testing.assert_allclose(got, integral, rtol=1e-5)


def test_zero_noise_reconstructs_from_the_mean(small):
  module, variables = small
  x = uniform(2, 8, 8, 1)
  zeros = np.zeros((2, LATENT), np.float32)
  x_recon, mean, _ = networks.reconstruct(module, variables, x, zeros)
  plain, losses, _ = networks.jitted(module.apply, variables, x)
  np.testing.assert_allclose(plain, x_recon, rtol=1e-5, atol=1e-6)
  assert losses['kl'].shape == (2,)
  decoded = networks.jitted(module.apply, variables, mean, method='decode')
  np.testing.assert_allclose(x_recon, decoded, rtol=1e-5, atol=1e-6)
  assert np.abs(x_recon).max() <= 1


def test_noise_is_scaled_by_the_standard_deviation(small):
  module, variables = small
  x, noise = uniform(2, 8, 8, 1), uniform(2, LATENT, seed=1)
  x_recon, mean, logvar = networks.reconstruct(module, variables, x, noise)
  latents = mean + np.sqrt(np.exp(logvar)) * noise
  decoded = networks.jitted(module.apply, variables, latents, method='decode')
  np.testing.assert_allclose(x_recon, decoded, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ('channels', 'groups'), [(64, 32), (48, 16), (6, 2), (4, 4), (3, 1)]
)
def test_group_norm_takes_the_most_groups_that_divide(channels, groups):
  x = 3 * uniform(2, 2, 2, channels) + 1
  y, _ = networks.jitted(
    blocks.Norm('group').init_with_output, jax.random.key(0), x, True
  )
  grouped = np.asarray(x).reshape(2, 4, groups, channels // groups)
  mean = grouped.mean((1, 3), keepdims=True)
  variance = grouped.var((1, 3), keepdims=True)
  expected = (grouped - mean) / np.sqrt(variance + 1e-6)
  np.testing.assert_allclose(y, expected.reshape(x.shape), rtol=1e-3, atol=1e-3)


def test_batch_norm_updates_its_averages_in_training_only():
  x = uniform(8, 2, 2, 3) + 2
  norm = blocks.Norm('batch')
  variables = networks.jitted(norm.init, jax.random.key(0), x, False)
  y, moved = networks.jitted(
    norm.apply, variables, x, True, mutable='batch_stats'
  )
  np.testing.assert_allclose(np.mean(y, (0, 1, 2)), 0, atol=1e-5)
  mean = moved['batch_stats']['BatchNorm_0']['mean']
  np.testing.assert_allclose(mean, 0.1 * np.mean(x, (0, 1, 2)), rtol=1e-5)
  # With averages of 0 and 1 it is the identity.
  same = networks.jitted(norm.apply, variables, x, False)
  np.testing.assert_allclose(same, x, rtol=1e-4)


def test_an_unknown_norm_is_reported():
  with pytest.raises(ValueError, match=r"'layer'.*'group'"):
    blocks.Norm('layer').init(jax.random.key(0), uniform(1, 2, 2, 3), True)


def test_a_feature_is_taken_after_its_activation():
  """A block's feature is the leaky ReLU of its convolution, by hand."""
  critic = critic_lib.Critic(**NETWORK)
  x = uniform(2, 8, 8, 3)
  variables = networks.jitted(critic.init, jax.random.key(0), x)
  capture = functools.partial(perceptual.capture_features, critic)
  logits, features = networks.jitted(
    capture, variables, x, layers=blocks.DownBlock
  )
  before = np.asarray(x)
  for name in ('block_0', 'block_1'):
    conv = variables['params'][name]['Conv_0']
    kernel, padded = (
      conv['kernel'],
      np.pad(before, [(0, 0), *[(1, 1)] * 2, (0, 0)]),
    )
    side = before.shape[1] // 2
    linear = np.zeros((2, side, side, kernel.shape[3]))
    for i in range(side):
      for j in range(side):
        patch = padded[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4]
        linear[:, i, j] = np.einsum('bhwi,hwio->bo', patch, kernel)
    linear += conv['bias']
    before = np.where(linear > 0, linear, 0.2 * linear)
    np.testing.assert_allclose(features[name], before, rtol=1e-4, atol=1e-5)
  dense = variables['params']['Dense_0']
  by_hand = before.reshape(2, -1) @ dense['kernel'] + dense['bias']
  np.testing.assert_allclose(logits, by_hand[:, 0], rtol=1e-4, atol=1e-5)


def test_an_up_block_repeats_each_pixel_before_it_convolves():
  block = blocks.UpBlock(2)
  x = uniform(1, 2, 3, 2)
  params = {
    'kernel': np.zeros((3, 3, 2, 2), np.float32),
    'bias': np.zeros(2, np.float32),
  }
  params['kernel'][1, 1] = np.eye(2)  # The identity on the resized image.
  y = networks.jitted(block.apply, {'params': {'Conv_0': params}}, x, False)
  resized = np.kron(x[0], np.ones((2, 2, 1)))
  expected = np.where(resized > 0, resized, 0.2 * resized)
  np.testing.assert_allclose(y[0], expected, rtol=1e-6)


def test_without_batch_norm_logits_depend_on_their_image_alone():
  critic = critic_lib.Critic(**NETWORK, norm='group')
  x = uniform(4, 8, 8, 1)
  variables = networks.jitted(critic.init, jax.random.key(0), x)
  logits = networks.jitted(critic.apply, variables, x, train=True)
  for i in range(4):
    alone = networks.jitted(critic.apply, variables, x[i : i + 1], train=True)
    np.testing.assert_allclose(alone[0], logits[i], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope='module')
def spectral():
  """Returns a critic of spectral norm 1 after many training passes."""
  critic = critic_lib.Critic(**NETWORK, spectral_norm=True)
  x = uniform(2, 8, 8, 3)
  variables = jax.jit(critic.init)(jax.random.key(0), x)
  # Scaled, so that their singular values do not start near 1.
  variables = jax.device_get(variables)
  params = jax.tree.map(lambda w: 2 * w, variables['params'])
  variables = variables | {'params': params}
  train = jax.jit(
    functools.partial(critic.apply, train=True, mutable=['batch_stats'])
  )
  stats = variables['batch_stats']
  for _ in range(300):
    _, mutated = train({'params': params, 'batch_stats': stats}, x)
    stats = mutated['batch_stats']
  return critic, x, variables, stats


def test_with_spectral_norm_every_kernel_has_singular_value_one(spectral):
  """The layers compute the forward pass of kernel / sigma."""
  critic, x, variables, stats = spectral
  params = jax.tree.map(np.asarray, variables['params'])
  normalised = jax.tree.map(np.copy, params)
  for path in (('block_0', 'Conv_0'), ('block_1', 'Conv_0'), ('Dense_0',)):
    layer, raw = normalised, params
    for name in path:
      layer, raw = layer[name], raw[name]
    matrix = raw['kernel'].reshape(-1, raw['kernel'].shape[-1])
    sigma = np.linalg.svd(matrix, compute_uv=False)[0]
    assert sigma > 1.5  # Otherwise the test would prove nothing.
    layer['kernel'] = raw['kernel'] / sigma
  trained = {'params': variables['params'], 'batch_stats': stats}
  plain = critic_lib.Critic(**NETWORK)
  names = critic.layer_names
  capture = jax.jit(
    functools.partial(perceptual.capture_features, layers=names),
    static_argnums=0,
  )
  expected = capture(plain, {'params': normalised}, x)
  got = capture(critic, trained, x)
  assert list(got[1]) == ['block_0', 'block_1']
  networks.assert_close(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('name', ['block_0', 'block_1'])
def test_the_linear_map_of_a_spectral_layer_has_norm_one(spectral, name):
  """Measures the convolution at one position by unit patches."""
  _, _, variables, stats = spectral
  conv = variables['params'][name]['Conv_0']
  channels, features = conv['kernel'].shape[2:]
  block = blocks.DownBlock(features, spectral_norm=True)
  scope = {'params': variables['params'][name], 'batch_stats': stats[name]}
  patches = np.eye(16 * channels).reshape(-1, 4, 4, channels)
  # The leaky ReLU is inverted below.
  zero = networks.jitted(
    block.apply, scope, np.zeros((1, 4, 4, channels), np.float32), False
  )
  assert not np.any(conv['bias']) and not np.any(zero)
  padded = np.pad(patches, [(0, 0), (1, 1), (1, 1), (0, 0)])
  answers = networks.jitted(block.apply, scope, np.float32(padded), False)
  linear = np.where(answers > 0, answers, answers / 0.2)[:, 1, 1]
  assert linear.shape == (16 * channels, features)
  sigma = np.linalg.svd(linear, compute_uv=False)[0]
  np.testing.assert_allclose(sigma, 1, rtol=1e-3)


@pytest.mark.parametrize('name', ['block_0', 'block_1'])
def test_a_spectral_convolution_over_an_image_has_a_larger_norm(spectral, name):
  """The reshaped kernel has 1, but a pixel is in up to 4 patches."""
  _, _, variables, stats = spectral
  kernel = np.asarray(variables['params'][name]['Conv_0']['kernel'])
  (sigma,) = (
    np.asarray(leaf)
    for leaf in jax.tree.leaves(stats[name])
    if leaf.shape == ()
  )
  kernel = kernel / sigma
  channels, features = kernel.shape[2:]
  matrix = kernel.reshape(-1, features)
  reshaped = np.linalg.svd(matrix, compute_uv=False)[0]
  np.testing.assert_allclose(reshaped, 1, rtol=1e-3)
  # The convolution as a matrix: its outputs for images of one element.
  units = np.eye(8 * 8 * channels, dtype=np.float32)
  units_in_space = units.reshape(-1, 8, 8, channels)
  answers = networks.convolve(units_in_space, {'kernel': kernel})
  linear = np.asarray(answers).reshape(len(units), -1)
  own = np.linalg.svd(linear, compute_uv=False)[0]
  assert 1.1 < own <= 2


def test_evaluation_leaves_the_spectral_vectors_alone(spectral):
  critic, x, variables, stats = spectral
  trained = {'params': variables['params'], 'batch_stats': stats}
  logits, same = networks.jitted(
    critic.apply, trained, x, mutable='batch_stats'
  )
  assert_equal(same['batch_stats'], stats)
  again, moved = networks.jitted(
    critic.apply, trained, x, train=True, mutable='batch_stats'
  )
  np.testing.assert_array_equal(again, logits)
  assert jax.tree.structure(moved['batch_stats']) == jax.tree.structure(stats)


def test_a_spectral_critic_ignores_the_scale_of_its_kernels(spectral):
  critic, x, variables, stats = spectral
  scaled = jax.tree.map(
    lambda w: 3 * w if w.ndim > 1 else w, variables['params']
  )
  logits, louder = (
    networks.jitted(critic.apply, {'params': params, 'batch_stats': stats}, x)
    for params in (variables['params'], scaled)
  )
  np.testing.assert_allclose(louder, logits, rtol=1e-4, atol=1e-6)


def test_spectral_norm_adds_vectors_and_renames_no_weight():
  x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
  plain, logits = abstract_apply(critic_lib.Critic(**NETWORK), x)
  spectral, same = abstract_apply(
    critic_lib.Critic(**NETWORK, spectral_norm=True), x
  )
  conv = {'kernel': (4, 4, 3, 4), 'bias': (4,)}
  assert shapes(plain) == {
    'params': {
      'block_0': {'Conv_0': conv},
      'block_1': {'Conv_0': {'kernel': (4, 4, 4, 8), 'bias': (8,)}},
      'Dense_0': {'kernel': (32, 1), 'bias': (1,)},
    }
  }
  assert shapes(spectral['params']) == shapes(plain['params'])
  assert shapes(logits) == shapes(same) == (2,)
  assert list(spectral['batch_stats']['block_0']) == ['SpectralNorm_0']
  stats = jax.tree.leaves(shapes(spectral['batch_stats']), is_leaf=is_shape)
  # A sigma and a vector for each of the three layers.
  assert sorted(stats) == [(), (), (), (1, 1), (1, 4), (1, 8)]


def is_shape(node):
  return isinstance(node, tuple)


def test_equal_latents_of_sounds_decode_to_a_tone():
  config = load_config_file('configs/audio.py')
  config.model.spectral_noise = False  # It differs between positions.
  modules = create_modules(
    with_critic=False,
    space=(512,),
    channels=1,
    model=config.model,
    critic=config.critic,
  )
  module, size = modules['autoencoder'].decoder, config.model.latent_dim
  h = np.random.default_rng(0).normal(size=size)
  latents = np.broadcast_to(h, (1, 8, size)).astype(np.float32)
  variables = jax.jit(module.init)(jax.random.key(0), latents)
  (sound,) = jax.jit(module.apply)(variables, latents)
  # Away from the ends all positions are equal, so that kernels act as sums.
  blocks_in_order = [f'block_{i}' for i in range(config.model.depth)]
  for name in ('from_latent', *blocks_in_order, 'to_image'):
    layer = jax.device_get(variables['params'][name])
    layer = layer if 'kernel' in layer else next(iter(layer.values()))
    h = h @ layer['kernel'].sum(0) + layer['bias']
    h = np.tanh(h) if name == 'to_image' else np.where(h > 0, h, h * 0.2)
  assert h.std() > 0.01
  expected = np.tile(h, 128 // len(h))
  np.testing.assert_allclose(sound[192:320, 0], expected, atol=1e-5)
