"""Optimizers and learning rate schedules, one of each for a network."""

import dataclasses
from collections.abc import Iterable, Mapping

import jax
import optax

from vaegan_jax.training import muon
from vaegan_jax.training.critic_step import CriticConfig
from vaegan_jax.training.step_kinds import num_autoencoder_steps
from vaegan_jax.training.train_state import TrainState

Schedule = float | optax.Schedule  # A constant adds nothing to the state.


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Settings of the optimizers: fields of `config.optimizer`."""

  name: str  # 'adam' or 'rmsprop'.
  autoencoder_learning_rate: float
  # For the autoencoder's kernels, on the same schedule; 0: no Muon.
  muon_learning_rate: float
  critic_learning_rate: float
  b1: float  # For Adam; 0.5 is usual against a critic.
  b2: float
  warmup_steps: int  # Updates over which learning rates rise linearly from 0.
  schedule: str  # 'constant', or 'cosine': falls to 0 at the end of the run.
  max_grad_norm: float  # Norm to which gradients are clipped; 0: no clipping.


def create_schedules(
  names: Iterable[str],
  config: OptimizerConfig,
  critic: CriticConfig,
  num_train_steps: int,
) -> dict[str, Schedule]:
  """Creates the learning rate of every trained network, by name.

  Returns:
    {name: learning rate, or a function of the network's own finished steps}.
  """
  peaks = {
    'autoencoder': config.autoencoder_learning_rate,
    'critic': config.critic_learning_rate,
  }
  own_warmup, first_warmup = critic.warmups
  num_updates = {  # From a network's first update on.
    'autoencoder': max(num_train_steps - first_warmup, 0),
    'critic': num_train_steps,
  }
  own_steps = {  # Steps that a network takes in a number of these.
    'autoencoder': lambda updates: num_autoencoder_steps(
      updates, (own_warmup, 0)
    ),
    'critic': lambda updates: critic.num_steps * updates,
  }
  return {
    name: _create_schedule(
      config.schedule,
      peaks[name],
      *map(own_steps[name], (config.warmup_steps, num_updates[name])),
    )
    for name in names
  }


def create_optimizers(
  schedules: Mapping[str, Schedule], config: OptimizerConfig
) -> dict[str, optax.GradientTransformation]:
  """Creates every network's optimizer, from `create_schedules`.

  It is Adam (arXiv 1412.6980), or RMSProp as the Wasserstein GAN's authors use
  it (arXiv 1701.07875): decay 0.99, no momentum.
  """
  optimizers = {}
  for network, rate in schedules.items():
    optimizer = optax.adam(rate, b1=config.b1, b2=config.b2)
    if config.name == 'rmsprop':
      # eps outside the root, as in torch: a clipped critic's gradients are
      # tiny.
      optimizer = optax.rmsprop(rate, decay=0.99, eps=1e-8, eps_in_sqrt=False)
    if config.muon_learning_rate and network == 'autoencoder':
      optimizer = _with_muon(optimizer, rate, config)
    if config.max_grad_norm:
      # The critic's own step clips its gradient before it adds the separate
      # penalties'. An identity here keeps the names in checkpoints.
      clip = optax.clip_by_global_norm(config.max_grad_norm)
      clip = optax.identity() if network == 'critic' else clip
      optimizer = optax.chain(clip, optimizer)
    optimizers[network] = optimizer
  return optimizers


def _with_muon(optimizer, rate: Schedule, config: OptimizerConfig):
  """Gives the kernels of a network to Muon, and leaves the rest."""
  ratio = config.muon_learning_rate / config.autoencoder_learning_rate
  scaled = (lambda step: ratio * rate(step)) if callable(rate) else ratio * rate
  return optax.partition(
    {'muon': muon.create(scaled), 'rest': optimizer},
    lambda params: jax.tree.map_with_path(_choose, params),
  )


def _choose(path, _) -> str:
  """Returns the optimizer of an array by its name."""
  name = jax.tree_util.keystr(path, simple=True, separator='/')
  return 'muon' if name.endswith('kernel') else 'rest'


def learning_rates(
  schedules: Mapping[str, Schedule], state: TrainState
) -> dict[str, float]:
  """Returns {'learning_rate_autoencoder': that of its last step, ...}.

  Before a network's first step it is the learning rate of that step.
  """
  rates = {}
  for name, schedule in schedules.items():
    rate = schedule
    if callable(schedule):
      count, *_ = (
        part.count
        for part in jax.tree.leaves(
          state.networks[name].opt_state, is_leaf=_is_schedule_state
        )
        if _is_schedule_state(part)
      )
      rate = schedule(max(int(count) - 1, 0))
    rates[f'learning_rate_{name}'] = float(rate)
  return rates


def _is_schedule_state(node) -> bool:
  return isinstance(node, optax.ScaleByScheduleState)


def _create_schedule(schedule, peak, warmup_steps, num_steps) -> Schedule:
  if schedule == 'cosine':  # optax requires a step after the warm-up.
    num_steps = max(num_steps, warmup_steps + 1)
    return optax.warmup_cosine_decay_schedule(
      0.0 if warmup_steps else peak, peak, warmup_steps, num_steps
    )
  if warmup_steps:
    return optax.linear_schedule(0.0, peak, warmup_steps)
  return peak
