"""THE update: (state, images) -> (state, metrics), one compiled function.

    x_recon, losses, pull_back = vjp(autoencoder)(x)   # forward once
    critic  <- step on critic_loss(x, x_recon)
    d_recon <- gradient of distance(features(x), features(x_recon)) in the
               critic just updated, with respect to x_recon alone
    autoencoder <- step on pull_back(d_recon, weights of the latent's losses)

Each network is trained by its own loss only. The critic's step takes `x_recon`
as a constant. The autoencoder's gradient is pulled back from `x_recon`, so it
never passes through the critic's weights or the real branch. A batch in several
chunks runs each forward once more, to keep the values of one; see `chunks.py`.

This is the method. `build.py` makes its parts, with every option, and
`wrappers.py` has what is done around it.
Axes: B images on one device, H height, W width, C channels.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence

import jax
import optax

from vaegan_jax.losses.moments import metrics_from_moments
from vaegan_jax.training import chunks, layer_sizes
from vaegan_jax.training.critic_step import CriticState
from vaegan_jax.training.train_state import (
  NetworkState,
  apply_gradients,
  select,
)
from vaegan_jax.training.wrappers import Update


@dataclasses.dataclass(frozen=True)
class Parts:
  """Parts of an update; each is built in the module that is named after it.

  Attributes:
    random_inputs: (step, number of rollbacks, images) -> inputs, one for each
      critic step; the autoencoder takes the last. See `random_inputs.py`.
    autoencode: (params, batch_stats, inputs, decoder's first variables or None)
      -> ((decoded, latent's losses {name: [B]}), (batch_stats, latent's
      metrics)). See `autoencode.py`.
    step_critic: (CriticState, inputs, decoded, regularize) -> (CriticState,
      metrics []), averaged over the devices. See `critic_step.py`.
    reconstruction_losses: (critic's variables, x, decoded, sizes of the layers,
      which values are valid or None, function of the batch's means or None) ->
      (terms {name: [B]}, moments). See `losses/reconstruction.py`.
    combine_losses: (step, losses_and_pull, latent's losses, averages) ->
      (cotangents of (decoded, latent's losses), metrics [], averages, moments).
      See `loss_weights.py`.
    follow: (averages, metrics, moments) -> changed averages, of what is
      averaged over the devices. See `layer_sizes.py` and `kl_rate.py`.
    optimizer: optimizer of the autoencoder.
    trained: names of the autoencoder's parts that are trained; None: all.
    pmean, psum: (tree) -> its mean, and its sum, over the devices.
    num_chunks: A, in which each batch is computed; see `chunks.py`. Arrays [B,
      ...] above are [A, B / A, ...] unless A is 1.
  """

  random_inputs: Callable
  autoencode: Callable
  step_critic: Callable
  reconstruction_losses: Callable
  combine_losses: Callable
  follow: Callable
  optimizer: optax.GradientTransformation
  trained: Collection[str] | None
  pmean: Callable
  psum: Callable
  num_chunks: int = 1


def create_update(
  parts: Parts, regularize_critic: Sequence[bool], order: str
) -> Update:
  """Creates the update of one device from its parts.

  Args:
    parts: the parts.
    regularize_critic: K, as in `StepKind`.
    order: 'alternating', the distance uses the critic just updated, or
      'simultaneous', it shares the critic step's forward passes.

  Returns:
    (state, images [K B, H, W, C] uint8) -> (state after the step, metrics []),
    with K critic steps, each on B images; the autoencoder's is on the last B.
  """

  def update(state, images):
    step, old = state.step + 1, state.networks['autoencoder']
    *early, last = parts.random_inputs(step, state.num_rollbacks, images)
    critic, start = CriticState.of(state), state.start_decoder
    critic, _ = _train_critic(parts, critic, old, early, regularize_critic[:-1])
    # 1. The autoencoder's one forward pass, kept for the backward pass.
    (decoded, losses), pull_back, (batch_stats, stats) = chunks.vjp(
      lambda params, inputs: parts.autoencode(
        {**old.params, **params}, old.batch_stats, inputs, start
      ),
      select(old.params, parts.trained),
      parts.num_chunks,
      last,
    )
    # 2. The critic's step. It takes x_recon as a constant.
    updated, critic_metrics = parts.step_critic(
      critic, last, decoded, regularize_critic[-1]
    )
    # 3. The losses in the frozen critic, and their gradient at x_recon. In the
    # simultaneous order XLA merges these forward passes with those of step 2.
    frozen = updated if order == 'alternating' else critic
    sizes = layer_sizes.from_averages(state.averages)
    losses_and_pull = functools.partial(
      _losses_and_pull, parts, frozen.variables, last, decoded, sizes
    )
    cotangents, metrics, averages, moments = parts.combine_losses(
      step, losses_and_pull, losses, state.averages
    )
    # 4. Pull that, and the latent's own weights, into the autoencoder.
    grads = pull_back(cotangents)
    # 5. One mean over the devices for each network: the critic had its own.
    found = parts.pmean((grads, batch_stats, metrics | stats, moments))
    grads, batch_stats, metrics, moments = found
    metrics |= metrics_from_moments(moments)
    averages |= parts.follow(state.averages, metrics, moments)
    metrics['autoencoder_grad_norm'] = optax.tree.norm(grads)
    new = apply_gradients(old, parts.optimizer, grads, batch_stats)
    return _after(state, new, updated, averages), metrics | critic_metrics

  return update


def create_critic_update(
  parts: Parts, regularize_critic: Sequence[bool]
) -> Update:
  """Creates the update that trains the critic alone, in its warm-up.

  The arguments are those of `create_update`. The update trains on all K
  microbatches; its metrics are the last step's, and the latent's losses.
  """

  def update(state, images):
    autoencoder = state.networks['autoencoder']
    inputs = parts.random_inputs(state.step + 1, state.num_rollbacks, images)
    critic, metrics = _train_critic(
      parts, CriticState.of(state), autoencoder, inputs, regularize_critic
    )
    return _after(state, autoencoder, critic, {}), metrics

  return update


def _losses_and_pull(parts, critic, inputs, decoded, sizes, weigh):
  """Computes the reconstruction losses, and their gradient at the images.

  Args:
    critic: its variables, which are constants.
    weigh: (terms {name: [B]}) -> their cotangents.

  Returns:
    (terms, cotangents of the decoded images, moments).
  """

  def losses(chunk, average=None):
    own, decoded = chunk
    return parts.reconstruction_losses(
      critic, own['x'], decoded, sizes, own.get('valid'), average
    )

  batch = inputs, decoded
  means = chunks.batch_means(losses, parts.num_chunks, batch, parts.psum)

  def pull(chunk):
    own, decoded = chunk
    terms, losses_vjp, moments = jax.vjp(
      lambda decoded: losses((own, decoded), chunks.returning(means)),
      decoded,
      has_aux=True,
    )
    (cotangents,) = losses_vjp(weigh(terms))
    return (terms, cotangents), moments

  (terms, cotangents), moments = chunks.map_chunks(
    pull, parts.num_chunks, batch, after=means
  )
  return terms, cotangents, moments


def _train_critic(
  parts, critic, autoencoder: NetworkState, inputs, regularize_critic
):
  """Takes critic steps for which the autoencoder only runs forward.

  Returns (critic, metrics of the last step). However many steps there are, one
  of each kind is traced.
  """

  @functools.partial(jax.jit, static_argnums=3)
  def step(critic, autoencoder, own, regularize):
    autoencode = functools.partial(
      parts.autoencode, autoencoder.params, autoencoder.batch_stats
    )
    (decoded, losses), _ = chunks.map_chunks(autoencode, parts.num_chunks, own)
    critic, metrics = parts.step_critic(critic, own, decoded, regularize)
    means = {name: loss.mean() for name, loss in losses.items()}
    return critic, metrics | parts.pmean(means)

  metrics = {}
  for own, regularize in zip(inputs, regularize_critic, strict=True):
    critic, metrics = step(critic, autoencoder, own, regularize)
  return critic, metrics


def _after(state, autoencoder, critic: CriticState, averages):
  """Returns the state after the step."""
  networks = {**state.networks, 'autoencoder': autoencoder}
  if critic.network is not None:
    networks['critic'] = critic.network
  return state.replace(
    step=state.step + 1,
    networks=networks,
    averages=state.averages | critic.averages | averages,
  )
