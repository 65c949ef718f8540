"""THE update: (state, images) -> (state, metrics), one compiled function.

    x_recon, kl, pull_back = vjp(autoencoder)(x)   # forward once
    critic  <- step on critic_loss(x, x_recon)
    d_recon <- gradient of distance(features(x), features(x_recon)) in the
               critic just updated, with respect to x_recon alone
    autoencoder <- step on pull_back(d_recon, kl_weight)

Each network moves by its own loss only: the critic's step sees `x_recon` as a
constant, and the autoencoder's gradient is pulled back from `x_recon`, so it
never passes through the critic's weights or the real branch. The critic's step
is in `critic_step.py`, and the terms of the distance's loss are in
`reconstruction_loss.py`.

This is the only file that names the device axis: it runs under `jax.pmap`, and
one `pmean` for each network averages its gradient (and its metrics) over them.
Axes: B images on one device, H height, W width, C channels, Z latent.
"""

import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from vaegan_jax import adversarial
from vaegan_jax.critic_step import CriticConfig, create_critic_step
from vaegan_jax.models import autoencoder as autoencoder_lib
from vaegan_jax.reconstruction_loss import LossConfig, create_judge, describe
from vaegan_jax.train_state import TrainState, apply_gradients

ORDERS = ('alternating', 'simultaneous')
AXIS = 'batch'  # The device axis of `pmap`.
# One stream of randomness for each use; see `_per_image`.
FLIP_STREAM, NOISE_STREAM, PRIOR_STREAM, MIX_STREAM = range(4)
NUM_STREAMS = 8

# Of the adaptive weight: how slowly it moves, and its largest value.
_ADAPTIVE_DECAY, _ADAPTIVE_MAX = 0.99, 10.0
# The first autoencoder steps, and every so many, wait for a long round of
# critic steps, where these are on: the schedule of arXiv 1701.07875's authors.
_LONG_ROUNDS_FIRST, _LONG_ROUND_EVERY = 25, 500

Metrics = dict[str, jax.Array]
_PLAIN_CRITIC = CriticConfig()


