"""Tests of every option of the update against a reference."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import networks
from tests.benchmarks import hlo
from tests.benchmarks import minimum as least
from tests.benchmarks import update as benchmark
from tests.networks import assert_close, assert_equal
from tests.training import update_test
from tests.training.assembly import PLAIN, parallel_updates
from tests.training.update_test import critic_layers, preprocess
from vaegan_jax.data import pixels
from vaegan_jax.losses import adversarial
from vaegan_jax.models import critic as critic_lib
from vaegan_jax.runtime import devices
from vaegan_jax.training import train_state
from vaegan_jax.training.critic_step import CriticConfig
from vaegan_jax.training.random_inputs import create_random_inputs
from vaegan_jax.training.step_kinds import (
  StepKind,
  num_autoencoder_steps,
  step_kind,
)

SIDE, BATCH, LATENT, SEED, RATE = 8, 4, 2, 7, 0.01
# One block a network: no option depends on how many there are.
NETWORK = dict(width=2, channel_multipliers=(2,))
MODULES = {
  'autoencoder': networks.autoencoder(SIDE, 1, LATENT, **NETWORK),
  'critic': critic_lib.Critic(**NETWORK),
}
# With SGD, a difference of parameters is a gradient. With momentum, a second
# step depends on the optimizer state that the first one leaves.
OPTIMIZERS = {name: optax.sgd(RATE, momentum=0.5) for name in MODULES}

PLAIN_LOSS = update_test.POST_LOSS | {
  'pixel_weight': 0.3,
  'adversarial_weight': 2.0,
  'kl_weight': 0.5,
}
CASES = {
  'plain': {},
  'parts': {'num_steps': 3},
  'decoder_only': {'loss': {'adversarial_to_encoder': False}},
  'adaptive': {
    'loss': {
      'adaptive_weight': True,
      'adversarial_weight': 0.7,
      'adversarial_ramp_steps': 2,
    }
  },
  'prior': {'prior_fakes': True},
  'prior_decoder_only': {
    'prior_fakes': True,
    'loss': {'adversarial_to_encoder': False},
  },
  'prior_adaptive': {
    'prior_fakes': True,
    'loss': {'adaptive_weight': True, 'adversarial_weight': 0.7},
  },
  'warmup': {'long_round_steps': 2},
  'everything': {
    'num_steps': 2,
    'long_round_steps': 4,
    'weight_clip': 0.5,
    'gradient_penalty_weight': 0.1,
    'r1_weight': 0.1,
    'r1_every_steps': 2,
    'lecam_weight': 0.1,
    'prior_fakes': True,
    'loss': {
      'adversarial_to_encoder': False,
      'adaptive_weight': True,
      'normalize': 'batch',
      'reduction': 'mean',
      'image_weight': 0.5,
      'adversarial_ramp_steps': 2,
    },
  },
  'least_squares': {'objective': 'least_squares'},
}


def weights_of(module, *inputs):
  """Returns weights that keep the variance; Flax's init would compile."""
  rng = np.random.default_rng(SEED)

  def fill(leaf):
    size = max(1, leaf.size // leaf.shape[-1])
    return rng.normal(0, size**-0.5, leaf.shape).astype(np.float32)

  shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  return jax.tree.map(fill, shapes)


@functools.cache
def initial_state():
  """Returns the state before step 1, the same for every case."""
  x, noise = jnp.zeros((1, SIDE, SIDE, 1)), jnp.zeros((1, LATENT))
  return jax.device_get(
    train_state.create_train_state(
      MODULES,
      OPTIMIZERS,
      seed=SEED,
      image_shape=(SIDE, SIDE, 1),
      pretrained={
        'autoencoder': weights_of(MODULES['autoencoder'], x, noise),
        'critic': weights_of(MODULES['critic'], x),
      },
    )
  )


def case_updates(*, loss=None, objective='geometric', **critic):
  """Returns (kind) -> the update over all devices; not compiled yet."""
  return parallel_updates(
    MODULES,
    OPTIMIZERS,
    PLAIN_LOSS | (loss or {}),
    objective=adversarial.OBJECTIVES[objective],
    seed=SEED,
    preprocess=preprocess,
    critic_config=CriticConfig(**({'r1_weight': 0.0} | critic)),
  )


def kind_at(name, step):
  """Returns the kind of a step of a case."""
  names = CASES[name].keys() - {'loss', 'objective'}
  fields = {'r1_weight': 0.0} | {k: CASES[name][k] for k in names}
  return step_kind(step, CriticConfig(**fields))


def num_parts_of(name):
  return CASES[name].get('num_steps', 1)


@functools.cache
def compiled(name):
  """Returns (kind) -> the compiled update of a case."""
  num_devices = jax.local_device_count()
  size = num_parts_of(name) * BATCH // num_devices
  shape = (num_devices, size, SIDE, SIDE, 1)
  state = devices.replicate(initial_state())
  update_of = case_updates(**CASES[name])
  return functools.cache(
    lambda kind: (
      update_of(kind).lower(state, jnp.zeros(shape, jnp.uint8)).compile()
    )
  )


def batches(name, number):
  """Returns images [number, K B, S, S, 1] uint8."""
  shape = (number, num_parts_of(name) * BATCH, SIDE, SIDE, 1)
  return np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)


