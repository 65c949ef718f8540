"""Tests that chunks give the whole batch's numbers in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import networks
from tests.benchmarks import hlo
from tests.training.assembly import parallel_updates
from tests.training.update_test import POST_LOSS, preprocess
from vaegan_jax.losses import adversarial
from vaegan_jax.models import critic as critic_lib
from vaegan_jax.runtime import devices
from vaegan_jax.training.critic_step import CriticConfig
from vaegan_jax.training.step_kinds import StepKind
from vaegan_jax.training.train_state import create_train_state

SIDE, BATCH, NETWORK = 16, 32, dict(width=2, channel_multipliers=(2,))
MODULES = {
  'autoencoder': networks.autoencoder(SIDE, 1, 2, **NETWORK),
  'critic': critic_lib.Critic(**NETWORK),
}
OPTIMIZERS = {name: optax.sgd(0.01) for name in MODULES}
# Losses of the whole batch, and those that need another forward pass.
LOSS = POST_LOSS | {
  'normalize': 'local',
  'reduction': 'mean',
  'image_weight': 0.5,
  'image_high_pass': 1.0,
  'adversarial_weight': 0.7,
  'adaptive_weight': True,
  'rate': 3.0,
}
CRITIC = CriticConfig(r1_weight=0.3, lecam_weight=0.1, prior_fakes=True)


def compile_update(num_chunks, state, images):
  update = parallel_updates(
    MODULES,
    OPTIMIZERS,
    LOSS,
    objective=adversarial.OBJECTIVES['geometric'],
    critic_config=CRITIC,
    max_grad_norm=1.0,
    seed=3,
    preprocess=preprocess,
    num_chunks=num_chunks,
  )
  return update(StepKind(True, (True,))).lower(state, images).compile()


def forward(networks, x):
  variables = {name: own.variables for name, own in networks.items()}
  autoencoder, latents = MODULES['autoencoder'], jnp.ones((BATCH, 2))
  return (
    autoencoder.apply(variables['autoencoder'], x),
    autoencoder.apply(variables['autoencoder'], latents, method='decode'),
    MODULES['critic'].apply(variables['critic'], x),
  )


def test_chunks_give_the_same_numbers_in_less_memory():
  state = create_train_state(
    MODULES,
    OPTIMIZERS,
    seed=3,
    image_shape=(SIDE, SIDE, 1),
    averages={'kl_weight': 1.0, 'kl_average': -1.0},
  )
  images = np.random.default_rng(0).integers(0, 255, (1, BATCH, SIDE, SIDE, 1))
  state = devices.replicate(state)
  images = devices.share_out(images.astype(np.uint8))
  plan, flops, found = {}, {}, {}
  for number in (1, 2):
    update = compile_update(number, state, images)
    plan[number] = update.memory_analysis().temp_size_in_bytes
    flops[number] = hlo.count_flops(update.as_text())
    own = jax.tree.map(jnp.array, state)
    found[number] = jax.device_get(update(own, images))
  networks.assert_close(found[2], found[1], rtol=1e-5, atol=1e-6)
  print(f'planned bytes {plan}, FLOPs {flops}')
  assert plan[2] < 0.6 * plan[1]
  # The autoencoder and a sample of the prior, once more, and the critic's
  # layers on x for the batch's sizes.
  again = jax.jit(forward).lower(state.networks, images[0] * 1.0)
  again = hlo.count_flops(again.as_text('hlo'))
  assert flops[2] == pytest.approx(flops[1] + again, rel=0.01)