def create_update(
  modules: Mapping[str, nn.Module],
  optimizers: Mapping[str, optax.GradientTransformation],
  loss: LossConfig,
  *,
  objective: adversarial.Objective | None,
  order: str,
  ema_decay: float,
  seed: int,
  preprocess: Callable[[jax.Array, jax.Array], jax.Array],
  critic_config: CriticConfig = _PLAIN_CRITIC,
) -> Callable[[TrainState, jax.Array], tuple[TrainState, Metrics]]:
  """Builds the update for one device; `parallelize` runs it on all.

  Args:
    modules: 'autoencoder' and 'critic'; without a critic the distance is
      measured between the pixels.
    optimizers: one for each module that is trained.
    loss: what the autoencoder minimises.
    objective: the critic's; None: it is frozen, or there is none.
    order: 'alternating', the distance sees the critic just updated, or
      'simultaneous', it shares the critic step's forward passes.
    ema_decay: of the averaged autoencoder; see `_average`.
    seed: of flips and latent noise.
    preprocess: (images [B, H, W, C] uint8, flip [B] bool) -> x [B, H, W, C]
      float32 in [-1, 1].
    critic_config: how the critic is trained.

  Returns:
    (state, images [K B, H, W, C] uint8) -> (state after the step, metrics []),
    with K critic steps, each on B images; the autoencoder's is on the last B.
  """
  autoencoder, critic = modules['autoencoder'], modules.get('critic')
  num_parts = critic_config.num_steps if objective else 1
  long_round_steps = critic_config.long_round_steps if objective else 0
  num_updates_a_round = long_round_steps // num_parts
  train_critic, adversarial_loss = _frozen_critic, None
  if objective is not None:
    adversarial_loss = objective.adversarial_loss
    train_critic = functools.partial(
      _train_critic,
      create_critic_step(
        critic,
        objective.critic_loss,
        optimizers['critic'],
        critic_config,
        functools.partial(jax.lax.pmean, axis_name=AXIS),
      ),
    )
  judge = create_judge(critic, adversarial_loss, loss)
  autoencode = functools.partial(
    _autoencode,
    autoencoder,
    split=objective is not None
    and (loss.adaptive_weight or not loss.adversarial_to_encoder),
    to_encoder=loss.adversarial_to_encoder,
  )

  def update(
    state: TrainState, images: jax.Array
  ) -> tuple[TrainState, Metrics]:
    step, old = state.step + 1, state.networks
    *early, last = _draw(
      (seed, step, state.num_rollbacks),
      images,
      num_parts,
      preprocess,
      autoencoder.latent_dim,
      critic_config.prior_fakes and objective is not None,
    )
    networks, averages = old, state.averages
    first_critic_step = state.step * num_parts + 1
    # 0. Earlier critic steps, each on images of its own.
    for part, draw in enumerate(early):
      fakes, _ = autoencode(old, draw, old['autoencoder'].params)
      networks, averages, _ = train_critic(
        networks, averages, first_critic_step + part, draw, fakes
      )
    # 1. The autoencoder's one forward pass, kept to be pulled back through.
    outputs, pull_back, batch_stats = jax.vjp(
      functools.partial(autoencode, old, last),
      old['autoencoder'].params,
      has_aux=True,
    )
    # 2. The critic's step. It takes x_recon as a constant.
    updated, averages, critic_metrics = train_critic(
      networks, averages, first_critic_step + len(early), last, outputs
    )
    # 3. The frozen critic's verdict, and which way x_recon should move. In the
    # simultaneous order XLA finds step 2's forward passes here again.
    judging = updated if order == 'alternating' else networks
    x_fakes = {name: x for name, x in outputs.items() if name != 'kl'}
    terms, pull_judge, moments = jax.vjp(
      functools.partial(judge, judging.get('critic'), last['x']),
      x_fakes,
      has_aux=True,
    )
    weights, cotangents, averages = _weigh(
      loss, step, terms, pull_judge, averages
    )
    # 4. Pull that, and the KL's constant cotangent, into the autoencoder.
    kl = outputs['kl']
    cotangents['kl'] = jnp.full_like(kl, loss.kl_weight / kl.size)
    (grads,) = pull_back(cotangents)

    terms['kl'] = kl
    metrics = {name: term.mean() for name, term in terms.items()}
    if loss.adaptive_weight and adversarial_loss:
      metrics['adaptive_weight'] = averages['adaptive_weight']
    metrics['loss'] = sum(weights[name] * metrics[name] for name in terms)
    grads, batch_stats, metrics, moments = jax.lax.pmean(
      (grads, batch_stats, metrics, moments), AXIS
    )
    metrics |= describe(moments)
    metrics['autoencoder_grad_norm'] = optax.global_norm(grads)
    new = apply_gradients(
      old['autoencoder'], optimizers['autoencoder'], grads, batch_stats
    )
    ema_params = _average(state.ema_params, new.params, step, ema_decay)
    if num_updates_a_round > 1:  # The autoencoder waits for the last of them.
      moves = moves_autoencoder(step, num_updates_a_round)
      new, ema_params = _where(
        moves, (new, ema_params), (old['autoencoder'], state.ema_params)
      )
    state_after = state.replace(
      networks={**updated, 'autoencoder': new},
      ema_params=ema_params,
      averages=averages,
    )
    return _keep_if_finite(state, state_after, metrics | critic_metrics)

  return update


def moves_autoencoder(step: jax.Array, rounds: int) -> jax.Array:
  """Whether the autoencoder moves at a step, under long critic rounds.

  The authors of the Wasserstein GAN train the critic for longer before each of
  the first 25 generator steps, and before every 500th, counted from 0
  (github.com/martinarjovsky/WassersteinGAN). Here a longer round is `rounds`
  updates, of which the last alone moves the autoencoder.

  Args:
    step: [] int32, of the update, from 1.
    rounds: updates in a long round, at least 1.

  Returns:
    [] bool.
  """
  first = _LONG_ROUNDS_FIRST * rounds  # The updates of the first long rounds.
  until_next = _LONG_ROUND_EVERY - _LONG_ROUNDS_FIRST
  cycle = _LONG_ROUND_EVERY - 1 + rounds  # One long round, 499 short ones.
  later = step - 1 - first - until_next
  return jnp.where(
    step <= first,
    step % rounds == 0,
    (later < 0) | (later % cycle >= rounds - 1),
  )


