"""Tests of the update against a plain reference of the method."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import networks
from tests.environment import HAS_FUSION_EMITTERS
from tests.networks import assert_close, assert_equal
from tests.training.assembly import PLAIN, parallel_updates
from vaegan_jax.losses import adversarial
from vaegan_jax.losses.reconstruction import LossConfig
from vaegan_jax.models import critic as critic_lib
from vaegan_jax.runtime import devices
from vaegan_jax.training import train_state
from vaegan_jax.training.random_inputs import create_random_inputs
from vaegan_jax.training.train_state import NetworkState, TrainState
from vaegan_jax.training.wrappers import averaging, skipping_non_finite

# The post's loss; each case lists its changes.
POST_LOSS = networks.POST_LOSS | {'adversarial_ramp_steps': 1}

SIDE, BATCH, LATENT, SEED = 16, 4, 3, 7
POISON = 255  # An image whose first pixel is this becomes NaN.
STREAMS = {'flip': 0, 'noise': 1}

# Every weight is used in some case. `sum` has larger gradients than `mean`,
# hence the learning rates. Adam would hide a wrong factor, so they use SGD.
CASES = {
  'alternating': dict(
    order='alternating',
    learning_rate=1e-3,
    critic_learning_rate=0.1,
    loss=dict(
      normalize='relative',
      pixel_weight=0.3,
      adversarial_weight=2.0,
      adversarial_ramp_steps=2,
      kl_weight=0.5,
    ),
  ),
  'simultaneous': dict(
    order='simultaneous',
    learning_rate=0.1,
    loss=dict(
      layers=('block_1', 'block_0'),
      layer_weights=(2.0, 0.25),
      normalize='unit',
      reduction='mean',
      adversarial_weight=0.5,
      adversarial_ramp_steps=0,
      kl_weight=0.01,
    ),
  ),
  'mse': dict(
    order='alternating',
    learning_rate=1e-3,
    objective=None,
    ema_decay=0.0,
    loss=dict(kl_weight=0.1),
  ),
  'frozen': dict(
    order='alternating',
    learning_rate=1e-3,
    objective=None,
    frozen=True,
    loss=dict(normalize='relative', reduction='mean'),
  ),
  'batch_norm': dict(
    order='alternating', learning_rate=1e-4, norm='batch', loss=dict()
  ),
}


def preprocess(images, flip):
  flip = flip[:, None, None, None]
  poisoned = images[:, :1, :1, :1] == POISON
  x = jnp.where(flip, images[:, :, ::-1], images) / 127.5 - 1.0
  return jnp.where(poisoned, jnp.nan, x)


class Run:
  """One compiled update, and its initial state."""

  def __init__(
    self,
    *,
    order,
    loss,
    learning_rate,
    critic_learning_rate=None,
    objective='geometric',
    frozen=False,
    ema_decay=0.5,
    norm='none',
  ):
    network = dict(width=3, channel_multipliers=(2,), norm=norm)
    self.modules = {
      'autoencoder': networks.autoencoder(SIDE, 1, LATENT, **network)
    }
    if objective or frozen:  # Its layers are weighed, so it has two.
      network |= {'channel_multipliers': (1, 2)}
      self.modules['critic'] = critic_lib.Critic(**network)
    rates = {
      'autoencoder': learning_rate,
      'critic': critic_learning_rate or learning_rate,
    }
    # The learning rate is in the state, so changing it needs no compilation.
    self.optimizers = {
      name: optax.inject_hyperparams(optax.sgd)(rates[name], momentum=0.5)
      for name in self.modules
      if objective or name != 'critic'
    }
    self.loss = LossConfig(**(POST_LOSS | loss))
    self.order = order
    self.ema_decay = ema_decay
    self.objective = adversarial.OBJECTIVES.get(objective)
    self.update = parallel_updates(
      self.modules,
      self.optimizers,
      POST_LOSS | loss,
      objective=self.objective,
      order=order,
      ema_decay=ema_decay,
      seed=SEED,
      preprocess=preprocess,
    )(PLAIN)
    self._initial = jax.device_get(
      train_state.create_train_state(
        self.modules, self.optimizers, seed=SEED, image_shape=(SIDE, SIDE, 1)
      )
    )

  def state(self, **learning_rates):
    """Returns a state before step 1, with learning rates by network."""
    state = self._initial
    networks = dict(state.networks)
    for name, rate in learning_rates.items():
      opt_state = networks[name].opt_state
      hyperparams = opt_state.hyperparams | {'learning_rate': np.float32(rate)}
      networks[name] = networks[name].replace(
        opt_state=opt_state._replace(hyperparams=hyperparams)
      )
    return devices.replicate(state.replace(networks=networks))

  def steps(self, state, batches):
    """Returns the states (on the host) and the metrics of each batch."""
    states, metrics = [], []
    for images in batches:
      state, values = self.update(state, images[None])
      states.append(jax.device_get(state))
      metrics.append({k: float(v) for k, v in values.items()})
    return states, metrics


@functools.cache
def run_of(name):
  return Run(**CASES[name])


@functools.cache
def three_steps(name):
  """Returns the initial state, and states and metrics of three steps."""
  run = run_of(name)
  initial = jax.device_get(run.state())
  return initial, *run.steps(run.state(), batches(3))


def batches(number, size=BATCH):
  rng = np.random.default_rng(0)
  images = rng.integers(0, POISON, (number, size, SIDE, SIDE, 1))
  return images.astype(np.uint8)


def poisoned(images):
  images = images.copy()
  images[1, 0, 0] = POISON
  return images


def differ(a, b):
  """Returns whether every leaf but biases has changed somewhere.

  While no image is beyond its margin, the hinge's gradient in the critic's
  last bias is -1 + 1.
  """
  return jax.tree_util.tree_all(
    jax.tree_util.tree_map_with_path(
      lambda path, x, y: path[-1].key == 'bias' or (x != y).any(), a, b
    )
  )


# The reference: the same step written out, without sharing any computation.


def sample(step, stream, function):
  key = jax.random.fold_in(jax.random.key(SEED), step)
  key = jax.random.fold_in(key, STREAMS[stream])
  return jax.vmap(lambda i: function(jax.random.fold_in(key, i)))(
    jnp.arange(BATCH)
  )


def critic_layers(params, images):
  """Returns ({block: output}, logits)."""
  features = {}
  for name in sorted(params.keys() - {'Dense_0'}):
    conv = params[name]['Conv_0']
    images = jax.lax.conv_general_dilated(
      images,
      conv['kernel'],
      (2, 2),
      ((1, 1), (1, 1)),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    images = images + conv['bias']
    images = jnp.where(images > 0, images, 0.2 * images)
    features[name] = images
  dense = params['Dense_0']
  logits = images.reshape(BATCH, -1) @ dense['kernel'] + dense['bias']
  return features, logits[:, 0]


def distance_between(x, y, loss):
  """Returns the distance of each image, [B], by the options' definitions."""
  axes = (1, 2, 3)
  if loss.normalize == 'unit':
    x, y = (f / jnp.sqrt((f**2).sum(3, keepdims=True) + 1e-8) for f in (x, y))
  square = (x - y) ** 2
  distance = square.mean(axes) if loss.reduction == 'mean' else square.sum(axes)
  if loss.normalize == 'relative':
    distance = distance / ((x**2).mean(axes) + 1e-8)
  return distance


