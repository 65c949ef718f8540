"""Losses where some values are no data, against those of what is left."""

import functools

import jax
import numpy as np
import pytest

from tests.networks import jitted, loss_config
from vaegan_jax.losses import moments, reconstruction

RNG = np.random.default_rng(0)
X, Y = RNG.uniform(-1, 1, (2, 3, 16, 8, 2)).astype('float32')
HALF = np.zeros(X.shape, bool)
HALF[:, :8] = True
UPPER, LOWER = X[:, :8], Y[:, :8]
FEATURES = RNG.normal(0, 1, (2, 5)).astype('float32')


def loss_of(x, y, valid, **fields):
  """Returns the distance [B], in the channels' products at each position."""
  loss = loss_config(**fields)
  pairs = x, y, {'a': x @ FEATURES}, {'a': y @ FEATURES}
  return reconstruction.compare(loss, *pairs, valid=valid)


def pixel_terms(x, y, valid, **fields):
  losses = reconstruction.create_reconstruction_losses(
    None, None, loss_config(**fields)
  )
  return losses(None, x, {'x_recon': y, 'x_half': y[:, ::2, ::2]}, valid=valid)


@pytest.mark.parametrize('reduction', ('sum', 'mean', 'spatial'))
@pytest.mark.parametrize('normalize', ('none', 'local', 'relative'))
def test_half_of_an_example_has_the_distance_of_that_half(normalize, reduction):
  fields = {'normalize': normalize, 'reduction': reduction}
  fields |= {'image_weight': 0.7, 'image_halvings': 2, 'image_high_pass': 0.5}

  def distances(y, x=X):
    return loss_of(x, y, HALF, **fields), loss_of(UPPER, LOWER, None, **fields)

  got, wanted = jitted(distances, Y, X)
  np.testing.assert_allclose(got, wanted, rtol=1e-5)
  # Values that mean no data change no bit and get no gradient.
  other = np.where(HALF, Y, 9), np.where(HALF, X, -7)
  np.testing.assert_array_equal(jitted(distances, *other)[0], got)
  gradient = jitted(jax.grad(lambda y: distances(y)[0].sum()), Y)
  assert (gradient[~HALF] == 0).all() and (gradient[HALF] != 0).any()


@pytest.mark.parametrize('reduction', ('sum', 'mean', 'spatial'))
def test_channels_that_differ_in_no_data_count_by_themselves(reduction):
  valid = RNG.random(X.shape) > 0.3
  weighting = {'image_weight': 1.0, 'reduction': reduction}
  got = jitted(lambda x, y: loss_of(x, y, valid, **weighting), X, Y)
  compare = functools.partial(
    reconstruction.compare,
    loss_config(reduction=reduction),
    valid=np.repeat(valid.any(-1, keepdims=True), 2, -1),
  )
  features = jitted(compare, X, Y, {'a': X @ FEATURES}, {'a': Y @ FEATURES})
  errors = np.square(X - Y) * valid
  counts = valid.sum((1, 2))
  wanted = {
    'sum': errors.sum((1, 2, 3)),
    'mean': errors.sum((1, 2, 3)) / counts.sum(1),
    'spatial': (errors.sum((1, 2)) / counts).sum(1),
  }[reduction]
  np.testing.assert_allclose(got - features, wanted, rtol=1e-4)
  terms, _ = jitted(pixel_terms, X, Y, valid, reduction=reduction)
  np.testing.assert_allclose(terms['pixel'], wanted, rtol=1e-5)


def test_half_of_an_example_has_the_likelihood_and_moments_of_that_half():
  fields = {'variance': 'optimal', 'reduction': 'mean'}

  def both(x, y):
    halves = x[:, :8], y[:, :8]
    return pixel_terms(x, y, HALF, **fields), pixel_terms(
      *halves, None, **fields
    )

  (got, got_moments), (wanted, wanted_moments) = jitted(both, X, Y)
  assert set(got) == {'distance', 'pixel', 'equivariance'}
  for name, value in got.items():
    np.testing.assert_allclose(value, wanted[name], rtol=1e-5, err_msg=name)
  got, wanted = map(moments.metrics_from_moments, (got_moments, wanted_moments))
  for name, value in got.items():
    np.testing.assert_allclose(value, wanted[name], rtol=1e-5, err_msg=name)
  for where in ({'a': HALF}, HALF[..., 0]):
    sizes = jitted(moments.mean_sizes, {'a': X}, where)
    np.testing.assert_allclose(sizes['a'], np.square(UPPER).mean(), rtol=1e-5)
