"""Tests of optimizers by hand, and of learning rate schedules."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.networks import assert_close
from vaegan_jax.training import muon, optimizers
from vaegan_jax.training.critic_step import CriticConfig

RATES = {'autoencoder': 0.25, 'critic': 0.0625}


PLAIN_CRITIC = CriticConfig(r1_weight=0.0)
CONSTANT = dict(schedule='constant', warmup_steps=0)
DEFAULTS = optimizers.OptimizerConfig(
  name='adam',
  autoencoder_learning_rate=RATES['autoencoder'],
  muon_learning_rate=0.0,
  critic_learning_rate=RATES['critic'],
  b1=0.5,
  b2=0.999,
  warmup_steps=0,
  schedule='constant',
  max_grad_norm=0.0,
)


def schedules_of(names, num_train_steps=100, critic=PLAIN_CRITIC, **changes):
  config = dataclasses.replace(DEFAULTS, **changes)
  return optimizers.create_schedules(names, config, critic, num_train_steps)


def create(names, num_train_steps=100, critic=PLAIN_CRITIC, **changes):
  return optimizers.create_optimizers(
    schedules_of(names, num_train_steps, critic, **changes),
    dataclasses.replace(DEFAULTS, **changes),
  )


@pytest.mark.parametrize('name', list(RATES))
def test_adams_first_step_is_the_learning_rate_against_the_sign(name):
  optimizer = create(['autoencoder', 'critic'])[name]
  params = {'w': jnp.ones(3)}
  gradient = {'w': jnp.array([1e-3, -2.0, 50.0])}
  updates, _ = optimizer.update(gradient, optimizer.init(params), params)
  moved = optax.apply_updates(params, updates)['w']
  rate = RATES[name]
  np.testing.assert_allclose(
    moved, [1 - rate, 1 + rate, 1 - rate], rtol=1e-4, atol=1e-5
  )


def test_two_steps_equal_adam_by_hand():
  optimizer = create(['critic'], b1=0.5)['critic']
  state = optimizer.init(jnp.zeros(1))
  first = second = position = 0.0
  for step, gradient in enumerate([3.0, -1.0], start=1):
    first = 0.5 * first + 0.5 * gradient
    second = 0.999 * second + 0.001 * gradient**2
    root = np.sqrt(second / (1 - 0.999**step)) + 1e-8
    position = -RATES['critic'] * first / (1 - 0.5**step) / root
    update, state = optimizer.update(jnp.array([gradient]), state)
    np.testing.assert_allclose(update, [position], rtol=1e-4, atol=1e-7)


def test_only_named_networks_have_an_optimizer():
  assert list(create(['autoencoder'])) == ['autoencoder']


def run(optimizer, gradients):
  """Returns the updates for a sequence of gradients of one number."""
  state, updates = optimizer.init(jnp.zeros(1)), []
  for gradient in gradients:
    update, state = optimizer.update(jnp.array([gradient]), state)
    updates.append(float(update[0]))
  return updates


def test_two_steps_equal_rmsprop_by_hand():
  second, expected = 0.0, []
  for gradient in [3.0, -1.0]:
    second = 0.99 * second + 0.01 * gradient**2
    root = np.sqrt(second) + 1e-8
    expected.append(-RATES['critic'] * gradient / root)
  got = run(create(['critic'], name='rmsprop')['critic'], [3.0, -1.0])
  np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize('gradient', [1e-2, 1e-4, 1e-5])
def test_rmsprop_is_invariant_to_the_scale_of_small_gradients(gradient):
  """Checks that 1e-8 is added to the root, |g| / 10 at first, as in torch.

  The gradients of a critic whose weights are clipped to 0.01 are that small.
  """
  (got,) = run(create(['critic'], name='rmsprop')['critic'], [gradient])
  expected = -RATES['critic'] * gradient / (0.1 * gradient + 1e-8)
  np.testing.assert_allclose(got, expected, rtol=1e-4)


def rates(optimizer, num_steps):
  """Returns the learning rates: Adam's updates for a constant gradient."""
  return -np.array(run(optimizer, [1.0] * num_steps))


KERNELS = {  # Shapes of an autoencoder's arrays.
  'wide/kernel': (6, 8),
  'tall/kernel': (3, 3, 4, 5),
  'bias': (6,),
  'codebook': (6, 4),
}


def near_one(matrix):
  """Applies Muon's polynomial to the singular values, in float64."""
  left, values, right = np.linalg.svd(np.float64(matrix), full_matrices=False)
  values /= np.linalg.norm(values)
  for _ in range(5):
    values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
  assert values.min() > 0.65 and values.max() < 1.25
  return left * values @ right