def reference_losses(run, step, images):
  """Returns the losses as functions: of the critic, of the autoencoder."""
  flip = sample(step, 'flip', lambda key: jax.random.bernoulli(key))
  noise = sample(step, 'noise', lambda key: jax.random.normal(key, (LATENT,)))
  x = preprocess(jnp.asarray(images), flip)
  loss = run.loss

  def reconstruct(params):
    return networks.reconstruct(
      run.modules['autoencoder'], {'params': params}, x, noise
    )

  def critic_loss(critic, autoencoder):
    _, real = critic_layers(critic, x)
    _, fake = critic_layers(critic, reconstruct(autoencoder)[0])
    return jnp.mean(jnp.maximum(0, 1 - real) + jnp.maximum(0, 1 + fake))

  def autoencoder_loss(autoencoder, critic):
    x_recon, mean, logvar = reconstruct(autoencoder)
    kl = (jnp.exp(logvar) + mean**2 - 1 - logvar).sum(1) / 2
    pixels = ((x - x_recon) ** 2).reshape(BATCH, -1)
    pixels = pixels.mean(1) if loss.reduction == 'mean' else pixels.sum(1)
    total = loss.pixel_weight * pixels + loss.kl_weight * kl
    if critic is None:
      return jnp.mean(total + pixels)
    real, _ = critic_layers(critic, x)
    fake, logits = critic_layers(critic, x_recon)
    names = loss.layers or ('block_0', 'block_1')
    for name, weight in zip(names, loss.layer_weights or (1, 1), strict=False):
      total += weight * distance_between(real[name], fake[name], loss)
    ramp = jnp.minimum(1, step / max(1, loss.adversarial_ramp_steps))
    total -= ramp * loss.adversarial_weight * logits
    return jnp.mean(total)

  return critic_loss, autoencoder_loss


