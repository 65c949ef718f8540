"""Captures layer outputs of any Flax module, in any transformation."""

import functools
import itertools
import typing
from concurrent import futures

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.networks import assert_equal
from vaegan_jax.losses import arguments, perceptual
from vaegan_jax.models import blocks
from vaegan_jax.models import critic as critic_lib

X = np.random.default_rng(0).uniform(-1, 1, (2, 3)).astype(np.float32)
IMAGES = X[:, None, None]


def every(path, module):
  """Chooses all layers, even those that are left out by default."""
  return True


def capture_features(*args, layers=every, **options):
  return perceptual.capture_features(*args, layers=layers, **options)


def as_one_program(capture, x):
  """Calls x -> (outputs, features). JAX sorts features, but not these."""
  names = []

  @jax.jit
  def run(x):
    outputs, features = capture(x)
    names.extend(features)
    return outputs, features

  outputs, features = run(x)
  return outputs, {name: features[name] for name in names}


def capture(module, x=X, **options):
  """Returns (outputs, features) of a linen module with initial variables."""

  def run(x):
    variables = module.init(jax.random.key(0), x)
    return capture_features(module, variables, x, **options)

  return as_one_program(run, x)


def capture_nnx(module, x=X, **options):
  return capture_features(module, None, x, **options)


def linear(seed=0):
  return nnx.Linear(3, 3, rngs=nnx.Rngs(seed))


def assert_close(got, expected):
  assert list(got) == list(expected)
  for name, feature in expected.items():
    np.testing.assert_allclose(
      got[name], feature, rtol=1e-5, atol=1e-6, err_msg=name
    )


class Chain(nn.Module):
  """Twelve layers, whose names do not sort as text into forward order."""

  length: int = 12

  @nn.compact
  def __call__(self, x):
    for i in range(self.length):
      x = nn.Dense(3, name=f'block_{i}')(x)
    return x