def run(name, images, state=None):
  """Returns the states, beginning with the initial one, and the metrics."""
  states, metrics = [state or initial_state()], []
  state = devices.replicate(states[0])
  for step, batch in enumerate(images, start=1):
    state, values = compiled(name)(kind_at(name, step))(state, batch[None])
    states.append(jax.device_get(state))
    metrics.append({k: float(v) for k, v in values.items()})
  return states, metrics


@functools.cache
def two_steps(name):
  return run(name, batches(name, 2))


def params_of(state):
  return {k: network.params for k, network in state.networks.items()}


def assert_moved(before, after, wanted):
  """Asserts that the change from `before` equals the reference's, to 1e-3."""

  def compare(old, new, want):
    way = np.abs(want - old).max()
    np.testing.assert_allclose(new, want, rtol=0, atol=1e-3 * way + 1e-7)

  jax.tree.map(compare, before, after, wanted)


def assert_stepped(old, new, metric, reference):
  """Asserts a first step of SGD, and its loss, by (loss, gradient)."""
  loss, gradient = reference
  np.testing.assert_allclose(metric, loss, rtol=1e-5)
  assert_moved(old, new, step_by(old, gradient))


def moves_alike(before, after, wanted):
  try:
    assert_moved(before, after, wanted)
  except AssertionError:
    return False
  return True


# The reference: losses in plain formulas, differentiated by `jax.grad`. Every
# objective is such a pair, which tests/losses/adversarial_test.py has by hand.


# (critic_loss(real logits, fake logits), adversarial_loss(fake logits)).
FORMULAS = {
  'geometric': (
    lambda r, f: jnp.maximum(0, 1 - r) + jnp.maximum(0, 1 + f),
    lambda f: -f,
  ),
  'least_squares': (
    lambda r, f: ((r - 1) ** 2 + f**2) / 2,
    lambda f: (f - 1) ** 2 / 2,
  ),
}


def sample(step, part, images, num_rollbacks=0):
  """Returns the random inputs of one microbatch at a step."""
  own = images[part * BATCH : (part + 1) * BATCH]
  return _sample(step, part * BATCH, own, num_rollbacks)


@jax.jit
def _sample(step, first, images, num_rollbacks):
  def random(stream, function):
    key = jax.random.fold_in(jax.random.key(SEED), step)
    key = jax.random.fold_in(key, stream + 8 * num_rollbacks)
    return jax.vmap(lambda i: function(jax.random.fold_in(key, i)))(
      first + jnp.arange(BATCH)
    )

  def normal(key):
    return jax.random.normal(key, (LATENT,))

  return {
    'x': preprocess(images, random(0, jax.random.bernoulli)),
    'noise': random(1, normal),
    'prior': random(2, normal),
  }


def reconstruct(params, given):
  return networks.reconstruct(
    MODULES['autoencoder'], {'params': params}, given['x'], given['noise']
  )


def fakes_of(params, given):
  """Returns the reconstructions and samples of the prior."""
  return {
    'recon': reconstruct(params, given)[0],
    'prior': MODULES['autoencoder'].apply(
      {'params': params}, given['prior'], method='decode'
    ),
  }


def reference(function):
  """Compiles (loss, gradient) with respect to the second argument."""
  return jax.jit(jax.value_and_grad(function, argnums=1), static_argnums=0)