@functools.partial(jax.jit, static_argnums=0)
def reference_step(run, step, params, opt_states, images):
  """Returns the new params and optimizer states, and the losses."""
  critic_loss, autoencoder_loss = reference_losses(run, step, images)
  new, new_opt_states, losses = dict(params), {}, {}

  def move(name, gradient):
    updates, new_opt_states[name] = run.optimizers[name].update(
      gradient, opt_states[name]
    )
    new[name] = optax.apply_updates(params[name], updates)

  if 'critic' in run.optimizers:
    losses['critic_loss'], gradient = jax.value_and_grad(critic_loss)(
      params['critic'], params['autoencoder']
    )
    move('critic', gradient)
  frozen = (new if run.order == 'alternating' else params).get('critic')
  losses['loss'], gradient = jax.value_and_grad(autoencoder_loss)(
    params['autoencoder'], frozen
  )
  move('autoencoder', gradient)
  return new, new_opt_states, losses


@pytest.mark.parametrize(
  'name', ['alternating', 'simultaneous', 'mse', 'frozen']
)
def test_update_equals_a_plain_reference(name):
  run = run_of(name)
  initial, states, metrics = three_steps(name)
  params = {k: v.params for k, v in initial.networks.items()}
  opt_states = {k: v.opt_state for k, v in initial.networks.items()}
  if name == 'frozen':
    assert opt_states['critic'] == ()
    assert not any('adversarial' in m or 'critic' in m for m in metrics[0])
  for step, images in enumerate(batches(3), start=1):
    before = params
    params, opt_states, losses = reference_step(
      run, step, params, opt_states, images
    )
    for loss, value in losses.items():
      np.testing.assert_allclose(metrics[step - 1][loss], value, rtol=1e-5)
    for network in params:
      got = states[step - 1].networks[network].params
      if network not in run.optimizers:
        assert_equal(got, before[network])
        continue
      assert differ(got, before[network])

      def compare(got, want, old):
        moved = np.abs(want - old).max()
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-3 * moved + 1e-7)

      jax.tree.map(compare, got, params[network], before[network])


def test_the_reference_distinguishes_the_orders():
  run = run_of('alternating')
  initial, states, _ = three_steps('alternating')
  old = {k: v.params for k, v in initial.networks.items()}
  new = states[0].networks['critic'].params

  @jax.jit
  def loss(autoencoder, critic):
    losses = reference_losses(run, 1, batches(1)[0])
    return losses[1](autoencoder, critic)

  assert not np.isclose(
    loss(old['autoencoder'], old['critic']),
    loss(old['autoencoder'], new),
    rtol=1e-3,
  )


@pytest.mark.parametrize('order', ['alternating', 'simultaneous'])
@pytest.mark.parametrize('name', ['autoencoder', 'critic'])
def test_with_a_learning_rate_of_zero_only_the_other_network_changes(
  order, name
):
  run = run_of(order)
  other = {'autoencoder': 'critic', 'critic': 'autoencoder'}[name]
  initial, moving, _ = three_steps(order)
  (state, *_), _ = run.steps(run.state(**{name: 0.0}), batches(1))
  assert_equal(state.networks[name].params, initial.networks[name].params)
  assert differ(state.networks[other].params, initial.networks[other].params)
  if other == 'critic':
    # The critic's step depends on the reconstructions only.
    assert_equal(state.networks[other].params, moving[0].networks[other].params)


@pytest.mark.parametrize('name', list(CASES))
def test_logged_loss_is_the_sum_of_the_logged_terms(name):
  loss = run_of(name).loss
  for step, metrics in enumerate(three_steps(name)[2], start=1):
    ramp = min(1, step / max(1, loss.adversarial_ramp_steps))
    total = (
      metrics['distance']
      + loss.pixel_weight * metrics['pixel']
      + loss.kl_weight * metrics['kl']
      + ramp * loss.adversarial_weight * metrics.get('adversarial', 0)
    )
    np.testing.assert_allclose(metrics['loss'], total, rtol=1e-5)
    assert metrics['skipped_in_a_row'] == 0


def test_metrics_are_the_same_for_every_objective_but_for_the_critic():
  names = {name: set(three_steps(name)[2][0]) for name in CASES}
  assert names['alternating'] == names['simultaneous'] == names['batch_norm']
  assert names['alternating'] - names['mse'] == {
    'adversarial',
    'feature_scale',
    'critic_loss',
    'critic_grad_norm',
    'critic_logits_real',
    'critic_logits_fake',
  }