class Stage(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.LayerNorm(name='norm')(nn.Dense(3, name='dense')(x))


class Between(nn.Module):
  """Two layers with a stage of some kind between them."""

  stage: typing.Any = Stage

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(3, name='first')(x)
    x = self.stage(name='stage')(x)
    return nn.Dense(3, name='last')(x)


BETWEEN = ['first', 'stage/dense', 'stage/norm', 'stage', 'last']


def test_features_are_in_forward_order_beyond_ten_layers():
  variables = Chain().init(jax.random.key(0), X)
  outputs, features = capture_features(Chain(), variables, X)
  assert list(features) == [f'block_{i}' for i in range(12)]
  x = X
  for name, feature in features.items():
    layer = variables['params'][name]
    x = x @ layer['kernel'] + layer['bias']
    np.testing.assert_allclose(feature, x, rtol=1e-4, atol=1e-6)
  np.testing.assert_array_equal(outputs, feature)


def test_nested_modules_are_named_by_their_path():
  """Also checks that a module follows the modules inside it."""
  outputs, features = capture(Between())
  assert list(features) == BETWEEN
  np.testing.assert_array_equal(features['stage'], features['stage/norm'])
  np.testing.assert_array_equal(features['last'], outputs)


@pytest.mark.parametrize('layers', [nn.Conv, nnx.Conv, [], lambda *_: False])
def test_selecting_no_layer_is_an_error(layers):
  with pytest.raises(ValueError, match='keeps nothing'):
    capture(Between(), layers=layers)
  with pytest.raises(ValueError, match='keeps nothing'):
    capture_nnx(NnxBetween(), layers=layers)


class Dotted(nn.Module):
  """Module whose layer names contain dots, as in torch."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(3, name='layer.norm')(nn.Dense(3, name='layer')(x))


def test_a_dot_in_a_name_is_not_a_path():
  assert list(capture(Dotted(), layers='layer')[1]) == ['layer']
  assert list(capture(Dotted(), layers='layer.norm')[1]) == ['layer.norm']


def test_a_linen_module_needs_variables():
  with pytest.raises(ValueError, match='needs its own'):
    capture_features(Between(), None, X)


def test_threads_capture_the_same_classes_independently():
  def count(seed):
    module = nnx.Sequential(*[linear(seed + i) for i in range(4)])
    expected = capture_nnx(module)[1]
    for _ in range(5):
      assert_equal(capture_nnx(module)[1], expected)

  with futures.ThreadPoolExecutor(3) as pool:
    for result in [pool.submit(count, 10 * seed) for seed in range(3)]:
      result.result()
  assert not hasattr(nnx.Linear.__call__, '__wrapped__')


def test_the_critics_blocks_are_layers():
  critic = critic_lib.Critic(width=2, channel_multipliers=(1, 2))
  _, features = capture(
    critic, np.ones((3, 8, 8, 1), np.float32), layers=blocks.DownBlock
  )
  shapes = {name: feature.shape for name, feature in features.items()}
  assert shapes == {'block_0': (3, 4, 4, 2), 'block_1': (3, 2, 2, 4)}


class Twice(nn.Module):
  def setup(self):
    self.shared = nn.Dense(3)
    self.other = nn.Dense(3)

  def __call__(self, x):
    return self.shared(self.other(self.shared(x)))


def test_each_call_of_a_module_is_a_feature():
  outputs, features = capture(Twice())
  assert list(features) == ['shared:0', 'other', 'shared:1']
  np.testing.assert_array_equal(features['shared:1'], outputs)
  assert (features['shared:0'] != features['shared:1']).any()
  _, chosen = capture(Twice(), layers=['shared'])
  assert list(chosen) == ['shared:0', 'shared:1']
  _, chosen = capture(Twice(), layers=['shared:1', 'other'])
  assert list(chosen) == ['shared:1', 'other']


class Inheriting(Stage):
  def __call__(self, x):
    return super().__call__(x) + 1


def test_calling_super_is_not_another_call():
  _, features = capture(Between(Inheriting))
  assert list(features) == BETWEEN
  np.testing.assert_allclose(
    features['stage'], features['stage/norm'] + 1, rtol=1e-6
  )


@flax.struct.dataclass
class Encoding:
  hidden: jax.Array
  step: int


RETURNS = {
  'tuple': lambda x: (x, (x + 1, 3)),
  'dict': lambda x: {'b': x, 'a': [x + 1]},
  'dataclass': lambda x: Encoding(hidden=x, step=3),
  'none': lambda x: None,
  'int': lambda x: 3,
  'scalar': lambda x: x.sum(),
  'text': lambda x: 'text',
  'classes': lambda x: x.argmax(-1),
  'positions': lambda x: x.T,
  'one': lambda x: x[:, 0],
}
RETURNED = {
  'tuple.0': X,
  'tuple.1.0': X + 1,
  'dict.a.0': X + 1,
  'dict.b': X,
  'dataclass.hidden': X,
  'one': X[:, 0],
}


class Returns(nn.Module):
  kind: str

  @nn.compact
  def __call__(self, x):
    return RETURNS[self.kind](x)


class Returning(nn.Module):
  @nn.compact
  def __call__(self, x):
    for kind in RETURNS:
      Returns(kind, name=kind)(x)
    return x


def test_the_floating_point_arrays_with_a_batch_are_features():
  _, features = capture(Returning())
  assert_close(features, RETURNED)
  _, features = capture(Returning(), layers=['dict', 'tuple.1.0'])
  assert list(features) == ['dict.a.0', 'dict.b', 'tuple.1.0']


@pytest.mark.parametrize('transform', [nn.remat, nn.jit])
def test_layers_inside_a_transformed_layer_are_captured(transform):
  module = Between(transform(Stage))
  variables = module.init(jax.random.key(0), X)
  # The inner names are the same, so the variables are too.
  _, expected = capture_features(Between(), variables, X)

  def features(x):
    return capture_features(module, variables, x)[1]

  assert list(expected) == BETWEEN
  assert_close(features(X), expected)
  assert_close(features(X), expected)  # Also with a cached trace.

  def loss(module, x):
    _, features = capture_features(module, variables, x)
    return sum((feature**2).sum() for feature in features.values())

  plain = jax.jit(jax.grad(functools.partial(loss, Between())))(X + 1)
  assert (plain != 0).any()
  for jit in (lambda f: f, jax.jit):
    got = jit(jax.grad(functools.partial(loss, module)))(X + 1)
    np.testing.assert_allclose(got, plain, rtol=1e-3, atol=1e-5)


def test_a_jitted_layer_does_not_reuse_an_earlier_capture():
  """JAX caches the trace of a transformed class globally."""
  module = Between(nn.jit(Stage))
  variables = module.init(jax.random.key(0), X)
  _, expected = capture_features(Between(), variables, X)
  module.apply(variables, X, mutable=['intermediates'])
  for layers, names in (
    (nn.Dense, ['first', 'stage/dense']),
    (nn.LayerNorm, ['stage/norm']),
    (every, BETWEEN),
    ((nn.LayerNorm, Stage), ['stage/norm']),
  ):
    _, features = capture_features(module, variables, X, layers=layers)
    assert_close(features, {name: expected[name] for name in names})


class Step(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    return nn.Dense(3, name='dense')(x), None


class Scanned(nn.Module):
  """Scan over layers, with or without intermediates."""

  length: int = 4
  axis: int | None = None

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(3, name='first')(x)
    axes = {'params': 0}
    if self.axis is not None:
      axes['intermediates'] = self.axis
    steps = nn.scan(Step, axes, split_rngs={'params': True}, length=self.length)
    return steps(name='steps')(x, None)[0]


@pytest.fixture
def warnings(monkeypatch):
  """Returns the warnings of layers that are left out, as they are logged."""
  logged = []
  monkeypatch.setattr(arguments, '_WARNED', set())
  monkeypatch.setattr(
    arguments.logging, 'warning', lambda _, message: logged.append(message)
  )
  return logged


def test_a_scan_without_intermediates_hides_its_layers(warnings):
  for _ in range(2):  # It warns once.
    outputs, features = capture(Scanned())
    assert list(features) == ['first']
    assert outputs.shape == (2, 3)
  (warning,) = warnings
  assert 'stay inside a transformation: steps/dense, steps. In nn.s' in warning
  with pytest.raises(ValueError, match="no layer 'steps'"):
    capture(Scanned(), layers=['steps'])
  assert len(warnings) == 1


@pytest.mark.parametrize('length', [4, 2])  # As many as images.
def test_a_scan_with_intermediates_captures_every_step(length, warnings):
  outputs, features = capture(Scanned(length, axis=1))
  shapes = {name: feature.shape for name, feature in features.items()}
  assert shapes == {
    'first': (2, 3),
    'steps/dense': (2, length, 3),
    'steps.0': (2, length, 3),
  }
  np.testing.assert_array_equal(features['steps/dense'][:, -1], outputs)
  assert not warnings


@pytest.mark.parametrize('length', [4, 2])
@pytest.mark.parametrize('api', ['linen', 'nnx'])
def test_the_steps_of_a_scan_are_not_treated_as_images(api, length, warnings):
  if api == 'linen':
    _, features = capture(Scanned(length, axis=0))
    omitted = f'steps/dense ({length}, 2, 3), steps.0 ({length}, 2, 3)'
  else:

    def run(x):
      module = NnxScanned(length)
      outputs, features = capture_nnx(module, x)
      return (outputs, module(x)), features

    (outputs, expected), features = as_one_program(run, X)
    np.testing.assert_array_equal(outputs, expected)
    omitted = f'steps ({length}, 2, 3)'
  assert list(features) == ['first']
  (warning,) = warnings
  assert f"not the images': {omitted}. Reshape" in warning


class Vmapped(nn.Module):
  """A layer for one image, over the images or over an ensemble."""

  axis: int | None = 0

  @nn.compact
  def __call__(self, x):
    x = nn.vmap(
      nn.Dense,
      {'params': None if self.axis == 0 else 0, 'intermediates': 0},
      {'params': self.axis is None},
      in_axes=self.axis,
      axis_size=len(x),
    )(4, name='dense')(x)
    return x.sum(axis=-1)


def test_a_vmap_over_the_images_gives_features(warnings):
  _, features = capture(Vmapped())
  assert features['dense'].shape == (2, 4)
  assert not warnings
  with pytest.raises(ValueError, match="no layer 'dense'"):
    capture(Vmapped(axis=None), layers='dense')  # Members, then images.


class Folded(nn.Module):
  """Frames as a batch [B * T, ...], and a table without a batch."""

  @nn.compact
  def __call__(self, x):
    frames = nn.Dense(3, name='frames')(x.reshape(-1, 3))
    table = nn.Embed(5, 3, name='table')(np.arange(5))
    x = nn.Dense(4, name='clip')(frames.reshape(x.shape) + table)
    return x.mean(axis=(1, 2))


def test_features_of_folded_batches_are_left_out_with_a_warning(warnings):
  for size in (2, 2, 3):
    x = np.ones((size, 5, 3), np.float32)
    assert list(capture(Folded(), x)[1]) == ['clip']
  assert len(warnings) == 2  # One for each set of shapes.
  assert 'frames (10, 3), table (5, 3). Reshape folded batches' in warnings[0]
  capture(Folded(), x[:1], layers='clip')  # It is named.
  assert len(warnings) == 2


class Stateful(nn.Module):
  """Module with a mutable collection, randomness and a second method."""

  def setup(self):
    self.dense = nn.Dense(3)
    self.count = self.variable('counts', 'calls', lambda: jnp.zeros(()))

  def __call__(self, x, scale=1.0, *, shift=0.0):
    self.count.value += 1
    x = self.dense(scale * x + shift)
    return x + jax.random.normal(self.make_rng('noise'), x.shape)

  def encode(self, x, scale=1.0):
    return self.dense(scale * x), scale


def stateful_variables():
  keys = {'params': jax.random.key(0), 'noise': jax.random.key(1)}
  return Stateful().init(keys, X)


@pytest.mark.parametrize('mutable', ['counts', ['counts'], True])
def test_other_arguments_pass_through(mutable):
  variables = stateful_variables()
  options = {'rngs': {'noise': jax.random.key(1)}, 'mutable': mutable}
  expected = Stateful().apply(variables, X, 2.0, shift=1.0, **options)
  outputs, features = capture_features(
    Stateful(), variables, X, 2.0, shift=1.0, **options
  )
  assert_equal(outputs, expected)
  dense = variables['params']['dense']
  feature = (2 * X + 1) @ dense['kernel'] + dense['bias']
  assert_close(features, {'dense': feature})
  by_keyword, _ = capture_features(
    Stateful(), variables, X, scale=2.0, shift=1.0, **options
  )
  assert_equal(by_keyword, expected)


@pytest.mark.parametrize('method', ['encode', Stateful.encode])
def test_another_method_is_called(method):
  outputs, features = capture_features(
    Stateful(), stateful_variables(), X, scale=2.0, method=method
  )
  assert outputs[1] == 2.0
  assert list(features) == ['dense']
  np.testing.assert_array_equal(features['dense'], outputs[0])


class Sowing(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.Dense(3, name='dense')(x)
    self.sow('intermediates', 'own', x)
    return x


@pytest.mark.parametrize('mutable', ['intermediates', ['intermediates'], True])
def test_values_that_a_module_sows_are_returned(mutable):
  variables = Sowing().init(jax.random.key(0), X)
  expected = Sowing().apply(variables, X, mutable=mutable)
  outputs, features = capture_features(Sowing(), variables, X, mutable=mutable)
  assert list(features) == ['dense']
  assert 'own' in expected[1]['intermediates']
  assert_equal(outputs, expected)


def test_earlier_intermediates_are_not_captured_again():
  variables = Sowing().init(jax.random.key(0), X)
  _, earlier = Sowing().apply(variables, X + 1, capture_intermediates=True)
  _, features = capture_features(Sowing(), {**variables, **earlier}, X)
  _, expected = capture_features(Sowing(), variables, X)
  assert_close(features, expected)


class Normed(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(3, name='dense')(x)
    return nn.BatchNorm(not train, name='norm')(x)


def test_batch_statistics_change_as_without_capturing():
  variables = Normed().init(jax.random.key(0), X)
  options = {'train': True, 'mutable': ['batch_stats']}
  expected = Normed().apply(variables, X, **options)
  outputs, features = capture_features(Normed(), variables, X, **options)
  assert_equal(outputs, expected)
  assert list(features) == ['dense', 'norm']
  np.testing.assert_array_equal(features['norm'], outputs[0])
  np.testing.assert_allclose(features['norm'].mean(0), 0, atol=1e-5)


class FlaxLayers(nn.Module):
  """Flax's attention, recurrence and sequence layers."""

  @nn.compact
  def __call__(self, x):
    x = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(4)], name='sequence')(x)
    x = nn.MultiHeadDotProductAttention(num_heads=2, name='attention')(x)
    return nn.RNN(nn.OptimizedLSTMCell(4), name='recurrent')(x)