@reference
def critic_reference(objective, critic, autoencoder, given, weights):
  """Returns the critic's loss, with a weight for each kind of fake."""
  loss, _ = FORMULAS[objective]
  fakes = fakes_of(autoencoder, given)
  _, real = critic_layers(critic, given['x'])
  return sum(
    weight * loss(real, critic_layers(critic, fakes[name])[1]).mean()
    for name, weight in weights.items()
  )


@reference
def autoencoder_reference(objective, autoencoder, critic, given, weights):
  """Returns the autoencoder's loss, with a weight for each kind of fake."""
  _, loss = FORMULAS[objective]
  _, mean, logvar = reconstruct(autoencoder, given)
  fakes = fakes_of(autoencoder, given)
  total = 0.5 * ((jnp.exp(logvar) + mean**2 - 1 - logvar).sum(1) / 2).mean()
  total += compare_images(fakes['recon'], critic, given['x'])
  return total + sum(
    weight * loss(critic_layers(critic, fakes[name])[1]).mean()
    for name, weight in weights.items()
  )


def compare_images(x_recon, critic, x):
  """Returns the batch mean of the summed distance + 0.3 pixel error."""
  total = 0.3 * ((x - x_recon) ** 2).sum()
  real, fake = (critic_layers(critic, i)[0] for i in (x, x_recon))
  return (total + sum(((real[k] - fake[k]) ** 2).sum() for k in real)) / BATCH


def step_by(params, gradient):
  """Takes the first step of SGD, before there is any momentum."""
  return jax.tree.map(lambda p, g: p - RATE * np.asarray(g), params, gradient)


# Several critic steps.


def test_three_critic_steps_equal_three_reference_steps():
  states, metrics = two_steps('parts')
  params = params_of(states[0])
  momenta = jax.tree.map(np.zeros_like, params)

  def move(name, gradient):
    momenta[name] = jax.tree.map(
      lambda m, g: 0.5 * m + g, momenta[name], jax.device_get(gradient)
    )
    params[name] = step_by(params[name], momenta[name])

  for step, images in enumerate(batches('parts', 2), start=1):
    before = dict(params)
    old = params['autoencoder']
    for part in range(3):
      given = sample(step, part, images)
      critic_loss, gradient = critic_reference(
        'geometric', params['critic'], old, given, {'recon': 1.0}
      )
      move('critic', gradient)
    loss, gradient = autoencoder_reference(
      'geometric', old, params['critic'], given, {'recon': 2.0}
    )
    move('autoencoder', gradient)
    got = metrics[step - 1]
    np.testing.assert_allclose(got['critic_loss'], critic_loss, rtol=1e-5)
    np.testing.assert_allclose(got['loss'], loss, rtol=1e-5)
    assert_moved(before, params_of(states[step]), params)


@pytest.mark.parametrize('part', range(3))
def test_a_non_finite_microbatch_skips_the_whole_update(part):
  images = batches('parts', 1)
  images[0, part * BATCH, 0, 0] = update_test.POISON
  (before, after), (metrics,) = run('parts', images)
  assert_equal(after.networks, before.networks)
  assert_equal(after.averages, before.averages)
  assert_equal(after.ema_params, before.ema_params)
  assert (after.step, after.num_skipped) == (1, 1)
  assert metrics['skipped_in_a_row'] == 1


# Which loss trains which network.


@pytest.mark.parametrize('name', FORMULAS)
def test_each_loss_trains_only_its_own_network(name):
  case = 'plain' if name == 'geometric' else name
  (before, after, _), (metrics, _) = two_steps(case)
  old, new = params_of(before), params_of(after)
  given = sample(1, 0, batches(case, 1)[0])
  reference = critic_reference(
    name, old['critic'], old['autoencoder'], given, {'recon': 1.0}
  )
  loss = metrics['critic_loss']
  assert_stepped(old['critic'], new['critic'], loss, reference)
  reference = autoencoder_reference(
    name, old['autoencoder'], new['critic'], given, {'recon': 2.0}
  )
  loss, name = metrics['loss'], 'autoencoder'
  assert_stepped(old[name], new[name], loss, reference)


