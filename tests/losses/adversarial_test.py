"""Objectives and regularisers: known answers, example by example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaegan_jax import names
from vaegan_jax.losses import adversarial

GEOMETRIC = adversarial.OBJECTIVES['geometric']


def test_every_named_objective_has_its_losses():
  assert tuple(adversarial.OBJECTIVES) == names.ADVERSARIAL_OBJECTIVES


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


def test_a_map_says_of_an_example_its_mean():
  values = jnp.arange(12.0).reshape(2, 3, 2)
  np.testing.assert_array_equal(adversarial.mean_over_map(values), [2.5, 8.5])
  one = jnp.array([0.1, -3.0])
  np.testing.assert_array_equal(adversarial.mean_over_map(one), one)


@pytest.mark.parametrize('objective', adversarial.OBJECTIVES.values())
def test_the_networks_pull_in_opposite_directions(objective):
  logits = jnp.zeros(1)
  real, fake = jax.grad(
    lambda real, fake: objective.critic_loss(real, fake).sum(), (0, 1)
  )(logits + 0.5, logits + 0.5)
  assert real < 0 < fake  # The critic raises real logits and lowers fake ones.
  assert jax.grad(lambda f: objective.adversarial_loss(f).sum())(logits) < 0


def test_beyond_the_margin_the_critic_feels_nothing():
  gradient = jax.grad(
    lambda real: GEOMETRIC.critic_loss(real, jnp.array([-9.0])).sum()
  )(jnp.array([4.0]))
  np.testing.assert_array_equal(gradient, [0.0])


# Logits r of photographs and f of reconstructions, and both losses by hand.
LOG2 = np.log(2.0)
LOG1P = np.log1p(np.exp([2.0, 3.0, -2.0, -3.0]))  # softplus of 2, 3, -2, -3


@pytest.mark.parametrize(
  ('name', 'critic_losses', 'adversarial_losses'),
  [
    ('geometric', [2.0, 0.0, 7.0], [0.0, 3.0, -3.0]),
    ('wasserstein', [0.0, -5.0, 5.0], [0.0, 3.0, -3.0]),
    ('wasserstein_gp', [0.0, -5.0, 5.0], [0.0, 3.0, -3.0]),
    (
      'vanilla',
      [2 * LOG2, LOG1P[2] + LOG1P[3], LOG1P[0] + LOG1P[1]],
      [-LOG2, -LOG1P[3], -LOG1P[1]],
    ),
    (
      'non_saturating',
      [2 * LOG2, LOG1P[2] + LOG1P[3], LOG1P[0] + LOG1P[1]],
      [LOG2, LOG1P[1], LOG1P[3]],
    ),
    ('least_squares', [0.5, 5.0, 9.0], [0.5, 8.0, 2.0]),
  ],
)
def test_every_objective_by_hand(name, critic_losses, adversarial_losses):
  real, fake = jnp.array([0.0, 2.0, -2.0]), jnp.array([0.0, -3.0, 3.0])
  objective = adversarial.OBJECTIVES[name]
  got = objective.critic_loss(real, fake)
  np.testing.assert_allclose(got, critic_losses, rtol=1e-5)
  got = objective.adversarial_loss(fake)
  np.testing.assert_allclose(got, adversarial_losses, rtol=1e-5)


def test_the_cross_entropies_are_log_likelihoods():
  """With D the sigmoid of the logit, as arXiv 1406.2661 writes them."""
  real, fake = jnp.array([0.3, -1.2]), jnp.array([-0.7, 2.0])
  d_real, d_fake = 1 / (1 + np.exp(-real)), 1 / (1 + np.exp(-fake))
  vanilla = adversarial.OBJECTIVES['vanilla']
  np.testing.assert_allclose(
    vanilla.critic_loss(real, fake),
    -np.log(d_real) - np.log(1 - d_fake),
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    vanilla.adversarial_loss(fake), np.log(1 - d_fake), rtol=1e-5
  )
  np.testing.assert_allclose(
    adversarial.OBJECTIVES['non_saturating'].adversarial_loss(fake),
    -np.log(d_fake),
    rtol=1e-5,
  )


@pytest.mark.parametrize('objective', adversarial.OBJECTIVES.values())
def test_huge_logits_give_finite_losses_and_gradients(objective):
  logits = jnp.array([1e4, -1e4])
  real, fake = jnp.repeat(logits, 2), jnp.tile(logits, 2)
  losses = objective.critic_loss(real, fake), objective.adversarial_loss(fake)
  gradients = jax.grad(
    lambda real, fake: objective.critic_loss(real, fake).sum(), (0, 1)
  )(real, fake)
  pulled = jax.grad(lambda f: objective.adversarial_loss(f).sum())(fake)
  assert np.isfinite([*losses, *gradients, pulled]).all()


def test_only_the_minimax_gradient_vanishes_where_the_critic_is_sure():
  """-D(f), against -(1 - D(f)); with the critic undecided both are -1/2."""

  def gradient(name, logit):
    loss = adversarial.OBJECTIVES[name].adversarial_loss
    return jax.grad(lambda f: loss(f).sum())(jnp.array([logit]))[0]

  for name in ('vanilla', 'non_saturating'):
    np.testing.assert_allclose(gradient(name, 0.0), -0.5, rtol=1e-6)
  np.testing.assert_allclose(
    gradient('vanilla', -20.0), -np.exp(-20.0), rtol=1e-4
  )
  np.testing.assert_allclose(gradient('non_saturating', -20.0), -1, rtol=1e-6)
  np.testing.assert_allclose(
    gradient('non_saturating', 20.0), -np.exp(-20.0), rtol=1e-4
  )