FLAX_LAYERS = [
  *(f'attention/{name}' for name in ('query', 'key', 'value', 'out')),
  'attention',
  'recurrent',
]


def test_the_layers_of_flax_are_layers():
  x = np.ones((2, 5, 3), np.float32)
  _, features = capture(FlaxLayers(), x)
  # The layers of a sequence belong to its parent.
  assert list(features) == ['Dense_0', 'Dense_1', 'sequence', *FLAX_LAYERS]


class NnxFlaxLayers(nnx.Module):
  def __init__(self):
    rngs = nnx.Rngs(0)
    self.sequence = nnx.Sequential(
      nnx.Linear(3, 4, rngs=rngs), nnx.relu, nnx.Linear(4, 4, rngs=rngs)
    )
    self.attention = nnx.MultiHeadAttention(2, 4, rngs=rngs, decode=False)
    self.recurrent = nnx.RNN(nnx.OptimizedLSTMCell(4, 4, rngs=rngs))

  def __call__(self, x):
    return self.recurrent(self.attention(self.sequence(x)))


def test_the_layers_of_nnx_are_layers():
  """`nnx.RNN` carries its cell through a scan, which hides its layers."""
  x = np.ones((2, 5, 3), np.float32)
  _, features = as_one_program(lambda x: capture_nnx(NnxFlaxLayers(), x), x)
  assert list(features) == [
    'sequence/layers/0',
    'sequence/layers/2',
    'sequence',
    *FLAX_LAYERS,
  ]


