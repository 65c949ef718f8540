"""THE update: (state, images) -> (state, metrics), one compiled function.

    x_recon, kl, pull_back = vjp(autoencoder)(x)   # forward once
    critic  <- step on critic_loss(x, x_recon)
    d_recon <- gradient of distance(features(x), features(x_recon)) in the
               critic just updated, with respect to x_recon alone
    autoencoder <- step on pull_back(d_recon, kl_weight)

Each network moves by its own loss only: the critic's step sees `x_recon` as a
constant, and the autoencoder's gradient is pulled back from `x_recon`, so it
never passes through the critic's weights or the real branch.

This is the only file that names the device axis: it runs under `jax.pmap`, and
one `pmean` for each network averages its gradient (and its metrics) over them.
Axes: B images on one device, H height, W width, C channels, Z latent.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from vaegan_jax import adversarial, perceptual
from vaegan_jax.models import autoencoder as autoencoder_lib
from vaegan_jax.train_state import NetworkState, TrainState

ORDERS = ('alternating', 'simultaneous')
AXIS = 'batch'  # The device axis of `pmap`.
# One stream of randomness for each use; see `_per_image`.
FLIP_STREAM, NOISE_STREAM = range(2)

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """What the autoencoder minimises; the fields of `config.loss`.

  The loss is distance + pixel_weight * pixel error + kl_weight * KL, plus the
  adversarial loss with a weight that rises from 0 over the ramp.
  """

  layers: tuple[str, ...]
  layer_weights: tuple[float, ...]
  normalize: str
  reduction: str
  pixel_weight: float
  adversarial_weight: float
  adversarial_ramp_steps: int
  kl_weight: float


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

  Returns:
    (state, images [B, H, W, C] uint8) -> (state after the step, metrics []).
  """
  autoencoder = modules['autoencoder']
  critic = modules.get('critic')
  train_critic, adversarial_loss = _frozen_critic, None
  if objective is not None:
    train_critic = functools.partial(
      _train_critic, critic, objective.critic_loss, optimizers['critic']
    )
    adversarial_loss = objective.adversarial_loss
  judge = functools.partial(_judge_pixels, loss)
  if critic is not None:
    judge = functools.partial(_judge_features, critic, adversarial_loss, loss)

  def update(
    state: TrainState, images: jax.Array
  ) -> tuple[TrainState, Metrics]:
    step, old = state.step + 1, state.networks
    x, noise = _draw(seed, step, images, preprocess, autoencoder.latent_dim)

    # 1. The autoencoder's one forward pass, kept to be pulled back through.
    (x_recon, kl), pull_back, batch_stats = jax.vjp(
      functools.partial(_autoencode, autoencoder, old, x, noise),
      old['autoencoder'].params,
      has_aux=True,
    )
    # 2. The critic's step. It takes x_recon as a constant.
    updated, critic_metrics = train_critic(old, x, x_recon)
    # 3. The frozen critic's verdict, and which way x_recon should move. In the
    # simultaneous order XLA finds step 2's forward passes here again.
    judging = updated if order == 'alternating' else old
    (recon_loss, terms), d_recon = jax.value_and_grad(
      functools.partial(_reconstruction_loss, loss, judge, judging, step, x),
      has_aux=True,
    )(x_recon)
    # 4. Pull that, and the KL's constant cotangent, into the autoencoder.
    d_kl = jnp.full_like(kl, loss.kl_weight / kl.size)
    (grads,) = pull_back((d_recon, d_kl))

    metrics = {name: term.mean() for name, term in (terms | {'kl': kl}).items()}
    metrics['loss'] = recon_loss + loss.kl_weight * metrics['kl']
    grads, batch_stats, metrics = jax.lax.pmean(
      (grads, batch_stats, metrics), AXIS
    )
    metrics['autoencoder_grad_norm'] = optax.global_norm(grads)
    updated['autoencoder'] = _apply_gradients(
      old['autoencoder'], optimizers['autoencoder'], grads, batch_stats
    )
    ema_params = _average(
      state.ema_params, updated['autoencoder'].params, step, ema_decay
    )
    return _keep_if_finite(state, updated, ema_params, metrics | critic_metrics)

  return update


def parallelize(update: Callable) -> Callable:
  """Runs an update on every device; the state has no device axis.

  Args:
    update: from `create_update`.

  Returns:
    (state, images [D, B, H, W, C] uint8) -> (state, metrics []). The given
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
  second call once more.
  """
  mesh = jax.sharding.Mesh(np.array(jax.devices()), (AXIS,))
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  return jax.device_put(state, everywhere)


def _draw(seed, step, images, preprocess, latent_dim):
  """Returns the batch, flipped at random: x [B, H, W, C], and noise [B, Z]."""
  random = functools.partial(_per_image, seed, step, images.shape[0])
  flip = random(FLIP_STREAM, jax.random.bernoulli)
  noise = random(
    NOISE_STREAM, lambda key: jax.random.normal(key, (latent_dim,))
  )
  return preprocess(images, flip), noise


def _autoencode(module, networks, x, noise, params):
  """Returns ((x_recon [B, H, W, C], kl [B]), new batch_stats)."""
  (x_recon, mean, logvar), mutated = module.apply(
    {'params': params, 'batch_stats': networks['autoencoder'].batch_stats},
    x,
    noise,
    train=True,
    mutable=['batch_stats'],
  )
  kl = autoencoder_lib.gaussian_kl(mean, logvar)
  return (x_recon, kl), mutated.get('batch_stats', {})


