"""Latents and networks by name, to be added to any configuration.

  python main.py --config=configs/celeba.py:geometric,vq_f8 --workdir=runs/vq

The words after the colon are an objective and presets, in any order; a preset
changes a configuration that its file has finished. `f8` is a map of latents at
an eighth of each side.
"""

import ml_collections


def kl_f4(config: ml_collections.ConfigDict) -> None:
  """A map of Gaussian latents at a quarter of each side."""
  _map(config, multipliers=(1, 2), latent_dim=4)


def kl_f8(config: ml_collections.ConfigDict) -> None:
  """A map of Gaussian latents at an eighth of each side."""
  _map(config, multipliers=(1, 2, 4), latent_dim=4)


def vq_f8(config: ml_collections.ConfigDict) -> None:
  """A map of codes out of a learnt codebook of 512."""
  _map(config, multipliers=(1, 2, 4), latent_dim=8)
  config.model.latent = 'vq'


def fsq_f8(config: ml_collections.ConfigDict) -> None:
  """A map of codes that are rounded: 8 x 6 x 5 = 240 of them."""
  _map(config, multipliers=(1, 2, 4), latent_dim=3)
  config.model.latent = 'fsq'


def _map(config, *, multipliers, latent_dim):
  model = config.model
  model.latent_shape, model.latent_dim = 'map', latent_dim
  model.channel_multipliers, model.depth = multipliers, len(multipliers)


PRESETS = {
  'kl_f4': kl_f4,
  'kl_f8': kl_f8,
  'vq_f8': vq_f8,
  'fsq_f8': fsq_f8,
}
