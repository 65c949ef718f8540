"""Perceptual distances: values against numpy, gradients, compiled programs."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.losses.distances_test import by_loop
from tests.networks import assert_close, convolve, uniform
from vaegan_jax.losses import perceptual, recipe
from vaegan_jax.losses.distances import feature_distance
from vaegan_jax.models import blocks
from vaegan_jax.models import critic as critic_lib

APIS = ('linen', 'nnx')
# Each value of each option; `distances_test.py` has all of OPTIONS.
SOME_OPTIONS = [
  {'normalize': normalize, 'norm': norm, 'reduction': reduction}
  for normalize, norm, reduction in (
    ('none', 'l2', 'sum'),
    ('unit', 'l1', 'mean'),
    ('relative', 'l2', 'spatial'),
    ('batch', 'l1', 'sum'),
    ('local', 'l2', 'mean'),
  )
]


class Linen(nn.Module):
  """Network that also returns its features explicitly, in forward order."""

  @nn.compact
  def __call__(self, x):
    first = nn.Conv(3, (3, 3), name='conv_0')(x)
    second = nn.Conv(4, (3, 3), strides=2, name='conv_1')(nn.tanh(first))
    logits = nn.Dense(2, name='dense')(nn.tanh(second).mean((1, 2)))
    return {'conv_0': first, 'conv_1': second, 'dense': logits}


class Nnx(nnx.Module):
  """The same network."""

  def __init__(self, rngs):
    self.conv_0 = nnx.Conv(2, 3, (3, 3), rngs=rngs)
    self.conv_1 = nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs)
    self.dense = nnx.Linear(4, 2, rngs=rngs)

  def __call__(self, x):
    first = self.conv_0(x)
    second = self.conv_1(nnx.tanh(first))
    logits = self.dense(nnx.tanh(second).mean((1, 2)))
    return {'conv_0': first, 'conv_1': second, 'dense': logits}


@functools.cache
def network(api):
  """Returns (module, variables) of either API, with the same weights."""
  x = np.zeros((1, 6, 6, 2), np.float32)
  variables = jax.jit(Linen().init)(jax.random.key(0), x)
  if api == 'linen':
    return Linen(), variables
  module = Nnx(nnx.Rngs(1))
  nnx.update(module, variables['params'])
  return module, None


def images(batch=3):
  return uniform(batch, 6, 6, 2), uniform(batch, 6, 6, 2, seed=1)


def distance(api, **options):
  """Returns the distance function: x, y -> [B]."""
  module, variables = network(api)
  return lambda x, y: perceptual.perceptual_distance(
    module, variables, x, y, **options
  )


@functools.cache
def jitted(api, **options):
  return jax.jit(distance(api, **options))


@settings(max_examples=30, deadline=None)
@given(
  seed=st.integers(0, 2**32 - 1),
  scale=st.sampled_from([1e-2, 1.0, 1e2]),
  api=st.sampled_from(APIS),
  options=st.sampled_from(SOME_OPTIONS),
)
def test_each_pair_has_its_own_distance(seed, scale, api, options):
  rng = np.random.default_rng(seed)
  x, y = scale * rng.normal(size=(2, 3, 6, 6, 2)).astype(np.float32)
  distance = jitted(api, **options)
  distances = np.asarray(distance(x, y))
  assert distances.shape == (3,)
  assert (distances > 0).all()
  # XLA may round the two sides differently.
  np.testing.assert_allclose(distance(x, x), 0, atol=1e-5 * distances.min())
  order = rng.permutation(3)
  np.testing.assert_allclose(
    distance(x[order], y[order]), distances[order], rtol=1e-4
  )
  shared = ('batch', 'local')  # Scales of all images together.
  if options['normalize'] not in shared:
    # Copies of one pair: a batch of another size would be compiled anew.
    alone = distance(x[[1, 1, 1]], y[[1, 1, 1]])
    np.testing.assert_allclose(alone, 3 * [distances[1]], rtol=1e-4)
  if options['normalize'] in ('none', 'unit'):  # The distance is symmetric.
    np.testing.assert_allclose(distance(y, x), distances, rtol=1e-4)


@pytest.mark.parametrize('options', SOME_OPTIONS)
def test_linen_and_nnx_networks_give_the_same_distance(options):
  x, y = images()
  linen, other = (jitted(api, **options)(x, y) for api in APIS)
  np.testing.assert_allclose(linen, other, rtol=1e-5)


@pytest.mark.parametrize('options', SOME_OPTIONS)
def test_distance_equals_a_loop_over_the_critics_layers(options):
  critic = critic_lib.Critic(width=2, channel_multipliers=(1, 2))
  x, y = uniform(3, 8, 8, 1), uniform(3, 8, 8, 1, seed=1)
  variables = jax.jit(critic.init)(jax.random.key(0), x)

  @jax.jit
  def features(images):
    features = {}
    for name in ('block_0', 'block_1'):
      images = convolve(images, variables['params'][name]['Conv_0'])
      images = features[name] = jnp.maximum(images, 0.2 * images)
    return features

  got = jax.jit(
    functools.partial(
      perceptual.perceptual_distance,
      critic,
      layers=blocks.DownBlock,
      weights=[2.0, 0.5],
      **options,
    )
  )(variables, x, y)
  weights = {'block_0': 2.0, 'block_1': 0.5}
  expected = by_loop(features(x), features(y), weights, **options)
  np.testing.assert_allclose(got, expected, rtol=1e-3)


WEIGHED = {
  'layers': ['conv_1', 'conv_0'],
  'weights': [2.0, 0.5],
  'normalize': 'relative',
}


@pytest.mark.parametrize('api', APIS)
def test_it_works_under_jit_vmap_and_pmap(api):
  x, y = images()
  judge = distance(api, **WEIGHED)
  expected = judge(x, y)
  np.testing.assert_allclose(jax.jit(judge)(x, y), expected, rtol=1e-5)
  pairs = jax.jit(jax.vmap(judge))(x[:, None], y[:, None])
  np.testing.assert_allclose(pairs[:, 0], expected, rtol=1e-5)
  on_devices = jax.pmap(judge)(x[None], y[None])
  np.testing.assert_allclose(on_devices[0], expected, rtol=1e-5)


@pytest.mark.parametrize('api', APIS)
def test_weights_belong_to_their_layer_names(api):
  """Also inside `jit`, where JAX sorts dictionaries."""
  x, y = images()
  second, first = (
    distance(api, layers=[name], normalize='relative')(x, y)
    for name in WEIGHED['layers']
  )
  for judge in (distance(api, **WEIGHED), jax.jit(distance(api, **WEIGHED))):
    np.testing.assert_allclose(judge(x, y), 2 * second + first / 2, rtol=1e-5)


def gradients(api, gradients_to):
  """Returns the gradients of the summed distance to x, y and variables."""
  module, variables = network(api)

  def loss(judge, x, y):
    judge = (module, judge) if api == 'linen' else (judge, None)
    return perceptual.perceptual_distance(
      *judge, x, y, gradients_to=gradients_to
    ).sum()

  grad, judge = {'linen': (jax.grad, variables), 'nnx': (nnx.grad, module)}[api]
  results = grad(loss, argnums=(0, 1, 2))(judge, *images())
  return dict(zip(('variables', 'x', 'y'), results, strict=True))


@pytest.mark.parametrize('api', APIS)
@pytest.mark.parametrize(
  'gradients_to',
  [
    names
    for count in range(4)
    for names in itertools.combinations(('x', 'y', 'variables'), count)
  ],
)
def test_gradients_reach_only_the_selected_arguments(api, gradients_to):
  for name, gradient in gradients(api, gradients_to).items():
    leaves = jax.tree.leaves(gradient)
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert any((leaf != 0).any() for leaf in leaves) == (name in gradients_to)


def test_both_apis_give_the_same_gradients():
  names = ('x', 'y', 'variables')
  linen, other = (gradients(api, names) for api in APIS)
  linen['variables'] = linen['variables']['params']
  other['variables'] = nnx.to_pure_dict(other['variables'])
  assert_close(linen, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('api', APIS)
def test_by_default_the_gradient_reaches_y_alone(api):
  to_x, to_y = jax.grad(lambda *xy: distance(api)(*xy).sum(), (0, 1))(*images())
  np.testing.assert_array_equal(to_x, 0)
  assert (to_y != 0).any()


@pytest.mark.parametrize('api', APIS)
@pytest.mark.parametrize(
  'options',
  [
    {'normalize': 'none', 'norm': 'l2', 'reduction': 'sum'},
    {'normalize': 'none', 'norm': 'l1', 'reduction': 'spatial'},
    {'normalize': 'unit', 'norm': 'l2', 'reduction': 'spatial'},
    {'normalize': 'relative', 'norm': 'l2', 'reduction': 'mean'},
  ],
)
def test_the_gradient_equals_finite_differences(api, options):
  x, y = images()

  @jax.jit
  def loss(x, y):
    return distance(api, gradients_to=('x', 'y'), **options)(x, y).sum()

  gradients = jax.device_get(jax.grad(loss, (0, 1))(x, y))
  for place, gradient in enumerate(gradients):
    direction = gradient / np.linalg.norm(gradient)
    there, back = (
      loss(*(v + sign * 1e-2 * direction * (i == place) for i, v in pair))
      for sign, pair in ((s, enumerate((x, y))) for s in (1, -1))
    )
    slope = (there - back) / 2e-2
    np.testing.assert_allclose(slope, np.linalg.norm(gradient), rtol=0.02)


@pytest.mark.parametrize(
  ('shape_x', 'shape_y', 'dtype', 'words'),
  [
    ((2, 6, 6, 2), (3, 6, 6, 2), 'float32', r'\(2, 6, 6, 2\).*\(3, 6, 6, 2\)'),
    ((1, 6, 6, 2), (3, 6, 6, 2), 'float32', 'must be equal'),
    ((6,), (6,), 'float32', r'x.*\(6,\).*\[B, H, W, C\] or sounds'),
    ((), (6, 6, 2), 'float32', r'x has the shape \(\).*x\[None\]'),
    ((2, 6, 6, 2), (2, 72), 'float32', r'y is \(2, 72\).*must be equal'),
    ((2, 6, 6, 2), (2, 6, 6, 2), 'uint8', 'uint8.*floating-point.*float32'),
    ((2, 6, 6, 2), (2, 6, 6, 2), 'bool', 'bool.*floating-point'),
  ],
)
@pytest.mark.parametrize('api', APIS)
def test_invalid_images_are_reported(api, shape_x, shape_y, dtype, words):
  with pytest.raises(ValueError, match=words):
    distance(api)(np.zeros(shape_x, dtype), np.zeros(shape_y, dtype))


@pytest.mark.parametrize('api', APIS)
@pytest.mark.parametrize(
  ('options', 'words'),
  [
    ({'layers': ['conv_7']}, r"'conv_7'.*'conv_0', 'conv_1', 'dense'"),
    ({'layers': 'conv'}, r"'conv'.*'conv_0', 'conv_1', 'dense'"),
    ({'layers': nn.LayerNorm}, 'keeps nothing'),
    ({'layers': 'dense', 'weights': 2.0}, 'weights are 2.0; give one weight'),
    ({'gradients_to': 'xy'}, "'xy'; known: x, y, variables"),
    ({'layers': ['dense'], 'weights': [1, 1]}, '2 weights for 1 layers'),
    ({'gradients_to': ('z',)}, "'z'; known: x, y, variables"),
  ],
)
def test_an_unknown_option_is_reported(api, options, words):
  with pytest.raises(ValueError, match=words):
    distance(api, **options)(*images())


@pytest.mark.parametrize(
  'module', [None, lambda x: x, Linen, 'critic', [nn.Dense(3)], 3, np.ones(3)]
)
@pytest.mark.parametrize(
  'function',
  [
    perceptual.perceptual_distance,
    recipe.reconstruction_loss,
    lambda module, variables, x, y: perceptual.capture_features(
      module, variables, x
    ),
  ],
)
def test_a_module_of_another_kind_is_reported(function, module):
  words = r'module is a \w+;.*nnx\.Module; .*Equinox.*to feature_distance$'
  with pytest.raises(ValueError, match=words):
    function(module, None, *images())


@pytest.mark.parametrize('api', APIS)
@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (
      {'x': [1.0, 2.0]},
      r'x is a list; expected one array \[B, \.\.\.\].*stack',
    ),
    ({'y': 3}, 'y is a int; expected one array'),
    ({'layers': 3}, 'layers is 3; expected names of layers, module types'),
    ({'where': np.ones(3)}, r'where is float64 of shape \(3,\)'),
    ({'variables': [1.0]}, 'variables'),
    (
      {'normalise': 'local'},
      r'normalise is not an option, .* mean normalize\?',
    ),
    ({'weight': [1.0]}, r'mean weights\?'),
    ({'reduce': 'mean'}, r'mean reduction\?'),
    ({'layer': ['dense']}, r'mean layers\?'),
    ({'gradients_to': None}, 'gradients_to is None; expected some of x, y'),
  ],
)
def test_a_value_of_another_kind_is_reported(api, change, words):
  module, variables = network(api)
  x, y = images()
  given = {'variables': variables, 'x': x, 'y': y} | change
  with pytest.raises(ValueError, match=words):
    perceptual.perceptual_distance(module, **given)


@pytest.mark.parametrize('value', [[np.ones((3, 2))], 3, None])
def test_images_of_another_kind_are_reported_by_a_capture(value):
  with pytest.raises(ValueError, match=r'images is a \w+; expected one array'):
    perceptual.capture_features(*network('linen'), value)
  with pytest.raises(ValueError, match=r'did you mean layers\?'):
    perceptual.capture_features(*network('linen'), images()[0], layer='dense')


def test_parameters_alone_are_reported():
  module, variables = network('linen')
  words = r"have no 'params'; .*give variables=\{'params': params\}"
  with pytest.raises(ValueError, match=words):
    perceptual.perceptual_distance(module, variables['params'], *images())


class Own(nn.Module):
  """Module with arguments that are named like options."""

  @nn.compact
  def __call__(self, x, normalise=1.0, **others):
    x = nn.Dense(3, name='dense')(normalise * x + others.get('shift', 0.0))
    return nn.Dense(1, name='logit')(x)


def test_the_modules_own_arguments_are_passed_on():
  x, y = images()
  variables = jax.jit(Own().init)(jax.random.key(0), x)
  run = functools.partial(perceptual.perceptual_distance, Own(), variables)
  kernel = np.asarray(variables['params']['dense']['kernel'])
  wanted = np.square((x - y) @ kernel).sum((1, 2, 3))
  got = run(x, y, normalise=2.0, shift=1.0)
  np.testing.assert_allclose(got, 4 * wanted, rtol=1e-4)
  with pytest.raises(ValueError, match='did you mean normalize'):
    run(x, y, normaliser=2.0)


@pytest.mark.parametrize('space', [(), (8,), (3, 4, 2), (2, 3, 2, 2)])
def test_sounds_volumes_and_video_are_images_too(space):
  x, y = uniform(3, *space, 2), uniform(3, *space, 2, seed=1)
  module = nn.Sequential([nn.Dense(3), nn.tanh, nn.Dense(1)])
  variables = jax.jit(module.init)(jax.random.key(0), x)
  options = {'normalize': 'local', 'reduction': 'mean'}
  distance = functools.partial(perceptual.perceptual_distance, module)
  got = jax.jit(functools.partial(distance, **options))(variables, x, y)
  layer = jax.device_get(variables['params']['layers_0'])
  features = [{'a': i @ layer['kernel'] + layer['bias']} for i in (x, y)]
  wanted = jax.jit(functools.partial(feature_distance, **options))(*features)
  np.testing.assert_allclose(got, wanted, rtol=1e-4)


@pytest.mark.parametrize('api', APIS)
def test_a_batch_of_any_size_is_exported(api):
  x, y = images(batch=5)
  shapes = [
    jax.ShapeDtypeStruct(jax.export.symbolic_shape('b, 6, 6, 2'), 'float32')
  ] * 2

  def everything(x, y):
    return {
      'features': perceptual.capture_features(*network(api), x)[1],
      'distance': distance(api, normalize='local', reduction='mean')(x, y),
      'loss': recipe.reconstruction_loss(
        *network(api), x, y, logits=lambda output: output['dense']
      ),
    }

  everything = jax.jit(everything)
  exported = jax.export.export(everything)(*shapes)
  assert_close(exported.call(x, y), everything(x, y), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('api', APIS)
def test_least_sizes_and_masks_are_passed_on(api):
  x, y = images()
  sizes = {'conv_0': 3.0}
  where = np.array([True, False, True])
  options = {'normalize': 'batch', 'min_sizes': sizes}
  got = np.asarray(jax.jit(distance(api, **options, where=where))(x, y))
  capture = jax.jit(lambda i: perceptual.capture_features(*network(api), i)[1])
  x, y = (jax.device_get(capture(images)) for images in (x, y))
  kept = [{name: f[where] for name, f in i.items()} for i in (x, y)]
  wanted = jax.jit(functools.partial(feature_distance, **options))(*kept)
  np.testing.assert_allclose(got[where], wanted, rtol=1e-4)
  assert got[1] == 0
  del options['min_sizes']
  without = jax.jit(functools.partial(feature_distance, **options))(*kept)
  assert np.less(wanted, 0.9 * np.asarray(without)).all()


def test_an_nnx_module_has_its_own_variables():
  module, _ = network('nnx')
  with pytest.raises(ValueError, match='variables must be None'):
    perceptual.perceptual_distance(module, {}, *images())


@pytest.mark.parametrize('reduction', ['sum', 'mean'])
def test_a_torch_network_gives_the_same_distance(reduction):
  torch = pytest.importorskip('torch')

  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = nn.relu(nn.Conv(4, (3, 3), padding=1, name='first')(x))
      return nn.Conv(5, (3, 3), strides=2, padding=1, name='second')(x)

  torch.manual_seed(0)
  first = torch.nn.Conv2d(3, 4, 3, padding=1)
  second = torch.nn.Conv2d(4, 5, 3, stride=2, padding=1)
  params = {
    name: {
      'kernel': conv.weight.detach().numpy().transpose(2, 3, 1, 0),
      'bias': conv.bias.detach().numpy(),
    }
    for name, conv in (('first', first), ('second', second))
  }

  def features(images):
    images = images.permute(0, 3, 1, 2)
    inner = first(images)
    return inner, second(torch.relu(inner))

  x, y = uniform(2, 7, 7, 3), uniform(2, 7, 7, 3, seed=1)
  torch_y = torch.tensor(y, requires_grad=True)
  expected = 0
  for a, b in zip(features(torch.tensor(x)), features(torch_y), strict=True):
    expected = expected + getattr((a - b) ** 2, reduction)((1, 2, 3))
  expected.sum().backward()

  def judge(y):
    return perceptual.perceptual_distance(
      Net(), {'params': params}, x, y, reduction=reduction
    )

  def total(y):
    distances = judge(y)
    return distances.sum(), distances

  gradient, got = jax.jit(jax.grad(total, has_aux=True))(y)
  np.testing.assert_allclose(got, expected.detach().numpy(), rtol=1e-5)
  torch_gradient = torch_y.grad.numpy()
  error = np.linalg.norm(np.asarray(gradient) - torch_gradient)
  assert error <= 1e-5 * np.linalg.norm(torch_gradient)


def cost(step, *args):
  """Returns XLA's cost analysis of the compiled program."""
  analysis = jax.jit(step).lower(*args).compile().cost_analysis()
  return {name: analysis[name] for name in ('flops', 'bytes accessed')}


@pytest.mark.parametrize('api', APIS)
def test_capturing_adds_nothing_to_the_compiled_program(api):
  module, variables = network(api)
  if api == 'linen':
    state, judge = variables, lambda state: (module, state)
    run = module.apply
  else:
    graphdef, state = nnx.split(module)

    def judge(state):
      return nnx.merge(graphdef, state), None

    def run(state, images):
      return nnx.merge(graphdef, state)(images)

  def by_hand(state, x, y):
    stop = jax.lax.stop_gradient
    both = [run(state, images) for images in (stop(x), y)]
    for features in both:
      del features['dense']  # The output is no layer.
    return feature_distance(*both).sum()

  def captured(state, x, y):
    features_x, features_y = (
      perceptual.capture_features(*judge(state), images)[1]
      for images in (jax.lax.stop_gradient(x), y)
    )
    return feature_distance(features_x, features_y).sum()

  def at_once(state, x, y):
    return perceptual.perceptual_distance(
      *judge(state), x, y, gradients_to=('y', 'variables')
    ).sum()

  expected, *others = (
    cost(jax.value_and_grad(loss, (0, 1, 2)), state, *images())
    for loss in (by_hand, captured, at_once)
  )
  assert expected['flops'] > 0
  assert others == [expected, expected]
