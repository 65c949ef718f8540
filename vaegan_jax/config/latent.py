"""Which latents make sense."""

import math

import ml_collections

from vaegan_jax.config.rules import as_argument
from vaegan_jax.errors import UserError

# Counted one by one, in float32 and in int32.
_MAX_CODES, _MAX_BITS = 2**24, 24


def check_latent(config: ml_collections.ConfigDict) -> None:
  """Checks the latent of a run.

  Args:
    config: with fields that are valid by themselves.

  Raises:
    UserError: its entries are no whole number of codes, there are too many
      codes to be counted, or there is no prior to sample fakes from.
  """
  model = config.model
  if model.latent == 'fsq':
    _check_levels(model.fsq_levels)
    _check_tokens(model, 'fsq_levels', len(model.fsq_levels))
  elif model.latent in ('vq', 'lfq'):
    _check_tokens(model, 'code_dim', model.code_dim)
  if model.latent == 'lfq' and model.code_dim > _MAX_BITS:
    raise UserError(
      f'model.code_dim={model.code_dim} must be at most {_MAX_BITS} for '
      f"model.latent='lfq', whose 2**{model.code_dim} codes are counted one by "
      'one: for example, --config.model.code_dim=10'
    )
  if model.latent == 'none' and config.critic.prior_fakes:
    raise UserError(
      "critic.prior_fakes=True needs a prior, and model.latent='none' has "
      'none: for example, --config.critic.prior_fakes=false'
    )


def _check_levels(levels) -> None:
  num_codes = math.prod(levels)
  if num_codes > _MAX_CODES:
    product = ' * '.join(map(str, levels))
    raise UserError(
      f'model.fsq_levels={levels} make {product} = {num_codes:,} codes, of '
      f'which at most {_MAX_CODES:,} can be counted: for example, '
      '--config.model.fsq_levels="(8, 8, 8, 6, 5)"'
    )


def _check_tokens(model, field: str, code_dim: int) -> None:
  rest = model.latent_dim % code_dim
  if rest:
    value = model[field]
    below = max(model.latent_dim - rest, code_dim)
    raise UserError(
      f'model.latent_dim={model.latent_dim} must be a multiple of {code_dim}, '
      f'the entries of a code (model.{field}={as_argument(value)}); '
      f'{model.latent_dim} / {code_dim} leaves {rest}: for example, '
      f'--config.model.latent_dim={below}'
    )
