"""Sounds: those that are drawn, or a folder of one's own.

  python main.py --config=configs/audio.py --workdir=runs/sounds
  python main.py --config=configs/audio.py --config.data.name=array_folder \
    --config.data.path=/data/drums --workdir=runs/drums
"""

import ml_collections

from configs import default


def get_config(objective: str = '') -> ml_collections.ConfigDict:
  """Returns the configuration of 8,192 samples, about half a second."""
  config = default.get_config(objective)
  config.batch_size = 32
  config.data.name = 'drawn_sounds'
  config.data.shape = (8192,)
  config.data.channels = 1
  for network in (config.model, config.critic):
    network.width = 16
    network.depth = 6
    network.channel_multipliers = (1, 2, 4, 8, 8, 8)
  config.critic.num_scales = 3
  config.critic.head = 'patch'
  return config
