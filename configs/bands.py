"""Thirteen bands of satellites, 16 bits each: drawn, or one's own.

  python main.py --config=configs/bands.py --workdir=runs/bands
  python main.py --config=configs/bands.py --config.data.name=array_folder \
    --config.data.path=/data/scenes --workdir=runs/scenes

What is drawn is learnt in minutes on a CPU; of one's own data more is to be had
with more steps and wider networks.
"""

import ml_collections

from configs import default, short


def get_config(objective: str = '') -> ml_collections.ConfigDict:
  """Returns the configuration of 64 x 64 places with 13 bands."""
  config = default.get_config(objective)
  # At twice this rate, the quick start's, it did not survive.
  short.shorten(config, num_train_steps=900, learning_rate=1e-3)
  config.batch_size = 32
  config.data.name = 'drawn_bands'
  config.data.shape = (64, 64)
  config.data.channels = 13
  config.data.value_range = 'percentiles'
  config.data.shown_bands = (7, 3, 2)  # What grows is red: near infrared.
  # At one rate, as the quick start's.
  config.loss.kl_weight *= 6.0 if config.objective == 'mse' else 0.4
  return config
