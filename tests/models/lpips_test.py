"""LPIPS as a network: the plain distance of its layers is the paper's."""

import functools

import jax
import numpy as np
import pytest

import vaegan_jax
from tests.models.vgg_test import factors, state_dict, zero_state_dict
from tests.networks import uniform
from vaegan_jax.models.pretrained import lpips, vgg, weights


@pytest.fixture(scope='module')
def distance():
  files = {'vgg16.pth': state_dict(16), 'heads.pth': factors()}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(weights, 'read_state_dict', files.get)
    return vaegan_jax.load_lpips('vgg16.pth', 'heads.pth')


@pytest.mark.parametrize('shape', [(2, 64, 64, 3), (1, 64, 80, 1)])
def test_it_is_equation_1_in_vgg(shape, distance):
  """Compares it with NumPy on VGG's features."""
  x, y = uniform(*shape), uniform(*shape, seed=1)
  run = jax.jit(functools.partial(vgg.VGG(16).apply, method='features'))
  trunk = {'params': distance.variables['params']['vgg']}
  features = zip(run(trunk, x).items(), run(trunk, y).values(), strict=True)
  features = {name: (np.asarray(a), np.asarray(b)) for (name, a), b in features}
  expected = 0
  for layer, factor in zip(vgg.LPIPS_LAYERS, factors().values(), strict=True):
    a, b = (
      f / np.linalg.norm(f, axis=-1, keepdims=True) for f in features[layer]
    )
    squares = (factor.reshape(-1) * (a - b) ** 2).sum(axis=-1)
    expected += squares.mean(axis=(1, 2))
  np.testing.assert_allclose(distance(x, y), expected, rtol=1e-3)


def test_small_images_are_enlarged(distance):
  x, y = uniform(1, 16, 24, 3), uniform(1, 16, 24, 3, seed=1)
  wide = [jax.image.resize(i, (1, 64, 96, 3), 'bilinear') for i in (x, y)]
  np.testing.assert_allclose(distance(x, y), distance(*wide), rtol=1e-4)
  for space, enlarged in {
    (32, 48): (64, 96),
    (64, 64): (64, 64),
    (128, 70): (128, 70),
    (1, 1): (64, 64),
  }.items():
    assert lpips.enlarge(uniform(1, *space, 2)).shape == (1, *enlarged, 2)


def test_the_variables_are_those_of_the_module(monkeypatch):
  files = {'vgg16.pth': zero_state_dict(16), 'heads.pth': factors()}
  monkeypatch.setattr(weights, 'read_state_dict', files.get)
  loaded = lpips.load_lpips('vgg16.pth', 'heads.pth')
  module = lpips.LPIPS()
  expected = jax.eval_shape(module.init, jax.random.key(0), uniform(1, 8, 8, 1))
  assert jax.tree.map(np.shape, loaded) == jax.tree.map(np.shape, expected)
  assert all(x.dtype == np.float32 for x in jax.tree.leaves(loaded))
  assert {*module.layer_names, 'vgg'} == set(loaded['params'])


def test_gradients_are_finite_and_reach_the_second_images_alone(distance):
  """It is a pytree, so a step takes it as an argument."""
  # Flat ones: two equal pairs, and one of which the first is not flat.
  x = np.stack([np.full((16, 16, 3), v, np.float32) for v in (-1, 1, 0)])
  y = x.copy()
  x[2] = uniform(16, 16, 3)
  gradient = jax.grad(lambda lpips, x, y: lpips(x, y).sum(), (0, 1, 2))
  to_weights, to_x, to_y = jax.jit(gradient)(distance, x, y)
  leaves = jax.tree.leaves((to_weights, to_x))
  assert not any(np.any(np.asarray(leaf)) for leaf in leaves)
  assert np.isfinite(to_y).all() and to_y[2].any()
  assert np.abs(to_y[:2]).max() < 1e-3
  with pytest.raises(ValueError, match='their shapes must be equal'):
    distance(x, y[:, 1:])
