"""The whole loss as one function: its terms, masks, gradients and costs."""

import functools
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.losses.perceptual_test import cost
from tests.networks import convolve, jitted, loss_config
from vaegan_jax import reconstruction_loss
from vaegan_jax.config.schema import FIELDS
from vaegan_jax.losses import reconstruction
from vaegan_jax.models.critic import Critic

RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (4, 8, 8, 2)).astype(np.float32)
Y = (X + RNG.normal(0, 0.3, X.shape)).astype(np.float32)


@functools.cache
def network():
  """Returns a critic and its variables."""
  module = Critic(2, (1, 2))
  with jax.ensure_compile_time_eval():
    return module, jax.jit(module.init)(jax.random.key(0), X)


def loss_of(x=X, y=Y, **options):
  options.setdefault('layers', ['block_0', 'block_1'])
  loss = functools.partial(reconstruction_loss, *network(), **options)
  return jax.jit(loss)(x, y)


def test_the_defaults_are_those_of_a_run():
  fields = {f.name: f.default for f in FIELDS}
  given = inspect.signature(reconstruction_loss).parameters
  assert given['objective'].default == fields['objective']
  for name in (
    *('normalize', 'norm', 'reduction', 'spectrum_weight', 'image_weight'),
    *('image_halvings', 'image_growth', 'image_high_pass'),
    'adversarial_weight',
  ):
    assert given[name].default == fields[f'loss.{name}'], name


def test_it_is_the_loss_that_trains():
  """Values and gradients are those of the trainer's parts."""
  module, variables = network()
  losses = reconstruction.create_reconstruction_losses(
    module,
    lambda logits: -logits,
    loss_config(
      normalize='local',
      reduction='mean',
      image_weight=1.0,
      image_halvings=3,
      image_high_pass=1.0,
      image_growth=1.5,
    ),
  )

  @jax.jit
  def trained(y):
    terms, _ = losses(variables, X, {'x_recon': y})
    return terms['distance'] + 0.2 * terms['adversarial']

  def public(y):
    return loss_of(X, y, image_growth=1.5)[0]

  assert public(Y).shape == (4,)
  for function in (
    lambda f: f,
    lambda f: jax.jit(jax.grad(lambda y: f(y).sum())),
  ):
    got, expected = (function(f)(Y) for f in (public, trained))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_the_terms_are_weighted_and_add_up():
  loss, terms = jax.device_get(
    loss_of(weights=[2.0, 0.0], image_weight=0.5, image_halvings=1)
  )
  assert list(terms['features']) == ['block_0', 'block_1']
  assert set(terms['image']) == {'image', 'image_1', 'high_pass'}
  np.testing.assert_allclose(loss, sum(jax.tree.leaves(terms)), rtol=1e-6)
  np.testing.assert_array_equal(terms['features']['block_1'], 0)
  errors = np.square(X - Y).mean((1, 2, 3)) / np.square(X).mean()
  np.testing.assert_allclose(terms['image']['image'], errors / 2, rtol=1e-5)
  module, variables = network()
  logits = np.asarray(jax.jit(module.apply)(variables, Y))
  np.testing.assert_allclose(terms['adversarial'], -0.2 * logits, rtol=1e-4)
  _, terms = loss_of(image_weight=0, adversarial_weight=0)
  assert list(terms) == ['features']
  _, terms = loss_of(objective='least_squares', adversarial_weight=1.0)
  wanted = np.square(logits - 1) / 2
  np.testing.assert_allclose(terms['adversarial'], wanted, rtol=1e-4)


def test_gradients_reach_the_reconstructions_alone():
  module, variables = network()

  def loss(variables, x, y):
    return reconstruction_loss(module, variables, x, y)[0].sum()

  *others, to_y = jax.jit(jax.grad(loss, (0, 1, 2)))(variables, X, Y)
  assert not any(leaf.any() for leaf in jax.tree.leaves(others))
  assert to_y.any()


def test_the_critic_runs_once_on_each():
  module, variables = network()
  layers = module.layer_names

  def by_hand(y):
    params = variables['params']

    def run(x):
      for name in layers:
        x = convolve(x, params[name]['Conv_0'])
        x = jnp.maximum(x, 0.2 * x)
        yield x
      dense = params['Dense_0']
      yield x.reshape(len(x), -1) @ dense['kernel'] + dense['bias']

    *of_x, _ = run(jnp.asarray(X))
    *of_y, logits = run(y)
    distances = sum(
      jnp.square(a - b).mean() for a, b in zip(of_x, of_y, strict=True)
    )
    return distances - logits.mean()

  def whole(y):
    options = {'normalize': 'none', 'image_weight': 0, 'layers': layers}
    loss, _ = reconstruction_loss(module, variables, X, y, **options)
    return loss.mean()

  expected, got = (cost(jax.grad(f), Y)['flops'] for f in (by_hand, whole))
  assert got <= 1.05 * expected


