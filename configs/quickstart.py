"""Drawn faces, small enough for a CPU, with nothing to download.

  python main.py --config=configs/quickstart.py --workdir=runs/quickstart/mine

`launch/local.sh` trains it with both objectives and compares them.
"""

import ml_collections

from configs import default


def get_config(objective: str = '') -> ml_collections.ConfigDict:
  """Returns the configuration of the quick start."""
  config = default.get_config(objective)
  config.batch_size = 32
  config.num_train_steps = 1_000
  config.log_every_steps = 50
  config.checkpoint_every_steps = 250
  config.eval_every_steps = 500
  config.figure_every_steps = 250
  config.num_eval_images = 256
  config.data.image_size = 32
  config.model.latent_dim = 64
  for network in (config.model, config.critic):
    network.width = 16
    network.depth = 3
    network.channel_multipliers = (1, 2, 4)
  config.loss.adversarial_ramp_steps = 100
  return config