class NnxStage(nnx.Module):
  def __init__(self):
    self.dense = linear()
    self.norm = nnx.LayerNorm(3, rngs=nnx.Rngs(0))

  def __call__(self, x):
    return self.norm(self.dense(x))


class NnxBetween(nnx.Module):
  def __init__(self, stage=NnxStage):
    self.last = linear(2)  # Not in forward order.
    self.stage = stage()
    self.first = linear(1)

  def __call__(self, x):
    return self.last(self.stage(self.first(x)))


def is_clean(module):
  """Returns whether capturing left no trace."""
  marks = ('captured_path', '__captures__')
  return not any(
    mark in vars(part) for _, part in nnx.iter_modules(module) for mark in marks
  ) and not any(hasattr(t.__call__, '__wrapped__') for t in NNX_TYPES)


NNX_TYPES = (NnxBetween, NnxStage, nnx.Linear, nnx.LayerNorm)


def test_nnx_layers_are_named_by_their_path_in_forward_order():
  module = NnxBetween()
  expected = module(X)
  outputs, features = capture_nnx(module)
  assert list(features) == BETWEEN
  np.testing.assert_array_equal(outputs, expected)
  x = module.first(X)
  np.testing.assert_array_equal(features['first'], x)
  np.testing.assert_array_equal(features['stage/dense'], module.stage.dense(x))
  np.testing.assert_array_equal(features['stage'], module.stage(x))
  np.testing.assert_array_equal(features['last'], outputs)


