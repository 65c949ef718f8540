"""Checks of the autoencoder's layers: published layouts, spectral masks."""

from typing import Any

import ml_collections

from vaegan_jax.config.rules import Conflicts, as_argument
from vaegan_jax.config.shapes import latent_space, spatial_shape
from vaegan_jax.models.pretrained.diffusers import SHARED

# The fields that each layout needs.
_LAYOUTS = {
  'own': {},
  'ldm': SHARED,
  'tiny': SHARED | {'latent': 'none', 'middle_attention': False},
  'oobleck': SHARED | {'latent': 'gaussian', 'middle_attention': False},
}


def check_layout(model: ml_collections.ConfigDict) -> Conflicts:
  """Yields the conflicts of `config.model` with its layout."""
  for field, needed in _needed(model).items():
    if model[field] != needed:
      yield (
        f'model.{field}',
        f'must be {needed!r} for model.layout={model.layout!r} with '
        f'model.latent={model.latent!r}, a published architecture',
        f'model.{field}={as_argument(needed)}',
      )
  if model.layout == 'ldm':
    for multiplier in model.channel_multipliers:
      if model.num_groups and model.width * multiplier % model.num_groups:
        yield (
          'model.num_groups',
          f'must divide the {model.width * multiplier} channels of a level',
        )


def check_blocks(config: ml_collections.ConfigDict) -> Conflicts:
  """Yields a number of blocks that no network of the layout has."""
  model = config.model
  if model.layout == 'oobleck' and model.num_res_blocks != 1:
    yield (
      'model.num_res_blocks',
      "is not read for model.layout='oobleck', whose levels have three units",
    )


def check_spectral_mask(config: ml_collections.ConfigDict) -> Conflicts:
  """Yields a mask that the decoder cannot have, or whose frames do not fit."""
  model, space = config.model, spatial_shape(config.data)
  window = model.spectral_mask
  if not window:
    return
  if len(space) > 1:
    yield (
      'model.spectral_mask',
      f'must be 0 for examples of {len(space)} axes: its spectra are of '
      'sounds, which have one',
    )
  if model.network != 'plain':
    yield (
      'model.spectral_mask',
      f'must be 0 for model.network={model.network!r}: only plain decoders end '
      'in a mask',
    )
  multiple = 2 * space[0] // latent_space(config)[0]
  if window % multiple:
    yield (
      'model.spectral_mask',
      f'must be a multiple of {multiple}, twice the samples of one position '
      'of the latent',
      f'model.spectral_mask={-(-window // multiple) * multiple}',
    )


def _needed(model) -> dict[str, Any]:
  """Returns the fields of `config.model` that a layout fixes."""
  needed = dict(_LAYOUTS[model.layout])
  if model.layout == 'tiny':
    needed['channel_multipliers'] = (1,) * (model.depth + 1)
  elif model.layout == 'oobleck':
    needed['width'] = 2 * model.latent_dim
    needed['strides'] = tuple(s + s % 2 for s in model.strides)
    needed['channel_multipliers'] = (1, *model.channel_multipliers[1:])
  elif model.layout == 'ldm' and model.latent != 'vq':
    needed['latent'] = 'gaussian'
  elif model.layout == 'ldm':
    needed |= {'code_dim': model.latent_dim, 'unit_codes': False}
    needed['quant_convs'] = True
  return needed
