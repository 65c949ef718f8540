"""Thirteen satellite bands of 16 bits: synthetic, or your own.

  python main.py --config=configs/bands.py --workdir=runs/bands
  python main.py --config=configs/bands.py --config.data.name=array_folder \
    --config.data.path=/data/scenes --workdir=runs/scenes

The synthetic data trains in minutes on a CPU. Use more steps and wider networks
for your own data.
"""

import ml_collections

from configs import default, short


def get_config(objective: str = '') -> ml_collections.ConfigDict:
  """Returns the configuration for 64 x 64 pixels with 13 bands."""
  config = default.get_config(objective)
  # At twice this rate, the quick start's, training diverged.
  short.shorten(config, num_train_steps=900, learning_rate=1e-3)
  config.loss.image_high_pass = 0.0  # Measured on photographs alone.
  short.bound_critic(config, r1_weight=20.0, kl_weight=2e-3)
  config.batch_size = 32
  config.data.name = 'drawn_bands'
  config.data.shape = (64, 64)
  config.data.channels = 13
  config.data.value_range = 'percentiles'
  config.data.shown_bands = (7, 3, 2)  # Near infrared as red: plants.
  return config
