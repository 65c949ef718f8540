"""What a run of minutes on a CPU has in common, whatever it learns."""

import math

import ml_collections


def shorten(
  config: ml_collections.ConfigDict,
  num_train_steps: int,
  learning_rate: float = 2e-3,
) -> None:
  """Changes a configuration to a short run of small networks.

  Args:
    config: whose networks have one multiplier for each of their blocks.
    num_train_steps: of the run, which is looked at three times.
    learning_rate: of both networks.
  """
  config.num_train_steps = num_train_steps
  config.log_every_steps = 50
  for field in ('checkpoint', 'eval', 'figure'):
    config[f'{field}_every_steps'] = math.ceil(num_train_steps / 3)
  config.num_eval_images = 256
  config.ema_decay = 0.99  # A short run has no time for a longer memory.
  config.model.width = config.critic.width = 16
  if config.objective != 'wasserstein':  # Whose paper's rates fit its clip.
    config.optimizer.autoencoder_learning_rate = learning_rate
    config.optimizer.critic_learning_rate = learning_rate