EXAMPLES = np.array([True, False, True, False])


@pytest.mark.parametrize(
  ('normalize', 'reduction'),
  [
    ('local', 'mean'),
    ('batch', 'sum'),
    ('relative', 'spatial'),
    ('unit', 'mean'),
  ],
)
def test_excluded_examples_count_nowhere(normalize, reduction):
  options = {'normalize': normalize, 'reduction': reduction}
  x, y = X.copy(), Y.copy()
  x[1], y[3] = np.nan, np.inf  # "No data".
  loss, terms = jax.device_get(loss_of(x, y, where=EXAMPLES, **options))
  wanted, _ = loss_of(X[EXAMPLES], Y[EXAMPLES], **options)
  np.testing.assert_allclose(loss[EXAMPLES], wanted, rtol=1e-5)
  for term in jax.tree.leaves(terms):
    np.testing.assert_array_equal(term[~EXAMPLES], 0)


def test_excluded_positions_count_nowhere():
  where = np.zeros(X.shape[:-1], bool)
  where[:, :, :4] = True
  y = np.where(where[..., None], Y, np.nan)

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def run(y):
    loss, terms = reconstruction_loss(*network(), X, y, where=where)
    return loss.sum(), terms

  (loss, terms), gradient = jax.device_get(run(y))
  (same, _), _ = run(np.where(where[..., None], Y, 7))
  np.testing.assert_array_equal(loss, same)
  assert np.isfinite(gradient).all()
  np.testing.assert_array_equal(gradient[~where], 0)
  assert gradient[where].all()
  # The image's layers are those of the half that is included.
  _, cropped = jax.jit(
    lambda x, y: reconstruction_loss(Mean(), {}, x, y, adversarial_weight=0)
  )(X[:, :, :4], Y[:, :, :4])
  for name, term in cropped['image'].items():
    np.testing.assert_allclose(terms['image'][name], term, rtol=1e-5)


class Mean(nn.Module):
  """A critic whose only layer averages pairs of columns."""

  @nn.compact
  def __call__(self, x):
    return Pool(name='pool')(x).sum(axis=range(1, x.ndim))


class Pool(nn.Module):
  @nn.compact
  def __call__(self, x):
    return x.reshape(*x.shape[:-2], -1, 2, x.shape[-1]).mean(axis=-2)


def test_a_feature_counts_by_the_share_that_is_included():
  """Of four columns three are included, and the second cell counts half."""
  x, y = np.zeros((1, 1, 4, 1)), np.array([1.0, 2, 3, 100]).reshape(1, 1, 4, 1)
  where = np.array([True, True, True, False]).reshape(1, 1, 4)
  options = {
    'normalize': 'none',
    'image_halvings': 1,
    'image_growth': 3.0,
    'image_high_pass': 2.0,
    'adversarial_weight': 0,
  }
  for reduction, wanted, image in (
    ('mean', (1 + 0.5) * 1.5**2 / 1.5, (1 + 4 + 9) / 3),
    ('sum', (1 + 0.5) * 1.5**2, 14),
  ):
    loss = functools.partial(
      reconstruction_loss, Mean(), {}, reduction=reduction, **options
    )
    _, terms = jax.jit(loss)(np.float32(x), np.float32(y), where=where)
    np.testing.assert_allclose(terms['features']['pool'], [wanted], rtol=1e-6)
    np.testing.assert_allclose(terms['image']['image'], [image], rtol=1e-6)
    # The means of what is included: 1.5, and 3 with half the weight. This layer
    # counts three times.
    is_mean = reduction == 'mean'
    halves = 3 * (1.5**2 + 9 / 2) / (1.5 if is_mean else 1)
    np.testing.assert_allclose(terms['image']['image_1'], [halves], rtol=1e-6)
    # The finest band is -0.5 and 0.5, and 0 in the cell with one position.
    fine = 2 * (0.25 + 0.25) / (3 if is_mean else 1)
    np.testing.assert_allclose(terms['image']['high_pass'], [fine], rtol=1e-6)


