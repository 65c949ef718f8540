"""Runs that do not fit are refused with sizes, and others are not."""

import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from tests import networks
from vaegan_jax.errors import UserError
from vaegan_jax.models import create_modules
from vaegan_jax.models.tile_plan import TilePlan
from vaegan_jax.setup import memory
from vaegan_jax.setup.program_sizes import forward_pass, kept_bytes
from vaegan_jax.training.train_state import create_train_state

_SHAPE = (16, 16, 3)


class _Block(nn.Module):
  """Two products, of which the second is the larger, and a sum."""

  @nn.compact
  def __call__(self, x):
    h = nn.Conv(7, (3, 3))(nn.Conv(5, (3, 3))(x))
    return h + jnp.roll(h, 1)


class _Nested(nn.Module):
  """Module with two products and a nested function, and with blocks."""

  remat: bool = False

  @nn.compact
  def __call__(self, x):
    block = nn.remat(_Block) if self.remat else _Block
    x = block()(block()(x))
    return jax.jit(nn.relu)(nn.Dense(3)(x)).mean()


@pytest.mark.parametrize(
  ('remat', 'channels'),
  # Recomputed blocks keep their results, and one block its products.
  [(False, 2 * (5 + 7) + 3), (True, 7 + 7 + 3 + (5 + 7))],
)
def test_products_are_counted_and_nothing_else(remat, channels):
  x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
  module = _Nested(remat)
  variables = jax.eval_shape(module.init, jax.random.key(0), x)
  program = forward_pass(module, variables, (2, 8, 8, 3))
  assert kept_bytes(program) == 2 * 8 * 8 * channels * 4
  # In lanes of 4, 5 and 7 channels take the room of 8, and 3 of 4: less than
  # 2 images, which double.
  kept = 'conv_general_dilated', 'dot_general', 'add'
  on_tpu = kept_bytes(program, kept, lanes=4)
  numbers = 5 if remat else 6  # A block has two products and a sum.
  assert on_tpu == 2 * 8 * 8 * (numbers * 8 + 4) * 4
  wide = jax.make_jaxpr(jnp.tanh)(jnp.zeros((64, 5, 3))).jaxpr
  assert kept_bytes(wide, ('tanh',), lanes=128) == 128 * 5 * 3 * 4


def _bound(module, variables, *shape):
  return kept_bytes(forward_pass(module, variables, shape))


def _networks(**model):
  sizes = {'width': 4, 'channel_multipliers': (1, 2), 'norm': 'group'}
  modules = create_modules(
    with_critic=True,
    space=(16, 16),
    channels=3,
    model=networks.model_fields(**sizes, **model),
    critic=networks.critic_fields(**sizes),
  )
  return modules, jax.eval_shape(
    lambda: create_train_state(modules, {}, seed=0, image_shape=_SHAPE)
  )


def test_a_run_that_does_not_fit_is_refused_with_sizes(monkeypatch):
  modules, state = _networks()
  memory.check_memory(modules, state, _SHAPE, 8)
  # Of chunks one network's results are kept at a time.
  autoencoder, critic = (
    _bound(modules[name], network.variables, 5, *_SHAPE)
    for name, network in state.networks.items()
  )
  for number, bound in ((1, autoencoder + critic), (2, autoencoder)):
    size = 5 * number, 'cpu', number
    parts = memory.estimate_parts(modules, state, _SHAPE, *size)
    assert parts['activations of 5 images'] == bound
  # A part that does not train needs no activations and has no gradient.
  params = state.networks['autoencoder'].params
  critic_bytes = memory._num_bytes(state.networks['critic'].params)
  decoder = _bound(
    modules['autoencoder'].decoder,
    {'params': params['decoder']},
    5,
    modules['autoencoder'].latent.size,
  )
  assert 0 < decoder < autoencoder
  for moved, bound in ((('decoder',), decoder), ((), 0)):
    size = 5, 'cpu', 1, moved
    parts = memory.estimate_parts(modules, state, _SHAPE, *size)
    assert parts['activations of 5 images'] == bound + critic
    sizes = [memory._num_bytes(params[name]) for name in moved]
    assert parts['gradients'] == max([critic_bytes, *sizes])
  with pytest.raises(UserError, match=r'GB .*state, .*activations of 10,'):
    memory.check_memory(modules, state, _SHAPE, 10**7)
  monkeypatch.setattr(memory, '_available', lambda: 10**4)
  with pytest.raises(
    UserError, match=r'about 0\.0 GB .* each device .*steps=6'
  ):
    memory.check_memory(modules, state, _SHAPE, 3, 3)
  # The entropy of 'lfq' is that of a whole batch, which has no parts.
  modules, state = _networks(latent='lfq')
  with pytest.raises(UserError, match=r'model\.remat=true$'):
    memory.check_memory(modules, state, _SHAPE, 3)


