"""CIFAR-10 at its native 32 x 32.

  python main.py --config=configs/cifar10.py --workdir=runs/cifar10

TFDS downloads the images (160 MB) on the first run.
"""

import ml_collections

from configs import default


def get_config(objective: str = '') -> ml_collections.ConfigDict:
  """Returns the configuration for CIFAR-10."""
  config = default.get_config(objective)
  config.data.name = 'cifar10'
  config.data.image_size = 32
  for network in (config.model, config.critic):
    network.depth = 3
    network.channel_multipliers = (1, 2, 4)
  return config
