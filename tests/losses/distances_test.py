"""Distances between features: by hand and against numpy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.networks import uniform
from vaegan_jax import names
from vaegan_jax.losses import distances

# 'log' is that of 'l2', with a test of its own.
OPTIONS = [
  {'normalize': normalize, 'norm': norm, 'reduction': reduction}
  for normalize in names.NORMALIZATIONS
  for norm in ('l1', 'l2')
  for reduction in names.REDUCTIONS
]
EPSILON = 1e-8  # Keeps zero features finite; small ones feel it.


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
  ('unit', 'l1'): ((1.2, 0.3, 0.6), (3 / 17**0.5, 1.5 / 17**0.5, 3 / 17**0.5)),
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
  return {name: np.float32(value) for name, value in features.items()}


@pytest.mark.parametrize('options', OPTIONS)
def test_distance_by_hand(options):
  normalize, norm, reduction = options.values()
  place = names.REDUCTIONS.index(reduction)
  of_map, of_flat = (layer[place] for layer in BY_HAND[normalize, norm])

  def distance(weights):
    return distances.feature_distance(
      arrays(X), arrays(Y), weights=weights, **options
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

  vector = np.float32([100, 2])
  for weights in ([vector, 0.5], {'flat': 0.5, 'map': vector}):
    expected = [2 * of_map + 0.5 * of_flat]
    np.testing.assert_allclose(distance(weights), expected, rtol=1e-6)
  np.testing.assert_array_equal(distance([np.float32([1, 0]), 0]), [0.0])


@pytest.mark.parametrize('normalize', ['none', 'batch'])
def test_log_is_the_logarithm_of_each_layer_and_example(normalize):
  # One layer, of three examples: errors of 3 and 1, of 2 alone, and of none.
  x = np.float32([[[3, 4]], [[0, 2]], [[1, 1]]])
  errors = np.float32([[[3, 1]], [[0, 2]], [[0, 0]]])
  size = {'none': 1, 'batch': 31 / 6 + EPSILON}[normalize]
  squares = np.array([5, 2, 0]) / size

  def distance(y, weight):
    options = {'normalize': normalize, 'norm': 'log', 'reduction': 'mean'}
    return distances.feature_distance(
      {'a': x}, {'a': y}, weights=[weight], **options
    )

  got, pull = jax.vjp(lambda y: distance(y, 0.5), x + errors)
  np.testing.assert_allclose(got, 0.5 * np.log1p(100 * squares), rtol=1e-5)
  # The gradient of the mean of squares, error, over what is left of it.
  slope = errors / size / 2 / (squares + 1e-2)[:, None, None]
  np.testing.assert_allclose(pull(np.ones(3, np.float32))[0], slope, rtol=1e-5)
  # A vector weights the channels within the logarithm.
  second = np.log1p(100 * np.array([0.5, 2, 0]) / size)
  for sign in (1, -1):
    got = distance(x + errors, np.float32([0, sign]))
    np.testing.assert_allclose(got, sign * second, rtol=1e-5)


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
  got = distances.feature_distance(x, y, weights=weights, **options)
  assert got.shape == (4,)
  assert got.dtype == jnp.float32
  expected = by_loop(x, y, weights, **options)
  np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_one_number_an_image_is_one_channel():
  x, y = {'a': uniform(3)}, {'a': uniform(3, seed=1)}
  wide_x, wide_y = ({'a': f['a'][:, None]} for f in (x, y))
  for options in OPTIONS:
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
@pytest.mark.parametrize('options', OPTIONS)
def test_values_and_gradients_are_finite_everywhere(dtype, options):
  zero, one, other = np.zeros((3, 4)), uniform(3, 4), uniform(3, 4, seed=1)
  # Each image is another pair; of the first two, both sides are the same.
  x = np.stack([zero, one, zero, one, one]).astype(dtype)
  y = np.stack([zero, one, one, zero, other]).astype(dtype)

  def distance(x, y):
    return distances.feature_distance({'a': x}, {'a': y}, **options)

  distance, pull = jax.vjp(distance, x, y)
  assert np.isfinite(distance).all()
  gradients = pull(np.ones(5, np.float32))
  distance, *gradients = jax.device_get((distance, *gradients))
  np.testing.assert_array_equal(distance[:2], 0)
  assert (distance[2:] > 0).all()
  for gradient in gradients:
    assert gradient.dtype == dtype
    assert np.isfinite(gradient.astype(np.float32)).all()
    np.testing.assert_array_equal(gradient[:2], 0)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_half_precision_features_accumulate_in_single_precision(dtype):
  # 5000 ones would stop at 256 in bfloat16, and at 2048 in float16.
  x = np.zeros((1, 1, 5000), dtype)
  for norm, reduction in itertools.product(('l1', 'l2'), ('sum', 'spatial')):
    distance = distances.feature_distance(
      {'a': x}, {'a': x + 1}, norm=norm, reduction=reduction
    )
    assert distance.dtype == jnp.float32
    np.testing.assert_array_equal(distance, [5000.0])


@pytest.mark.parametrize(
  ('change', 'options', 'words'),
  [
    ({}, {'normalize': 'l2'}, "normalize is 'l2'.*none, unit, relative"),
    ({}, {'norm': 'l3'}, "norm is 'l3'.*l1, l2, log"),
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
  features = {'conv': np.zeros(feature, np.float32)}
  with pytest.raises(ValueError, match=f"'conv'.*{weight}"):
    distances.feature_distance(features, features, weights=[np.ones(weight)])


# The mean squares of X's layers are 29 / 4 and 1, the mean sizes 9 / 4 and 1.
# The least sizes are twice these of the map, and half of those of 'flat'.
LEAST = {'l2': {'map': 29 / 2, 'flat': 0.5}, 'l1': {'map': 9 / 2, 'flat': 0.5}}


@pytest.mark.parametrize('norm', ['l2', 'l1'])
@pytest.mark.parametrize('normalize', ['relative', 'batch'])
def test_a_least_size_bounds_the_divisor_by_hand(normalize, norm):
  of_map, of_flat = (layer[1] for layer in BY_HAND[normalize, norm])
  got = distances.feature_distance(
    arrays(X),
    arrays(Y),
    normalize=normalize,
    norm=norm,
    reduction='mean',
    min_sizes=LEAST[norm],
  )
  np.testing.assert_allclose(got, [of_map / 2 + of_flat], rtol=1e-5)


@pytest.mark.parametrize('norm', ['l2', 'l1'])
def test_a_least_size_bounds_the_batchs_part_of_local_by_hand(norm):
  """The mean square of the batch is 1/4, and it is taken to be 4."""
  x, y = {'a': np.float32([[0.5, 0.5]])}, {'a': np.float32([[0.5, -0.5]])}
  least = {'a': 4.0 if norm == 'l2' else 2.0}
  for min_sizes, size in ((least, 4.0), (None, 0.25)):
    got = distances.feature_distance(
      x, y, normalize='local', norm=norm, min_sizes=min_sizes
    )
    difference = 1 / (0.25 + 0.1 * size) ** 0.5
    wanted = difference**2 if norm == 'l2' else difference
    np.testing.assert_allclose(got, [wanted], rtol=1e-5)


@pytest.mark.parametrize('norm', ['l2', 'l1'])
def test_a_silent_batch_does_not_outweigh_the_data(norm):
  """`feature_sizes` of data with signal keep it in proportion."""
  loud = {'a': uniform(4, 9, 3)}
  sizes = distances.feature_sizes(loud, norm=norm)
  magnitude = np.square if norm == 'l2' else np.abs
  wanted = magnitude(np.float64(loud['a'])).mean()
  np.testing.assert_allclose(sizes['a'], wanted, rtol=1e-5)
  least = {'a': 0.1 * sizes['a']}
  silent = {'a': 1e-6 * uniform(4, 9, 3)}
  error = 0.1 * uniform(4, 9, 3, seed=1)
  for normalize in ('relative', 'batch'):
    options = {'normalize': normalize, 'norm': norm, 'reduction': 'mean'}
    distance = functools.partial(distances.feature_distance, **options)
    bare, bounded, usual = (
      np.array(distance(x, {'a': x['a'] + error}, min_sizes=least)).mean()
      for x, least in ((silent, None), (silent, least), (loud, least))
    )
    assert bare > 100 * usual
    assert bounded < 12 * usual


def test_an_unknown_norm_or_layer_of_sizes_is_reported():
  with pytest.raises(ValueError, match="norm is 'l3'; known: l1, l2"):
    distances.feature_sizes(arrays(X), norm='l3')
  with pytest.raises(ValueError, match=r"min_sizes are of \['mat'\].*'map'"):
    distances.feature_distance(arrays(X), arrays(Y), min_sizes={'mat': 1.0})


def test_features_that_are_integers_are_reported():
  with pytest.raises(ValueError, match="'a' is int32; expected floating"):
    distances.feature_distance(*2 * [{'a': np.ones((2, 3), np.int32)}])


@pytest.mark.parametrize('options', [o for o in OPTIONS if o['norm'] == 'l1'])
def test_equal_features_have_no_gradient_under_jit_either(options):
  """XLA may round the two sides differently, and a sign has no size."""
  x = uniform(3, 5, 7, 16)

  @jax.jit
  @jax.value_and_grad
  def run(y):
    return distances.feature_distance({'a': x}, {'a': y}, **options).sum()

  value, gradient = run(x)
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)
  _, gradient = run(x + 1e-4 * uniform(3, 5, 7, 16, seed=1))
  assert np.mean(jax.device_get(gradient) != 0) > 0.9


@pytest.mark.parametrize('normalize', ['none', 'local'])
def test_loss_scaling_mends_the_underflow_of_float16(normalize):
  """As the docs say; without it many of the entries of the gradient are 0."""
  x = np.tile(uniform(2, 16, 16, 4), (1, 4, 4, 4)).astype(np.float16)
  half = (x + 0.003 * uniform(*x.shape, seed=1)).astype(np.float16)

  @jax.jit
  @jax.grad
  def gradient(y, scale):
    distance = distances.feature_distance(
      {'a': x.astype(y.dtype)}, {'a': y}, normalize=normalize, reduction='mean'
    )
    return scale * distance.mean()

  wanted = np.asarray(gradient(half.astype(np.float32), 1.0))
  assert (np.asarray(gradient(half, 1.0)) == 0).mean() > 0.2
  scaled = np.asarray(gradient(half, 1024.0)).astype(np.float32) / 1024
  error = np.linalg.norm(scaled - wanted) / np.linalg.norm(wanted)
  assert error < 0.02


def test_an_axis_that_nothing_binds_is_reported():
  for normalize in ('batch', 'local'):
    run = functools.partial(
      distances.feature_distance, normalize=normalize, axis_name='data'
    )
    for call in (run, jax.jit(run)):
      with pytest.raises(ValueError, match=r"axis_name is 'data', and no pmap"):
        call(arrays(X), arrays(Y))


@pytest.mark.parametrize(
  ('features', 'words'),
  [
    ([jnp.ones((1, 2))], r'features are a list; expected a dictionary'),
    (jnp.ones((1, 2)), r'features are a ArrayImpl; expected a dictionary'),
    ({'a': [1.0]}, r"layer 'a' is a list; expected one array \[B, \.\.\.\]"),
    ({'a': jnp.ones(())}, r"layer 'a' has the shape \(\)"),
  ],
)
def test_features_of_another_kind_are_reported(features, words):
  with pytest.raises(ValueError, match=words):
    distances.feature_distance(features, features)
