"""Sounds: those that are drawn, or a folder of one's own.

  python main.py --config=configs/audio.py --workdir=runs/sounds
  python main.py --config=configs/audio.py --config.data.name=array_folder \
    --config.data.path=/data/drums --workdir=runs/drums

What is drawn is learnt in minutes on a CPU; of one's own data more is to be had
with more steps and wider networks.
"""

import ml_collections

from configs import default, short


def get_config(objective: str = '') -> ml_collections.ConfigDict:
  """Returns the configuration of 8,192 samples, about half a second."""
  config = default.get_config(objective)
  short.shorten(config, num_train_steps=1_000)
  config.batch_size = 16
  config.data.name = 'drawn_sounds'
  config.data.shape = (8192,)
  config.data.channels = 1
  config.model.depth = 6
  config.model.channel_multipliers = (1, 2, 2, 4, 4, 4)
  # A latent for each 4 ms: a waveform has its phase in every place.
  config.model.latent_shape = 'map'
  config.model.latent_dim = 8
  # Of the waveform, of its halves and of its quarters.
  config.critic.num_scales = 3
  config.critic.head = 'patch'
  config.critic.channel_multipliers = (1, 2, 2, 4)
  # At one rate, as the quick start's.
  config.loss.kl_weight *= 0.4 if config.objective == 'mse' else 0.1
  if config.objective == 'mse':  # Which is silent at twice of that.
    config.optimizer.autoencoder_learning_rate = 1e-3
  return config
