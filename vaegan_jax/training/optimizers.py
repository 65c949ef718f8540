"""From plain numbers to optax transforms, one for each network."""

from collections.abc import Iterable

import optax

from vaegan_jax.training import rounds


def create_optimizers(
  names: Iterable[str],
  *,
  name: str,
  autoencoder_learning_rate: float,
  critic_learning_rate: float,
  b1: float,
  b2: float,
  warmup_steps: int,
  schedule: str,
  max_grad_norm: float,
  num_train_steps: int,
  num_critic_steps: int,
  updates_in_round: int = 1,
) -> dict[str, optax.GradientTransformation]:
  """Adam (arXiv 1412.6980) or RMSProp for every network.

  Args:
    names: of the networks: 'autoencoder', 'critic'.
    name: 'adam', or 'rmsprop', as the Wasserstein GAN's authors use it
      (arXiv 1701.07875): decay 0.99, no momentum.
    autoencoder_learning_rate, critic_learning_rate: at their highest.
    b1: Adam's decay of the first moment; 0.5 is usual against a critic.
    b2: Adam's decay of the second moment.
    warmup_steps: updates in which the step sizes rise from 0, linearly.
    schedule: 'constant', or 'cosine': they fall to 0 over the run.
    max_grad_norm: a longer gradient is cut to this length; 0: none is.
    num_train_steps: updates of the run.
    num_critic_steps: of the critic's optimiser in an update.
    updates_in_round: of which the last alone moves the autoencoder, where there
      are long rounds of critic steps; see `rounds.py`.

  Returns:
    {name: optax transform}.
  """
  peaks = {
    'autoencoder': autoencoder_learning_rate,
    'critic': critic_learning_rate,
  }
  optimizers = {}
  # How many steps a network takes in so many updates: its schedule counts them.
  own_steps = {
    'autoencoder': lambda updates: rounds.num_moves(updates, updates_in_round),
    'critic': lambda updates: num_critic_steps * updates,
  }
  for network in names:
    own = map(own_steps[network], (warmup_steps, num_train_steps))
    rate = _create_schedule(schedule, peaks[network], *own)
    optimizer = optax.adam(rate, b1=b1, b2=b2)
    if name == 'rmsprop':
      # Outside the root, as in torch: a clipped critic's gradients are tiny.
      optimizer = optax.rmsprop(rate, decay=0.99, eps=1e-8, eps_in_sqrt=False)
    if max_grad_norm:
      # The critic's own step cuts its gradient, before the lazy penalties come
      # on top. What stands in the place keeps the names in checkpoints.
      is_critic = network == 'critic'
      cut = optax.clip_by_global_norm(max_grad_norm)
      optimizer = optax.chain(optax.identity() if is_critic else cut, optimizer)
    optimizers[network] = optimizer
  return optimizers


def _create_schedule(schedule, peak, warmup_steps, num_steps):
  if schedule == 'cosine':  # optax wants a step after the warm-up.
    num_steps = max(num_steps, warmup_steps + 1)
    return optax.warmup_cosine_decay_schedule(
      0.0 if warmup_steps else peak, peak, warmup_steps, num_steps
    )
  if warmup_steps:
    return optax.linear_schedule(0.0, peak, warmup_steps)
  return peak
