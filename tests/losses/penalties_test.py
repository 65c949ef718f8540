"""The critic's penalties, against closed forms and double differentiation."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.networks import assert_close, uniform
from vaegan_jax.losses import adversarial, penalties
from vaegan_jax.models import critic as critic_lib

# A linear critic's gradient is w everywhere: every penalty has a closed form.
SHAPE = (3, 2, 2, 1)
W = np.array([0.5, -1.0, 2.0, 0.25])  # |w|^2 = 5.3125
SQUARE = 5.3125
LENGTH = np.sqrt(SQUARE)


def linear(w):
  return lambda x: x.reshape(len(x), -1) @ w + 3.0


@pytest.mark.parametrize(
  ('penalty', 'value', 'gradient'),
  [
    (penalties.squared_gradient_norm, SQUARE, 2 * W),
    (penalties.r1_penalty, SQUARE / 2, W),
    (
      lambda critic, x: penalties.gradient_penalty(
        critic, x, -x, np.float32([0.0, 0.3, 1.0])
      ),
      (LENGTH - 1) ** 2,
      2 * (LENGTH - 1) * W / LENGTH,
    ),
  ],
)
def test_a_linear_critic_has_every_penalty_in_closed_form(
  penalty, value, gradient
):
  x = uniform(*SHAPE)

  def values(w):
    return penalty(linear(w), x)

  def mean(w):
    return values(w).mean()

  got, to_mean, jacobian = jax.jit(
    lambda w: (values(w), jax.grad(mean)(w), jax.jacobian(values)(w))
  )(np.float32(W))
  np.testing.assert_allclose(got, [value] * 3, rtol=1e-5)
  np.testing.assert_allclose(to_mean, gradient, rtol=1e-5)
  np.testing.assert_allclose(jacobian, [gradient] * 3, rtol=1e-5)


class SmoothCritic(nn.Module):
  """Critic with curvature, unlike one of leaky ReLUs."""

  @nn.compact
  def __call__(self, x):
    x = jnp.tanh(nn.Conv(3, (4, 4), strides=2, padding=1)(x))
    return nn.Dense(1)(x.reshape(len(x), -1))[:, 0]


MODULES = [
  SmoothCritic(),
  critic_lib.Critic(2, (1,)),
  critic_lib.Critic(2, (1, 2), network='residual', head='patch'),
]
PENALTIES = {
  'r1': lambda critic, x, y, mix: penalties.r1_penalty(critic, x),
  'gp': penalties.gradient_penalty,
}


def plain(name, critic, x, y, mix):
  """Computes the same penalties by differentiating a gradient."""
  if name == 'gp':
    mix = mix[:, None, None, None]
    x = mix * x + (1 - mix) * y
  gradients = jax.grad(lambda x: critic(x).sum())(x)
  squares = (gradients**2).sum((1, 2, 3))
  return squares / 2 if name == 'r1' else (jnp.sqrt(squares) - 1) ** 2


@pytest.mark.parametrize('name', PENALTIES)
@pytest.mark.parametrize('module', MODULES)
def test_a_penalty_equals_plain_double_differentiation(module, name):
  """Also compares with finite differences, in double precision."""
  with jax.enable_x64(True):
    inputs = (*uniform(2, 3, 4, 4, 1).astype(float), np.array([0.1, 0.5, 0.8]))
    shapes = jax.eval_shape(module.init, jax.random.key(0), inputs[0])['params']
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)

    def mean(penalty, params):
      def critic(x):
        return adversarial.mean_over_map(module.apply({'params': params}, x))

      return penalty(critic, *inputs).mean()

    ours = functools.partial(mean, PENALTIES[name])
    theirs = functools.partial(mean, functools.partial(plain, name))
    ours = jax.jit(jax.value_and_grad(ours))
    value, grads = jax.device_get(ours(params))
    by_hand, expected = jax.jit(jax.value_and_grad(theirs))(params)
    np.testing.assert_allclose(value, by_hand, rtol=1e-9)
    assert_close(grads, expected, rtol=1e-7, atol=1e-9)
    assert max(np.abs(g).max() for g in jax.tree.leaves(grads)) > 1e-2
    leaves, treedef = jax.tree.flatten(params)
    for i, leaf in enumerate(leaves):
      step = np.zeros(leaf.shape)
      step.flat[0] = 1e-5
      up, down = (
        ours(treedef.unflatten([*leaves[:i], leaf + by, *leaves[i + 1 :]]))[0]
        for by in (step, -step)
      )
      got = jax.tree.leaves(grads)[i].ravel()[0]
      np.testing.assert_allclose(got, (up - down) / 2e-5, rtol=1e-5, atol=1e-7)


def test_a_flat_critic_is_penalised_by_one_and_stays_finite():
  x = uniform(*SHAPE)
  penalty = functools.partial(
    penalties.gradient_penalty,
    x=x,
    x_recon=-x,
    interpolation=np.full(3, 0.5, np.float32),
  )
  w = np.zeros(4, np.float32)
  np.testing.assert_array_equal(penalty(linear(w)), [1.0] * 3)
  gradient = jax.grad(lambda w: penalty(linear(w)).sum())(w)
  np.testing.assert_array_equal(gradient, [0.0] * 4)


@pytest.mark.parametrize('scale', [1e-25, 1e-18, 1e-10])
def test_an_almost_flat_critic_has_a_finite_gradient(scale):
  x = uniform(*SHAPE)
  gradient = jax.grad(
    lambda w: penalties.gradient_penalty(
      linear(w), x, -x, np.full(3, 0.5, np.float32)
    ).mean()
  )(np.float32(scale * W))
  assert np.isfinite(gradient).all()
  assert np.linalg.norm(gradient) < 2.001  # 2 (1 - |w|)


@jax.jit
def penalty_of_squares(*args):
  """Penalizes the critic 5 x^2 of one pixel, with the gradient 10 x."""
  return penalties.gradient_penalty(lambda x: 5 * x[:, 0, 0, 0] ** 2, *args)


@pytest.mark.parametrize(('mix', 'place'), [(1.0, 2.0), (0.0, -3.0)])
def test_interpolation_runs_from_the_reconstruction_to_the_photograph(
  mix, place
):
  x, x_recon = (np.full((2, 1, 1, 1), at, np.float32) for at in (2, -3))
  got = penalty_of_squares(x, x_recon, np.full(2, mix, np.float32))
  np.testing.assert_allclose(got, [(10 * abs(place) - 1) ** 2] * 2, rtol=1e-6)


def test_each_image_has_its_own_interpolation_weight():
  x, x_recon = (np.full((3, 1, 1, 1), at, np.float32) for at in (2, 0))
  got = penalty_of_squares(x, x_recon, np.float32([0, 0.25, 1]))
  np.testing.assert_allclose(got, [1.0, 16.0, 361.0], rtol=1e-6)


def test_a_penalty_does_not_depend_on_the_batch_mates():
  module = critic_lib.Critic(2, (1,), norm='group')
  x, x_recon = uniform(2, 3, 4, 4, 1)
  mix = np.array([0.1, 0.5, 0.8], np.float32)
  variables = jax.jit(module.init)(jax.random.key(0), x)
  penalty = jax.jit(
    functools.partial(
      penalties.gradient_penalty, functools.partial(module.apply, variables)
    )
  )
  together = penalty(x, x_recon, mix)
  assert together.shape == (3,)
  for i in range(3):
    alone = [np.stack([leaf[i]] * 3) for leaf in (x, x_recon, mix)]
    np.testing.assert_allclose(penalty(*alone), [together[i]] * 3, rtol=1e-4)


def test_lecam_by_hand():
  """Checks (r - average of f)+^2 + (average of r - f)+^2."""
  got = penalties.lecam_penalty(
    np.float32([2, -4, 1]),
    np.float32([-1, 0, 5]),
    average_real=np.float32(1),
    average_fake=np.float32(-2),
  )
  # (2 + 2)^2 + (1 + 1)^2; 0 + 1; (1 + 2)^2 + 0
  np.testing.assert_array_equal(got, [20.0, 1.0, 9.0])


def test_lecam_pulls_each_logit_to_the_opposite_moving_average():
  real, fake = jax.grad(
    lambda real, fake: penalties.lecam_penalty(
      real, fake, np.float32(1), np.float32(-2)
    ).sum(),
    (0, 1),
  )(np.float32([2, -3]), np.float32([-1, 3]))
  np.testing.assert_array_equal(real, [8.0, 0.0])
  np.testing.assert_array_equal(fake, [-4.0, 0.0])
