"""A module's own output is no layer by default, and an array counts once."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vaegan_jax import capture_features, perceptual_distance

X = np.random.default_rng(0).uniform(-1, 1, (2, 5, 3)).astype(np.float32)


def names_of(module, x=X, **options):
  """Returns the names of a linen module's features, without compiling it."""
  names = []

  def run(x):
    variables = module.init(jax.random.key(0), x)
    names.extend(capture_features(module, variables, x, **options)[1])

  jax.eval_shape(run, x)
  return names


class Critic(nn.Module):
  """Two convolutions, and a verdict that `finish` takes from a dense layer."""

  finish: callable = lambda x: x[:, 0]

  @nn.compact
  def __call__(self, x):
    x = nn.leaky_relu(nn.Conv(4, (3,), name='conv_0')(x))
    x = nn.leaky_relu(nn.Conv(4, (3,), name='conv_1')(x))
    return self.finish(nn.Dense(1, name='logit')(x.mean(axis=1)))


class NnxCritic(nnx.Module):
  def __init__(self):
    rngs = nnx.Rngs(0)
    self.conv_0 = nnx.Conv(3, 4, (3,), rngs=rngs)
    self.conv_1 = nnx.Conv(4, 4, (3,), rngs=rngs)
    self.logit = nnx.Linear(4, 1, rngs=rngs)

  def __call__(self, x):
    x = nnx.leaky_relu(self.conv_1(nnx.leaky_relu(self.conv_0(x))))
    return self.logit(x.mean(axis=1))[:, 0]


CONVS = ['conv_0', 'conv_1']


@pytest.mark.parametrize(
  'finish',
  [
    lambda x: x,
    lambda x: x[:, 0],
    lambda x: x.reshape(-1),
    lambda x: x.squeeze(-1).astype(jnp.float16),
    lambda x: jnp.repeat(x, 3, axis=1),
    lambda x: {'logit': x, 'probability': nn.sigmoid(x)},
    lambda x: jnp.stack([x, x + 1]),
    jax.jit(lambda x: x[..., 0]),
    jax.checkpoint(lambda x: x[..., 0]),
    jax.lax.stop_gradient,
  ],
)
def test_the_verdict_is_no_layer_in_any_shape(finish):
  assert names_of(Critic(finish)) == CONVS


class Head(nn.Module):
  """A projection critic's verdict: a logit plus how well it fits a class."""

  @nn.compact
  def __call__(self, x):
    fit = nn.Embed(3, x.shape[-1], name='classes')(jnp.arange(len(x)))
    return nn.Dense(1, name='logit')(x)[:, 0] + (x * fit).sum(axis=-1)


@pytest.mark.parametrize(
  ('tail', 'names'),
  [
    (lambda x: nn.Conv(1, (1,))(x).mean((1, 2)), []),
    (lambda x: nn.tanh(-2 * nn.Dense(1)(x).clip(-1, 1)), []),
    (lambda x: nn.Dense(1)(x[:, 0]) + nn.Dense(1)(x[:, 1]), []),
    (lambda x: nn.Dense(2)(x[:, 0])[:, 0], []),
    (lambda x: nn.softmax(nn.Dense(2)(x[:, 0])), []),
    (lambda x: nn.Dense(1)(x[:, 0])[:1], []),
    (lambda x: nn.Sequential([nn.Dense(1), nn.tanh])(x), []),
    (lambda x: nn.tanh(Head()(x.mean(1))), ['Head_0/classes']),
    # An embedding, a logit of a logit and a gate are features.
    (lambda x: nn.Conv(4, (1,))(x).mean(1), ['Conv_0']),
    (lambda x: nn.Dense(1)(nn.relu(nn.Dense(2)(x))), ['Dense_1']),
    (lambda x: nn.Dense(3)(x * nn.sigmoid(nn.Dense(1)(x))), ['Dense_1']),
  ],
)
def test_a_logit_is_no_layer_whatever_follows_it(tail, names):
  class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
      return tail(nn.leaky_relu(nn.Conv(4, (3,), name='trunk')(x)))

  assert names_of(Network()) == ['trunk', *names]


def test_a_logit_that_is_not_returned_stays():
  class Auxiliary(nn.Module):
    @nn.compact
    def __call__(self, x):
      nn.Dense(1, name='aside')(x)
      return nn.Dense(3, name='out')(x)

  assert names_of(Auxiliary()) == ['aside']


