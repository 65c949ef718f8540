"""One step of the critic: its loss, what steadies it, and its update.

Everything that is off costs nothing: it is left out when the step is built.
An example's verdict, which the penalties hold, is the mean of its logits.
Axes: B images on one device, H height, W width, C channels, M axes of a map of
logits, none where there is one an image.
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

from vaegan_jax.losses import penalties
from vaegan_jax.losses.adversarial import mean_over_map
from vaegan_jax.training.train_state import (
  NetworkState,
  TrainState,
  apply_gradients,
)

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class CriticConfig:
  """How the critic is trained; fields of `config.critic`. 0 is off.

  Attributes:
    num_steps: critic steps an update, each on images of its own.
    long_round_steps: critic steps before each of the first autoencoder steps,
      and now and then; see `rounds.py`.
    weight_clip: largest absolute value of any weight.
    gradient_penalty_weight: lambda of `penalties.gradient_penalty`.
    r1_weight: gamma of `penalties.r1_penalty`.
    r1_every_steps: R1 is taken so often, that much heavier (arXiv 1912.04958,
      appendix B).
    lecam_weight: lambda of `penalties.lecam_penalty`.
    lecam_decay: of its moving averages.
    prior_fakes: whether images decoded from the prior are fakes too.
  """

  num_steps: int = 1
  long_round_steps: int = 0
  weight_clip: float = 0.0
  gradient_penalty_weight: float = 0.0
  r1_weight: float = 0.0
  r1_every_steps: int = 16
  lecam_weight: float = 0.0
  lecam_decay: float = 0.99
  prior_fakes: bool = False


class CriticState(struct.PyTreeNode):
  """The critic within an update.

  Attributes:
    network: its weights and optimiser; None: there is no critic.
    averages: {name: []}, moving averages of its logits.
  """

  network: NetworkState | None
  averages: dict[str, jax.Array]

  @classmethod
  def of(cls, state: TrainState) -> 'CriticState':
    """That of a run."""
    names = ('logits_real', 'logits_fake')
    return cls(
      network=state.networks.get('critic'),
      averages={name: state.averages[name] for name in names},
    )

  @property
  def variables(self) -> dict[str, Any] | None:
    """What `module.apply` takes; None: there is no critic."""
    return self.network and self.network.variables


class Judged(NamedTuple):
  """One batch, before a critic, as its penalties see it.

  Attributes:
    x: [B, H, W, C] photographs.
    fakes: one or two batches [B, H, W, C], constants.
    mix: [B] uniform in [0, 1].
    averages: moving averages of the critic's logits.
    verdicts_real: [B]; None for a penalty that is apart.
    verdicts_fakes: [B] of each batch of fakes; () likewise.
  """

  x: jax.Array
  fakes: list[jax.Array]
  mix: jax.Array
  averages: Mapping[str, jax.Array]
  verdicts_real: jax.Array | None = None
  verdicts_fakes: tuple[jax.Array, ...] = ()


class Penalty(NamedTuple):
  """What holds the critic back.

  Attributes:
    name: of its metric.
    weight: of its mean.
    every: how many steps it is taken once, and is so much heavier; see
      `turns.py`.
    apart: whether it has a gradient of its own, which is never cut, and not a
      part in the loss; what does not come every step must.
    function: (critic: images -> verdicts [B], Judged) -> [B].
  """

  name: str
  weight: float
  every: int
  apart: bool
  function: Callable[[Callable, Judged], jax.Array]


def create_penalties(config: CriticConfig) -> tuple[Penalty, ...]:
  """Lists the penalties that are on.

  Args:
    config: how the critic is trained.

  Returns:
    Those of a weight above 0.
  """
  known = (
    Penalty(
      'gradient_penalty',
      config.gradient_penalty_weight,
      1,
      False,
      lambda critic, batch: penalties.gradient_penalty(
        critic, batch.x, batch.fakes[0], batch.mix
      ),
    ),
    Penalty('lecam_penalty', config.lecam_weight, 1, False, _lecam_penalty),
    Penalty(
      'r1_penalty',
      config.r1_weight,
      config.r1_every_steps,
      True,
      lambda critic, batch: penalties.r1_penalty(critic, batch.x),
    ),
  )
  return tuple(penalty for penalty in known if penalty.weight)


def create_critic_step(
  module: nn.Module,
  critic_loss: Callable[[jax.Array, jax.Array], jax.Array],
  optimizer: optax.GradientTransformation,
  config: CriticConfig,
  pmean: Callable[[Any], Any],
  *,
  max_grad_norm: float = 0.0,
) -> Callable[..., tuple[CriticState, Metrics]]:
  """Builds the step for one device.

  Args:
    module: the critic.
    critic_loss: of the objective, (logits [B, *M] real, fake) -> [B, *M].
    optimizer: of the critic.
    config: how it is trained.
    pmean: (tree) -> its mean over the devices.
    max_grad_norm: a longer gradient of the loss is cut to this, before those
      of penalties apart, which are heavy, are added; 0: none is.

  Returns:
    (critic, draw, x_fakes, lazy) -> (critic after the step, metrics []), of a
    draw's x [B, H, W, C] and mix [B], x_recon and perhaps x_prior [B, H, W, C],
    and whether (a bool) it takes the penalties of every n-th step.
  """
  found = create_penalties(config)
  apart = [penalty for penalty in found if penalty.apart]
  added = [penalty for penalty in found if not penalty.apart]
  total_loss = functools.partial(_total_loss, module, critic_loss, added)

  def step_critic(critic, draw, x_fakes, lazy):
    network = critic.network
    fakes = [x_fakes[n] for n in ('x_recon', 'x_prior') if n in x_fakes]
    x, *fakes = jax.lax.stop_gradient((draw['x'], *fakes))
    batch = Judged(x, fakes, draw['mix'], critic.averages)
    grads, (batch_stats, metrics) = jax.grad(total_loss, has_aux=True)(
      network.params, network.batch_stats, batch
    )
    own_grads = []
    for penalty in (p for p in apart if lazy or p.every == 1):
      more, mean = _own_gradient(module, penalty, network, batch)
      own_grads.append(more)
      metrics[penalty.name] = mean
    if not max_grad_norm:  # One mean does for their sum.
      grads, own_grads = _add(grads, *own_grads), []
    grads, own_grads, batch_stats, metrics = pmean(
      (grads, own_grads, batch_stats, metrics)
    )
    metrics['critic_grad_norm'] = optax.global_norm(_add(grads, *own_grads))
    if max_grad_norm:
      grads = _add(_cut(grads, max_grad_norm), *own_grads)
    network = apply_gradients(network, optimizer, grads, batch_stats)
    if config.weight_clip:
      network = network.replace(
        params=_clip(network.params, config.weight_clip)
      )
    averages = _average(critic.averages, metrics, config.lecam_decay)
    return CriticState(network, averages), metrics

  return step_critic


def _total_loss(module, critic_loss, added, params, batch_stats, batch: Judged):
  """Returns (loss [], (new batch_stats, metrics)) of one batch."""

  def judge(batch_stats, images):
    logits, mutated = module.apply(
      {'params': params, 'batch_stats': batch_stats},
      images,
      train=True,
      mutable=['batch_stats'],
    )
    return logits, mutated.get('batch_stats', {})

  # A pass for each, not one over all: `simultaneous` shares them with the
  # distance, whose real half needs no gradient.
  logits_real, batch_stats = judge(batch_stats, batch.x)
  logits_fakes = []
  for fake in batch.fakes:
    logits, batch_stats = judge(batch_stats, fake)
    logits_fakes.append(logits)
  num_fakes = len(logits_fakes)
  losses = sum(critic_loss(logits_real, f) for f in logits_fakes) / num_fakes
  losses = mean_over_map(losses)
  logits_fake = sum(logits_fakes) / num_fakes
  metrics = {
    'critic_loss': losses.mean(),
    'critic_logits_real': logits_real.mean(),
    'critic_logits_fake': logits_fake.mean(),
  }
  batch = batch._replace(
    verdicts_real=mean_over_map(logits_real),
    verdicts_fakes=tuple(map(mean_over_map, logits_fakes)),
  )
  total = losses
  for penalty in added:
    values = penalty.function(
      lambda images: mean_over_map(judge(batch_stats, images)[0]), batch
    )
    metrics[penalty.name] = values.mean()
    total = total + penalty.weight * values
  return total.mean(), (batch_stats, metrics)


def _own_gradient(module, penalty, network: NetworkState, batch):
  """Returns (gradient, mean) of a penalty that is apart, in float32."""
  if getattr(module, 'dtype', None) is not None:
    module = module.clone(dtype=None)

  def weighted(params):
    variables = {'params': params, 'batch_stats': network.batch_stats}
    values = penalty.function(
      lambda images: mean_over_map(module.apply(variables, images)), batch
    )
    mean = values.mean()
    return penalty.weight * penalty.every * mean, mean

  return jax.grad(weighted, has_aux=True)(network.params)


def _lecam_penalty(critic, batch: Judged) -> jax.Array:
  del critic  # Its verdicts are known.
  past = batch.averages['logits_real'], batch.averages['logits_fake']
  return sum(
    penalties.lecam_penalty(batch.verdicts_real, verdicts, *past)
    for verdicts in batch.verdicts_fakes
  ) / len(batch.verdicts_fakes)


def _average(averages, metrics, decay):
  """The moving averages of the logits, after a step."""
  return {
    name: optax.incremental_update(
      metrics[f'critic_{name}'], average, 1.0 - decay
    )
    for name, average in averages.items()
  }


def _add(tree, *others):
  return jax.tree.map(lambda first, *rest: sum(rest, first), tree, *others)


def _cut(grads, max_norm):
  """The gradient, no longer than that."""
  transform = optax.clip_by_global_norm(max_norm)
  return transform.update(grads, transform.init(grads))[0]


def _clip(params, limit):
  """Weight clipping (arXiv 1701.07875, algorithm 1, line 7)."""
  return jax.tree.map(lambda w: jnp.clip(w, -limit, limit), params)
