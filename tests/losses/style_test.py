"""Distances of styles: by hand, against numpy, and their mistakes."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.networks import jitted, uniform
from vaegan_jax.losses.style import gram_distance, style_and_content_loss


def gram_by_loop(features_x, features_y, weights, normalize):
  """`gram_distance` in double precision, a pair of channels at a time."""
  total = np.zeros(len(next(iter(features_y.values()))))
  for name, weight in weights.items():
    for i in range(len(total)):
      grams = []
      for features in (features_x, features_y):
        feature = np.asarray(features[name], np.float64)
        feature = feature[i if len(feature) > 1 else 0]
        flat = feature.reshape(-1, feature.shape[-1])
        channels = range(flat.shape[1])
        grams.append(
          [
            [(flat[:, c] * flat[:, d]).mean() for d in channels]
            for c in channels
          ]
        )
      a, b = np.asarray(grams)
      scale = (a**2).sum() if normalize == 'relative' else 4 * len(a) ** 2
      total[i] += weight * ((a - b) ** 2).sum() / scale
  return total


def test_gram_distance_by_hand():
  # Positions (1, 2) and (3, 0): the Gram matrix [[10, 2], [2, 4]] / 2.
  x = {'a': np.float32([[[1, 2], [3, 0]]]), 'b': np.float32([[3]])}
  # One position (1, 1): [[1, 1], [1, 1]].
  y = {'a': np.float32([[[1, 1]]]), 'b': np.float32([[1]])}
  # [[5, 1], [1, 2]] - 1: 16 + 1 = 17; 9 - 1: 64.
  of_a, of_b = 17 / (4 * 2**2), 64 / 4
  gram = gram_distance
  np.testing.assert_allclose(gram(x, y), [(of_a + of_b) / 2])
  np.testing.assert_allclose(gram(x, y, weights=[2, 0]), [2 * of_a])
  np.testing.assert_allclose(
    gram(x, y, weights={'b': 1, 'a': 2}), [2 * of_a + of_b]
  )
  # The squares of x's Gram matrices are 25 + 1 + 1 + 4 and 81.
  np.testing.assert_allclose(
    gram(x, y, weights=[1, 1], normalize='relative'), [17 / 31 + 64 / 81]
  )


_gram_distance = jax.jit(gram_distance, static_argnames='normalize')


@settings(max_examples=20, deadline=None)
@given(
  seed=st.integers(0, 2**32 - 1),
  normalize=st.sampled_from(['none', 'relative']),
  styles=st.sampled_from([1, 3]),
)
def test_gram_distance_equals_a_loop_over_channels(seed, normalize, styles):
  rng = np.random.default_rng(seed)

  def features(batch, side):
    return {  # In JAX's order.
      'flat': rng.normal(size=(batch, 4)).astype(np.float32),
      'map': rng.normal(size=(batch, side, 2, 3)).astype(np.float32),
    }

  distance = functools.partial(_gram_distance, normalize=normalize)
  x, y = features(styles, side=3), features(3, side=5)  # Of any size.
  for weights in (None, [0.5, 2.0]):
    got = distance(x, y, weights=weights)
    named = dict(zip(x, weights or [0.5, 0.5], strict=True))
    expected = gram_by_loop(x, y, named, normalize)
    np.testing.assert_allclose(got, expected, rtol=1e-3)
  # Where something is does not matter; of itself an image is not far.
  shuffled = {**y, 'map': rng.permutation(y['map'], axis=1)}
  np.testing.assert_allclose(distance(y, shuffled), 0, atol=1e-8)
  np.testing.assert_array_equal(distance(y, y), 0)


def test_for_a_gram_matrix_one_number_an_image_is_one_channel():
  x, y = uniform(3), uniform(3, seed=1)
  got = gram_distance({'a': x}, {'a': y})
  np.testing.assert_allclose(got, (x**2 - y**2) ** 2 / 4, rtol=1e-5)


@pytest.mark.parametrize('normalize', ['none', 'relative'])
def test_the_gradients_of_the_style_are_finite(normalize):
  zero, one = np.zeros((3, 4), np.float32), uniform(3, 4)
  x, y = np.stack([zero, one, zero, one]), np.stack([zero, one, one, zero])

  def loss(y):
    features, reference = {'a': y}, {'a': x}
    return style_and_content_loss(
      features, reference, reference, normalize=normalize
    )

  def both(y):
    values, pull = jax.vjp(loss, y)
    return values, pull(np.ones(4, np.float32))

  values, (gradient,) = jitted(both, y)
  np.testing.assert_allclose(values[:2], 0, atol=1e-9)
  assert (values[2:] > 1e-3).all()
  assert np.isfinite(values).all()
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
  ('x', 'y', 'options', 'words'),
  [
    ({}, {}, {}, 'no features'),
    ({'a': (1, 2)}, {'b': (1, 2)}, {}, r"\['a'\].*\['b'\]"),
    ({'a': (1, 5, 2)}, {'a': (1, 5, 3)}, {}, r"'a'.*\(1, 5, 2\).*\(1, 5, 3\)"),
    ({'a': (2, 5, 2)}, {'a': (3, 5, 2)}, {}, r"'a'.*\(2, 5, 2\).*\(3, 5, 2\)"),
    ({'a': (1, 2)}, {'a': (1, 2)}, {'normalize': 'unit'}, "'unit'.*relative"),
    ({'a': (1, 2)}, {'a': (1, 2)}, {'weights': [1, 2]}, '2 weights for 1'),
  ],
)
def test_a_mistake_with_styles_is_named(x, y, options, words):
  x, y = ({n: np.ones(s) for n, s in shapes.items()} for shapes in (x, y))
  with pytest.raises(ValueError, match=words):
    gram_distance(x, y, **options)


def test_style_and_content_loss_by_hand():
  made = {'a': np.float32([[[1], [3]]]), 'b': np.float32([[[2]]])}
  content = {'a': np.float32([[[2], [0]]])}
  style = {'b': np.float32([[[1], [1]]])}  # Of two positions.
  loss = functools.partial(style_and_content_loss, made, content, style)
  # Content: (1 + 9) / 2. Style: (4 - 1)^2 / 4, of one layer.
  np.testing.assert_allclose(loss(), [5 + 1e4 * 9 / 4])
  np.testing.assert_allclose(
    loss(content_weight=3.0, style_weight=2.0), [15 + 4.5]
  )
  # Shares: 5 of the mean square 2, halved; 9 of the squared Gram matrix 1.
  np.testing.assert_allclose(
    loss(style_weight=1.0, normalize='relative'), [5 / 2 / 2 + 9]
  )


def test_one_style_is_for_every_image():
  made, content = ({'a': uniform(3, 2, 2, 4, seed=s)} for s in (0, 1))
  style = {'a': uniform(1, 5, 5, 4, seed=2)}
  loss = np.asarray(style_and_content_loss(made, content, style))
  assert loss.shape == (3,)
  for i in range(3):
    own = {'a': made['a'][i : i + 1]}, {'a': content['a'][i : i + 1]}
    alone = style_and_content_loss(*own, style)
    np.testing.assert_allclose(alone, loss[i : i + 1], rtol=1e-5)


@pytest.mark.parametrize(
  ('content', 'style', 'options', 'words'),
  [
    ({'c': (2, 3)}, {'a': (1, 3)}, {}, r"'c'.*\['a', 'b'\]"),
    ({'a': (2, 3)}, {'c': (1, 3)}, {}, r"'c'.*\['a', 'b'\]"),
    ({'a': (1, 3)}, {'b': (1, 3)}, {}, r"'a'.*\(1, 3\).*\(2, 3\)"),
    ({}, {'b': (1, 3)}, {}, 'no features'),
    ({'a': (2, 3)}, {'b': (1, 3)}, {'normalize': 'unit'}, "'unit'"),
  ],
)
def test_a_mistake_with_a_style_loss_is_named(content, style, options, words):
  made = {'a': np.ones((2, 3)), 'b': np.ones((2, 3))}
  content, painting = (
    {n: np.ones(s) for n, s in shapes.items()} for shapes in (content, style)
  )
  with pytest.raises(ValueError, match=words):
    style_and_content_loss(made, content, painting, **options)
