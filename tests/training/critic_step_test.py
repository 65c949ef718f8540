"""Tests of one critic step: gradients by hand, and its penalties.

A linear critic with the Wasserstein loss has every gradient in closed form:
the loss's is mean(fake) - mean(real), R1's is gamma w, and so on.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.networks import assert_close, uniform
from vaegan_jax.losses import adversarial
from vaegan_jax.models import critic as critic_lib
from vaegan_jax.training.critic_step import (
  CriticConfig,
  CriticState,
  create_critic_step,
)
from vaegan_jax.training.step_kinds import step_kind
from vaegan_jax.training.train_state import NetworkState

RATE = 0.5
W = np.array([0.5, -1.0, 2.0, 0.25], np.float32)
LENGTH = np.linalg.norm(W)
AVERAGES = {'logits_real': 0.3, 'logits_fake': -0.4}
AVERAGES = {name: np.float32(value) for name, value in AVERAGES.items()}
WASSERSTEIN = adversarial.OBJECTIVES['wasserstein'].critic_loss
HINGE = adversarial.hinge_critic_loss
# Images [3, 2, 2, 1], and interpolation weights.
X, RECON, PRIOR = uniform(3, 3, 2, 2, 1)
WEIGHTS = np.array([0.2, 0.5, 1.0], np.float32)
assert_near = functools.partial(np.testing.assert_allclose, rtol=1e-5)


class Linear(nn.Module):
  """A linear critic: the logit <w, x>."""

  @nn.compact
  def __call__(self, x, train=False):
    del train
    x = x.reshape(len(x), -1)
    return x @ self.param('w', nn.initializers.ones, x.shape[1:])


class LinearMap(nn.Module):
  """A critic with a map [B, 2, 2] of logits: w x at each pixel."""

  @nn.compact
  def __call__(self, x, train=False):
    del train
    w = self.param('w', nn.initializers.ones, (x[0].size,))
    return x[..., 0] * w.reshape(x.shape[1:-1])


def create(
  module=None,
  loss=WASSERSTEIN,
  average=lambda tree: tree,
  max_grad_norm=0.0,
  **config,
):
  """Creates (network, averages, step, x, fakes, weights) -> (network, ...).

  The step decides whether the penalties of every n-th step are taken.
  """
  critic_config = CriticConfig(**({'r1_weight': 0.0} | config))
  step_critic = create_critic_step(
    Linear() if module is None else module,
    loss,
    optax.sgd(RATE),
    critic_config,
    average,
    max_grad_norm=max_grad_norm,
  )

  @functools.partial(jax.jit, static_argnums=0)
  def run(regularize, network, averages, x, fakes, weights):
    critic, metrics = step_critic(
      CriticState(network, averages),
      {'x': x, 'interpolation': weights},
      dict(zip(('x_recon', 'x_prior'), fakes, strict=False)),
      *regularize,
    )
    return critic.network, critic.averages, metrics

  def step_network(network, averages, step, *batch):
    kind = step_kind(step, critic_config)
    return run(kind.regularize_critic, network, averages, *batch)

  return step_network


def network(params, batch_stats=None):
  return NetworkState(
    params=params,
    batch_stats=batch_stats or {},
    opt_state=optax.sgd(RATE).init(params),
  )


def flat(x):
  return x.reshape(len(x), -1)


def gradient(before, after):
  """Returns the gradient of a step of plain gradient descent."""
  return (before - after) / RATE


def step_linear(x=X, fakes=(RECON,), weights=WEIGHTS, step=1, **config):
  """Takes one step from W; returns (gradient, averages, metrics)."""
  critic, averages, metrics = create(**config)(
    network({'w': W}), AVERAGES, step, x, fakes, weights
  )
  return gradient(W, critic.params['w']), averages, metrics


def test_a_plain_step_by_hand():
  got, _, metrics = step_linear()
  expected = flat(RECON).mean(0) - flat(X).mean(0)
  assert_near(got, expected, atol=1e-6)
  real, fake = (flat(X) @ W).mean(), (flat(RECON) @ W).mean()
  by_hand = {
    'critic_loss': fake - real,
    'critic_logits_real': real,
    'critic_logits_fake': fake,
    'critic_grad_norm': np.linalg.norm(expected),
  }
  assert metrics.keys() == by_hand.keys()
  for name, value in by_hand.items():
    assert_near(metrics[name], value)


def test_two_batches_of_fakes_have_the_mean_of_their_losses():
  got, _, metrics = step_linear(X, [RECON, PRIOR])
  fakes = (flat(RECON).mean(0) + flat(PRIOR).mean(0)) / 2
  expected = fakes - flat(X).mean(0)
  assert_near(got, expected, atol=1e-6)
  assert_near(metrics['critic_logits_fake'], fakes @ W)
  assert_near(metrics['critic_loss'], expected @ W, atol=1e-6)


def test_two_batches_of_fakes_with_a_nonlinear_loss():
  """Expects the mean of the losses, not the loss of the mean."""
  _, _, metrics = step_linear(3 * X, [3 * RECON, 3 * PRIOR], loss=HINGE)
  real, recon, prior = (3 * flat(images) @ W for images in (X, RECON, PRIOR))
  expected = (
    np.maximum(0, 1 - real)
    + (np.maximum(0, 1 + recon) + np.maximum(0, 1 + prior)) / 2
  )
  assert_near(metrics['critic_loss'], expected.mean())


def test_the_gradient_penalty_by_hand():
  for fakes in ([RECON], [RECON, PRIOR]):
    without, _, plain = step_linear(fakes=fakes)
    got, _, metrics = step_linear(fakes=fakes, gradient_penalty_weight=10.0)
    expected = without + 10 * 2 * (LENGTH - 1) * W / LENGTH
    assert_near(got, expected)
    assert_near(metrics['gradient_penalty'], (LENGTH - 1) ** 2)
    assert metrics['critic_loss'] == plain['critic_loss']


def test_lecam_by_hand():
  without, _, plain = step_linear()
  got, _, metrics = step_linear(lecam_weight=0.7)
  real, fake = flat(X), flat(RECON)
  above = np.maximum(0, real @ W + 0.4)  # The fakes' average is -0.4.
  below = np.maximum(0, 0.3 - fake @ W)  # The real images' is 0.3.
  assert (above > 0).any() and (below > 0).any()
  expected = without + 0.7 * 2 * (above @ real - below @ fake) / 3
  assert_near(got, expected, rtol=1e-4, atol=1e-5)
  assert_near(metrics['lecam_penalty'], (above**2 + below**2).mean())
  assert metrics['critic_loss'] == plain['critic_loss']


def test_a_map_of_logits_has_the_mean_of_its_losses():
  """Uses logits of which the loss of the mean has no gradient."""
  x = np.zeros((2, 2, 2, 1), np.float32)
  x[:, 0, 0], x[:, 0, 1] = 8.0, 6.0  # Logits of 4 and -6, and of 0.
  fakes = np.zeros_like(x)
  fakes[:, 1, 0] = -2.0  # A logit of -4.
  weights = np.ones(2, np.float32)
  got, averages, metrics = step_linear(
    x, [fakes], weights, loss=HINGE, module=LinearMap(), lecam_decay=0.0
  )
  # Of the four pixels: 1 - 4 < 0, 1 + 6, and twice 1; fakes 1, 1, 0 and 1.
  assert_near(metrics['critic_loss'], (7 + 2) / 4 + 3 / 4, rtol=1e-7)
  # Only the second is beyond its margin with an input that is not 0.
  assert_near(got, [0, -6 / 4, 0, 0], rtol=1e-7, atol=1e-6)
  assert_near(averages['logits_real'], (4 - 6) / 4, rtol=1e-7)
  assert_near(averages['logits_fake'], -4 / 4, rtol=1e-7)


def test_penalties_of_a_map_of_logits_take_its_mean():
  module = LinearMap()
  without, _, _ = step_linear(module=module)
  real, fake = flat(X) / 4, flat(RECON) / 4  # The mean logit is <w, x> / 4.
  assert_near(without, fake.mean(0) - real.mean(0), rtol=1e-4)
  length = LENGTH / 4
  got, _, metrics = step_linear(module=module, r1_weight=3.0, r1_every_steps=1)
  assert_near(metrics['r1_penalty'], length**2 / 2)
  assert_near(got, without + 3 * W / 16, rtol=1e-4, atol=1e-5)
  got, _, metrics = step_linear(module=module, gradient_penalty_weight=10.0)
  assert_near(metrics['gradient_penalty'], (length - 1) ** 2)
  expected = without + 10 * 2 * (length - 1) * W / LENGTH / 4
  assert_near(got, expected, rtol=1e-4, atol=1e-5)
  got, _, metrics = step_linear(module=module, lecam_weight=0.7)
  above = np.maximum(0, real @ W + 0.4)
  below = np.maximum(0, 0.3 - fake @ W)
  assert (above > 0).any() and (below > 0).any()
  assert_near(metrics['lecam_penalty'], (above**2 + below**2).mean())
  expected = without + 0.7 * 2 * (above @ real - below @ fake) / 3
  assert_near(got, expected, rtol=1e-4, atol=1e-5)


def test_lecam_penalizes_each_of_two_fakes():
  """Uses fakes on both sides of the average, which must not cancel."""
  zeros, far = np.zeros_like(X), np.zeros_like(X)
  far[:, 0, 1] = 2.0  # W is -1 there: the logit is -2.
  _, _, metrics = step_linear(
    zeros, [far, -far], np.ones(3, np.float32), lecam_weight=1.0
  )
  real = 0.4**2
  reconstructions, prior = (0.3 + 2.0) ** 2, 0.0  # 0.3 - 2 is below 0.
  expected = real + (reconstructions + prior) / 2
  assert_near(metrics['lecam_penalty'], expected)


def test_r1_is_computed_on_every_nth_step_with_n_times_the_weight():
  without, _, _ = step_linear()
  step_critic = create(r1_weight=0.3, r1_every_steps=4)
  for step in range(1, 14):
    critic, _, metrics = step_critic(
      network({'w': W}), AVERAGES, step, X, [RECON], WEIGHTS
    )
    got = gradient(W, critic.params['w'])
    added = 4 * 0.3 * W if step in (4, 8, 12) else 0
    assert_near(got, without + added, rtol=1e-4, atol=1e-5)
    assert_near(
      metrics['critic_grad_norm'], np.linalg.norm(without + added), rtol=1e-4
    )
    # Half the squared slope, which is |w|^2 everywhere.
    assert ('r1_penalty' in metrics) == (step in (4, 8, 12))
    if step in (4, 8, 12):
      r1 = LENGTH**2 / 2
      assert_near(metrics['r1_penalty'], r1)


def test_only_the_gradient_of_the_loss_is_clipped():
  """Uses a limit that R1, with n times its weight, exceeds."""
  plain, _, _ = step_linear()
  length, limit = np.linalg.norm(plain), np.linalg.norm(plain) / 3
  for step, added in ((3, 0), (4, 4 * 0.3 * W)):
    got, _, metrics = step_linear(
      step=step, max_grad_norm=limit, r1_weight=0.3, r1_every_steps=4
    )
    wanted = plain * (limit / length) + added
    assert_near(got, wanted, rtol=1e-4, atol=1e-5)
    assert_near(
      metrics['critic_grad_norm'], np.linalg.norm(plain + added), rtol=1e-4
    )


def test_r1_of_every_step_is_not_clipped_either():
  without, _, _ = step_linear()
  for step in (1, 2):
    got, _, metrics = step_linear(step=step, r1_weight=0.3, r1_every_steps=1)
    assert_near(got, without + 0.3 * W, rtol=1e-4, atol=1e-5)
    limit = np.linalg.norm(without) / 3
    cut, _, _ = step_linear(
      step=step, r1_weight=0.3, r1_every_steps=1, max_grad_norm=limit
    )
    assert_near(cut, without / 3 + 0.3 * W, rtol=1e-4, atol=1e-5)
    assert_near(metrics['r1_penalty'], LENGTH**2 / 2)


def test_penalties_that_are_off_have_no_metric_and_use_no_average():
  nowhere = {name: np.float32(np.nan) for name in AVERAGES}
  critic, _, metrics = create()(
    network({'w': W}), nowhere, 16, X, [RECON], WEIGHTS * np.nan
  )
  assert np.isfinite(critic.params['w']).all()
  assert not {'gradient_penalty', 'lecam_penalty', 'r1_penalty'} & set(metrics)


def test_clipped_weights_never_leave_their_interval():
  """Checks the interval [-0.01, 0.01] of arXiv 1701.07875 at every step."""
  module = critic_lib.Critic(2, (1,))
  params = jax.jit(module.init)(jax.random.key(0), X)['params']
  assert max(np.abs(w).max() for w in jax.tree.leaves(params)) > 0.1
  critic, averages = network(params), AVERAGES
  step_critic = create(module, weight_clip=0.01)
  for step in range(1, 6):
    critic, averages, _ = step_critic(
      critic, averages, step, X, [RECON], WEIGHTS
    )
    leaves = [np.asarray(w) for w in jax.tree.leaves(critic.params)]
    assert len(leaves) == 4
    assert all(np.abs(w).max() <= np.float32(0.01) for w in leaves)
  assert any((np.abs(w) < 0.01).any() for w in leaves)


def test_weights_are_clipped_after_the_step():
  after, _, _ = step_linear()
  critic, _, _ = create(weight_clip=0.6)(
    network({'w': W}), AVERAGES, 1, X, [RECON], WEIGHTS
  )
  expected = np.clip(W - RATE * after, -0.6, 0.6)
  assert_near(critic.params['w'], expected)
  assert 0 < (np.abs(expected) < 0.6).sum() < 4


def test_the_logits_moving_averages_decay():
  """Expects a <- decay a + (1 - decay) mean(logits), with the old critic."""
  _, averages, _ = step_linear(X, [RECON, PRIOR], lecam_decay=0.9)
  real = 0.9 * 0.3 + 0.1 * (flat(X) @ W).mean()
  fakes = np.concatenate([flat(RECON), flat(PRIOR)])
  fake = 0.9 * -0.4 + 0.1 * (fakes @ W).mean()
  assert_near(averages['logits_real'], real)
  assert_near(averages['logits_fake'], fake)
  assert averages.keys() == AVERAGES.keys()


def test_lecam_uses_the_averages_before_the_step():
  slow, *_ = step_linear(lecam_weight=1.0, lecam_decay=0.9)
  fast, *_ = step_linear(lecam_weight=1.0, lecam_decay=0.0)
  np.testing.assert_array_equal(slow, fast)


def test_no_gradient_flows_into_the_images():
  step_critic = create(
    gradient_penalty_weight=10.0, lecam_weight=1.0, r1_weight=1.0
  )

  def total(x, fakes):
    critic, averages, metrics = step_critic(
      network({'w': W}), AVERAGES, 16, x, fakes, WEIGHTS
    )
    outputs = jax.tree.leaves((critic.params, averages, metrics))
    return sum(output.sum() for output in outputs)

  gradients = jax.jit(jax.grad(total, (0, 1)))(X, [RECON, PRIOR])
  for leaf in jax.tree.leaves(gradients):
    np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


def test_a_convolutional_critic_takes_the_gradient_of_the_written_out_loss():
  """Compares all penalties with plain derivatives of gradients."""
  x, x_recon, prior = uniform(3, 3, 4, 4, 1)
  weights = np.array([0.2, 0.5, 0.9], np.float32)
  module = critic_lib.Critic(2, (1,))
  params = jax.jit(module.init)(jax.random.key(0), x)['params']

  def total(params):
    def critic_of(x):
      return module.apply({'params': params}, x)

    def squares(x):
      return (jax.grad(lambda x: critic_of(x).sum())(x) ** 2).sum((1, 2, 3))

    real, recon, fake = critic_of(x), critic_of(x_recon), critic_of(prior)
    losses = nn.relu(1 - real) + (nn.relu(1 + recon) + nn.relu(1 + fake)) / 2
    between = weights[:, None, None, None] * (x - x_recon) + x_recon
    penalties = 10 * (jnp.sqrt(squares(between)) - 1) ** 2
    penalties += 5 * 3 * squares(x) / 2
    return (losses + penalties).mean()

  step_critic = create(
    module, HINGE, gradient_penalty_weight=10.0, r1_weight=3.0, r1_every_steps=5
  )
  critic, *_ = step_critic(
    network(params), AVERAGES, 10, x, [x_recon, prior], weights
  )
  got, wanted = jax.tree.map(gradient, params, critic.params), jax.grad(total)
  assert_close(got, jax.jit(wanted)(params), rtol=1e-3, atol=1e-4)


def test_two_devices_take_the_step_of_one_with_all_images():
  """Compares the vectors of spectral normalisation, too."""
  x, x_recon = (np.concatenate([i, 2 * i[:1]]) for i in (X, RECON))
  weights = np.array([0.2, 0.5, 0.8, 0.1], np.float32)
  module = critic_lib.Critic(2, (1,), spectral_norm=True)
  variables = jax.jit(module.init)(jax.random.key(0), x)
  critic = network(variables['params'], variables['batch_stats'])
  config = dict(
    module=module,
    gradient_penalty_weight=1.0,
    r1_weight=1.0,
    lecam_weight=1.0,
    lecam_decay=0.5,
  )
  expected = create(**config)(critic, AVERAGES, 16, x, [x_recon], weights)
  step = create(
    **config, average=functools.partial(jax.lax.pmean, axis_name='batch')
  )
  step_two = jax.jit(
    jax.vmap(
      lambda *halves: step(critic, AVERAGES, 16, *halves), axis_name='batch'
    )
  )
  halves = [
    leaf.reshape(2, 2, *leaf.shape[1:]) for leaf in (x, x_recon, weights)
  ]
  got = step_two(halves[0], [halves[1]], halves[2])
  for device in range(2):
    own = jax.tree.map(lambda leaf, device=device: leaf[device], got)
    assert_close(own, expected, rtol=1e-4, atol=1e-5)
  moved = jax.tree.map(
    lambda old, new: (old != new).any(),
    critic.batch_stats['block_0'],
    expected[0].batch_stats['block_0'],
  )
  assert all(jax.tree.leaves(moved))
