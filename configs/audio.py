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
  # The decoder returns 8 samples at a time, so that a position can hold any
  # oscillation. Blocks alone repeat what they enlarge.
  config.model.patch_size = 8
  # Gains of 512 samples, 32 ms, remove noise between the partials of a tone.
  config.model.spectral_mask = 512
  config.model.depth = 3
  config.model.width = 32
  config.model.channel_multipliers = (2, 4, 4)
  # One latent for each 4 ms, because a waveform has a phase everywhere. At a
  # bit for each entry they take 6 kbit/s.
  config.model.latent_shape = 'map'
  config.model.latent_dim = 24
  # Critics of spectra. Those of the waveform leave hiss in silence.
  config.critic.views = ('stft',)
  config.critic.stft_windows = (1024, 256)
  config.critic.num_scales = 3  # Of the waveform, if 'wave' is a view too.
  config.critic.head = 'patch'
  config.critic.channel_multipliers = (1, 2, 2, 4)
  if config.optimizer.muon_learning_rate:
    config.optimizer.muon_learning_rate = 0.02
  # The KL weights are near those that the rate needs. From the defaults, the
  # first 100 steps keep nothing.
  if config.objective == 'mse':  # At twice this its outputs become silent.
    config.optimizer.autoencoder_learning_rate = 1e-3
    config.loss.kl_weight = 0.3
  else:
    # The noise of recordings. Pixels have no gradient that finds its level.
    config.model.spectral_noise = True
    if config.critic.r1_weight:
      config.critic.r1_weight = 0.01  # At 1 these critics hardly train.
      config.optimizer.schedule = 'cosine'
    config.loss.kl_weight = 5e-3
    # Sounds that are nearly right count as much as the others.
    config.loss.norm = 'log'
    config.loss.spectrum_weight = 8.0
    # The waveform itself, and no means of it: those have no high tones.
    config.loss.image_weight = 40.0
    config.loss.image_halvings = 0
  return config