@pytest.mark.parametrize('module', [Between(), NnxBetween()])
@pytest.mark.parametrize(
  ('layers', 'names'),
  [
    (['stage/norm', 'first'], ['stage/norm', 'first']),  # In their order.
    (('last', 'stage'), ['last', 'stage']),
    ('stage', ['stage']),
    ({'linen': nn.Dense, 'nnx': nnx.Linear}, ['first', 'stage/dense']),
    ((nn.LayerNorm, Stage, nnx.LayerNorm, NnxStage), ['stage/norm']),
    ([nn.LayerNorm, Stage, nnx.LayerNorm, NnxStage], ['stage/norm']),
    (lambda path, module: '/' in path, ['stage/dense', 'stage/norm']),
    (lambda path, module: isinstance(module, Stage | NnxStage), ['stage']),
  ],
)
def test_layers_are_chosen_by_name_type_or_predicate(module, layers, names):
  run = capture if isinstance(module, nn.Module) else capture_nnx
  if isinstance(layers, dict):
    layers = layers['linen' if run is capture else 'nnx']
  _, everything = run(module)
  outputs, features = run(module, layers=layers)
  assert list(features) == names
  assert_equal(features, {name: everything[name] for name in names})
  np.testing.assert_array_equal(outputs, everything['last'])


