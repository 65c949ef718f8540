"""Tests of the errors of other decoded images: half-size, and at the start."""

import functools

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
from vaegan_jax.training.train_state import create_train_state

SIDE, BATCH, RATE, WEIGHT, DRIFT, SEED = 8, 4, 0.1, 0.5, 0.3, 7
MODULES = {
  'autoencoder': networks.autoencoder(
    SIDE, 1, 3, latent='none', latent_shape='map', channel_multipliers=(1,)
  ),
  'critic': critic_lib.Critic(width=2, channel_multipliers=(1,), head='patch'),
}
LOSS = networks.POST_LOSS | {
  'reduction': 'mean',
  'adversarial_weight': 0.2,
  'kl_weight': 0.0,
}


def block_means(x):
  """Averages squares of 2 by 2: [B, H, W, C] to [B, H / 2, W / 2, C]."""
  batch, height, width, channels = x.shape
  blocks = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
  return blocks.mean((2, 4))


@jax.jit
@functools.partial(jax.value_and_grad, has_aux=True)
def reference(params, start, x):
  """Returns the weighted sum of the mean squared errors, and each.

  They are of half-size images, and of the images of another decoder for the
  same latents, which are constants.
  """
  module, variables = MODULES['autoencoder'], {'params': params}
  latents = module.apply(variables, x, method='encode')['latents']
  decoded = module.apply(variables, block_means(latents), method='decode')
  half = jnp.square(decoded - block_means(x)).mean()
  first = {'params': {**params, 'decoder': start}}
  decoded, first = (
    module.apply(variables, latents, method='decode')
    for variables, latents in (
      (variables, latents),
      (first, jax.lax.stop_gradient(latents)),
    )
  )
  drift = jnp.square(decoded - jax.lax.stop_gradient(first)).mean()
  return WEIGHT * half + DRIFT * drift, {'equivariance': half, 'drift': drift}


def step(state, x, **loss):
  """Returns the autoencoder's params after one step of SGD, and metrics."""
  update = parallel_updates(
    MODULES,
    {name: optax.sgd(RATE) for name in MODULES},
    LOSS | loss,
    objective=adversarial.OBJECTIVES['geometric'],
    seed=SEED,
    preprocess=lambda images, flip: images,
  )(PLAIN)
  after, metrics = update(devices.replicate(state), x[None])
  return jax.device_get((after.networks['autoencoder'].params, metrics))


# The adaptive factor scales the adversarial gradient, and no other.
@pytest.mark.parametrize('adaptive', [False, True])
def test_errors_of_other_decoded_images_are_trained_beside_the_loss(adaptive):
  state = jax.device_get(
    create_train_state(
      MODULES,
      {name: optax.sgd(RATE) for name in MODULES},
      seed=SEED,
      image_shape=(SIDE, SIDE, 1),
    )
  )
  x = networks.uniform(BATCH, SIDE, SIDE, 1)
  plain, plain_metrics = step(state, x, adaptive_weight=adaptive)
  autoencoder = state.networks['autoencoder']
  start = jax.tree.map(lambda leaf: leaf * 0.9, autoencoder.params['decoder'])
  kept = autoencoder.replace(params=start, opt_state=())
  params, metrics = step(
    state.replace(networks=state.networks | {'start': kept}),
    x,
    adaptive_weight=adaptive,
    equivariance_weight=WEIGHT,
    drift_weight=DRIFT,
  )
  (added, errors), grads = reference(autoencoder.params, start, x)
  for name, error in errors.items():
    assert name not in plain_metrics and error > 1e-4
    np.testing.assert_allclose(metrics[name], error, rtol=1e-5)
  np.testing.assert_allclose(
    metrics['loss'], plain_metrics['loss'] + added, rtol=1e-5
  )
  jax.tree.map(
    lambda new, old, grad: np.testing.assert_allclose(
      new - old, -RATE * grad, rtol=1e-3, atol=2e-6
    ),
    params,
    plain,
    jax.device_get(grads),
  )
