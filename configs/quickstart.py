"""Synthetic faces, small enough for a CPU, with nothing to download.

  python main.py --config=configs/quickstart.py --workdir=runs/quickstart/mine

`launch/local.sh` trains it with both objectives and compares them.
"""

import ml_collections

from configs import default, short


def get_config(objective: str = '') -> ml_collections.ConfigDict:
  """Returns the configuration of the quick start."""
  config = default.get_config(objective)
  short.shorten(config, num_train_steps=1_500)
  config.batch_size = 32
  config.data.image_size = 48
  config.model.latent_dim = 64
  for network in (config.model, config.critic):
    network.depth = 3
    network.channel_multipliers = (1, 2, 4)
  config.loss.rate = 120.0
  config.loss.kl_weight *= 2.0 if config.objective == 'mse' else 0.4
  # Blotches and noise are most visible in flat colours.
  config.loss.image_growth = 2.0
  config.loss.adversarial_weight = 0.1
  return config