def test_an_evaluation_is_counted_by_its_tiles():
  module, shape = _Nested(), (8, 8, 3)
  x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  variables = jax.eval_shape(module.init, jax.random.key(0), x)
  # The largest layer takes 5 channels and returns 7, with a kernel of 3 x 3.
  kernel = 3 * 3 * 5 * 7
  whole = 4 * (2 * 8 * 8 * (5 + 7) + kernel)
  in_tiles = 4 * (2 * 4 * 4 * (5 + 7) + kernel + 2 * 2 * 8 * 8 * 3)
  count = functools.partial(memory._evaluation_bytes, module, variables, shape)
  assert count(2, ()) == (2, whole)
  # 8 tiles have the positions of 2 examples.
  assert count(8, (4, 4)) == (2, in_tiles)


def test_the_remedy_of_an_evaluation_is_a_tile_that_works(monkeypatch):
  """The network's least tile is 20, above the 16 that it was trained on."""
  module, shape = (
    networks.autoencoder(16, 3, latent_shape='map', width=16),
    (64, 64, 3),
  )
  x = jax.ShapeDtypeStruct((1, *_SHAPE), jnp.float32)
  variables = jax.eval_shape(module.init, jax.random.key(0), x)
  check = functools.partial(memory.check_evaluation, module, variables, shape)
  count = functools.partial(
    memory._evaluation_bytes, module, variables, shape, 1
  )
  needed = count((20, 20))[1]
  assert needed < count(())[1]
  monkeypatch.setattr(memory, '_available', lambda: needed)
  check(1, (20, 20), (16, 16))
  for tile in ((), (48, 48)):
    with pytest.raises(UserError, match=r': use tiles: .*tile_size=20$'):
      check(1, tile, (16, 16))
  assert TilePlan(module, variables, shape, (20,)).tile == (20, 20)
  monkeypatch.setattr(memory, '_available', lambda: needed - 1)
  for number, told in ((1, 'evaluate smaller examples$'), (40, 'batch_size$')):
    with pytest.raises(UserError, match=told):
      check(number, (20, 20), (16, 16))


def test_an_accelerator_warns_of_activations_and_refuses_the_rest(
  monkeypatch, caplog
):
  modules, state = _networks()
  chip = types.SimpleNamespace(
    platform='tpu',
    device_kind='TPU v9',
    memory_stats=lambda: {'bytes_limit': limit},
  )
  monkeypatch.setattr(jax, 'local_devices', lambda: [chip])
  monkeypatch.setattr(memory, '_BESIDE', 1000)
  *fixed, activations = memory.estimate_parts(
    modules, state, _SHAPE, 10**4, 'tpu'
  ).values()
  assert 1e8 < activations < 1e9
  limit = sum(fixed) + activations
  memory.check_memory(modules, state, _SHAPE, 10**4)
  assert not caplog.records
  limit -= 1  # XLA may compute activations again.
  memory.check_memory(modules, state, _SHAPE, 10**4)
  (record,) = caplog.records
  assert 'on each TPU v9 (' in record.getMessage()
  assert 'activations of 10,000 images' in record.getMessage()
  limit = sum(fixed) - 1
  with pytest.raises(UserError, match=r'TPU v9 .*model\.remat=true'):
    memory.check_memory(modules, state, _SHAPE, 10**4)


def test_the_bound_is_below_what_xla_takes():
  modules, state = _networks()
  x = jax.ShapeDtypeStruct((64, *_SHAPE), jnp.float32)
  for name, network in state.networks.items():

    def loss(variables, x, apply=modules[name].apply):
      outputs = apply(variables, x)
      return sum(jnp.sum(jnp.square(y)) for y in jax.tree.leaves(outputs))

    compiled = jax.jit(jax.grad(loss)).lower(network.variables, x)
    took = compiled.compile().memory_analysis().temp_size_in_bytes
    bound = _bound(modules[name], network.variables, *x.shape)
    assert took / 10 < bound < took, name


@pytest.mark.parametrize(
  'error',
  (
    RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.\nat'),
    MemoryError('Unable to allocate 7 bytes'),
  ),
)
def test_exhausted_memory_gives_one_message(error):
  told = r'allocat\w+ 7 bytes\.?\) for batch_size=9: lower'
  sizes = {'batch_size': 9}
  with pytest.raises(UserError, match=told), memory.reporting_exhaustion(sizes):
    raise error


def test_other_errors_are_not_hidden():
  with pytest.raises(ZeroDivisionError), memory.reporting_exhaustion({}):
    raise ZeroDivisionError


def test_features_beyond_the_memory_are_refused_before_anything_compiles(
  monkeypatch,
):
  monkeypatch.setattr(memory, '_machine_memory', lambda: 16 * 10**9)
  memory.check_features(10_000, 13, 2048)
  memory.check_features(10_000, 200, 0)  # No Frechet distance.
  with pytest.raises(UserError) as caught:
    memory.check_features(10_000, 200, 2048)
  told = str(caught.value)
  assert told.startswith('evaluation.features_weights needs 65.5 GB of memory')
  assert '2,048 features of 10,000 examples with 200 pictures each' in told
  assert 'has 16.0' in told and 'eval_split="test[:1220]"' in told
