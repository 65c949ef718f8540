"""One step of the critic: its loss, its penalties, and its update.

Options that are off cost nothing: they are left out when the step is built.
An example's logit in a penalty is the mean of its map of logits.
Axes: B images on one device, H height, W width, C channels, M axes of a map of
logits, none where there is one logit an image.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from vaegan_jax.losses import masks, penalties
from vaegan_jax.losses.adversarial import mean_over_map
from vaegan_jax.training.chunks import map_chunks
from vaegan_jax.training.train_state import (
  NetworkState,
  TrainState,
  apply_gradients,
)

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class CriticConfig:
  """Settings of the critic's training: fields of `config.critic`. 0 is off."""

  r1_weight: float
  num_steps: int = 1  # An update, each on images of its own.
  warmup_steps: int = 0  # Updates before the autoencoder's first.
  long_round_steps: int = 0  # Of a critic warm-up; see `step_kinds.py`.
  weight_clip: float = 0.0
  gradient_penalty_weight: float = 0.0
  # R1 is computed on every n-th step, with n times the weight (arXiv
  # 1912.04958, appendix B).
  r1_every_steps: int = 16
  lecam_weight: float = 0.0
  lecam_decay: float = 0.99
  prior_fakes: bool = False  # Whether samples of the prior are fakes too.

  @property
  def warmups(self) -> tuple[int, int]:
    """Arguments of `step_kinds.num_autoencoder_steps`."""
    return max(self.long_round_steps // self.num_steps, 1), self.warmup_steps


class CriticState(struct.PyTreeNode):
  """The critic within an update, and the moving averages of its logits."""

  network: NetworkState | None  # None: there is no critic.
  averages: dict[str, jax.Array]

  @classmethod
  def of(cls, state: TrainState) -> 'CriticState':
    """Returns the critic of a training state."""
    averages = {n: state.averages[n] for n in ('logits_real', 'logits_fake')}
    return cls(state.networks.get('critic'), averages)

  @property
  def variables(self) -> dict[str, Any] | None:
    """Argument of `module.apply`; None: there is no critic."""
    return self.network and self.network.variables


class CriticBatch(NamedTuple):
  """Arguments of the critic's penalties."""

  x: jax.Array  # [B, H, W, C] real images.
  # One or two batches [B, H, W, C], constants: the reconstructions, and samples
  # of the prior.
  decoded: list[jax.Array]
  interpolation: jax.Array  # [B] uniform in [0, 1].
  averages: Mapping[str, jax.Array]  # Moving averages of the critic's logits.
  logits_real: jax.Array | None = None  # [B]; None for a separate penalty.
  # [B] for each batch of `decoded`; () for a separate penalty.
  logits_fake: tuple[jax.Array, ...] = ()
  # [B, H, W] bool, positions that count in the loss; None: all.
  where: jax.Array | None = None


class Penalty(NamedTuple):
  """A regularizer of the critic."""

  name: str  # Name of its metric.
  weight: float  # Weight of its mean.
  # (critic: images -> logits [B], CriticBatch) -> [B].
  function: Callable[[Callable, CriticBatch], jax.Array]
  # Gradient apart from the loss's, which is never clipped; a penalty that is
  # not computed on every step must be separate.
  separate: bool = False
  # n, if it is computed on every n-th step with n times the weight; see
  # `step_kinds.py`.
  every_steps: int = 1


def _create_penalties(config: CriticConfig) -> list[Penalty]:
  """Returns the penalties with a weight above 0."""

  def gradient(critic, batch):
    return penalties.gradient_penalty(
      critic, batch.x, batch.decoded[0], batch.interpolation
    )

  def lecam(critic, batch):
    del critic  # Its logits are in the batch.
    past = batch.averages['logits_real'], batch.averages['logits_fake']
    return sum(
      penalties.lecam_penalty(batch.logits_real, logits, *past)
      for logits in batch.logits_fake
    ) / len(batch.logits_fake)

  def r1(critic, batch):
    return penalties.r1_penalty(critic, batch.x)

  found = (
    Penalty('gradient_penalty', config.gradient_penalty_weight, gradient),
    Penalty('lecam_penalty', config.lecam_weight, lecam),
    Penalty('r1_penalty', config.r1_weight, r1, True, config.r1_every_steps),
  )
  return [penalty for penalty in found if penalty.weight]


def create_critic_step(
  module: nn.Module,
  critic_loss: Callable[[jax.Array, jax.Array], jax.Array],
  optimizer: optax.GradientTransformation,
  config: CriticConfig,
  pmean: Callable[[Any], Any],
  *,
  max_grad_norm: float = 0.0,
  num_chunks: int = 1,
) -> Callable[..., tuple[CriticState, Metrics]]:
  """Creates the critic's step on one device.

  Args:
    critic_loss: (logits [B, *M] real, fake) -> [B, *M], of the objective.
    pmean: (tree) -> its mean over the devices.
    max_grad_norm: norm to which the loss's gradient is clipped, before separate
      penalties' gradients, which are large, are added; 0: no clipping.
    num_chunks: A, in which inputs and decoded images are; see `chunks.py`.

  Returns:
    (critic, inputs, decoded, regularize) -> (critic after the step, metrics
    []). It uses x [B, H, W, C], interpolation [B] and, if given, valid of the
    inputs, x_recon and, if given, x_prior of the decoded images. `regularize`
    is a bool: whether to take the penalties of every n-th step.
  """
  found = _create_penalties(config)
  separate = [p for p in found if p.separate]
  added = [p for p in found if not p.separate]
  total_loss = functools.partial(_total_loss, module, critic_loss, added)
  gradients = functools.partial(
    _gradients, module, total_loss, separate, max_grad_norm > 0
  )

  def step_critic(critic, inputs, decoded, regularize):
    network = critic.network
    _, found = map_chunks(
      lambda chunk: gradients(critic, regularize, *chunk),
      num_chunks,
      (inputs, decoded),
      after=decoded,
    )
    grads, others, batch_stats, metrics = pmean(found)
    metrics['critic_grad_norm'] = optax.tree.norm(_add(grads, *others))
    if max_grad_norm:
      grads = _add(_clip_norm(grads, max_grad_norm), *others)
    network = apply_gradients(network, optimizer, grads, batch_stats)
    if config.weight_clip:
      params = clip_weights(network.params, config.weight_clip)
      network = network.replace(params=params)
    averages = _average(critic.averages, metrics, config.lecam_decay)
    return CriticState(network, averages), metrics

  return step_critic


def _gradients(
  module, total_loss, separate, apart, critic, regularize, inputs, decoded
):
  """Returns (), (gradient, penalties' gradients, batch_stats, metrics).

  The gradients of separate penalties are added to the loss's unless `apart`.
  """
  network = critic.network
  fakes = [decoded[n] for n in ('x_recon', 'x_prior') if n in decoded]
  x, *fakes = jax.lax.stop_gradient((inputs['x'], *fakes))
  batch = CriticBatch(x, fakes, inputs['interpolation'], critic.averages)
  batch = batch._replace(where=masks.positions(inputs.get('valid')))
  grads, (batch_stats, metrics) = jax.grad(total_loss, has_aux=True)(
    network.params, network.batch_stats, batch
  )
  others = []
  for p in (p for p in separate if regularize or p.every_steps == 1):
    more, metrics[p.name] = _separate_gradient(module, p, network, batch)
    others.append(more)
  if not apart:  # One mean over devices suffices for their sum.
    grads, others = _add(grads, *others), []
  return (), (grads, others, batch_stats, metrics)


def _total_loss(module, critic_loss, added, params, batch_stats, batch):
  """Returns (loss [], (new batch_stats, metrics)) of one batch."""

  def apply(batch_stats, images):
    logits, mutated = module.apply(
      {'params': params, 'batch_stats': batch_stats},
      images,
      train=True,
      mutable=['batch_stats'],
    )
    return logits, mutated.get('batch_stats', {})

  # One pass for each batch, not one over all: the order 'simultaneous' shares
  # them with the distance, whose real branch needs no gradient.
  logits_real, batch_stats = apply(batch_stats, batch.x)
  logits_fakes = []
  for images in batch.decoded:
    logits, batch_stats = apply(batch_stats, images)
    logits_fakes.append(logits)
  number = len(logits_fakes)
  losses = sum(critic_loss(logits_real, f) for f in logits_fakes) / number
  losses = mean_over_map(losses, batch.where)
  logits_fake = sum(logits_fakes) / number
  metrics = {
    'critic_loss': losses.mean(),
    'critic_logits_real': logits_real.mean(),
    'critic_logits_fake': logits_fake.mean(),
  }
  batch = batch._replace(
    logits_real=mean_over_map(logits_real),
    logits_fake=tuple(map(mean_over_map, logits_fakes)),
  )
  total = losses
  for penalty in added:
    values = penalty.function(
      lambda images: mean_over_map(apply(batch_stats, images)[0]), batch
    )
    metrics[penalty.name] = values.mean()
    total = total + penalty.weight * values
  return total.mean(), (batch_stats, metrics)


def _separate_gradient(module, penalty, network: NetworkState, batch):
  """Returns (gradient, mean) of a separate penalty, in float32."""
  if getattr(module, 'dtype', None) is not None:
    module = module.clone(dtype=None)

  def weighted(params):
    variables = {'params': params, 'batch_stats': network.batch_stats}
    values = penalty.function(
      lambda images: mean_over_map(module.apply(variables, images)), batch
    )
    mean = values.mean()
    return penalty.weight * penalty.every_steps * mean, mean

  return jax.grad(weighted, has_aux=True)(network.params)


def _average(averages, metrics, decay):
  """Updates the moving averages of the logits."""
  return {
    name: optax.incremental_update(
      metrics[f'critic_{name}'], average, 1.0 - decay
    )
    for name, average in averages.items()
  }


def _add(tree, *others):
  return jax.tree.map(lambda first, *rest: sum(rest, first), tree, *others)


def clip_weights(params, limit):
  """Clips every weight (arXiv 1701.07875, algorithm 1, line 7)."""
  return jax.tree.map(lambda w: jnp.clip(w, -limit, limit), params)


def _clip_norm(grads, max_norm):
  transform = optax.clip_by_global_norm(max_norm)
  return transform.update(grads, transform.init(grads))[0]
