"""Objectives: known answers, example by example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaegan_jax import adversarial

GEOMETRIC = adversarial.OBJECTIVES['geometric']


@pytest.mark.parametrize(
  ('real', 'fake', 'loss'),
  [
    (0.0, 0.0, 2.0),  # No opinion.
    (1.0, -1.0, 0.0),  # On the margins.
    (5.0, -7.0, 0.0),  # Beyond them.
    (0.5, -0.25, 1.25),  # 0.5 + 0.75
    (-2.0, 3.0, 7.0),  # 3 + 4: wrong twice.
    (-2.0, -3.0, 3.0),  # Only the photograph is misjudged.
  ],
)
def test_hinge_by_hand(real, fake, loss):
  got = GEOMETRIC.critic_loss(jnp.array([real]), jnp.array([fake]))
  np.testing.assert_allclose(got, [loss])


def test_hinge_adversarial_by_hand():
  got = GEOMETRIC.adversarial_loss(jnp.array([2.0, -3.0, 0.0]))
  np.testing.assert_array_equal(got, [-2.0, 3.0, 0.0])


@pytest.mark.parametrize('objective', adversarial.OBJECTIVES.values())
def test_every_loss_is_per_example(objective):
  rng = np.random.default_rng(0)
  real, fake = jnp.asarray(rng.normal(size=(2, 6)), jnp.float32)
  losses = objective.critic_loss(real, fake)
  assert losses.shape == objective.adversarial_loss(fake).shape == (6,)
  alone = jax.vmap(objective.critic_loss)(real, fake)
  np.testing.assert_allclose(losses, alone, rtol=1e-6)


@pytest.mark.parametrize('objective', adversarial.OBJECTIVES.values())
def test_the_networks_pull_in_opposite_directions(objective):
  logits = jnp.zeros(1)
  real, fake = jax.grad(
    lambda real, fake: objective.critic_loss(real, fake).sum(), (0, 1)
  )(logits + 0.5, logits - 0.5)
  assert real < 0 < fake  # The critic raises real logits and lowers fake ones.
  assert jax.grad(lambda f: objective.adversarial_loss(f).sum())(logits) < 0


def test_beyond_the_margin_the_critic_feels_nothing():
  gradient = jax.grad(
    lambda real: GEOMETRIC.critic_loss(real, jnp.array([-9.0])).sum()
  )(jnp.array([4.0]))
  np.testing.assert_array_equal(gradient, [0.0])