def parallelize(update: Callable) -> Callable:
  """Runs an update on every device; the state has no device axis.

  Args:
    update: from `create_update`.

  Returns:
    (state, images [D, K B, H, W, C] uint8) -> (state, metrics []). The given
    state's buffers are reused (donated): do not touch it afterwards.
  """
  return jax.pmap(
    update,
    axis_name=AXIS,
    in_axes=(None, 0),
    out_axes=(None, None),
    donate_argnums=0,
  )


def replicate(state: TrainState) -> TrainState:
  """Puts a state where `parallelize`'s function leaves it: on every device.

  From anywhere else its first call would compile for that place, and its
  second call once more. Each of several processes puts its own there, which
  must be the same.
  """
  mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  return jax.device_put(state, everywhere)


def _draw(
  origin, images, num_parts, preprocess, latent_dim, with_prior
) -> list[dict[str, jax.Array]]:
  """Returns what chance gives each part of the batch.

  Each is a dict: x [B, H, W, C], flipped at random, noise [B, Z], mix [B], and
  perhaps prior [B, Z].
  """
  batch_size = images.shape[0] // num_parts
  random = functools.partial(_per_image, origin, num_parts, batch_size)

  def normal(key):
    return jax.random.normal(key, (latent_dim,))

  flip = random(FLIP_STREAM, jax.random.bernoulli)
  draws = {
    'x': preprocess(images, flip),
    'noise': random(NOISE_STREAM, normal),
    'mix': random(MIX_STREAM, jax.random.uniform),
  }
  if with_prior:
    draws['prior'] = random(PRIOR_STREAM, normal)
  parts = jax.tree.map(
    lambda a: a.reshape(num_parts, batch_size, *a.shape[1:]), draws
  )
  return [{k: v[i] for k, v in parts.items()} for i in range(num_parts)]


def _autoencode(module, networks, draw, params, *, split, to_encoder):
  """Returns (outputs, new batch_stats).

  The outputs are x_recon [B, H, W, C] and kl [B]; with `split`, x_adversarial,
  the same images by themselves to the gradient, which then does not reach the
  encoder unless `to_encoder`; and x_prior, decoded from the prior, if drawn.
  """

  def forward(module, x, noise):
    mean, logvar = module.encoder(x, True)
    latents = mean + jnp.exp(0.5 * logvar) * noise
    x_recon = module.decoder(latents, True)
    outputs = {
      'x_recon': x_recon,
      'kl': autoencoder_lib.gaussian_kl(mean, logvar),
    }
    if split:  # XLA finds the same forward pass.
      outputs['x_adversarial'] = (
        x_recon
        if to_encoder
        else module.decoder(jax.lax.stop_gradient(latents), True)
      )
    if 'prior' in draw:
      outputs['x_prior'] = module.decoder(draw['prior'], True)
    return outputs

  outputs, mutated = module.apply(
    {'params': params, 'batch_stats': networks['autoencoder'].batch_stats},
    draw['x'],
    draw['noise'],
    mutable=['batch_stats'],
    method=forward,
  )
  return outputs, mutated.get('batch_stats', {})


def _train_critic(step_critic, networks, averages, step, draw, outputs):
  """One critic step. Returns (networks, averages, metrics)."""
  fakes = [outputs[n] for n in ('x_recon', 'x_prior') if n in outputs]
  critic, averages, metrics = step_critic(
    networks['critic'], averages, step, draw['x'], fakes, draw['mix']
  )
  return {**networks, 'critic': critic}, averages, metrics


def _frozen_critic(networks, averages, step, draw, outputs):
  """The critic step where none is trained."""
  del step, draw, outputs
  return dict(networks), averages, {}