def autoencoder_steps(name, *weights):
  """Returns (before, after, the reference's params for each of `weights`)."""
  (before, after, _), _ = two_steps(name)
  old = before.networks['autoencoder'].params
  critic = after.networks['critic'].params
  given = sample(1, 0, batches(name, 1)[0])
  wanted = [
    step_by(
      old, autoencoder_reference('geometric', old, critic, given, weight)[1]
    )
    for weight in weights
  ]
  return old, after.networks['autoencoder'].params, wanted


def test_the_adversarial_gradient_can_stop_before_the_encoder():
  old, new, (without, full) = autoencoder_steps(
    'decoder_only', {'recon': 0.0}, {'recon': 2.0}
  )
  assert_moved(old['encoder'], new['encoder'], without['encoder'])
  assert_moved(old['decoder'], new['decoder'], full['decoder'])
  # The two references differ.
  for part in ('encoder', 'decoder'):
    assert not moves_alike(old[part], without[part], full[part])


def test_stopping_it_there_changes_neither_losses_nor_the_critic():
  (_, plain, _), (expected, _) = two_steps('plain')
  (_, state, _), (metrics, _) = two_steps('decoder_only')
  for name in ('loss', 'distance', 'adversarial', 'kl', 'critic_loss'):
    np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5)
  critics = (s.networks['critic'].params for s in (state, plain))
  assert_close(*critics, rtol=1e-5, atol=1e-7)


# Samples of the prior as fakes.


def test_the_critic_weighs_reconstructions_and_samples_alike():
  (before, after, _), (metrics, _) = two_steps('prior')
  old = params_of(before)
  given = sample(1, 0, batches('prior', 1)[0])
  half = {'recon': 0.5, 'prior': 0.5}
  reference = critic_reference(
    'geometric', old['critic'], old['autoencoder'], given, half
  )
  new = after.networks['critic'].params
  assert_stepped(old['critic'], new, metrics['critic_loss'], reference)
  fakes = jax.jit(fakes_of)(old['autoencoder'], given)
  fake = np.mean(
    [jax.jit(critic_layers)(old['critic'], f)[1] for f in fakes.values()]
  )
  np.testing.assert_allclose(metrics['critic_logits_fake'], fake, rtol=1e-5)
  logits = np.mean([jax.jit(critic_layers)(new, f)[1] for f in fakes.values()])
  np.testing.assert_allclose(metrics['adversarial'], -logits, rtol=1e-5)


@pytest.mark.parametrize('name', ['prior', 'prior_decoder_only'])
def test_samples_train_the_decoder_and_not_the_encoder(name):
  old, new, (without, recon_only, both) = autoencoder_steps(
    name,
    {'recon': 0.0, 'prior': 0.0},
    {'recon': 1.0, 'prior': 0.0},
    {'recon': 1.0, 'prior': 1.0},
  )
  to_encoder = recon_only if name == 'prior' else without
  assert_moved(old['encoder'], new['encoder'], to_encoder['encoder'])
  assert_moved(old['decoder'], new['decoder'], both['decoder'])
  assert not moves_alike(old['decoder'], recon_only['decoder'], both['decoder'])


# The adaptive weight.


def with_scaled_head(scale):
  """Returns the initial state with the critic's logits scaled."""
  state = initial_state()
  critic = state.networks['critic']
  head = jax.tree.map(lambda w: scale * w, critic.params['Dense_0'])
  critic = critic.replace(params=critic.params | {'Dense_0': head})
  return state.replace(networks=state.networks | {'critic': critic})


@jax.jit
def gradients_at_the_images(critic, autoencoder, given):
  """Returns the gradients of distance and mean logit at reconstructions."""
  x_recon, *_ = reconstruct(autoencoder, given)
  return (
    jax.grad(compare_images)(x_recon, critic, given['x']),
    jax.grad(lambda x: critic_layers(critic, x)[1].mean())(x_recon),
  )


def hand_ratio(before, after, given, share):
  """Returns the ratio of norms, with this `share` of reconstructions."""
  distance, logit = gradients_at_the_images(
    after.networks['critic'].params,
    before.networks['autoencoder'].params,
    given,
  )
  logit = share * np.linalg.norm(logit.ravel())
  return np.linalg.norm(distance.ravel()) / logit


