"""One step of the critic: its loss, what steadies it, and its update.

Everything that is off costs nothing: it is left out when the step is built.
Axes: B images on one device, H height, W width, C channels.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from vaegan_jax import adversarial
from vaegan_jax.train_state import NetworkState, apply_gradients

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class CriticConfig:
  """How the critic is trained; fields of `config.critic`. 0 is off.

  Attributes:
    num_steps: critic steps an update, each on images of its own.
    long_round_steps: critic steps before each of the first autoencoder steps,
      and now and then; see `update.moves_autoencoder`.
    weight_clip: largest absolute value of any weight.
    gradient_penalty_weight: lambda of `adversarial.gradient_penalty`.
    r1_weight: gamma of `adversarial.r1_penalty`.
    r1_every_steps: R1 is taken so often, that much heavier (arXiv 1912.04958,
      appendix B).
    lecam_weight: lambda of `adversarial.lecam_penalty`.
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


def create_critic_step(
  module: nn.Module,
  critic_loss: Callable[[jax.Array, jax.Array], jax.Array],
  optimizer: optax.GradientTransformation,
  config: CriticConfig,
  average: Callable[[Any], Any],
) -> Callable[..., tuple[NetworkState, Mapping[str, jax.Array], Metrics]]:
  """Builds the step for one device.

  Args:
    module: the critic.
    critic_loss: of the objective.
    optimizer: of the critic.
    config: how it is trained.
    average: (tree) -> its mean over the devices.

  Returns:
    (critic, averages, step, x [B, H, W, C], fakes, mix [B]) -> (critic after
    the step, the new moving averages of its logits, metrics []). `fakes` are
    one or two batches [B, H, W, C], constants; `mix` is uniform in [0, 1].
  """

  def step_critic(critic, averages, step, x, fakes, mix):
    x, *fakes = jax.lax.stop_gradient((x, *fakes))
    total = functools.partial(_total_loss, module, critic_loss, config)
    grads, (batch_stats, metrics) = jax.grad(total, has_aux=True)(
      critic.params, critic.batch_stats, averages, x, fakes, mix
    )
    if config.r1_weight:
      r1_grads = _lazy_r1_gradient(module, config, critic, step, x)
      grads = jax.tree.map(jnp.add, grads, r1_grads)
    grads, batch_stats, metrics = average((grads, batch_stats, metrics))
    metrics['critic_grad_norm'] = optax.global_norm(grads)
    critic = apply_gradients(critic, optimizer, grads, batch_stats)
    if config.weight_clip:
      critic = critic.replace(params=_clip(critic.params, config.weight_clip))
    for name in ('logits_real', 'logits_fake'):
      averages = averages | {
        name: optax.incremental_update(
          metrics[f'critic_{name}'], averages[name], 1.0 - config.lecam_decay
        )
      }
    return critic, averages, metrics

  return step_critic


def _total_loss(
  module, critic_loss, config, params, batch_stats, averages, x, fakes, mix
):
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
  logits_real, batch_stats = judge(batch_stats, x)
  logits_fakes = []
  for fake in fakes:
    logits, batch_stats = judge(batch_stats, fake)
    logits_fakes.append(logits)
  losses = sum(critic_loss(logits_real, f) for f in logits_fakes) / len(fakes)
  logits_fake = sum(logits_fakes) / len(fakes)
  metrics = {
    'critic_loss': losses.mean(),
    'critic_logits_real': logits_real.mean(),
    'critic_logits_fake': logits_fake.mean(),
  }
  total = losses
  if config.gradient_penalty_weight:
    penalty = adversarial.gradient_penalty(
      lambda images: judge(batch_stats, images)[0], x, fakes[0], mix
    )
    metrics['gradient_penalty'] = penalty.mean()
    total = total + config.gradient_penalty_weight * penalty
  if config.lecam_weight:
    past = averages['logits_real'], averages['logits_fake']
    penalty = sum(
      adversarial.lecam_penalty(logits_real, f, *past) for f in logits_fakes
    ) / len(fakes)
    metrics['lecam_penalty'] = penalty.mean()
    total = total + config.lecam_weight * penalty
  return total.mean(), (batch_stats, metrics)


def _lazy_r1_gradient(module, config, critic, step, x):
  """R1's gradient on every n-th step, n times as heavy; 0 on the others."""

  def penalty(params):
    variables = {'params': params, 'batch_stats': critic.batch_stats}
    values = adversarial.r1_penalty(
      lambda images: module.apply(variables, images), x
    )
    return config.r1_weight * config.r1_every_steps * values.mean()

  # A branch that is not taken costs nothing, which a factor of 0 would.
  return jax.lax.cond(
    step % config.r1_every_steps == 0,
    jax.grad(penalty),
    lambda params: jax.tree.map(jnp.zeros_like, params),
    critic.params,
  )


def _clip(params, limit):
  """Weight clipping (arXiv 1701.07875, algorithm 1, line 7)."""
  return jax.tree.map(lambda w: jnp.clip(w, -limit, limit), params)
