"""Networks of the tests, and what they are asked."""

from typing import Any

from vaegan_jax import models
from vaegan_jax.config.shapes import as_pair


def model_fields(**fields) -> dict[str, Any]:
  """The fields of `config.model` of a small network, with changes."""
  multipliers = fields.get('channel_multipliers', (1, 2))
  is_residual = fields.get('network') == 'residual'
  return {
    'network': 'plain',
    'num_res_blocks': 1,
    'attention_sides': (),
    'middle_attention': False,
    'layout': 'own',
    'latent': 'gaussian',
    'latent_shape': 'flat',
    'latent_dim': 4,
    'width': 2,
    'depth': len(multipliers) - is_residual,
    'channel_multipliers': multipliers,
    'norm': 'none',
    'dtype': 'float32',
    'remat': False,
    'code_dim': 2,
    'codebook_size': 8,
    'unit_codes': False,
    'fsq_levels': (3, 4),
  } | fields


def critic_fields(**fields) -> dict[str, Any]:
  """The fields of `config.critic` of a small network, with changes."""
  return {
    'network': 'plain',
    'width': 2,
    'channel_multipliers': (1, 2),
    'norm': 'none',
    'spectral_norm': False,
    'dtype': 'float32',
    'head': 'dense',
    'num_scales': 1,
  } | fields


def autoencoder(side, channels, latent_dim=4, **fields):
  """A plain autoencoder with a flat Gaussian latent, unless told otherwise."""
  fields = model_fields(latent_dim=latent_dim, **fields)
  return models.create_autoencoder(as_pair(side), channels, **fields)


def reconstruct(module, variables, x, noise=None):
  """(x_recon, mean, logvar) of a Gaussian autoencoder."""
  encoded = module.apply(variables, x, method='encode')
  x_recon, _, _ = module.apply(variables, x, noise)
  return x_recon, encoded['mean'], encoded['logvar']