def test_the_adversarial_loss_is_of_the_critic_of_the_order():
  for metrics in three_steps('alternating')[2]:
    assert -metrics['adversarial'] != metrics['critic_logits_fake']
  for metrics in three_steps('simultaneous')[2]:
    assert -metrics['adversarial'] == metrics['critic_logits_fake']


def test_mse_is_the_update_without_a_critic():
  initial, _, metrics = three_steps('mse')
  assert set(initial.networks) == {'autoencoder'}
  for values in metrics:
    assert values['distance'] == values['pixel'] > 0


@pytest.mark.parametrize('name', ['alternating', 'simultaneous', 'mse'])
def test_a_non_finite_update_is_skipped_and_counted(name):
  run = run_of(name)
  _, (first, *_), _ = three_steps(name)
  images = batches(4)
  images[1], images[2] = poisoned(images[1]), poisoned(images[2])
  states, metrics = run.steps(run.state(), images)
  assert np.isnan(metrics[1]['loss'])
  for state in states[:3]:
    assert_equal(state.networks, first.networks)
    assert_equal(state.ema_params, first.ema_params)
  assert [int(s.step) for s in states] == [1, 2, 3, 4]
  assert [int(s.num_skipped) for s in states] == [0, 1, 2, 0]
  assert [m['skipped_in_a_row'] for m in metrics] == [0, 1, 2, 0]
  for key, network in states[3].networks.items():
    assert differ(network.params, first.networks[key].params)


def test_a_non_finite_critic_leaves_both_networks_unchanged():
  run = run_of('alternating')
  state = jax.device_get(run.state())
  critic = state.networks['critic']
  params = jax.tree.map(np.array, critic.params)
  params['Dense_0']['bias'][0] = np.inf
  bad = state.replace(
    networks=state.networks | {'critic': critic.replace(params=params)}
  )
  (after,), _ = run.steps(devices.replicate(bad), batches(1))
  assert_equal(after.networks, bad.networks)
  assert after.num_skipped == 1


@pytest.mark.parametrize('name', ['loss', 'usage', 'critic_logits_real'])
def test_any_non_finite_metric_skips_the_update(name):
  def update(state, images):
    moved = jax.tree.map(lambda leaf: leaf + 1, state)
    return moved, {'loss': jnp.float32(1.0)} | {name: images}

  checked = skipping_non_finite(update)
  state = TrainState(0, 0, {}, jnp.zeros(3), {}, 0)
  after, metrics = checked(state, jnp.nan)
  assert (after.step, after.num_skipped, metrics['skipped_in_a_row']) == (
    1,
  ) * 3
  np.testing.assert_array_equal(after.ema_params, state.ema_params)
  after, metrics = checked(state, jnp.float32(2.0))
  assert (after.step, metrics['skipped_in_a_row']) == (1, 0)
  np.testing.assert_array_equal(after.ema_params, 1.0)


def test_the_average_follows_its_formula():
  run = run_of('alternating')
  initial, states, _ = three_steps('alternating')
  average = initial.networks['autoencoder'].params
  assert_equal(initial.ema_params, average)
  for step, state in enumerate(states, start=1):
    decay = min(run.ema_decay, (1 + step) / (10 + step))
    params = state.networks['autoencoder'].params
    average = jax.tree.map(
      lambda a, p, decay=decay: decay * a + (1 - decay) * p, average, params
    )
    assert_close(state.ema_params, average, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
  ('decay', 'step', 'weight'),
  [(0.0, 5, 0.0), (0.5, 1, 2 / 11), (0.5, 8, 0.5), (0.999, 10**6, 0.999)],
)
def test_the_average_warms_up(decay, step, weight):
  def step_once(state, images):
    del images
    networks = {'autoencoder': NetworkState(jnp.zeros(3), {}, ())}
    return state.replace(step=state.step + 1, networks=networks), {}

  averaged = averaging(step_once, decay, num_steps=lambda _: step)
  state = TrainState(0, 0, {}, jnp.ones(3), {}, 0)
  average = averaged(state, None)[0].ema_params
  np.testing.assert_allclose(average, weight, rtol=1e-5)


def test_without_decay_the_average_is_the_last_weights():
  run = run_of('mse')
  state = run.state()
  # Without fusion XLA may compute, and so round, the two separately.
  fused = {'xla_cpu_use_fusion_emitters': True} if HAS_FUSION_EMITTERS else {}
  lowered = run.update.lower(state, batches(1))
  update = lowered.compile(compiler_options=fused)
  for images in batches(3):
    state, _ = update(state, images[None])
    assert_equal(
      jax.device_get(state.ema_params),
      jax.device_get(state.networks['autoencoder'].params),
    )