@pytest.mark.parametrize(
  ('layers', 'names'),
  [
    (None, CONVS),
    ('logit', ['logit']),
    (['logit', 'conv_0'], ['logit', 'conv_0']),
    (lambda path, module: True, [*CONVS, 'logit']),
    ((nn.Conv, nn.Dense, nnx.Conv, nnx.Linear), CONVS),
  ],
)
@pytest.mark.parametrize('api', ['linen', 'nnx'])
def test_a_name_or_a_predicate_chooses_the_verdict(api, layers, names):
  if api == 'linen':
    assert names_of(Critic(), layers=layers) == names
  else:
    _, features = capture_features(NnxCritic(), None, X, layers=layers)
    assert list(features) == names


@pytest.mark.parametrize(
  ('transform', 'x'),
  [
    (lambda f: f, X),
    (jax.jit, X),
    (jax.grad, X),
    (jax.vmap, X[None]),
    (lambda f: jax.jit(jax.grad(jax.checkpoint(f))), X),
  ],
)
def test_it_is_found_under_every_transformation(transform, x):
  variables = Critic().init(jax.random.key(0), X)
  found = []

  def total(x):
    _, features = capture_features(Critic(), variables, x)
    found.append(list(features))
    return sum((feature**2).sum() for feature in features.values())

  transform(total)(x)
  assert found == [CONVS]


def test_the_distance_leaves_the_verdict_out():
  """It would outweigh the features of a trained critic with 'mean'."""
  module, y = NnxCritic(), X + 0.1
  by_default, named = (
    perceptual_distance(module, None, X, y, layers=layers, reduction='mean')
    for layers in (None, CONVS)
  )
  np.testing.assert_array_equal(by_default, named)


class Wrapped(nn.Module):
  """Layers that return what another layer returned."""

  @nn.compact
  def __call__(self, x):
    x = nn.SpectralNorm(nn.Conv(3, (3,), name='conv'))(x, update_stats=False)
    x = nn.Dropout(0.5, deterministic=True)(nn.relu(x))
    x = nn.remat(Stage)(name='stage')(x)
    return nn.Dense(1, name='logit')(x)


class Stage(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.Dropout(0.5, deterministic=True, name='early')(x)
    return nn.LayerNorm(name='norm')(nn.Dense(3, name='dense')(x))


def test_an_array_that_several_layers_return_counts_once():
  expected = ['conv', 'Dropout_0', 'stage/dense', 'stage/norm']
  assert names_of(Wrapped()) == expected
  named = ['SpectralNorm_0', 'stage']
  assert names_of(Wrapped(), layers=named) == named
  types = (nn.SpectralNorm, nn.Dense)
  assert names_of(Wrapped(), layers=types) == ['SpectralNorm_0', 'stage/dense']


class NnxWrapped(nnx.Module):
  def __init__(self):
    rngs = nnx.Rngs(0)
    self.norm = nnx.SpectralNorm(nnx.Linear(3, 3, rngs=rngs), rngs=rngs)
    self.logit = nnx.Linear(3, 1, rngs=rngs)

  def __call__(self, x):
    return self.logit(nnx.relu(self.norm(x, update_stats=False)))[..., 0]


def test_a_wrapped_nnx_layer_counts_once():
  _, features = capture_features(NnxWrapped(), None, X)
  assert list(features) == ['norm/layer_instance']


class Several(nn.Module):
  """Returns features beside verdicts, as in feature matching."""

  heads: int = 1

  @nn.compact
  def __call__(self, x):
    first = nn.Conv(3, (3,), name='first')(x)
    second = nn.Conv(3, (3,), name='second')(first)
    logits = [nn.Dense(1, name=f'logit_{i}')(second) for i in range(self.heads)]
    return [first, second], logits


def test_features_that_are_returned_too_stay():
  assert names_of(Several()) == ['first', 'second']
  assert names_of(Several(heads=2)) == ['first', 'second']
  # A layer of another type is computed from the second.
  assert names_of(Several(), layers=nn.Conv) == ['first', 'second']


class Residual(nn.Module):
  @nn.compact
  def __call__(self, x):
    return x + nn.Dense(3, name='b')(nn.relu(nn.Dense(3, name='a')(x)))


class Branching(nn.Module):
  """Cannot be traced, since Python reads a value."""

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(3, name='a')(x)
    return nn.Dense(1, name='b' if x.mean() > 9 else 'c')(x)


def test_no_other_layer_is_left_out():
  assert names_of(Residual()) == ['a', 'b']
  variables = Branching().init(jax.random.key(0), X)
  assert [*capture_features(Branching(), variables, X)[1]] == ['a', 'c']
  # There is nothing else.
  assert names_of(nn.Sequential([nn.Dense(3)])) == ['layers_0']


def test_the_batch_statistics_are_no_output():
  class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = nn.BatchNorm(use_running_average=False, name='norm')(x)
      return nn.Dense(1, name='logit')(x)

  assert names_of(Normed(), mutable=['batch_stats']) == ['norm']
