"""Volumes: synthetic ones, or a folder of your own.

  python main.py --config=configs/volume.py --workdir=runs/volumes
  python main.py --config=configs/volume.py --config.data.name=array_folder \
    --config.data.path=/data/scans --workdir=runs/scans

The synthetic data trains in minutes on a CPU. Use more steps and wider networks
for your own data.
"""

import ml_collections

from configs import default, short


def get_config(objective: str = '') -> ml_collections.ConfigDict:
  """Returns the configuration for 32 x 32 x 32 voxels."""
  config = default.get_config(objective)
  # At twice this rate, the quick start's, training diverged.
  short.shorten(config, num_train_steps=900, learning_rate=1e-3)
  config.loss.image_high_pass = 0.0  # Measured on photographs alone.
  short.bound_critic(config, r1_weight=10.0, kl_weight=1e-3)
  config.batch_size = 16
  config.data.name = 'drawn_volumes'
  config.data.shape = (32, 32, 32)
  config.data.channels = 1
  for network in (config.model, config.critic):
    network.width = 8
    network.depth = 3
    network.channel_multipliers = (1, 2, 4)
  return config
