"""The reconstruction losses: their terms and values."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.networks import jitted, loss_config
from vaegan_jax.losses import reconstruction
from vaegan_jax.losses.reconstruction import create_reconstruction_losses
from vaegan_jax.models.critic import Critic

LOSS = loss_config(adversarial_weight=1.0)
X, Y = (
  np.random.default_rng(0).uniform(-1, 1, (2, 3, 8, 8, 2)).astype('float32')
)


@pytest.fixture(scope='module')
def critic():
  module = Critic(2, (1, 2))
  return module, jax.jit(module.init)(jax.random.key(0), X)


def terms_of(module, variables, **loss):
  losses = create_reconstruction_losses(
    module, lambda logits: -logits, dataclasses.replace(LOSS, **loss)
  )
  return jax.device_get(
    jax.jit(lambda y: losses(variables, X, {'x_recon': y}))(Y)
  )


def likelihood(*args):
  return jitted(reconstruction.negative_log_likelihood, *args)


def test_the_likelihood_uses_the_variance_of_the_errors():
  variance = np.square(X - Y).mean()
  wanted = [
    0.5 * (np.square(x - y) / variance + np.log(2 * np.pi * variance)).sum()
    for x, y in zip(X, Y, strict=True)
  ]
  np.testing.assert_allclose(likelihood(X, Y), wanted, rtol=1e-5)
  terms, _ = terms_of(None, None, variance='optimal')
  np.testing.assert_allclose(terms['distance'], wanted, rtol=1e-5)
  for space in ((-1,), (2, -1), (2, 2, -1)):
    x, y = (a.reshape(len(a), *space, a.shape[-1]) for a in (X, Y))
    np.testing.assert_allclose(likelihood(x, y), wanted, rtol=1e-5)


def test_no_other_variance_makes_the_batch_likelier():
  def mean(variance):
    return np.mean(
      0.5 * (np.square(X - Y) / variance + np.log(2 * np.pi * variance))
    )

  best = np.square(X - Y).mean()
  got = likelihood(X, Y).mean() / X[0].size
  np.testing.assert_allclose(got, mean(best), rtol=1e-5)
  assert got < min(mean(0.9 * best), mean(1.1 * best), mean(0.5))


def test_its_gradient_is_that_of_the_logarithm_of_the_error():
  """It is d/dy of D / 2 log(mean squared error), with constant variance."""

  def logarithm(y):
    return 0.5 * X[0].size * jnp.log(jnp.square(X - y).mean())

  def mean(y):
    return reconstruction.negative_log_likelihood(X, y).mean()

  got, wanted = (jax.jit(jax.grad(f))(Y) for f in (mean, logarithm))
  np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-7)


def test_the_variance_spans_all_devices_of_the_axis():
  halves = [np.concatenate([i, i[:1]]).reshape(2, 2, 8, 8, 2) for i in (X, Y)]
  half = functools.partial(
    reconstruction.negative_log_likelihood, axis_name='devices'
  )
  got = jitted(jax.vmap(half, axis_name='devices'), *halves)
  wanted = likelihood(*(i.reshape(4, 8, 8, 2) for i in halves))
  np.testing.assert_allclose(got.reshape(-1), wanted, rtol=1e-5)


def test_a_perfect_reconstruction_is_finite():
  value, slope = jax.value_and_grad(
    lambda y: reconstruction.negative_log_likelihood(X, y).mean()
  )(X)
  assert np.isfinite(value) and np.isfinite(slope).all()


def test_the_image_is_a_layer_with_its_own_weight(critic):
  without, _ = terms_of(*critic)
  terms, _ = terms_of(*critic, image_weight=0.5)
  errors = np.square(X - Y).sum(axis=(1, 2, 3))
  np.testing.assert_allclose(
    terms['distance'], without['distance'] + 0.5 * errors, rtol=1e-5
  )
  for normalize in ('unit', 'relative', 'batch'):  # The image by the batch.
    options = dict(normalize=normalize, reduction='mean')
    without, _ = terms_of(*critic, **options)
    terms, _ = terms_of(*critic, **options, image_weight=0.5)
    share = errors / X[0].size / np.square(X).mean()
    np.testing.assert_allclose(
      terms['distance'], without['distance'] + 0.5 * share, rtol=1e-4
    )


def test_without_the_distance_only_two_terms_remain(critic):
  terms, moments = terms_of(*critic, distance_weight=0.0)
  whole, _ = terms_of(*critic)
  assert terms.keys() == {'pixel', 'adversarial'}
  assert 'features' not in moments
  for name, term in terms.items():
    np.testing.assert_allclose(term, whole[name], rtol=1e-5)


def test_the_adversarial_loss_of_a_map_is_the_mean_over_its_logits():
  module = Critic(2, (1, 2), head='patch', num_scales=2)
  variables = jax.jit(module.init)(jax.random.key(0), X)
  apply = jax.jit(module.apply)
  for distance_weight in (0.0, 1.0):
    losses = create_reconstruction_losses(
      module,
      lambda logits: logits**2,
      dataclasses.replace(LOSS, distance_weight=distance_weight),
    )
    outputs = {'x_recon': Y, 'x_prior': X}
    terms, _ = jax.jit(losses)(variables, X, outputs)
    wanted = [
      np.square(np.asarray(apply(variables, images))).reshape(3, -1).mean(1)
      for images in (Y, X)
    ]
    assert apply(variables, Y).shape == (3, 2, 2, 2)
    np.testing.assert_allclose(terms['adversarial'], sum(wanted) / 2, rtol=1e-4)
