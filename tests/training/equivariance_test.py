"""Tests of the error of half-size images, decoded from half-size latents."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import networks
from tests.training.assembly import PLAIN, parallel_updates
from vaegan_jax.losses import adversarial
from vaegan_jax.models import critic as critic_lib
from vaegan_jax.runtime import devices
from vaegan_jax.training.critic_step import CriticConfig
from vaegan_jax.training.train_state import create_train_state

SIDE, BATCH, RATE, WEIGHT, SEED = 8, 4, 0.1, 0.5, 7
MODULES = {
  'autoencoder': networks.autoencoder(
    SIDE, 1, 3, latent='none', latent_shape='map', channel_multipliers=(1,)
  ),
  'critic': critic_lib.Critic(width=2, channel_multipliers=(1,), head='patch'),
}
LOSS = {
  'layers': (),
  'layer_weights': (),
  'normalize': 'none',
  'reduction': 'mean',
  'image_weight': 0.0,
  'image_halvings': 0,
  'image_high_pass': 0.0,
  'pixel_weight': 0.0,
  'adversarial_weight': 0.2,
  'adversarial_ramp_steps': 0,
  'kl_weight': 0.0,
}


def block_means(x):
  """Averages squares of 2 by 2: [B, H, W, C] to [B, H / 2, W / 2, C]."""
  batch, height, width, channels = x.shape
  blocks = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
  return blocks.mean((2, 4))


@jax.jit
@jax.value_and_grad
def reference(params, x):
  """Returns the mean squared error of half-size images."""
  module, variables = MODULES['autoencoder'], {'params': params}
  latents = module.apply(variables, x, method='encode')['latents']
  decoded = module.apply(variables, block_means(latents), method='decode')
  return jnp.square(decoded - block_means(x)).mean()


def step(state, x, **loss):
  """Returns the autoencoder's params after one step of SGD, and metrics."""
  update = parallel_updates(
    MODULES,
    {name: optax.sgd(RATE) for name in MODULES},
    LOSS | loss,
    objective=adversarial.OBJECTIVES['geometric'],
    critic_config=CriticConfig(r1_weight=0.0),
    seed=SEED,
    preprocess=lambda images, flip: images,
  )(PLAIN)
  after, metrics = update(devices.replicate(state), x[None])
  return jax.device_get((after.networks['autoencoder'].params, metrics))


# The adaptive factor scales the adversarial gradient, and no other.
@pytest.mark.parametrize('adaptive', [False, True])
def test_half_size_latents_are_trained_to_decode_to_half_size_images(adaptive):
  state = jax.device_get(
    create_train_state(
      MODULES,
      {name: optax.sgd(RATE) for name in MODULES},
      seed=SEED,
      image_shape=(SIDE, SIDE, 1),
    )
  )
  shape = (BATCH, SIDE, SIDE, 1)
  x = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
  plain, plain_metrics = step(state, x, adaptive_weight=adaptive)
  params, metrics = step(
    state, x, adaptive_weight=adaptive, equivariance_weight=WEIGHT
  )
  error, grads = reference(state.networks['autoencoder'].params, x)
  np.testing.assert_allclose(metrics['equivariance'], error, rtol=1e-5)
  added = WEIGHT * metrics['equivariance']
  np.testing.assert_allclose(
    metrics['loss'], plain_metrics['loss'] + added, rtol=1e-5
  )
  assert 'equivariance' not in plain_metrics
  jax.tree.map(
    lambda new, old, grad: np.testing.assert_allclose(
      new - old, -RATE * WEIGHT * grad, rtol=1e-3, atol=2e-6
    ),
    params,
    plain,
    jax.device_get(grads),
  )