def test_the_same_start_gives_the_same_bits():
  run = run_of('alternating')
  _, states, metrics = three_steps('alternating')
  again, metrics_again = run.steps(run.state(), batches(3))
  assert_equal(again, states)
  assert metrics_again == metrics


def test_the_noise_depends_on_the_step():
  """Repeats one batch with constant networks: noise and flips differ."""
  run = run_of('alternating')
  still = run.state(autoencoder=0.0, critic=0.0)
  images = np.repeat(batches(1), 4, axis=0)
  images = (images + images[..., ::-1, :]) // 2  # Flips change nothing.
  images = np.maximum(images, images[..., ::-1, :])
  states, metrics = run.steps(still, images)
  kl = [m['kl'] for m in metrics]
  np.testing.assert_allclose(kl, kl[0], rtol=1e-5)  # The same x ...
  assert len({m['pixel'] for m in metrics}) == 4  # ... but other noise.
  assert [int(s.step) for s in states] == [1, 2, 3, 4]


def test_streams_differ_between_images_steps_and_uses():
  random_inputs = create_random_inputs(
    lambda images, flip: flip,
    seed=SEED,
    autoencoder=networks.autoencoder(SIDE, 1, 1),
    num_microbatches=1,
    with_prior=True,
  )

  def on_device(images):  # `pmap` gives the device axis its name.
    return [random_inputs(step, 0, images)[0] for step in (1, 2)]

  inputs = jax.pmap(on_device, axis_name=devices.AXIS)(jnp.zeros((1, 200)))
  for values_of_step in inputs:
    assert 70 < values_of_step['x'].sum() < 130
  uses = 'noise', 'prior', 'interpolation'
  values = [d[use].ravel() for d in inputs for use in uses]
  # A few of so many floats may be equal; equal streams would be hundreds.
  assert len(np.unique(np.concatenate(values))) >= 2 * 3 * 200 - 3


def test_five_steps_compile_once_and_reuse_the_buffers():
  run = Run(**CASES['mse'])
  state = run.state()
  images = batches(5)
  compilations = []

  def listen(event, _, **__):
    if event == '/jax/core/compile/backend_compile_duration':
      compilations.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    for batch in images:
      given, (state, metrics) = state, run.update(state, batch[None])
      assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
      jax.block_until_ready(metrics)
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  assert len(compilations) == 1


def test_batch_norm_keeps_running_averages():
  initial, states, metrics = three_steps('batch_norm')
  for name in ('autoencoder', 'critic'):
    stats = [s.networks[name].batch_stats for s in (initial, *states)]
    assert jax.tree.leaves(stats[0])
    for old, new in itertools.pairwise(stats):
      assert differ(old, new)
    assert not jax.tree.leaves(
      three_steps('alternating')[1][0].networks[name].batch_stats
    )
  assert all(np.isfinite(m['loss']) for m in metrics)


def test_batch_norm_averages_real_then_fake():
  """Expects two updates with momentum 0.9, of real images first."""
  run = run_of('batch_norm')
  initial, (state, *_), _ = three_steps('batch_norm')
  old = {k: v.params for k, v in initial.networks.items()}

  @jax.jit
  def average():
    flip = sample(1, 'flip', lambda key: jax.random.bernoulli(key))
    noise = sample(1, 'noise', lambda key: jax.random.normal(key, (LATENT,)))
    x = preprocess(jnp.asarray(batches(1)[0]), flip)
    (x_recon, *_), _ = run.modules['autoencoder'].apply(
      initial.networks['autoencoder'].variables,
      x,
      noise,
      train=True,
      mutable=['batch_stats'],
    )
    conv = old['critic']['block_0']['Conv_0']
    mean = 0.0
    for images in (x, x_recon):
      y = jax.lax.conv_general_dilated(
        images,
        conv['kernel'],
        (2, 2),
        ((1, 1), (1, 1)),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )
      mean = 0.9 * mean + 0.1 * (y + conv['bias']).mean((0, 1, 2))
    return mean

  stats = state.networks['critic'].batch_stats['block_0']['Norm_0']
  np.testing.assert_allclose(
    stats['BatchNorm_0']['mean'], average(), rtol=1e-4, atol=1e-6
  )


@pytest.mark.parametrize('name', ['simultaneous', 'mse'])
def test_the_loss_falls_on_one_batch(name):
  run = run_of(name)
  # A critic that learns would change the loss.
  state = run.state(critic=0.0) if 'critic' in run.modules else run.state()
  _, metrics = run.steps(state, np.repeat(batches(1), 30, axis=0))
  losses = [m['loss'] for m in metrics]
  assert np.mean(losses[-5:]) < 0.95 * np.mean(losses[:5])