@pytest.mark.parametrize(
  ('name', 'share'), [('adaptive', 1.0), ('prior_adaptive', 0.5)]
)
@pytest.mark.parametrize(('scale', 'capped'), [(1.0, True), (50.0, False)])
def test_the_adaptive_weight_is_the_ratio_of_the_gradients_norms(
  name, share, scale, capped
):
  images = batches(name, 1)
  (before, after), _ = run(name, images, with_scaled_head(scale))
  ratio = hand_ratio(before, after, sample(1, 0, images[0]), share)
  assert (ratio > 10.0) == capped
  # A hundredth of the way from 1.
  wanted = 0.99 + 0.01 * min(ratio, 10.0)
  np.testing.assert_allclose(
    after.averages['adaptive_weight'], wanted, rtol=1e-5
  )


@pytest.mark.parametrize('name', ['adaptive', 'prior_adaptive'])
def test_the_logged_loss_with_an_adaptive_weight_is_what_is_trained(name):
  images = batches(name, 1)
  # A factor far from 1, after many steps.
  state = initial_state()
  averages = state.averages | {'adaptive_weight': np.float32(5.0)}
  state = state.replace(averages=averages)
  (before, after), (metrics,) = run(name, images, state)
  ramp = 0.5 if name == 'adaptive' else 1.0
  factor = 0.7 * ramp * after.averages['adaptive_weight']
  assert factor > 0.7 * ramp * 4.9
  kinds = {'adaptive': ['recon'], 'prior_adaptive': ['recon', 'prior']}[name]
  weights = {kind: factor / len(kinds) for kind in kinds}
  old, new = (s.networks['autoencoder'].params for s in (before, after))
  critic, given = after.networks['critic'].params, sample(1, 0, images[0])
  reference = autoencoder_reference('geometric', old, critic, given, weights)
  assert_stepped(old, new, metrics['loss'], reference)


# Critic warm-up.


def simulate_schedule(num_updates, critic_steps, long_round):
  """Returns the authors' loop: the updates that end in a generator step."""
  moving = set()
  update = generator_steps = 0
  while update < num_updates:
    long = generator_steps < 25 or generator_steps % 500 == 0
    iterations = long_round if long else critic_steps
    update += iterations // critic_steps
    moving.add(update)
    generator_steps += 1
  return moving & set(range(num_updates + 1))


@pytest.mark.parametrize(
  ('critic_steps', 'long_round'), [(5, 100), (1, 100), (5, 10), (5, 5)]
)
def test_the_autoencoder_is_trained_by_the_published_schedule(
  critic_steps, long_round
):
  config = CriticConfig(
    r1_weight=0.0, num_steps=critic_steps, long_round_steps=long_round
  )
  steps = range(1, 3001)
  trained = [s for s in steps if step_kind(s, config).train_autoencoder]
  assert set(trained) == simulate_schedule(3000, critic_steps, long_round)
  assert (len(trained) == 3000) == (critic_steps == long_round)
  # And their number, as the moving average counts them on the device.
  counted = jax.jit(num_autoencoder_steps, static_argnums=1)(
    np.arange(0, 3001), config.warmups
  )
  wanted = np.searchsorted(trained, np.arange(0, 3001), side='right')
  np.testing.assert_array_equal(counted, wanted)


@pytest.mark.parametrize('long_round', [0, 10])
def test_a_first_warm_up_delays_all_that_follows(long_round):
  config = CriticConfig(r1_weight=0.0, num_steps=5, long_round_steps=long_round)
  later = dataclasses.replace(config, warmup_steps=7)
  kinds = [step_kind(step, later) for step in range(1, 108)]
  assert not any(kind.train_autoencoder for kind in kinds[:7])
  assert kinds[7:] == [step_kind(step, config) for step in range(1, 101)]
  counts = num_autoencoder_steps(np.arange(108), later.warmups)
  trained = np.cumsum([0] + [kind.train_autoencoder for kind in kinds])
  np.testing.assert_array_equal(counts, trained)