def test_an_unknown_nnx_layer_is_reported_with_the_known_ones():
  with pytest.raises(ValueError, match=r"'dense'.*'first', 'stage/dense'"):
    capture_nnx(NnxBetween(), layers=['dense'])


class NnxLists(nnx.Module):
  """Twelve layers in a list, and nested containers."""

  def __init__(self):
    self.blocks = nnx.List([linear(i) for i in range(12)])
    self.pairs = nnx.Dict({'b': nnx.List([linear(12)]), 'a': linear(13)})

  def __call__(self, x):
    for block in self.blocks:
      x = block(x)
    return self.pairs['a'](self.pairs['b'][0](x))


def test_lists_and_dictionaries_of_nnx_layers_are_in_forward_order():
  _, features = capture_nnx(NnxLists())
  assert list(features) == [
    *(f'blocks/{i}' for i in range(12)),
    'pairs/b/0',
    'pairs/a',
  ]


class NnxTwice(nnx.Module):
  def __init__(self):
    self.shared = linear()
    self.other = self.shared  # The same layer under a second name.

  def __call__(self, x):
    return self.shared(self.other(self.shared(x)))


def test_each_call_of_an_nnx_module_is_a_feature():
  outputs, features = capture_nnx(NnxTwice())
  # It has one of the two names.
  assert [name.split(':')[1] for name in features] == ['0', '1', '2']
  np.testing.assert_array_equal(list(features.values())[-1], outputs)


class NnxInherited(NnxStage):
  """Module with an inherited `__call__` and an unused layer."""

  @staticmethod
  def double(x):
    return 2 * x

  def unused(self, x):
    return self.double(x)


class NnxInheriting(NnxStage):
  def __call__(self, x):
    return NnxInherited.double(super().__call__(x))


@pytest.mark.parametrize('stage', [NnxInherited, NnxInheriting])
def test_an_inherited_call_is_one_call_of_the_nnx_layer(stage):
  module = NnxBetween(stage)
  own = stage.__dict__.get('__call__')
  _, features = capture_nnx(module)
  assert list(features) == BETWEEN
  x = module.first(X)
  np.testing.assert_array_equal(features['stage'], module.stage(x))
  assert stage.__dict__.get('__call__') is own


def test_static_methods_of_an_nnx_layer_work():
  module = NnxInherited()
  outputs, features = capture_nnx(module, method='unused', layers=None)
  np.testing.assert_array_equal(outputs, 2 * X)
  assert features == {}


class NnxReturns(nnx.Module):
  def __init__(self, kind):
    self.kind = kind

  def __call__(self, x):
    return RETURNS[self.kind](x)


class NnxReturning(nnx.Module):
  def __init__(self):
    for kind in RETURNS:
      setattr(self, kind, NnxReturns(kind))

  def __call__(self, x):
    for kind in RETURNS:
      getattr(self, kind)(x)
    return x


def test_nnx_layers_may_return_anything():
  _, features = capture_nnx(NnxReturning())
  assert_close(features, RETURNED)