def test_two_steps_equal_muon_by_hand():
  """Checks that kernels alone have Muon, in the autoencoder alone."""
  rng = np.random.default_rng(0)
  options = {'muon_learning_rate': 0.5, 'warmup_steps': 2}
  both, plain = create(RATES, **options), create(RATES, warmup_steps=2)
  start = {name: jnp.zeros(shape) for name, shape in KERNELS.items()}
  states = {name: both[name].init(start) for name in RATES}
  expected = plain['autoencoder'].init(start)
  assert jax.tree.structure(states['critic']) == jax.tree.structure(
    plain['critic'].init(start)
  )
  momenta = dict.fromkeys(KERNELS, 0.0)
  step = jax.jit(both['autoencoder'].update)
  plain_step = jax.jit(plain['autoencoder'].update)
  for warmup in (0.0, 0.5, 1.0):
    gradient = {
      name: rng.normal(size=shape).astype(np.float32)
      for name, shape in KERNELS.items()
    }
    updates, states['autoencoder'] = step(gradient, states['autoencoder'])
    others, expected = plain_step(gradient, expected)
    for name in ('bias', 'codebook'):
      np.testing.assert_allclose(updates[name], others[name], rtol=1e-5)
    for name, longer in (('wide/kernel', (8 / 6) ** 0.5), ('tall/kernel', 1)):
      momenta[name] = 0.95 * momenta[name] + gradient[name]
      ahead = gradient[name] + 0.95 * momenta[name]
      matrix = near_one(ahead.reshape(-1, KERNELS[name][-1]))
      np.testing.assert_allclose(
        updates[name].reshape(matrix.shape),
        -0.5 * warmup * longer * matrix,
        atol=1e-4,
      )


@pytest.mark.parametrize('rank', [0, 1])
def test_muon_takes_gradients_without_full_rank(rank):
  matrix = np.zeros((12, 4), np.float32)
  matrix[:, 0] = rank * 1e-12
  got = np.asarray(jax.jit(muon.orthogonalize)(matrix))
  assert np.isfinite(got).all() and abs(got).max() <= 1


COSINE = (1 + np.cos(np.pi * np.arange(9) / 8)) / 2  # 1, 0.5 and 0 at 0, 4, 8.