@pytest.mark.parametrize(
  ('critic_steps', 'every', 'num_kinds'),
  [(1, 16, 2), (2, 16, 2), (5, 16, 6), (3, 2, 2), (20, 16, 4), (2, 1, 1)],
)
def test_every_nth_critic_step_is_regularized_by_few_kinds_of_step(
  critic_steps, every, num_kinds
):
  config = CriticConfig(
    num_steps=critic_steps, r1_weight=1.0, r1_every_steps=every
  )
  period = math.lcm(critic_steps, every) // critic_steps
  kinds = [step_kind(step, config) for step in range(1, 3 * period + 1)]
  assert all(len(kind.regularize_critic) == critic_steps for kind in kinds)
  taken = [lazy for kind in kinds for lazy in kind.regularize_critic]
  wanted = [every > 1 and n % every == 0 for n in range(1, len(taken) + 1)]
  assert taken == wanted
  assert len(set(kinds)) == num_kinds
  without = dataclasses.replace(config, r1_weight=0.0)
  assert {step_kind(step, without) for step in range(1, 99)} == {
    StepKind(True, (False,) * critic_steps)
  }


def test_warm_up_and_r1_have_independent_schedules():
  config = CriticConfig(long_round_steps=4, r1_weight=1.0, r1_every_steps=6)
  for step in range(1, 25):
    assert step_kind(step, config) == StepKind(step % 4 == 0, (step % 6 == 0,))


def test_in_a_warm_up_only_the_critic_is_trained():
  (first, second, third), metrics = two_steps('warmup')
  old, new = (s.networks['autoencoder'] for s in (first, second))
  assert_equal(new.params, old.params)
  assert_equal(new.opt_state, old.opt_state)
  assert_equal(second.ema_params, first.ema_params)
  critics = [s.networks['critic'].params for s in (first, second, third)]
  for before, after in itertools.pairwise(critics):
    assert update_test.differ(before, after)
  moved = third.networks['autoencoder']
  assert update_test.differ(moved.params, new.params)
  assert update_test.differ(third.ema_params, second.ema_params)
  assert [s.step for s in (first, second, third)] == [0, 1, 2]
  assert [m['skipped_in_a_row'] for m in metrics] == [0, 0]


def test_the_last_update_of_a_warm_up_trains_both_networks():
  (_, second, third), (_, metrics) = two_steps('warmup')
  old, new = (s.networks['autoencoder'].params for s in (second, third))
  critic = third.networks['critic'].params
  given = sample(2, 0, batches('warmup', 2)[1])
  reference = autoencoder_reference(
    'geometric', old, critic, given, {'recon': 2.0}
  )
  # The momentum began at 0.
  assert_stepped(old, new, metrics['loss'], reference)


# Randomness.


@functools.cache
def compiled_inputs():
  """Returns (number of rollbacks) -> microbatches; images show their flips."""

  random_inputs = create_random_inputs(
    lambda x, flip: jnp.where(flip, -1.0, 1.0),
    seed=SEED,
    autoencoder=MODULES['autoencoder'],
    num_microbatches=3,
    with_prior=True,
  )

  def on_device(num_rollbacks):
    return random_inputs(1, num_rollbacks, jnp.zeros(3 * BATCH))

  on_devices = jax.pmap(on_device, axis_name=devices.AXIS)
  return on_devices.lower(jnp.int32([0])).compile()


def sampled(num_rollbacks):
  parts = jax.device_get(compiled_inputs()(jnp.int32([num_rollbacks])))
  return [{k: v[0] for k, v in part.items()} for part in parts]


@pytest.mark.parametrize('num_rollbacks', [0, 1, 2])
def test_random_inputs_depend_on_seed_step_index_and_rollbacks(num_rollbacks):
  mirrored = np.zeros((3 * BATCH, 1, 2, 1), np.uint8)
  mirrored[:, :, 1] = 254
  for part, got in enumerate(sampled(num_rollbacks)):
    want = sample(1, part, mirrored, num_rollbacks)
    np.testing.assert_allclose(got['noise'], want['noise'], rtol=1e-6)
    np.testing.assert_allclose(got['prior'], want['prior'], rtol=1e-6)
    flipped = np.sign(want['x'][:, 0, 1, 0] - want['x'][:, 0, 0, 0])
    np.testing.assert_array_equal(got['x'], flipped)
    assert ((got['interpolation'] >= 0) & (got['interpolation'] <= 1)).all()