class NnxRemat(nnx.Module):
  """Layers in a remat method and in a remat function with a list."""

  def __init__(self):
    self.method = NnxRematStage()
    self.sequence = nnx.Sequential(linear(), nnx.tanh, linear(1))

  def __call__(self, x):
    x = self.method(x)
    return nnx.remat(lambda layer, x: layer(x))(self.sequence, x)


class NnxRematStage(NnxStage):
  @nnx.remat
  def __call__(self, x):
    return super().__call__(x)


def test_layers_inside_nnx_remat_are_captured():
  module = NnxRemat()
  _, features = capture_nnx(module)
  assert list(features) == [
    *('method/dense', 'method/norm', 'method'),
    *('sequence/layers/0', 'sequence/layers/2', 'sequence'),
  ]
  inner = module.method.dense(X)
  np.testing.assert_allclose(features['method/dense'], inner, rtol=1e-6)
  np.testing.assert_allclose(features['sequence'], module(X), rtol=1e-6)

  def loss(module, x):
    _, features = capture_nnx(module, x)
    return sum((feature**2).sum() for feature in features.values())

  def plain(module, x):
    inner = module.method.dense(x)
    middle = module.method(x)
    first, tanh, last = module.sequence.layers
    first = first(middle)
    end = last(tanh(first))
    parts = (inner, middle, middle, first, end, end)
    return sum((part**2).sum() for part in parts)

  got, expected = (
    nnx.grad(f, argnums=(0, 1))(module, X) for f in (loss, plain)
  )
  for a, b in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


class NnxClosure(nnx.Module):
  """Module whose layer is closed over by a JAX transformation."""

  def __init__(self):
    self.first, self.inside = linear(), linear(1)

  def __call__(self, x):
    return jax.checkpoint(self.inside)(self.first(x))


def test_a_layer_inside_a_jax_transformation_still_runs():
  """Nothing inside can be captured, but the network runs."""
  module = NnxClosure()
  outputs, features = capture_nnx(module)
  np.testing.assert_allclose(outputs, module(X), rtol=1e-6)
  assert list(features) == ['first']


class NnxScanned(nnx.Module):
  def __init__(self, length):
    create = nnx.vmap(lambda rngs: nnx.Linear(3, 3, rngs=rngs))
    self.first = linear()
    self.steps = create(nnx.Rngs(0).fork(split=length))

  def __call__(self, x):
    axes = (nnx.Carry, 0)
    run = nnx.scan(lambda x, m: m(x), in_axes=axes, out_axes=nnx.Carry)
    return run(self.first(x), self.steps)


class NnxMethods(nnx.Module):
  def __init__(self):
    self.dense = linear()

  def encode(self, x, scale=1.0, *, shift=0.0):
    return self.dense(scale * x + shift)

  def __call__(self, x, method):  # A separate name for `other`.
    raise NotImplementedError


@pytest.mark.parametrize(
  'method',
  [
    'encode',
    NnxMethods.encode,
    NnxMethods().encode,  # A bound method belongs to the module that runs.
    lambda m, *args, **kw: m.encode(*args, **kw),
  ],
)
def test_another_nnx_method_is_called(method):
  module = NnxMethods()
  outputs, features = capture_features(
    module, None, X, 2.0, shift=1.0, method=method
  )
  np.testing.assert_array_equal(outputs, module.dense(2 * X + 1))
  assert_equal(features, {'dense': outputs})


class NnxNormed(nnx.Module):
  """Module with batch statistics and randomness."""

  def __init__(self):
    self.dense = linear()
    self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

  def __call__(self, x):
    return self.dropout(self.norm(self.dense(x)))


