"""Critics with either kind of block: axes, heads, scales and dtypes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import networks
from tests.models.residual_test import (
  by_hand_patches,
  check_convolutions_alone_are_half,
)
from tests.networks import abstract_apply, assert_equal, convolve, uniform
from vaegan_jax import models
from vaegan_jax.losses import perceptual
from vaegan_jax.models.critic import Critic

KINDS = {
  'plain': Critic(2, (1, 2)),
  'residual': Critic(2, (1, 1, 2), network='residual'),
}


@pytest.mark.parametrize('network', KINDS)
@pytest.mark.parametrize('num_axes', [1, 2, 3])
@pytest.mark.parametrize('head', ['dense', 'patch', 'none'])
def test_critics_work_over_one_to_three_axes_of_space(network, num_axes, head):
  critic = KINDS[network].clone(head=head)
  space = (8, 12, 16)[:num_axes]
  x = jax.ShapeDtypeStruct((3, *space, 2), jnp.float32)
  _, logits = abstract_apply(critic, x)
  smallest = tuple(side // 4 for side in space)
  wanted = {'dense': (3,), 'patch': (3, *smallest), 'none': (3, *smallest, 4)}
  assert logits.shape == wanted[head]
  assert critic.num_halvings == 2


def test_a_residual_block_is_two_convolutions_and_a_shortcut():
  critic = KINDS['residual']
  x = uniform(2, 8, 8, 3)
  variables = networks.random_variables(critic, x)
  params = variables['params']
  features = capture(critic, variables, x)[1]
  assert list(features) == list(critic.layer_names) == ['block_0', 'block_1']

  def leaky(x):
    return np.where(x > 0, x, 0.2 * x)

  h = leaky(convolve(x, params['from_image'], 1))
  for name in critic.layer_names:
    layers = params[name]
    inner = leaky(convolve(h, layers['conv_0'], 1))
    inner = convolve(inner, layers['conv_1'])
    squares = h.reshape(2, h.shape[1] // 2, 2, -1, 2, h.shape[3]).mean((2, 4))
    shortcut = squares @ layers['shortcut']['kernel'][0, 0]
    h = leaky((inner + shortcut) / np.sqrt(2))
    np.testing.assert_allclose(features[name], h, rtol=1e-4, atol=1e-5)


def capture(critic, variables, x):
  run = functools.partial(perceptual.capture_features, critic)
  return networks.jitted(run, variables, x, layers=critic.layer_names)


@pytest.mark.parametrize('network', KINDS)
def test_features_grow_with_the_contrast_of_an_image(network):
  """Without norms and biases every feature of 2 x is twice that of x."""
  critic = KINDS[network]
  x = uniform(2, 8, 8, 1)
  variables = jax.jit(critic.init)(jax.random.key(0), x)
  one, two = (capture(critic, variables, i)[1] for i in (x, 2 * x))
  for name in critic.layer_names:
    np.testing.assert_allclose(two[name], 2 * one[name], rtol=1e-4, atol=1e-6)
    assert np.abs(one[name]).max() > 0.01


def test_a_critic_of_patches_is_that_of_their_channels():
  critic, x = KINDS['plain'], uniform(2, 16, 16, 3)
  of_patches = critic.clone(patch_size=2)
  variables = networks.random_variables(of_patches, x)
  got = capture(of_patches, variables, x)
  wanted = capture(critic, variables, by_hand_patches(np.asarray(x), 2))
  assert_equal(got, wanted)


@pytest.mark.parametrize('network', KINDS)
def test_a_map_of_logits_is_one_layer_at_each_position_of_any_size(network):
  critic = KINDS[network].clone(head='patch')
  x = uniform(2, 8, 8, 1)
  variables = networks.random_variables(critic, x)
  larger = uniform(2, 12, 20, 1)
  logits = jax.jit(critic.apply)(variables, larger)
  assert logits.shape == (2, 3, 5)
  feature = jax.jit(critic.clone(head='none').apply)(variables, larger)
  dense = variables['params']['Dense_0']
  by_hand = feature @ dense['kernel'][:, 0] + dense['bias']
  np.testing.assert_allclose(logits, by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('network', KINDS)
@pytest.mark.parametrize('num_axes', [1, 2])
def test_each_scale_is_a_critic_of_the_image_at_that_scale(network, num_axes):
  one = KINDS[network].clone(head='patch')
  critic = one.clone(num_scales=3)
  assert critic.num_halvings == 4
  assert critic.layer_names[2:4] == ('scale_1/block_0', 'scale_1/block_1')
  x = uniform(2, *(16, 32)[:num_axes], 1)
  variables = networks.random_variables(critic, x)
  logits, features = capture(critic, variables, x)
  assert logits.shape == (2, *(4, 8)[:num_axes], 3)
  assert list(features) == list(critic.layer_names)
  params, halved = variables['params'], np.asarray(x)
  axes = tuple(range(1, num_axes + 1))
  for scale in range(3):
    if scale:
      for axis in axes:
        pairs = halved.reshape(
          *halved.shape[:axis], -1, 2, *halved.shape[axis + 1 :]
        )
        halved = pairs.mean(axis + 1)
    of_scale = params[f'scale_{scale}'] if scale else params
    wanted, layers = capture(one, {'params': of_scale}, halved)
    # A scale of few positions counts as much in the mean of all.
    np.testing.assert_allclose(
      logits[..., scale].mean(axes), wanted.mean(axes), rtol=1e-4, atol=1e-5
    )
    prefix = f'scale_{scale}/' if scale else ''
    for name, layer in layers.items():
      np.testing.assert_allclose(
        features[prefix + name], layer, rtol=1e-4, atol=1e-5
      )
  assert (logits[:, 0, ..., 1] == logits[:, 1, ..., 1]).all()


def test_spectral_norm_applies_to_every_kernel_of_a_residual_critic():
  critic = KINDS['residual'].clone(spectral_norm=True)
  x = uniform(2, 8, 8, 1)
  variables = jax.jit(critic.init)(jax.random.key(0), x)
  stats = jax.tree.leaves(variables['batch_stats'])
  # A sigma and a vector for 3 layers in 2 blocks, the first layer, the head.
  assert len(stats) == 2 * (2 * 3 + 2)
  plain = jax.eval_shape(KINDS['residual'].init, jax.random.key(0), x)
  assert jax.tree.structure(plain['params']) == jax.tree.structure(
    variables['params']
  )
  louder = jax.tree.map(
    lambda w: 3 * w if w.ndim > 1 else w, variables['params']
  )
  apply = jax.jit(critic.apply)
  logits, same = (
    apply(variables | {'params': params}, x)
    for params in (variables['params'], louder)
  )
  np.testing.assert_allclose(same, logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('network', KINDS)
def test_only_convolutions_compute_in_another_dtype(network):
  critic = KINDS[network].clone(head='patch', num_scales=2)
  x = uniform(2, 8, 8, 1)
  check_convolutions_alone_are_half(critic, x, ['dot_general'])


def test_the_fields_of_a_configuration_describe_the_critic():
  critic = models.create_modules(
    with_critic=True,
    space=(16, 16),
    channels=1,
    model=networks.model_fields(),
    critic=networks.critic_fields(
      network='residual',
      channel_multipliers=(1, 2, 2),
      head='patch',
      num_scales=2,
    ),
  )['critic']
  assert critic == Critic(
    2, (1, 2, 2), network='residual', head='patch', num_scales=2
  )
