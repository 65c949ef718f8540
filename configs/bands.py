"""Thirteen bands of satellites, 16 bits each: drawn, or one's own.

  python main.py --config=configs/bands.py --workdir=runs/bands
  python main.py --config=configs/bands.py --config.data.name=array_folder \
    --config.data.path=/data/scenes --workdir=runs/scenes
"""

import ml_collections

from configs import default


def get_config(objective: str = '') -> ml_collections.ConfigDict:
  """Returns the configuration of 64 x 64 places with 13 bands."""
  config = default.get_config(objective)
  config.data.name = 'drawn_bands'
  config.data.shape = (64, 64)
  config.data.channels = 13
  config.data.value_range = 'percentiles'
  config.data.shown_bands = (3, 2, 1)  # Red, green and blue.
  return config
