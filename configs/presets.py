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


def ldm_f4(config: ml_collections.ConfigDict) -> None:
  """Latent-diffusion's autoencoder of a quarter, layer by layer."""
  _ldm(config, multipliers=(1, 2, 4), latent_dim=3)


def ldm_f8(config: ml_collections.ConfigDict) -> None:
  """Latent-diffusion's autoencoder of an eighth, layer by layer."""
  _ldm(config, multipliers=(1, 2, 4, 4), latent_dim=4)


def residual(config: ml_collections.ConfigDict) -> None:
  """Residual blocks, and attention in the middle, for the autoencoder."""
  if config.model.network != 'residual':
    config.model.network, config.model.middle_attention = 'residual', True
    _set_multipliers(config.model, config.model.channel_multipliers)


def _ldm(config, *, multipliers, latent_dim):
  model = config.model
  model.network, model.layout, model.middle_attention = 'residual', 'ldm', True
  model.width, model.num_res_blocks = 128, 2
  model.depth, model.channel_multipliers = len(multipliers) - 1, multipliers
  model.latent_shape, model.latent_dim = 'map', latent_dim


def _map(config, *, multipliers, latent_dim):
  config.model.latent_shape, config.model.latent_dim = 'map', latent_dim
  _set_multipliers(config.model, multipliers)


def _set_multipliers(model, multipliers):
  """Of plain blocks; residual ones have one more, at the image's own side."""
  model.depth = len(multipliers)
  if model.network == 'residual':
    multipliers = (*multipliers, min(2 * multipliers[-1], 4))
  model.channel_multipliers = multipliers


PRESETS = {
  'kl_f4': kl_f4,
  'kl_f8': kl_f8,
  'vq_f8': vq_f8,
  'fsq_f8': fsq_f8,
  'ldm_f4': ldm_f4,
  'ldm_f8': ldm_f8,
  'residual': residual,
}
