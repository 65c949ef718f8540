"""Tests of the state before step 1."""

import jax
import numpy as np
import optax
import pytest

from tests import networks
from tests.networks import assert_equal
from vaegan_jax.models import create_modules
from vaegan_jax.training import train_state


def create(seed=0, with_critic=True, norm='none'):
  network = dict(width=2, depth=2, channel_multipliers=(1, 1), norm=norm)
  modules = create_modules(
    with_critic=with_critic,
    space=(4, 4),
    channels=1,
    model=networks.model_fields(latent_dim=2, **network),
    critic=networks.critic_fields(**network),
  )
  return train_state.create_train_state(
    modules,
    dict.fromkeys(modules, optax.adam(1e-3)),
    seed=seed,
    image_shape=(4, 4, 1),
  )


@pytest.fixture(scope='module')
def state():
  return jax.device_get(create())


def kernels(state, network):
  """Returns convolution kernels and matrices of a network, by path."""
  leaves = jax.tree.leaves_with_path(state.networks[network].params)
  return {
    jax.tree_util.keystr(path): leaf for path, leaf in leaves if leaf.ndim > 1
  }


def test_the_initial_step_is_zero(state):
  assert (state.step, state.num_skipped) == (0, 0)
  assert state.step.dtype == state.num_skipped.dtype == np.int32
  assert_equal(state.ema_params, state.networks['autoencoder'].params)


def test_the_average_has_its_own_buffers():
  """Otherwise donating the state would donate one buffer twice."""
  state = create(with_critic=False)
  for average, params in zip(
    jax.tree.leaves(state.ema_params),
    jax.tree.leaves(state.networks['autoencoder'].params),
    strict=True,
  ):
    assert average.unsafe_buffer_pointer() != params.unsafe_buffer_pointer()


def test_weights_are_a_function_of_the_seed(state):
  again, other = create(), create(seed=1)
  assert_equal(state, jax.device_get(again))
  for network in ('autoencoder', 'critic'):
    for path, kernel in kernels(other, network).items():
      assert (kernel != kernels(state, network)[path]).all()


def test_the_networks_do_not_share_their_randomness(state):
  encoder = kernels(state, 'autoencoder')[
    "['encoder']['block_0']['Conv_0']['kernel']"
  ]
  critic = kernels(state, 'critic')["['block_0']['Conv_0']['kernel']"]
  assert encoder.shape == critic.shape
  assert (encoder != critic).all()


def test_without_a_critic_the_autoencoder_is_the_same(state):
  alone = jax.device_get(create(with_critic=False))
  assert set(alone.networks) == {'autoencoder'}
  name = 'autoencoder'
  assert_equal(alone.networks[name], state.networks[name])


def test_only_batch_norm_has_running_averages(state):
  for network in state.networks.values():
    assert network.batch_stats == {}
    assert set(network.variables) == {'params', 'batch_stats'}
  for network in create(norm='batch').networks.values():
    assert jax.tree.leaves(network.batch_stats)