@pytest.mark.parametrize(
  ('options', 'expected'),
  [
    (dict(warmup_steps=4), [0, 0.25, 0.5, 0.75, 1, 1, 1]),
    # It falls to zero at the end of the run, and after the warm-up.
    (dict(schedule='cosine', num_train_steps=8), [*COSINE, 0, 0]),
    (
      dict(schedule='cosine', warmup_steps=2, num_train_steps=6),
      [0, 0.5, 1, *COSINE[2:7:2], 0],
    ),
    # A run may be all warm-up.
    *(
      (
        dict(schedule=schedule, warmup_steps=4, num_train_steps=4),
        [0, 0.25, 0.5, 0.75],
      )
      for schedule in ('constant', 'cosine')
    ),
  ],
)
def test_learning_rates_follow_their_schedule(options, expected):
  optimizer = create(['autoencoder'], **options)['autoencoder']
  got = rates(optimizer, len(expected)) / RATES['autoencoder']
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_the_critics_schedule_counts_its_own_steps():
  """Takes three critic steps per update: both schedules end together."""
  options = dict(schedule='cosine', warmup_steps=2, num_train_steps=6)
  both = create(
    RATES, critic=CriticConfig(r1_weight=0.0, num_steps=3), **options
  )
  critic = rates(both['critic'], 19) / RATES['critic']
  autoencoder = rates(both['autoencoder'], 7) / RATES['autoencoder']
  np.testing.assert_allclose(critic[::3], autoencoder, rtol=1e-4, atol=1e-6)
  rising = np.arange(7) / 6
  np.testing.assert_allclose(critic[:7], rising, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', ['adam', 'rmsprop'])
def test_a_schedule_applies_to_either_optimizer(name):
  options = dict(name=name, warmup_steps=2)
  plain = run(create(['critic'], name=name)['critic'], [1.0] * 4)
  scheduled = run(create(['critic'], **options)['critic'], [1.0] * 4)
  expected = np.array([0, 0.5, 1, 1]) * plain
  np.testing.assert_allclose(scheduled, expected, rtol=1e-5)


@pytest.mark.parametrize(
  ('gradient', 'clipped'),
  [
    ([3.0, 4.0, 0.0, 12.0], [1.5, 2.0, 0.0, 6.0]),  # Of norm 13.
    ([0.5, 0.0, 0.5, 1.0], [0.5, 0.0, 0.5, 1.0]),  # Short enough.
    ([0.0] * 4, [0.0] * 4),
  ],
)
def test_a_gradient_is_clipped_by_its_global_norm(gradient, clipped):
  """Reads the gradient that Adam received from its first moment, half of it."""
  optimizer = create(['autoencoder'], max_grad_norm=6.5)['autoencoder']
  plain = create(['autoencoder'])['autoencoder']

  @functools.partial(jax.jit, static_argnums=0)
  def step(optimizer, gradient):
    tree = {'a': gradient[:2], 'b': gradient[None, 2:]}
    state = optimizer.init(jax.tree.map(jnp.zeros_like, tree))
    return optimizer.update(tree, state)

  updates, state = step(optimizer, np.float32(gradient))
  adam_state = optax.tree.get(state, 'mu')
  first = jnp.concatenate([adam_state['a'], adam_state['b'][0]])
  np.testing.assert_allclose(first, 0.5 * np.array(clipped), rtol=1e-6)
  expected, _ = step(plain, np.float32(clipped))
  assert_close(updates, expected, rtol=1e-6)


def test_by_default_there_is_neither_schedule_nor_clipping_in_the_state():
  """Expects the state of plain Adam: its moments and one count."""
  params = {'w': jnp.ones(3)}
  state = create(['critic'])['critic'].init(params)
  plain = optax.adam(1e-3).init(params)
  assert jax.tree.structure(state) == jax.tree.structure(plain)
  assert len(jax.tree.leaves(state)) == 3
  state = create(['critic'], name='rmsprop')['critic'].init(params)
  assert len(jax.tree.leaves(state)) == 1


def test_the_critics_optimizer_does_not_clip():
  """Expects no clipping, as the critic's step clips, but the same names."""
  optimizer = create(['critic'], max_grad_norm=1e-3)['critic']
  plain = create(['critic'])['critic']
  params = jnp.zeros(3)
  state = optimizer.init(params)
  gradient = jnp.array([3.0, -4.0, 12.0])
  np.testing.assert_array_equal(
    optimizer.update(gradient, state)[0],
    plain.update(gradient, plain.init(params))[0],
  )
  cut = optax.chain(optax.clip_by_global_norm(1.0), plain).init(params)
  assert jax.tree.structure(state) == jax.tree.structure(cut)


def test_a_schedule_counts_the_autoencoders_own_steps():
  """Uses warm-ups of 4 updates: in a run of 32 it takes 8 steps."""
  options = dict(schedule='cosine', warmup_steps=8, num_train_steps=32)
  warmup = CriticConfig(r1_weight=0.0, long_round_steps=4)
  waiting = create(['autoencoder', 'critic'], critic=warmup, **options)
  often = dict(warmup_steps=2, num_train_steps=8)
  plain = create(['autoencoder', 'critic'], **options | often)
  ones = [1.0] * 9
  updates = run(waiting['autoencoder'], ones)
  assert updates == run(plain['autoencoder'], ones)
  assert updates[0] == 0 and min(updates[1:8]) < 0 and updates[8] == 0
  # The critic is trained in every update.
  ones = [1.0] * 33
  alone = create(['critic'], **options)
  assert run(waiting['critic'], ones) == run(alone['critic'], ones)


@pytest.mark.parametrize(
  'options',
  [
    dict(),
    dict(warmup_steps=2),
    dict(schedule='cosine', warmup_steps=2, num_train_steps=12),
    dict(schedule='cosine', num_train_steps=12, name='rmsprop'),
    dict(schedule='cosine', max_grad_norm=9.0),
    dict(warmup_steps=2, muon_learning_rate=0.01),
  ],
)
def test_the_reported_learning_rate_is_that_of_the_last_step(options):
  """Takes three critic steps per update, and warm-ups of two updates."""
  critic = CriticConfig(r1_weight=0.0, num_steps=3, long_round_steps=6)
  schedules = schedules_of(RATES, critic=critic, **options)
  constant = create(RATES, critic=critic, **{**options, **CONSTANT})
  scheduled = create(RATES, critic=critic, **options)

  def step(name, state, constant_state):
    """Returns both states, and the ratio of the two optimizers' updates."""
    ones = jnp.ones(1)
    update, state = scheduled[name].update(ones, state)
    reference, constant_state = constant[name].update(ones, constant_state)
    return state, constant_state, float(update[0] / reference[0])

  states = {
    name: (
      scheduled[name].init(jnp.zeros(1)),
      constant[name].init(jnp.zeros(1)),
    )
    for name in RATES
  }
  ratios = {}
  for update in range(1, 7):
    for name in 'critic', 'critic', 'critic', 'autoencoder':
      if name == 'critic' or update % 2 == 0:
        *states[name], ratios[name] = step(name, *states[name])
    state = types.SimpleNamespace(
      networks={
        name: types.SimpleNamespace(opt_state=opt_state)
        for name, (opt_state, _) in states.items()
      }
    )
    rates = optimizers.learning_rates(schedules, state)
    assert rates.keys() == {f'learning_rate_{name}' for name in RATES}
    for name, ratio in ratios.items():
      rate = rates[f'learning_rate_{name}'] / RATES[name]
      np.testing.assert_allclose(rate, ratio, rtol=1e-4, atol=1e-6)