def _weigh(loss: LossConfig, step, terms, pull_judge, averages):
  """What each term counts, and so which way the images should move.

  Returns:
    ({term: its factor in the loss}, {images: gradient}, new averages).
  """
  weights = {
    'distance': 1.0,
    'pixel': loss.pixel_weight,
    'adversarial': _ramp(step, loss.adversarial_ramp_steps)
    * loss.adversarial_weight,
    'kl': loss.kl_weight,
  }
  adapt = loss.adaptive_weight and 'adversarial' in terms
  # An adaptive weight depends on the gradient without it, and is applied to it.
  at_first = weights | {'adversarial': 1.0} if adapt else weights
  (cotangents,) = pull_judge(
    {
      name: jnp.ones_like(term) * at_first[name] / term.size
      for name, term in terms.items()
    }
  )
  if adapt:
    averages = _adapt(cotangents, averages)
    weights['adversarial'] *= averages['adaptive_weight']
    for name in cotangents.keys() - {'x_recon'}:
      cotangents[name] = weights['adversarial'] * cotangents[name]
  return weights, cotangents, averages


def _adapt(cotangents, averages):
  """Returns the averages with the new adaptive weight (arXiv 2012.09841).

  The ratio of the lengths of the distance's and the adversarial loss's
  gradients, over all devices; capped, and smoothed.
  """

  def length(x):
    return jnp.sqrt(jax.lax.psum(jnp.sum(x**2), AXIS))

  ratio = length(cotangents['x_recon']) / (
    length(cotangents['x_adversarial']) + 1e-8
  )
  ratio = jnp.minimum(ratio, _ADAPTIVE_MAX)
  average = optax.incremental_update(
    ratio, averages['adaptive_weight'], 1.0 - _ADAPTIVE_DECAY
  )
  return averages | {'adaptive_weight': average}


def _per_image(origin, num_parts, batch_size, stream, draw) -> jax.Array:
  """Draws randomness for each image: a function of (seed, step, image).

  The image's place in the global batch is folded in, so that a batch gets the
  same noise on one device and on many.

  Args:
    origin: (seed, step, number of rollbacks); the last gives a step that is
      taken again other randomness.
    num_parts: K, parts of the batch, each shared out over the devices.
    batch_size: B, images of one part on this device.
    stream: what the draw is for.
    draw: (key) -> array.

  Returns:
    The draws [K B, ...].
  """
  seed, step, num_rollbacks = origin
  key = jax.random.fold_in(jax.random.key(seed), step)
  key = jax.random.fold_in(key, stream + NUM_STREAMS * num_rollbacks)
  part_size = jax.lax.psum(batch_size, AXIS)
  place = jax.lax.axis_index(AXIS) * batch_size + jnp.arange(batch_size)
  places = jnp.arange(num_parts)[:, None] * part_size + place
  return jax.vmap(lambda i: draw(jax.random.fold_in(key, i)))(
    places.reshape(-1)
  )


def _ramp(step, ramp_steps):
  """Rises linearly from 0 to 1 over `ramp_steps` steps; 0 of them: 1."""
  return jnp.minimum(step / max(ramp_steps, 1), 1.0)


def _average(ema_params, params, step, decay):
  """Exponential average; its horizon grows with the first steps."""
  decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
  return optax.incremental_update(params, ema_params, 1.0 - decay)


def _keep_if_finite(old: TrainState, new: TrainState, metrics: Metrics):
  """Takes the step unless a loss or gradient is not finite, then counts it."""
  # A non-finite gradient norm means a non-finite gradient somewhere.
  ok = functools.reduce(
    jnp.logical_and,
    (
      jnp.isfinite(v)
      for k, v in metrics.items()
      if k.endswith(('loss', 'norm'))
    ),
  )
  num_skipped = jnp.where(ok, 0, old.num_skipped + 1)
  metrics['skipped_in_a_row'] = num_skipped
  kept = _where(ok, new, old)
  return kept.replace(step=old.step + 1, num_skipped=num_skipped), metrics


def _where(condition, new, old):
  return jax.tree.map(functools.partial(jnp.where, condition), new, old)
