"""`dtype` and `remat` change speed and memory, not the results."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import networks
from tests.training.assembly import PLAIN, parallel_updates
from vaegan_jax.losses import adversarial
from vaegan_jax.models.critic import Critic
from vaegan_jax.runtime import devices
from vaegan_jax.training.critic_step import CriticConfig
from vaegan_jax.training.train_state import create_train_state

SIDE, BATCH = 16, 8
LOSS = networks.POST_LOSS | {
  'normalize': 'local',
  'reduction': 'mean',
  'image_weight': 1.0,
  'adversarial_weight': 0.2,
  'kl_weight': 0.01,
}
HALF = jnp.bfloat16


@functools.cache
def train(dtype=None, remat=False):
  """Returns the metrics of ten updates with R1, and the last state."""
  network = dict(width=8, channel_multipliers=(2,))
  name = 'bfloat16' if dtype == HALF else 'float32'
  modules = {
    'autoencoder': networks.autoencoder(
      SIDE, 3, dtype=name, remat=remat, **network
    ),
    'critic': Critic(dtype=dtype, **network),
  }
  optimizers = dict.fromkeys(modules, optax.adam(1e-3, b1=0.5))
  update = parallel_updates(
    modules,
    optimizers,
    LOSS,
    objective=adversarial.OBJECTIVES['geometric'],
    seed=0,
    preprocess=lambda images, _: images / 127.5 - 1.0,
    # With R1 in every step, one program is compiled and not two.
    critic_config=CriticConfig(r1_weight=1.0, r1_every_steps=1),
  )(PLAIN)
  state = devices.replicate(
    create_train_state(modules, optimizers, seed=0, image_shape=(SIDE, SIDE, 3))
  )
  rng, metrics = np.random.default_rng(0), []
  for _ in range(10):
    images = rng.integers(0, 256, (1, BATCH, SIDE, SIDE, 3)).astype(np.uint8)
    state, values = update(state, images)
    metrics.append({k: float(v) for k, v in values.items()})
  return metrics, jax.device_get(state)


def test_ten_updates_in_bfloat16_have_the_losses_of_float32():
  metrics, state = train(HALF)
  expected, plain = train()
  for got, want in zip(metrics, expected, strict=True):
    for name in ('loss', 'distance', 'kl', 'critic_loss', 'adversarial'):
      assert got[name] == pytest.approx(want[name], rel=0.02, abs=0.005), name
  # R1 is computed in float32.
  assert metrics[-1]['r1_penalty'] == pytest.approx(
    expected[-1]['r1_penalty'], rel=0.02
  )
  # It does differ, and the state stays in float32.
  assert metrics[0]['distance'] != expected[0]['distance']
  assert [leaf.dtype for leaf in jax.tree.leaves(state)] == [
    leaf.dtype for leaf in jax.tree.leaves(plain)
  ]


def test_rematerialized_blocks_give_the_same():
  metrics, state = train(remat=True)
  expected, plain = train()
  assert metrics[0] == pytest.approx(expected[0], rel=1e-6)
  assert metrics[-1] == pytest.approx(expected[-1], rel=1e-4)
  assert jax.tree.structure(state) == jax.tree.structure(plain)
