"""THE update: (state, images) -> (state, metrics), one compiled function.

    x_recon, losses, pull_back = vjp(autoencoder)(x)   # forward once
    critic  <- step on critic_loss(x, x_recon)
    d_recon <- gradient of distance(features(x), features(x_recon)) in the
               critic just updated, with respect to x_recon alone
    autoencoder <- step on pull_back(d_recon, weights of the latent's losses)

Each network moves by its own loss only: the critic's step sees `x_recon` as a
constant, and the autoencoder's gradient is pulled back from `x_recon`, so it
never passes through the critic's weights or the real branch.

This is the method. How its parts are made, with every option that there is, is
in `assemble.py`; what is done around it in `wrappers.py`.
Axes: B images on one device, H height, W width, C channels.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import optax

from vaegan_jax.losses.reconstruction import metrics_from_moments
from vaegan_jax.training.critic_step import CriticState
from vaegan_jax.training.train_state import NetworkState, apply_gradients
from vaegan_jax.training.wrappers import Update

ORDERS = ('alternating', 'simultaneous')


@dataclasses.dataclass(frozen=True)
class Parts:
  """What an update is made of; each is built in the room named after it.

  Attributes:
    draw: (step, number of rollbacks, images) -> draws, one for each step of
      the critic; the autoencoder's is the last. See `draws.py`.
    autoencode: (params, batch_stats, draw) -> ((x_fakes, latent's losses {name:
      [B]}), (batch_stats, latent's stats)). See `autoencode.py`.
    step_critic: (CriticState, draw, x_fakes, lazy) -> (CriticState, metrics
      []), averaged over the devices. See `critic_step.py`.
    judge: (critic's variables, x, x_fakes) -> (terms {name: [B]}, moments). See
      `losses/reconstruction.py`.
    weigh: (step, terms, pull_judge, latent's losses, averages) -> (cotangents
      of (x_fakes, those), metrics [], averages). See `weighting.py`.
    optimizer: of the autoencoder.
    pmean: (tree) -> its mean over the devices.
  """

  draw: Callable
  autoencode: Callable
  step_critic: Callable
  judge: Callable
  weigh: Callable
  optimizer: optax.GradientTransformation
  pmean: Callable


def create_update(parts: Parts, *, order: str, lazy: Sequence[bool]) -> Update:
  """Builds the update of one device from its parts.

  Args:
    parts: what it is made of.
    order: 'alternating', the distance sees the critic just updated, or
      'simultaneous', it shares the critic step's forward passes.
    lazy: K, as of a `Turn`.

  Returns:
    (state, images [K B, H, W, C] uint8) -> (state after the step, metrics []),
    with K critic steps, each on B images; the autoencoder's is on the last B.
  """

  def update(state, images):
    step, old = state.step + 1, state.networks['autoencoder']
    *early, last = parts.draw(step, state.num_rollbacks, images)
    critic = CriticState.of(state)
    critic, _ = _step_critic_alone(parts, critic, old, early, lazy[:-1])
    # 1. The autoencoder's one forward pass, kept to be pulled back through.
    (x_fakes, losses), pull_back, (batch_stats, stats) = jax.vjp(
      lambda params: parts.autoencode(params, old.batch_stats, last),
      old.params,
      has_aux=True,
    )
    # 2. The critic's step. It takes x_recon as a constant.
    updated, critic_metrics = parts.step_critic(critic, last, x_fakes, lazy[-1])
    # 3. The frozen critic's verdict, and which way x_recon should move. In the
    # simultaneous order XLA finds step 2's forward passes here again.
    judging = updated if order == 'alternating' else critic
    terms, pull_judge, moments = jax.vjp(
      lambda x_fakes: parts.judge(judging.variables, last['x'], x_fakes),
      x_fakes,
      has_aux=True,
    )
    cotangents, metrics, averages = parts.weigh(
      step, terms, pull_judge, losses, state.averages
    )
    # 4. Pull that, and the latent's own weights, into the autoencoder.
    (grads,) = pull_back(cotangents)
    # 5. One mean over the devices for each network: the critic had its own.
    grads, batch_stats, metrics, moments = parts.pmean(
      (grads, batch_stats, metrics | stats, moments)
    )
    metrics |= metrics_from_moments(moments)
    metrics['autoencoder_grad_norm'] = optax.global_norm(grads)
    new = apply_gradients(old, parts.optimizer, grads, batch_stats)
    return _after(state, new, updated, averages), metrics | critic_metrics

  return update


def create_critic_update(parts: Parts, *, lazy: Sequence[bool]) -> Update:
  """Builds the update in which the autoencoder waits for the critic.

  Args:
    parts: those of `create_update`; what serves the autoencoder's gradient is
      not used.
    lazy: K, as of a `Turn`.

  Returns:
    As `create_update`, but that the critic alone is trained, on all K parts.
    The metrics are those of its last step, and the latent's losses.
  """

  def update(state, images):
    autoencoder = state.networks['autoencoder']
    draws = parts.draw(state.step + 1, state.num_rollbacks, images)
    critic, metrics = _step_critic_alone(
      parts, CriticState.of(state), autoencoder, draws, lazy
    )
    return _after(state, autoencoder, critic, {}), metrics

  return update


def _step_critic_alone(parts, critic, autoencoder: NetworkState, draws, lazy):
  """Critic steps for which the autoencoder only runs forward.

  Returns (critic, metrics of the last). However many there are, one of each
  kind is traced.
  """

  @functools.partial(jax.jit, static_argnums=3)
  def step(critic, autoencoder, draw, lazy):
    (x_fakes, losses), _ = parts.autoencode(
      autoencoder.params, autoencoder.batch_stats, draw
    )
    critic, metrics = parts.step_critic(critic, draw, x_fakes, lazy)
    means = {name: loss.mean() for name, loss in losses.items()}
    return critic, metrics | parts.pmean(means)

  metrics = {}
  for draw, takes_lazy in zip(draws, lazy, strict=True):
    critic, metrics = step(critic, autoencoder, draw, takes_lazy)
  return critic, metrics


def _after(state, autoencoder, critic: CriticState, averages):
  """The state after the step."""
  networks = {'autoencoder': autoencoder}
  if critic.network is not None:
    networks['critic'] = critic.network
  return state.replace(
    step=state.step + 1,
    networks=networks,
    averages=state.averages | critic.averages | averages,
  )
