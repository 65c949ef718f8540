"""Distances between features: by hand, against numpy, and of styles."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaegan_jax import names
from vaegan_jax.losses import distances

OPTIONS = list(
  itertools.product(
    names.NORMALIZATIONS, names.DISTANCE_NORMS, names.REDUCTIONS
  )
)
EPSILON = 1e-8  # Keeps zero features finite; small ones feel it.


def uniform(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32)


def by_loop(features_x, features_y, weights, normalize, norm, reduction):
  """`feature_distance` in double precision, a position at a time."""
  power = {'l2': 2, 'l1': 1}[norm]
  total = np.zeros(len(next(iter(features_x.values()))))
  for name, weight in weights.items():
    for i in range(len(total)):
      a, b = (
        np.asarray(features[name][i], np.float64)
        for features in (features_x, features_y)
      )
      channels = a.shape[-1] if a.ndim else 1
      positions = list(
        zip(a.reshape(-1, channels), b.reshape(-1, channels), strict=True)
      )
      sums = []
      for u, v in positions:
        if normalize == 'unit':
          u, v = (w / np.sqrt((w**2).sum() + EPSILON) for w in (u, v))
        if normalize == 'local':
          whole = np.asarray(features_x[name], np.float64)
          least = 0.1 * (whole**2).mean() + EPSILON
          u, v = (w / np.sqrt((w**2).mean() + least) for w in (u, v))
        sums.append((weight * np.abs(u - v) ** power).sum())
      count = {'sum': 1, 'mean': a.size, 'spatial': len(positions)}[reduction]
      scale = 1
      if normalize == 'batch':
        whole = np.asarray(features_x[name], np.float64)
        scale = (np.abs(whole) ** power).mean() + EPSILON
      if normalize == 'relative':
        scale = (np.abs(a) ** power).mean() + EPSILON
      total[i] += sum(sums) / count / scale
  return total


# One image of two positions with two channels, and a flat layer.
X = {'map': [[[3.0, 4.0], [0.0, 2.0]]], 'flat': [[1.0, 1.0]]}
Y = {'map': [[[3.0, 0.0], [0.0, 1.0]]], 'flat': [[1.0, 4.0]]}
# (normalize, norm): the distances of the map and of the flat layer, each for
# 'sum', 'mean' and 'spatial'.
BY_HAND = {
  # The differences are (0, 4), (0, 1) and (0, 3).
  ('none', 'l2'): ((17, 17 / 4, 17 / 2), (9, 9 / 2, 9)),
  ('none', 'l1'): ((5, 5 / 4, 5 / 2), (3, 3 / 2, 3)),
  # (.6, .8) to (1, 0): .16 + .64, and .4 + .8; (0, 1) to itself.
  # (1, 1) / sqrt 2 to (1, 4) / sqrt 17: 2 - 2 * 5 / sqrt 34, and 3 / sqrt 17.
  ('unit', 'l2'): (
    (0.8, 0.2, 0.4),
    (2 - 10 / 34**0.5, 1 - 5 / 34**0.5, 2 - 10 / 34**0.5),
  ),
  ('unit', 'l1'): (
    (1.2, 0.3, 0.6),
    (3 / 17**0.5, 1.5 / 17**0.5, 3 / 17**0.5),
  ),
  # The reference's mean squares are 29 / 4 and 1, its mean sizes 9 / 4 and 1.
  ('relative', 'l2'): ((68 / 29, 17 / 29, 34 / 29), (9, 9 / 2, 9)),
  ('relative', 'l1'): ((20 / 9, 5 / 9, 10 / 9), (3, 3 / 2, 3)),
}
# 'local': the reference's mean squares are 29 / 4 and 1, of which a tenth is
# added to those of each position: 12.5 and 2, 4.5 and .5; 1, and 8.5.
_ROOTS = [(square + 0.725) ** 0.5 for square in (12.5, 2, 4.5, 0.5)]
_LOCAL_MAP = [
  3 / _ROOTS[2] - 3 / _ROOTS[0],
  4 / _ROOTS[0],
  2 / _ROOTS[1] - 1 / _ROOTS[3],
]
_LOCAL_FLAT = [1 / 1.1**0.5 - 1 / 8.6**0.5, 4 / 8.6**0.5 - 1 / 1.1**0.5]
for _norm, _power in (('l2', 2), ('l1', 1)):
  _map, _flat = (
    sum(abs(d) ** _power for d in differences)
    for differences in (_LOCAL_MAP, _LOCAL_FLAT)
  )
  BY_HAND['local', _norm] = (
    (_map, _map / 4, _map / 2),
    (_flat, _flat / 2, _flat),
  )
# It is a batch of one.
BY_HAND |= {('batch', n): BY_HAND['relative', n] for n in ('l2', 'l1')}


def arrays(features):
  return {name: jnp.array(value) for name, value in features.items()}


@pytest.mark.parametrize(('normalize', 'norm', 'reduction'), OPTIONS)
def test_distance_by_hand(normalize, norm, reduction):
  place = names.REDUCTIONS.index(reduction)
  of_map, of_flat = (layer[place] for layer in BY_HAND[normalize, norm])

  def distance(weights):
    return distances.feature_distance(
      arrays(X),
      arrays(Y),
      weights=weights,
      normalize=normalize,
      norm=norm,
      reduction=reduction,
    )

  np.testing.assert_allclose(distance(None), [of_map + of_flat], rtol=1e-5)
  np.testing.assert_allclose(distance([1, 0]), [of_map], rtol=1e-5)
  expected = [0.5 * of_map + 3 * of_flat]
  np.testing.assert_allclose(distance([0.5, 3.0]), expected, rtol=1e-5)
  by_name = {'flat': 3.0, 'map': 0.5}
  np.testing.assert_allclose(distance(by_name), expected, rtol=1e-5)


@pytest.mark.parametrize(
  ('reduction', 'of_map', 'of_flat'),
  # Squares (0, 16), (0, 1) and (0, 9); only the second channel's count.
  [('sum', 17, 9), ('mean', 17 / 4, 9 / 2), ('spatial', 17 / 2, 9)],
)
def test_a_vector_weights_the_channels(reduction, of_map, of_flat):
  def distance(weights):
    return distances.feature_distance(
      arrays(X), arrays(Y), weights=weights, reduction=reduction
    )

  vector = jnp.array([100.0, 2.0])
  for weights in ([vector, 0.5], {'flat': 0.5, 'map': vector}):
    expected = [2 * of_map + 0.5 * of_flat]
    np.testing.assert_allclose(distance(weights), expected, rtol=1e-6)
  np.testing.assert_array_equal(distance([jnp.array([1.0, 0.0]), 0]), [0.0])


def test_weights_in_order_are_in_the_order_of_x():
  y = dict(reversed(arrays(Y).items()))
  distance = distances.feature_distance(arrays(X), y, weights=[1, 0])
  np.testing.assert_allclose(distance, [17.0])


@settings(max_examples=40, deadline=None)
@given(
  seed=st.integers(0, 2**32 - 1),
  scale=st.sampled_from([1e-3, 1.0, 1e6]),
  options=st.sampled_from(OPTIONS),
  vectors=st.booleans(),
)
def test_distance_equals_a_loop_over_images(seed, scale, options, vectors):
  rng = np.random.default_rng(seed)
  shapes = {
    'map': (4, 2, 3, 3),
    'words': (4, 5, 2),
    'flat': (4, 6),
    'one': (4,),
  }
  x, y = (
    {
      name: scale * rng.normal(size=shape).astype(np.float32)
      for name, shape in shapes.items()
    }
    for _ in range(2)
  )
  weights = {
    name: rng.uniform(size=shape[1:][-1:] if vectors else ())
    for name, shape in shapes.items()
  }
  normalize, norm, reduction = options
  got = distances.feature_distance(
    x, y, weights=weights, normalize=normalize, norm=norm, reduction=reduction
  )
  assert got.shape == (4,)
  assert got.dtype == jnp.float32
  expected = by_loop(x, y, weights, *options)
  np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_one_number_an_image_is_one_channel():
  x, y = {'a': uniform(3)}, {'a': uniform(3, seed=1)}
  wide_x, wide_y = ({'a': f['a'][:, None]} for f in (x, y))
  for normalize, norm, reduction in OPTIONS:
    options = {'normalize': normalize, 'norm': norm, 'reduction': reduction}
    np.testing.assert_array_equal(
      distances.feature_distance(x, y, **options),
      distances.feature_distance(wide_x, wide_y, **options),
    )


def test_it_is_lpips():
  """Zhang et al. (arXiv 1801.03924), eq. 1, written out."""
  x, y = (
    {'a': uniform(2, 4, 3, 5, seed=s), 'b': uniform(2, 2, 2, 7, seed=s + 1)}
    for s in (0, 2)
  )
  weights = {'a': np.abs(uniform(5)), 'b': np.abs(uniform(7))}
  expected = np.zeros(2)
  for name, weight in weights.items():
    a, b = (np.asarray(f[name], np.float64) for f in (x, y))
    a, b = (f / np.sqrt((f**2).sum(-1, keepdims=True)) for f in (a, b))
    expected += ((a - b) ** 2 @ np.float64(weight)).mean((1, 2))
  got = distances.feature_distance(
    x, y, weights=weights, normalize='unit', reduction='spatial'
  )
  np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
@pytest.mark.parametrize(('normalize', 'norm', 'reduction'), OPTIONS)
def test_values_and_gradients_are_finite_everywhere(
  dtype, normalize, norm, reduction
):
  zero, one, other = jnp.zeros((3, 4)), uniform(3, 4), uniform(3, 4, seed=1)
  # Each image is another pair; of the first two, both sides are the same.
  x = jnp.stack([zero, one, zero, one, one]).astype(dtype)
  y = jnp.stack([zero, one, one, zero, other]).astype(dtype)

  def distance(x, y):
    return distances.feature_distance(
      {'a': x},
      {'a': y},
      normalize=normalize,
      norm=norm,
      reduction=reduction,
    )

  distance, pull = jax.vjp(distance, x, y)
  assert np.isfinite(distance).all()
  np.testing.assert_array_equal(distance[:2], 0)
  assert (distance[2:] > 0).all()
  for gradient in pull(jnp.ones_like(distance)):
    assert gradient.dtype == dtype
    assert np.isfinite(np.asarray(gradient, np.float32)).all()
    np.testing.assert_array_equal(gradient[:2], 0)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_half_precision_features_accumulate_in_single_precision(dtype):
  # 5000 ones would stop at 256 in bfloat16, and at 2048 in float16.
  x = jnp.zeros((1, 1, 5000), dtype)
  for norm, reduction in itertools.product(
    names.DISTANCE_NORMS, ('sum', 'spatial')
  ):
    distance = distances.feature_distance(
      {'a': x}, {'a': x + 1}, norm=norm, reduction=reduction
    )
    assert distance.dtype == jnp.float32
    np.testing.assert_array_equal(distance, [5000.0])


@pytest.mark.parametrize(
  ('change', 'options', 'words'),
  [
    ({}, {'normalize': 'l2'}, "normalize is 'l2'.*none, unit, relative"),
    ({}, {'norm': 'l3'}, "norm is 'l3'.*l1, l2"),
    ({}, {'reduction': 'max'}, "reduction is 'max'.*sum, mean, spatial"),
    ({}, {'weights': [1.0]}, '1 weights for 2 layers.*map.*flat'),
    ({}, {'weights': [1.0] * 3}, '3 weights for 2 layers.*map.*flat'),
    (
      {},
      {'weights': {'map': 1.0, 'fat': 1.0}},
      r"\['fat', 'map'\].*\['map', 'flat'\]",
    ),
    ({}, {'weights': {'map': 1.0}}, r"\['map'\].*\['map', 'flat'\]"),
    ({'other': [[1.0]]}, {}, r"\['map', 'flat'\].*\['map', 'flat', 'other'\]"),
    ({'flat': [[1.0]]}, {}, r"'flat'.*\(1, 2\).*\(1, 1\)"),
    ({'flat': [[1.0, 1.0]] * 2}, {}, r"'flat'.*\(1, 2\).*\(2, 2\)"),
    ({'flat': [1.0]}, {}, r"'flat'.*\(1, 2\).*\(1,\)"),
  ],
)
def test_a_mistake_is_named_in_one_sentence(change, options, words):
  with pytest.raises(ValueError, match=words) as error:
    distances.feature_distance(arrays(X), arrays(Y | change), **options)
  message = str(error.value)
  assert '\n' not in message
  assert '. ' not in message


def test_no_layers_at_all_are_a_mistake():
  with pytest.raises(ValueError, match='no features to compare'):
    distances.feature_distance({}, {})


@pytest.mark.parametrize(
  ('feature', 'weight'),
  # Without a check, the last two would be broadcast and summed five times.
  [((1, 2, 3), 2), ((1, 2, 3), 4), ((2, 1), 5), ((2,), 5)],
)
def test_a_vector_that_is_not_of_the_channels_is_a_mistake(feature, weight):
  features = {'conv': jnp.zeros(feature)}
  with pytest.raises(ValueError, match=f"'conv'.*{weight}"):
    distances.feature_distance(features, features, weights=[jnp.ones(weight)])


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
  x = {'a': jnp.array([[[1.0, 2.0], [3.0, 0.0]]]), 'b': jnp.array([[3.0]])}
  # One position (1, 1): [[1, 1], [1, 1]].
  y = {'a': jnp.array([[[1.0, 1.0]]]), 'b': jnp.array([[1.0]])}
  # [[5, 1], [1, 2]] - 1: 16 + 1 = 17; 9 - 1: 64.
  of_a, of_b = 17 / (4 * 2**2), 64 / 4
  gram = distances.gram_distance
  np.testing.assert_allclose(gram(x, y), [(of_a + of_b) / 2])
  np.testing.assert_allclose(gram(x, y, weights=[2, 0]), [2 * of_a])
  np.testing.assert_allclose(
    gram(x, y, weights={'b': 1, 'a': 2}), [2 * of_a + of_b]
  )
  # The squares of x's Gram matrices are 25 + 1 + 1 + 4 and 81.
  np.testing.assert_allclose(
    gram(x, y, weights=[1, 1], normalize='relative'), [17 / 31 + 64 / 81]
  )


@settings(max_examples=20, deadline=None)
@given(
  seed=st.integers(0, 2**32 - 1),
  normalize=st.sampled_from(['none', 'relative']),
  styles=st.sampled_from([1, 3]),
)
def test_gram_distance_equals_a_loop_over_channels(seed, normalize, styles):
  rng = np.random.default_rng(seed)

  def features(batch, side):
    return {
      'map': rng.normal(size=(batch, side, 2, 3)).astype(np.float32),
      'flat': rng.normal(size=(batch, 4)).astype(np.float32),
    }

  x, y = features(styles, side=3), features(3, side=5)  # Of any size.
  for weights in (None, [0.5, 2.0]):
    got = distances.gram_distance(x, y, weights=weights, normalize=normalize)
    named = dict(zip(x, weights or [0.5, 0.5], strict=True))
    expected = gram_by_loop(x, y, named, normalize)
    np.testing.assert_allclose(got, expected, rtol=1e-3)
  # Where something is does not matter; of itself an image is not far.
  shuffled = {**y, 'map': rng.permutation(y['map'], axis=1)}
  moved = distances.gram_distance(y, shuffled, normalize=normalize)
  np.testing.assert_allclose(moved, 0, atol=1e-8)
  itself = distances.gram_distance(y, y, normalize=normalize)
  np.testing.assert_array_equal(itself, 0)


def test_for_a_gram_matrix_one_number_an_image_is_one_channel():
  x, y = uniform(3), uniform(3, seed=1)
  got = distances.gram_distance({'a': x}, {'a': y})
  np.testing.assert_allclose(got, (x**2 - y**2) ** 2 / 4, rtol=1e-5)


@pytest.mark.parametrize('normalize', ['none', 'relative'])
def test_the_gradients_of_the_style_are_finite(normalize):
  zero, one = jnp.zeros((3, 4)), uniform(3, 4)
  x, y = jnp.stack([zero, one, zero, one]), jnp.stack([zero, one, one, zero])

  def loss(y):
    features, reference = {'a': y}, {'a': x}
    return distances.style_and_content_loss(
      features, reference, reference, normalize=normalize
    )

  values, pull = jax.vjp(loss, y)
  (gradient,) = pull(jnp.ones_like(values))
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
  x, y = ({n: jnp.ones(s) for n, s in shapes.items()} for shapes in (x, y))
  with pytest.raises(ValueError, match=words):
    distances.gram_distance(x, y, **options)


def test_style_and_content_loss_by_hand():
  made = {'a': jnp.array([[[1.0], [3.0]]]), 'b': jnp.array([[[2.0]]])}
  content = {'a': jnp.array([[[2.0], [0.0]]])}
  style = {'b': jnp.array([[[1.0], [1.0]]])}  # Of two positions.
  loss = functools.partial(
    distances.style_and_content_loss, made, content, style
  )
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
  loss = distances.style_and_content_loss(made, content, style)
  assert loss.shape == (3,)
  for i in range(3):
    own = {'a': made['a'][i : i + 1]}, {'a': content['a'][i : i + 1]}
    alone = distances.style_and_content_loss(*own, style)
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
  made = {'a': jnp.ones((2, 3)), 'b': jnp.ones((2, 3))}
  content, style = (
    {n: jnp.ones(s) for n, s in shapes.items()} for shapes in (content, style)
  )
  with pytest.raises(ValueError, match=words):
    distances.style_and_content_loss(made, content, style, **options)