def state_leaves(module):
  """Returns the leaves of a state, with keys as raw data."""
  leaves = jax.tree.leaves(nnx.to_pure_dict(nnx.state(module)))
  return [
    jax.random.key_data(leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    else leaf
    for leaf in leaves
  ]


@pytest.mark.parametrize('jit', [lambda f: f, nnx.jit])
def test_an_nnx_module_changes_as_without_capturing(jit):
  module, plain = NnxNormed(), NnxNormed()

  @jit
  def run(module, x):
    return capture_nnx(module, x)

  @jit
  def run_plain(module, x):
    return module(x)

  before = state_leaves(module)
  for _ in range(3):
    outputs, features = run(module, X)
    np.testing.assert_allclose(outputs, run_plain(plain, X), rtol=1e-5)
  assert set(features) == {'dense', 'norm', 'dropout'}
  np.testing.assert_array_equal(features['dropout'], outputs)
  assert any(
    (a != b).any() for a, b in zip(before, state_leaves(module), strict=True)
  )
  for a, b in zip(state_leaves(module), state_leaves(plain), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5)
  assert is_clean(module)


def test_perceptual_distance_changes_nothing_of_an_nnx_module():
  module = NnxNormed()
  graphdef, before = nnx.graphdef(module), state_leaves(module)
  # Both get the same randomness, so equal images have equal features.
  for run in (lambda f: f, jax.jit, nnx.jit):
    distance = run(
      lambda x: perceptual.perceptual_distance(module, None, x, x)
    )(IMAGES)
    np.testing.assert_array_equal(distance, 0)
  assert_equal(state_leaves(module), before)
  assert nnx.graphdef(module) == graphdef
  assert is_clean(module)


@pytest.mark.parametrize('create', [NnxBetween, NnxNormed, NnxRemat])
def test_an_nnx_module_may_be_closed_over(create):
  """A copy runs there, because outer modules cannot be mutated."""
  module = create()
  before = state_leaves(module)
  expected = capture_nnx(create())[1]

  @jax.jit
  def features(x):
    return capture_nnx(module, x)[1]

  got = features(X)
  assert_close({name: got[name] for name in expected}, expected)
  gradient = jax.grad(
    lambda x: sum((f**2).sum() for f in capture_nnx(module, x)[1].values())
  )(X)
  assert np.isfinite(gradient).all()
  assert (gradient != 0).any()
  assert_equal(state_leaves(module), before)
  assert is_clean(module)


class NnxRaising(NnxBetween):
  def __call__(self, x):
    super().__call__(x)
    raise KeyError('mine')


@pytest.mark.parametrize('create', [NnxBetween, NnxRaising, NnxLists])
def test_capturing_leaves_no_trace_in_an_nnx_module(create):
  module = create()
  graphdef = nnx.graphdef(module)
  calls = [t.__dict__.get('__call__') for t in NNX_TYPES]
  if create is NnxRaising:
    with pytest.raises(KeyError, match='mine'):
      capture_nnx(module)
  else:
    capture_nnx(module)
  assert [t.__dict__.get('__call__') for t in NNX_TYPES] == calls
  assert is_clean(module)
  assert nnx.graphdef(module) == graphdef


class NnxSowing(nnx.Module):
  def __init__(self):
    self.dense = linear()

  def __call__(self, x):
    x = self.dense(x)
    self.sow(nnx.Intermediate, 'own', x)
    return x


def test_sown_values_stay_separate_inside_another_capture():
  module = NnxSowing()
  (outputs, features), sown = nnx.capture(capture_nnx, nnx.Intermediate)(module)
  assert list(features) == ['dense']
  assert nnx.to_pure_dict(sown).keys() == {'own'}
  np.testing.assert_array_equal(sown['own'].get_value()[0], outputs)
  assert is_clean(module)


def test_two_captures_of_the_same_layers_are_independent():
  """Captures a layer inside the capture of another."""
  outer, inner = NnxBetween(), NnxBetween()

  def both(module, x):
    x = module.first(x)
    _, features = capture_nnx(inner, x)
    return module.last(x), features

  (_, inside), features = capture_nnx(outer, method=both)
  assert list(features) == ['first', 'last']
  assert_equal(inside, capture_nnx(inner, outer.first(X))[1])
  assert is_clean(outer)
  assert is_clean(inner)


def test_many_selections_of_one_nnx_module_are_independent():
  module = NnxBetween()
  for a, b in itertools.permutations(BETWEEN, 2):
    _, features = capture_nnx(module, layers=[a, b])
    assert list(features) == [a, b]
