"""Sounds: synthetic ones, or a folder of your own.

  python main.py --config=configs/audio.py --workdir=runs/sounds
  python main.py --config=configs/audio.py --config.data.name=array_folder \
    --config.data.path=/data/drums --workdir=runs/drums

The synthetic data trains in minutes on a CPU. Use more steps and wider networks
for your own data.
"""

import ml_collections

from configs import default, short


def get_config(objective: str = '') -> ml_collections.ConfigDict:
  """Returns the configuration for 8,192 samples, about half a second."""
  config = default.get_config(objective)
  short.shorten(config, num_train_steps=1_000)
  config.loss.image_high_pass = 0.0  # Measured on photographs alone.
  config.batch_size = 16
  config.data.name = 'drawn_sounds'
  config.data.shape = (8192,)
  config.data.channels = 1
  config.model.depth = 6
  config.model.channel_multipliers = (1, 2, 2, 4, 4, 4)
  # One latent for each 4 ms, because a waveform has a phase everywhere.
  config.model.latent_shape = 'map'
  config.model.latent_dim = 8
  # Three critics of spectra. Those of the waveform leave hiss in silence.
  config.critic.views = ('stft',)
  config.critic.num_scales = 3  # Of the waveform, if 'wave' is a view too.
  config.critic.head = 'patch'
  config.critic.channel_multipliers = (1, 2, 2, 4)
  if config.objective == 'mse':  # At twice this its outputs become silent.
    config.optimizer.autoencoder_learning_rate = 1e-3
  else:
    config.loss.spectrum_weight = 1.0
    config.loss.norm = 'l1'
  return config
