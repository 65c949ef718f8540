"""Latents and networks by name, for any configuration.

  python main.py --config=configs/celeba.py:geometric,vq_f8 --workdir=runs/vq

The words after the colon are an objective and presets, in any order. A preset
applies after the file's own settings. `f8` means a map of latents, downsampled
by 8. A map's rate is one bit for each of its entries, unless `loss.rate` or
`loss.kl_weight` says otherwise.
"""

import ml_collections

from vaegan_jax.config.shapes import BitPerEntry


def kl_f4(config: ml_collections.ConfigDict) -> None:
  """Selects a map of Gaussian latents, downsampled by 4."""
  _map(config, multipliers=(1, 2), latent_dim=4)


def kl_f8(config: ml_collections.ConfigDict) -> None:
  """Selects a map of Gaussian latents, downsampled by 8."""
  _map(config, multipliers=(1, 2, 4), latent_dim=4)


def vq_f8(config: ml_collections.ConfigDict) -> None:
  """Selects a map of codes from a learnt codebook of 512."""
  _map(config, multipliers=(1, 2, 4), latent_dim=8)
  config.model.latent = 'vq'


def fsq_f8(config: ml_collections.ConfigDict) -> None:
  """Selects a map of codes by rounding, 8 x 6 x 5 = 240 of them."""
  _map(config, multipliers=(1, 2, 4), latent_dim=3)
  config.model.latent = 'fsq'


def ldm_f4(config: ml_collections.ConfigDict) -> None:
  """Selects latent-diffusion's autoencoder, downsampling by 4."""
  _ldm(config, multipliers=(1, 2, 4), latent_dim=3)


def ldm_f8(config: ml_collections.ConfigDict) -> None:
  """Selects latent-diffusion's autoencoder, downsampling by 8."""
  _ldm(config, multipliers=(1, 2, 4, 4), latent_dim=4)


def residual(config: ml_collections.ConfigDict) -> None:
  """Selects residual blocks with attention in the middle, and no mask."""
  if config.model.network != 'residual':
    config.model.network, config.model.middle_attention = 'residual', True
    config.model.spectral_mask = 0  # Only plain decoders end in one.
    _set_multipliers(config.model, config.model.channel_multipliers)


def patches(config: ml_collections.ConfigDict) -> None:
  """Selects patches of 2 x 2 pixels in place of the first block.

  No layer of the autoencoder is as large as the image then, which suits
  residual blocks on small machines. A file's own patches stay.
  """
  model = config.model
  if model.patch_size == 1:
    model.patch_size, model.depth = 2, model.depth - 1
    model.channel_multipliers = model.channel_multipliers[1:]


def _ldm(config, *, multipliers, latent_dim):
  model = config.model
  model.network, model.layout, model.middle_attention = 'residual', 'ldm', True
  model.width, model.num_res_blocks = 128, 2
  model.depth, model.channel_multipliers = len(multipliers) - 1, multipliers
  _set_latent_map(config, latent_dim)


def _map(config, *, multipliers, latent_dim):
  if config.model.patch_size == 2:  # Patches are the first halving.
    multipliers = multipliers[1:]
  _set_multipliers(config.model, multipliers)
  _set_latent_map(config, latent_dim)


def _set_latent_map(config, latent_dim):
  config.model.latent_shape, config.model.latent_dim = 'map', latent_dim
  config.loss.rate = BitPerEntry(config)  # Not that of the file's own latent.


def _set_multipliers(model, multipliers):
  """Sets the multipliers; residual blocks add one at full resolution."""
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
  'patches': patches,
}
