"""Optimisers: Adam, with the right step size for each network."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaegan_jax import optimizers

RATES = {'autoencoder': 0.25, 'critic': 0.0625}


def create(names, b1=0.5):
  return optimizers.create_optimizers(
    names,
    autoencoder_learning_rate=RATES['autoencoder'],
    critic_learning_rate=RATES['critic'],
    b1=b1,
    b2=0.999,
  )


@pytest.mark.parametrize('name', list(RATES))
def test_the_first_step_is_the_learning_rate_against_the_sign(name):
  optimizer = create(['autoencoder', 'critic'])[name]
  params = {'w': jnp.ones(3)}
  gradient = {'w': jnp.array([1e-3, -2.0, 50.0])}
  updates, _ = optimizer.update(gradient, optimizer.init(params), params)
  moved = optax.apply_updates(params, updates)['w']
  rate = RATES[name]
  np.testing.assert_allclose(
    moved, [1 - rate, 1 + rate, 1 - rate], rtol=1e-4, atol=1e-5
  )


def test_two_steps_equal_adam_by_hand():
  optimizer = create(['critic'], b1=0.5)['critic']
  state = optimizer.init(jnp.zeros(1))
  first = second = position = 0.0
  for step, gradient in enumerate([3.0, -1.0], start=1):
    first = 0.5 * first + 0.5 * gradient
    second = 0.999 * second + 0.001 * gradient**2
    root = np.sqrt(second / (1 - 0.999**step)) + 1e-8
    position = -RATES['critic'] * first / (1 - 0.5**step) / root
    update, state = optimizer.update(jnp.array([gradient]), state)
    np.testing.assert_allclose(update, [position], rtol=1e-4, atol=1e-7)


def test_only_named_networks_have_an_optimizer():
  assert list(create(['autoencoder'])) == ['autoencoder']