def test_each_axis_has_its_own_flip():
  random_inputs = create_random_inputs(
    lambda x, *flips: jnp.stack(flips, axis=-1),
    seed=SEED,
    autoencoder=MODULES['autoencoder'],
    num_microbatches=1,
    with_prior=False,
    num_flips=2,
  )
  on_devices = jax.pmap(
    lambda step: random_inputs(step, 0, jnp.zeros(64))[0]['x'],
    axis_name=devices.AXIS,
  )
  flips = np.asarray(on_devices(jnp.int32([1])))[0]
  key = jax.random.fold_in(jax.random.key(SEED), 1)
  for axis, stream in enumerate((0, 4)):  # The first is that of photographs.
    keys = [
      jax.random.fold_in(jax.random.fold_in(key, stream), i) for i in range(64)
    ]
    want = jax.vmap(jax.random.bernoulli)(jnp.stack(keys))
    np.testing.assert_array_equal(flips[:, axis], want)
  assert 0.3 < np.mean(flips[:, 0] == flips[:, 1]) < 0.7


def test_no_two_random_inputs_are_equal():
  inputs = [part for rollbacks in range(3) for part in sampled(rollbacks)]
  for name in ('noise', 'prior', 'interpolation'):
    values = np.concatenate([part[name].ravel() for part in inputs])
    assert len(np.unique(values)) == len(values), name
  flips = [
    tuple(np.concatenate([part['x'] for part in sampled(rollbacks)]))
    for rollbacks in range(3)
  ]
  assert len(set(flips)) == 3


def test_a_rollback_changes_the_random_inputs_of_a_step():
  images = batches('plain', 1)
  (_, plain, _), (expected, _) = two_steps('plain')
  for num_rollbacks in (0, 1):
    state = initial_state().replace(num_rollbacks=np.int32(num_rollbacks))
    (before, after), (metrics,) = run('plain', images, state)
    assert after.num_rollbacks == num_rollbacks
    given = sample(1, 0, images[0], num_rollbacks)
    old = before.networks['autoencoder'].params
    critic = after.networks['critic'].params
    loss, _ = autoencoder_reference(
      'geometric', old, critic, given, {'recon': 2.0}
    )
    np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-5)
    if not num_rollbacks:
      assert metrics == expected
      assert_equal(after.networks, plain.networks)
    else:
      assert metrics['loss'] != expected['loss']


# Metrics of the health checks.


def test_the_health_metrics_equal_numpy():
  (before, after, _), (metrics, _) = two_steps('plain')
  given = sample(1, 0, batches('plain', 1)[0])
  x_recon, *_ = jax.jit(reconstruct)(
    before.networks['autoencoder'].params, given
  )
  features, _ = jax.jit(critic_layers)(
    after.networks['critic'].params, given['x']
  )
  wanted = {
    'input_std': np.std(given['x'], axis=0).mean(),
    'output_std': np.std(x_recon, axis=0).mean(),
    'feature_scale': np.mean(
      [np.sqrt(np.square(f).mean()) for f in features.values()]
    ),
  }
  for name, value in wanted.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)


def test_equal_images_have_no_spread():
  images = np.full((1, BATCH, SIDE, SIDE, 1), 200, np.uint8)
  _, (metrics,) = run('plain', images)
  assert metrics['input_std'] < 1e-3
  assert metrics['output_std'] > 0  # The noise differs.


# Arithmetic.

# A layer of the critic with input gradients; the autoencoder's are the same.
FLOPS_NETWORKS = {
  'autoencoder': dict(width=4, channel_multipliers=(2,)),
  'critic': dict(width=4, channel_multipliers=(1, 2)),
}


def flops_config():
  config = benchmark.small_config()
  config.data.image_size, config.data.channels = 16, 3
  config.model.latent_dim = 4
  config.optimizer.muon_learning_rate = 0.0  # The updates here take SGD.
  for name, network in FLOPS_NETWORKS.items():
    fields = config.model if name == 'autoencoder' else config.critic
    fields.update(network)
  config.model.depth = 1
  return config


