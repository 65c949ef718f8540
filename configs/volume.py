"""Volumes: those that are drawn, or a folder of one's own.

  python main.py --config=configs/volume.py --workdir=runs/volumes
  python main.py --config=configs/volume.py --config.data.name=array_folder \
    --config.data.path=/data/scans --workdir=runs/scans
"""

import ml_collections

from configs import default


def get_config(objective: str = '') -> ml_collections.ConfigDict:
  """Returns the configuration of 32 x 32 x 32 places."""
  config = default.get_config(objective)
  config.batch_size = 16
  config.data.name = 'drawn_volumes'
  config.data.shape = (32, 32, 32)
  config.data.channels = 1
  for network in (config.model, config.critic):
    network.width = 16
    network.depth = 3
    network.channel_multipliers = (1, 2, 4)
  return config