def test_a_mask_spans_the_devices_of_an_axis():
  where = RNG.uniform(size=X.shape[:-1]) < 0.6
  where[0] = False
  whole, _ = loss_of(where=where)
  module, variables = network()
  halves = [a.reshape(2, 2, *a.shape[1:]) for a in (X, Y, where)]

  def half(x, y, where):
    return reconstruction_loss(
      module,
      variables,
      x,
      y,
      layers=module.layer_names,
      where=where,
      axis_name='data',
    )[0]

  got = jax.jit(jax.vmap(half, axis_name='data'))(*halves).reshape(-1)
  np.testing.assert_allclose(got, whole, rtol=1e-4)


class NnxPatches(nnx.Module):
  """A critic of any number of axes of space; returns maps beside features."""

  def __init__(self, num_axes):
    rngs = nnx.Rngs(0)
    self.conv = nnx.Conv(2, 3, (3,) * num_axes, rngs=rngs)
    self.head = nnx.Conv(3, 1, (3,) * num_axes, rngs=rngs)

  def __call__(self, x):
    x = nnx.relu(self.conv(x))
    return self.head(x), x


@pytest.mark.parametrize('space', [(16,), (4, 6), (4, 3, 2)])
def test_it_takes_sounds_and_volumes_and_maps_of_logits(space):
  module = NnxPatches(len(space))
  x, y = RNG.uniform(-1, 1, (2, 3, *space, 2)).astype(np.float32)

  @jax.jit
  def run(where=None):
    return reconstruction_loss(
      module, None, x, y, logits=lambda output: output[0], where=where
    )

  loss, terms = run()
  assert list(terms['features']) == ['conv']
  maps = jitted(lambda y: module(y)[0], y)
  wanted = -0.2 * maps.reshape(3, -1).mean(axis=1)
  np.testing.assert_allclose(terms['adversarial'], wanted, rtol=1e-4)
  np.testing.assert_allclose(loss, sum(jax.tree.leaves(terms)), rtol=1e-5)
  everything = np.ones((3, *space), bool)
  masked, _ = run(where=everything)
  np.testing.assert_allclose(masked, loss, rtol=1e-5)


@pytest.mark.parametrize(
  ('options', 'words'),
  [
    ({'objective': 'mse'}, "objective is 'mse'; known: geometric"),
    ({'logits': lambda output: {}}, 'output is a dict; expected logits'),
    ({'logits': lambda output: output[:1]}, r'output is \(1,\); expected'),
    ({'where': np.ones(4)}, r'where is float64 of shape \(4,\).*booleans'),
    ({'where': [True] * 4}, 'where is a list; expected'),
    ({'where': np.ones((4, 8), bool)}, r'\(4, 8\).*\(4,\).*\(4, 8, 8\)'),
    ({'image_weights': 1}, 'Critic takes no such.*did you mean image_weight?'),
    ({'min_sizes': {'a': 1, 'image_1': 1}}, r"min_sizes are of \['a'\]"),
    ({'min_sizes': 0.1}, r'min_sizes are a float; expected \{layer: number\}'),
    ({'min_sizes': {'image': -1.0}}, r"\['image'\] is -1.0; expected one"),
    ({'min_sizes': {'image': np.nan}}, r"\['image'\] is nan; expected one"),
    ({'min_sizes': {'image': 'x'}}, r"\['image'\] is 'x'; expected one"),
    ({'min_sizes': {'image': X[0]}}, r'an array of shape \(8, 8, 2\); exp'),
    ({'image_growth': 0}, 'image_growth is 0; expected a number above 0'),
    ({'image_growth': float('nan')}, 'image_growth is nan; expected'),
    ({'image_halvings': -1}, 'image_halvings is -1; expected an integer, 0 or'),
    ({'weights': np.float32(1)}, r'weights are .*; give one weight per layer'),
    ({'weights': np.int64(2)}, r'weights are .*; give one weight per layer'),
    ({'weights': jnp.ones(())}, r'weights are .*; give one weight per layer'),
    ({'logits': 'logit'}, "logits is 'logit'; expected a function of the out"),
    ({'axis_name': 0}, 'axis_name is 0; expected the name of an axis'),
    ({'adv_weight': 0.1}, r'did you mean adversarial_weight\?'),
    ({'mask': np.ones(4, bool)}, r'did you mean where\?'),
  ],
)
def test_a_mistake_is_reported(options, words):
  with pytest.raises(ValueError, match=words):
    loss_of(**options)