@functools.cache
def flops_program(loss=(), lazy=False, **critic):
  """Returns the lowered update of a configuration."""
  config = flops_config()
  config.loss.update(dict(loss))
  modules = {
    'autoencoder': networks.autoencoder(
      16, 3, 4, **FLOPS_NETWORKS['autoencoder']
    ),
    'critic': critic_lib.Critic(**FLOPS_NETWORKS['critic']),
  }
  num_steps = critic.get('num_steps', 1)
  update = parallel_updates(
    modules,
    OPTIMIZERS,
    config.loss,
    objective=adversarial.OBJECTIVES['geometric'],
    seed=SEED,
    preprocess=preprocess,
    critic_config=CriticConfig(**({'r1_weight': 0.0} | critic)),
  )(PLAIN._replace(regularize_critic=(lazy,) * num_steps))
  state = jax.eval_shape(
    lambda: train_state.create_train_state(
      modules, OPTIMIZERS, seed=SEED, image_shape=(16, 16, 3)
    )
  )
  images = jax.ShapeDtypeStruct((1, num_steps * BATCH, 16, 16, 3), jnp.uint8)
  return update.lower(state, images)


@functools.cache
def compiled_flops(**options):
  return hlo.count_flops(flops_program(**options).compile().as_text())


def minimum():
  return least.minimum_flops(flops_config(), 'alternating', BATCH)


def critic_step_minimum():
  """Counts forward passes and weight gradients, for real and fake."""
  return 2 * BATCH * least.critic_step_products(flops_config())


def autoencoder_forward():
  config = flops_config()
  layers = least.encoder_products(config) + least.decoder_products(config)
  return 2 * BATCH * sum(layers)


def test_the_plain_update_has_the_minimal_flops():
  assert 0.99 <= compiled_flops() / minimum() <= 1.01


def test_options_that_are_off_add_nothing():
  explicit = flops_program(
    loss=(('adversarial_to_encoder', True), ('adaptive_weight', False)),
    num_steps=1,
    long_round_steps=0,
    weight_clip=0.0,
    gradient_penalty_weight=0.0,
    r1_weight=0.0,
    r1_every_steps=3,
    lecam_weight=0.0,
    prior_fakes=False,
  )
  # The same program, so the same count.
  assert explicit.as_text() == flops_program().as_text()


def test_a_further_critic_step_adds_a_forward_pass_and_itself():
  wanted = minimum() + autoencoder_forward() + critic_step_minimum()
  flops = hlo.count_flops(flops_program(num_steps=2).as_text('hlo'))
  assert 0.99 <= flops / wanted <= 1.01


def test_r1_costs_nothing_in_the_steps_that_do_not_take_it():
  # The same program.
  untaken = flops_program(r1_weight=1.0).as_text()
  assert untaken == flops_program().as_text()
  # The loss has the forward pass of the real images already. R1 adds their
  # gradient (one pass), the derivative along it (one more), and its two
  # gradients, less the first layer's input gradient. The head's gradient of 1
  # is no product, in two of the four.
  ((first, second, head),) = least.critic_products(flops_config()).values()
  wanted = 2 * BATCH * (3 * first + 4 * second + 2 * head)
  added = compiled_flops(r1_weight=1.0, lazy=True) - compiled_flops()
  assert 0.999 <= added / wanted <= 1.001


def test_crops_depend_on_the_example_index_on_any_number_of_devices():
  random_inputs = create_random_inputs(
    lambda images, flip, first: pixels.random_crop(images, first, shape=(3, 4)),
    seed=SEED,
    autoencoder=MODULES['autoencoder'],
    num_microbatches=2,
    with_prior=False,
    crop_margin=2,
  )
  images = np.arange(2 * 16 * 30).reshape(2, 16, 5, 6, 1)  # Parts of 16.

  def on(num_devices):
    shares = images.reshape(2, num_devices, -1, 5, 6, 1).swapaxes(0, 1)
    shares = shares.reshape(num_devices, -1, 5, 6, 1)
    parts = jax.jit(
      jax.vmap(lambda share: random_inputs(7, 0, share), axis_name=devices.AXIS)
    )(shares)
    return np.stack([part['x'].reshape(16, 3, 4) for part in parts])

  one = on(1)
  np.testing.assert_array_equal(on(4), one)
  tops, lefts = np.divmod(one[..., 0, 0] - images[..., 0, 0, 0], 6)
  assert set(tops.ravel()) == set(lefts.ravel()) == {0, 1, 2}
  expected = [
    image[top : top + 3, left : left + 4, 0]
    for image, top, left in zip(
      images.reshape(32, 5, 6, 1), tops.ravel(), lefts.ravel(), strict=True
    )
  ]
  np.testing.assert_array_equal(one.reshape(32, 3, 4), expected)
