"""Settings of short runs, which take minutes on a CPU."""

import math

import ml_collections


def shorten(
  config: ml_collections.ConfigDict,
  num_train_steps: int,
  learning_rate: float = 2e-3,
) -> None:
  """Changes a configuration to a short run of small networks.

  Args:
    config: one whose networks have one multiplier for each block.
    num_train_steps: length of the run, which is evaluated three times.
    learning_rate: for both networks.
  """
  config.num_train_steps = num_train_steps
  config.log_every_steps = 50
  for field in ('checkpoint', 'eval', 'figure'):
    config[f'{field}_every_steps'] = math.ceil(num_train_steps / 3)
  config.num_eval_images = 256
  config.ema_decay = 0.99  # A longer average would include early weights.
  config.model.width = config.critic.width = 16
  if config.objective != 'wasserstein':  # Its rates fit its weight clip.
    config.optimizer.autoencoder_learning_rate = learning_rate
    config.optimizer.critic_learning_rate = learning_rate


def bound_critic(
  config: ml_collections.ConfigDict, r1_weight: float, kl_weight: float
) -> None:
  """Changes a configuration to examples of more values than photographs.

  With the R1 of photographs, 1, the critic separates them all from their
  reconstructions, and the distance stops falling.

  Args:
    config: one of a short run.
    r1_weight: weight of R1, if the objective has one.
    kl_weight: about what the rate needs, from which its steering starts.
  """
  if not config.critic.r1_weight:
    return
  config.critic.r1_weight = r1_weight
  # Weights that no longer swing have the rate to which they are steered.
  config.optimizer.schedule = 'cosine'
  if config.objective != 'mse':
    config.loss.kl_weight = kl_weight