def _train_critic(module, critic_loss, optimizer, networks, x, x_recon):
  """One step of the critic. Returns (networks with it updated, metrics)."""
  critic = networks['critic']
  x_recon = jax.lax.stop_gradient(x_recon)

  def judge(params, batch_stats, images):
    logits, mutated = module.apply(
      {'params': params, 'batch_stats': batch_stats},
      images,
      train=True,
      mutable=['batch_stats'],
    )
    return logits, mutated.get('batch_stats', {})

  def loss(params):
    # Two passes, not one over both: `simultaneous` shares them with the
    # distance, whose real half needs no gradient.
    logits_real, batch_stats = judge(params, critic.batch_stats, x)
    logits_fake, batch_stats = judge(params, batch_stats, x_recon)
    losses = critic_loss(logits_real, logits_fake)
    metrics = {
      'critic_loss': losses.mean(),
      'critic_logits_real': logits_real.mean(),
      'critic_logits_fake': logits_fake.mean(),
    }
    return losses.mean(), (batch_stats, metrics)

  grads, (batch_stats, metrics) = jax.grad(loss, has_aux=True)(critic.params)
  grads, batch_stats, metrics = jax.lax.pmean(
    (grads, batch_stats, metrics), AXIS
  )
  metrics['critic_grad_norm'] = optax.global_norm(grads)
  critic = _apply_gradients(critic, optimizer, grads, batch_stats)
  return {**networks, 'critic': critic}, metrics


def _frozen_critic(networks, x, x_recon):
  """The critic step where none is trained."""
  del x, x_recon
  return dict(networks), {}


def _reconstruction_loss(loss, judge, networks, step, x, x_recon):
  """What x_recon is to minimise: (mean over the batch, terms each [B])."""
  terms = judge(networks, x, x_recon)
  terms['pixel'] = _pixel_distance(x, x_recon, loss.reduction)
  ramp = _ramp(step, loss.adversarial_ramp_steps)
  weights = {
    'distance': 1.0,
    'pixel': loss.pixel_weight,
    'adversarial': ramp * loss.adversarial_weight,
  }
  total = sum(weights[name] * term for name, term in terms.items())  # [B]
  return total.mean(), terms


def _judge_features(module, adversarial_loss, loss, networks, x, x_recon):
  """What the frozen critic says of the reconstructions: terms, each [B]."""
  variables = jax.lax.stop_gradient(networks['critic'].variables)

  def capture(images):
    (logits, _), features = perceptual.capture_features(
      module,
      variables,
      images,
      layers=loss.layers or module.layer_names,
      train=True,
      mutable=['batch_stats'],
    )
    return logits, features

  _, features_x = capture(jax.lax.stop_gradient(x))
  logits_fake, features_recon = capture(x_recon)
  distance = perceptual.feature_distance(
    features_x,
    features_recon,
    weights=loss.layer_weights or None,
    normalize=loss.normalize,
    reduction=loss.reduction,
  )
  terms = {'distance': distance}
  if adversarial_loss is not None:
    terms['adversarial'] = adversarial_loss(logits_fake)
  return terms


def _judge_pixels(loss, networks, x, x_recon):
  """Without a critic an image's only feature is itself: terms, each [B]."""
  del networks
  return {'distance': _pixel_distance(x, x_recon, loss.reduction)}


def _pixel_distance(x, x_recon, reduction):
  """Squared error between the images; [B]."""
  return perceptual.feature_distance(
    {'pixels': x}, {'pixels': x_recon}, reduction=reduction
  )


def _per_image(seed, step, batch_size, stream, draw):
  """Draws randomness for each image: a function of (seed, step, image).

  The image's place in the global batch is folded in, so that a batch gets the
  same noise on one device and on many.

  Args:
    seed, step, stream: what the draw is for.
    batch_size: B, images on this device.
    draw: (key) -> array.

  Returns:
    The draws [B, ...].
  """
  key = jax.random.fold_in(jax.random.key(seed), step)
  key = jax.random.fold_in(key, stream)
  place = jax.lax.axis_index(AXIS) * batch_size + jnp.arange(batch_size)
  return jax.vmap(lambda i: draw(jax.random.fold_in(key, i)))(place)


def _ramp(step, ramp_steps):
  """Rises linearly from 0 to 1 over `ramp_steps` steps; 0 of them: 1."""
  return jnp.minimum(step / max(ramp_steps, 1), 1.0)


def _apply_gradients(network, optimizer, grads, batch_stats):
  """One optimiser step of one network."""
  updates, opt_state = optimizer.update(
    grads, network.opt_state, network.params
  )
  return NetworkState(
    params=optax.apply_updates(network.params, updates),
    batch_stats=batch_stats,
    opt_state=opt_state,
  )


def _average(ema_params, params, step, decay):
  """Exponential average; its horizon grows with the first steps."""
  decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
  return optax.incremental_update(params, ema_params, 1.0 - decay)


def _keep_if_finite(state, networks, ema_params, metrics):
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
  keep = functools.partial(jax.tree.map, functools.partial(jnp.where, ok))
  num_skipped = jnp.where(ok, 0, state.num_skipped + 1)
  metrics['skipped_in_a_row'] = num_skipped
  return TrainState(
    step=state.step + 1,
    num_skipped=num_skipped,
    networks=keep(networks, state.networks),
    ema_params=keep(ema_params, state.ema_params),
  ), metrics
