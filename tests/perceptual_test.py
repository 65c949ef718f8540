"""The perceptual distance, of the project's critic and of any module."""

import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaegan_jax import perceptual
from vaegan_jax.models import blocks
from vaegan_jax.models import critic as critic_lib

OPTIONS = [
  (normalize, reduction)
  for normalize in perceptual.NORMALIZATIONS
  for reduction in perceptual.REDUCTIONS
]
BLOCKS = ('block_0', 'block_1')


def uniform(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32)


@pytest.fixture(scope='module')
def critic():
  """A tiny critic, its variables, and two batches of images."""
  module = critic_lib.Critic(width=2, channel_multipliers=(1, 2))
  x, y = uniform(3, 8, 8, 1), uniform(3, 8, 8, 1, seed=1)
  return module, module.init(jax.random.key(0), x), x, y


class Chain(nn.Module):
  """Twelve layers: names that sort as text are not in their order."""

  length: int = 12

  @nn.compact
  def __call__(self, x):
    for i in range(self.length):
      x = nn.Dense(2, name=f'block_{i}')(x)
    return x


class Stage(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.relu(nn.Dense(3, name='inner')(x))


class Nested(nn.Module):
  @nn.compact
  def __call__(self, x):
    return Stage(name='stage_b')(Stage(name='stage_a')(x))


class Twice(nn.Module):
  def setup(self):
    self.shared = nn.Dense(2)
    self.other = nn.Dense(2)

  def __call__(self, x):
    return self.shared(self.other(self.shared(x)))


class Stateful(nn.Module):
  """Has a collection to change and randomness to draw."""

  @nn.compact
  def __call__(self, x, scale=1.0):
    count = self.variable('counts', 'calls', lambda: jnp.zeros(()))
    count.value += 1
    x = nn.Dense(3, name='dense')(scale * x)
    return x + jax.random.normal(self.make_rng('noise'), x.shape)


def test_features_are_in_forward_order_beyond_ten_layers():
  x = uniform(2, 2)
  module = Chain()
  variables = module.init(jax.random.key(0), x)
  outputs, features = perceptual.capture_features(module, variables, x)
  assert list(features) == [f'block_{i}' for i in range(12)]
  for i, feature in enumerate(features.values()):
    layer = variables['params'][f'block_{i}']
    x = x @ layer['kernel'] + layer['bias']
    np.testing.assert_allclose(feature, x, rtol=1e-4, atol=1e-6)
  np.testing.assert_array_equal(outputs, feature)


def test_only_layers_of_the_asked_type_are_kept(critic):
  module, variables, x, _ = critic
  outputs, features = perceptual.capture_features(
    module, variables, x, layer_type=blocks.DownBlock
  )
  assert tuple(features) == BLOCKS
  np.testing.assert_allclose(outputs, module.apply(variables, x), rtol=1e-6)
  _, features = perceptual.capture_features(
    module, variables, x, layer_type=(nn.Conv, nn.Dense)
  )
  assert list(features) == ['block_0/Conv_0', 'block_1/Conv_0', 'Dense_0']


def test_named_layers_come_in_the_order_of_the_names(critic):
  module, variables, x, _ = critic
  _, everything = perceptual.capture_features(module, variables, x)
  names = ['block_1', 'block_0/Conv_0']
  _, features = perceptual.capture_features(module, variables, x, layers=names)
  assert list(features) == names
  for name in names:
    np.testing.assert_array_equal(features[name], everything[name])


def test_an_unknown_layer_is_named_with_those_there_are(critic):
  module, variables, x, _ = critic
  with pytest.raises(ValueError, match=r"'block_7'.*'block_0', 'block_1'"):
    perceptual.capture_features(
      module,
      variables,
      x,
      layers=['block_0', 'block_7'],
      layer_type=blocks.DownBlock,
    )


def test_nested_modules_are_named_by_their_path():
  x = uniform(2, 3)
  module = Nested()
  variables = module.init(jax.random.key(0), x)
  _, features = perceptual.capture_features(module, variables, x)
  # A module is done after what is inside it.
  assert list(features) == [
    'stage_a/inner',
    'stage_a',
    'stage_b/inner',
    'stage_b',
  ]
  for stage in ('stage_a', 'stage_b'):
    np.testing.assert_array_equal(
      features[stage], nn.relu(features[f'{stage}/inner'])
    )


def test_a_module_called_twice_gives_its_first_call():
  x = uniform(2, 2)
  module = Twice()
  variables = module.init(jax.random.key(0), x)
  _, features = perceptual.capture_features(module, variables, x)
  assert list(features) == ['shared', 'other']
  shared = variables['params']['shared']
  expected = x @ shared['kernel'] + shared['bias']
  np.testing.assert_allclose(features['shared'], expected, rtol=1e-5)


@pytest.mark.parametrize('mutable', ['counts', ['counts']])
def test_other_arguments_pass_through(mutable):
  x, key = uniform(2, 3), jax.random.key(1)
  module = Stateful()
  variables = module.init({'params': jax.random.key(0), 'noise': key}, x)
  expected = module.apply(
    variables, x, 2.0, rngs={'noise': key}, mutable=mutable
  )
  outputs, features = perceptual.capture_features(
    module, variables, x, 2.0, rngs={'noise': key}, mutable=mutable
  )
  jax.tree.map(np.testing.assert_array_equal, outputs, expected)
  assert list(features) == ['dense']
  by_keyword, _ = perceptual.capture_features(
    module, variables, x, scale=2.0, rngs={'noise': key}, mutable=mutable
  )
  jax.tree.map(np.testing.assert_array_equal, by_keyword, expected)


# One image of two positions with two channels, and a flat layer.
X = {'map': [[[3.0, 4.0], [0.0, 2.0]]], 'flat': [[1.0, 1.0]]}
Y = {'map': [[[3.0, 0.0], [0.0, 1.0]]], 'flat': [[1.0, 4.0]]}


@pytest.mark.parametrize(
  ('normalize', 'reduction', 'of_map', 'of_flat'),
  [
    ('none', 'sum', 17.0, 9.0),  # 4^2 + 1^2, 3^2
    ('none', 'mean', 17 / 4, 9 / 2),
    # (.6, .8) to (1, 0): .16 + .64; (0, 1) to itself.
    # (1, 1) / sqrt 2 to (1, 4) / sqrt 17: 2 - 2 * 5 / sqrt 34.
    ('unit', 'sum', 0.8, 2 - 10 / 34**0.5),
    ('unit', 'mean', 0.2, 1 - 5 / 34**0.5),
    # The mean squares of the reference are 29 / 4 and 1.
    ('relative', 'sum', 17 * 4 / 29, 9.0),
    ('relative', 'mean', 17 / 29, 9 / 2),
  ],
)
def test_distance_by_hand(normalize, reduction, of_map, of_flat):
  x = {name: jnp.array(value) for name, value in X.items()}
  y = {name: jnp.array(value) for name, value in Y.items()}

  def distance(weights):
    return perceptual.feature_distance(
      x, y, weights=weights, normalize=normalize, reduction=reduction
    )

  np.testing.assert_allclose(distance(None), [of_map + of_flat], rtol=1e-5)
  np.testing.assert_allclose(distance([1, 0]), [of_map], rtol=1e-5)
  np.testing.assert_allclose(
    distance([0.5, 3.0]), [0.5 * of_map + 3 * of_flat], rtol=1e-5
  )


@pytest.mark.parametrize(
  ('options', 'words'),
  [
    ({'normalize': 'l2'}, "'l2'.*'relative'"),
    ({'reduction': 'max'}, "'max'.*'mean'"),
    ({'weights': [1.0]}, '1 weights for 2 layers.*flat'),
  ],
)
def test_a_wrong_option_is_named(options, words):
  x = {name: jnp.array(value) for name, value in X.items()}
  with pytest.raises(ValueError, match=words):
    perceptual.feature_distance(x, x, **options)


@pytest.mark.parametrize(('normalize', 'reduction'), OPTIONS)
@pytest.mark.parametrize('x_is', ['zero', 'y', 'other'])
@pytest.mark.parametrize('y_is', ['zero', 'other'])
def test_values_and_gradients_are_finite_everywhere(
  normalize, reduction, x_is, y_is
):
  y = jnp.zeros((2, 3, 4)) if y_is == 'zero' else uniform(2, 3, 4)
  x = {'zero': jnp.zeros_like(y), 'y': y, 'other': uniform(2, 3, 4, seed=1)}

  def loss(y):
    return perceptual.feature_distance(
      {'a': x[x_is]}, {'a': y}, normalize=normalize, reduction=reduction
    ).sum()

  value, gradient = jax.value_and_grad(loss)(y)
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()
  if x_is == 'y' or x_is == y_is == 'zero':
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_half_precision_features_accumulate_in_single_precision():
  # 1000 ones in bfloat16 would stop at 256.
  x = jnp.zeros((1, 1000), jnp.bfloat16)
  distance = perceptual.feature_distance({'a': x}, {'a': x + 1})
  assert distance.dtype == jnp.float32
  np.testing.assert_array_equal(distance, [1000.0])


@settings(max_examples=15, deadline=None)
@given(
  seed=st.integers(0, 2**32 - 1),
  scale=st.sampled_from([1e-6, 1.0, 1e6]),
  options=st.sampled_from(OPTIONS),
)
def test_distances_are_those_of_each_pair_alone(seed, scale, options):
  normalize, reduction = options
  rng = np.random.default_rng(seed)
  x, y = (
    {
      'map': scale * rng.normal(size=(4, 2, 2, 3)).astype(np.float32),
      'flat': scale * rng.normal(size=(4, 5)).astype(np.float32),
    }
    for _ in range(2)
  )

  def distance(x, y):
    x, y = jax.tree.map(jnp.asarray, (x, y))
    return np.asarray(
      perceptual.feature_distance(
        x, y, normalize=normalize, reduction=reduction
      )
    )

  def rows(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)

  distances = distance(x, y)
  assert distances.shape == (4,)
  assert (distances >= 0).all()
  np.testing.assert_array_equal(distance(x, x), 0)
  order = rng.permutation(4)
  np.testing.assert_allclose(
    distance(rows(x, order), rows(y, order)), distances[order], rtol=1e-5
  )
  alone = distance(rows(x, slice(1, 2)), rows(y, slice(1, 2)))
  np.testing.assert_allclose(alone, distances[1:2], rtol=1e-5)
  if normalize != 'relative':  # Which of the two is the reference is no matter.
    np.testing.assert_allclose(distance(y, x), distances, rtol=1e-5)


def by_hand(variables, x, y, normalize, reduction):
  """The distance from the critic's weights, one block and image at a time."""
  total = np.zeros(len(x))
  for name in BLOCKS:
    conv = variables['params'][name]['Conv_0']

    def block(images, conv=conv):
      images = jax.lax.conv_general_dilated(
        images,
        conv['kernel'],
        (2, 2),
        ((1, 1), (1, 1)),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )
      return jnp.maximum(images + conv['bias'], 0.2 * (images + conv['bias']))

    x, y = block(x), block(y)
    for i in range(len(x)):
      a, b = np.asarray(x[i], np.float64), np.asarray(y[i], np.float64)
      scale = (a**2).mean() if normalize == 'relative' else 1
      if normalize == 'unit':
        a, b = (f / np.linalg.norm(f, axis=-1, keepdims=True) for f in (a, b))
      square = (a - b) ** 2
      total[i] += {'sum': square.sum(), 'mean': square.mean()}[
        reduction
      ] / scale
  return total


@pytest.mark.parametrize(('normalize', 'reduction'), OPTIONS)
def test_distance_equals_a_loop_over_the_critics_layers(
  critic, normalize, reduction
):
  module, variables, x, y = critic

  def distance(variables, x, y):
    return perceptual.perceptual_distance(
      module,
      variables,
      x,
      y,
      layer_type=blocks.DownBlock,
      normalize=normalize,
      reduction=reduction,
    )

  expected = by_hand(variables, x, y, normalize, reduction)
  np.testing.assert_allclose(distance(variables, x, y), expected, rtol=1e-3)
  np.testing.assert_allclose(
    jax.jit(distance)(variables, x, y), expected, rtol=1e-3
  )


@pytest.fixture(scope='module')
def distance(critic):
  module, _, _, _ = critic

  def distance(variables, x, y):
    return perceptual.perceptual_distance(
      module,
      variables,
      x,
      y,
      layers=['block_1', 'block_0'],
      weights=[2.0, 0.5],
      normalize='relative',
    )

  return distance


def test_it_works_under_vmap(critic, distance):
  _, variables, x, y = critic
  expected = distance(variables, x, y)
  pairs = jax.vmap(distance, (None, 0, 0))(variables, x[:, None], y[:, None])
  np.testing.assert_allclose(pairs[:, 0], expected, rtol=1e-5)


def test_it_works_under_pmap(critic, distance):
  _, variables, x, y = critic
  on_devices = jax.pmap(distance, in_axes=(None, 0, 0))
  got = on_devices(variables, x[None], y[None])
  np.testing.assert_allclose(got[0], distance(variables, x, y), rtol=1e-5)


def test_weights_belong_to_the_names_they_stand_beside(critic, distance):
  """Also inside `jit`, where JAX sorts the dicts that it returns."""
  module, variables, x, y = critic
  each = [
    perceptual.perceptual_distance(
      module, variables, x, y, layers=[name], normalize='relative'
    )
    for name in ('block_1', 'block_0')
  ]
  expected = 2.0 * each[0] + 0.5 * each[1]
  for function in (distance, jax.jit(distance)):
    np.testing.assert_allclose(function(variables, x, y), expected, rtol=1e-5)


def test_the_gradient_reaches_y_alone(critic, distance):
  _, variables, x, y = critic
  gradients = jax.grad(lambda *args: distance(*args).sum(), (0, 1, 2))(
    variables, x, y
  )
  for leaf in jax.tree.leaves(gradients[:2]):
    np.testing.assert_array_equal(leaf, 0)
  assert (gradients[2] != 0).any()
  # Along the gradient the distance grows as it says.
  direction = gradients[2] / jnp.linalg.norm(gradients[2])
  there, back = (
    distance(variables, x, y + sign * 1e-2 * direction).sum()
    for sign in (1, -1)
  )
  np.testing.assert_allclose(
    (there - back) / 2e-2, jnp.linalg.norm(gradients[2]), rtol=0.02
  )


def test_importing_it_imports_no_data_or_checkpoint_library():
  code = (
    'import sys, vaegan_jax.perceptual; '
    'print([m for m in sys.modules if m.split(".")[0] in '
    '("tensorflow", "tensorflow_datasets", "orbax", "grain")])'
  )
  result = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert result.stdout.strip() == '[]'
