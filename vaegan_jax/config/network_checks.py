"""Checks of the networks: the autoencoder, its latent and the critic.

Each function yields conflicts, as `rules.conflict` takes them.
"""

import math

import ml_collections

from vaegan_jax.config.layout_checks import check_layout, check_spectral_mask
from vaegan_jax.config.paths import is_files
from vaegan_jax.config.rules import (
  Conflicts,
  as_argument,
  either,
  not_divisible,
)
from vaegan_jax.config.shapes import shape_field, shape_flag, spatial_shape
from vaegan_jax.errors import UserError
from vaegan_jax.models.build import feature_sizes
from vaegan_jax.models.views import band_edges, can_halve
from vaegan_jax.names import PRETRAINED_CRITICS

# Fields of that layout alone, and of the residual network alone, with the value
# that turns them off.
_LDM_ALONE = {'num_groups': 0, 'quant_convs': True}
_RESIDUAL = {
  'num_res_blocks': 1,
  'attention_sides': (),
  'middle_attention': False,
}
# Codes are counted one by one, in float32 and in int32.
_MAX_CODES, _MAX_BITS = 2**24, 24


def trains_critic(config: ml_collections.ConfigDict) -> bool:
  """Returns whether a run trains a critic."""
  is_pretrained = config.critic.network in PRETRAINED_CRITICS
  return config.objective != 'mse' and not is_pretrained


def compares_layers(config: ml_collections.ConfigDict) -> bool:
  """Returns whether a run's loss compares layers, of a critic or spectra."""
  return config.objective != 'mse' or config.loss.spectrum_weight > 0


def check_autoencoder(config: ml_collections.ConfigDict) -> Conflicts:
  """Yields the conflicts of `config.model`."""
  model = config.model
  yield from check_layout(model)
  for fields, section, needed in (
    (_RESIDUAL, 'network', 'residual'),
    (_LDM_ALONE, 'layout', 'ldm'),
  ):
    for field, off in fields.items():
      if model[section] != needed and model[field] != off:
        yield (
          f'model.{field}',
          f'is only read for model.{section}={needed!r}',
          f'model.{section}={needed}',
        )
  yield from _check_sizes(config, 'model')
  if model.network == 'residual' and model.norm in ('instance', 'batch'):
    yield (
      'model.norm',
      "is for model.network='plain'; the residual network has GroupNorm",
      'model.norm=group',
    )
  yield from check_spectral_mask(config)
  yield from _check_latent(config)


def _check_latent(config) -> Conflicts:
  model = config.model
  if model.latent == 'fsq':
    num_codes = math.prod(model.fsq_levels)
    if num_codes > _MAX_CODES:
      product = ' * '.join(map(str, model.fsq_levels))
      yield (
        'model.fsq_levels',
        f'must make at most {_MAX_CODES:,} codes, and {product} = '
        f'{num_codes:,}',
        'model.fsq_levels="(8, 8, 8, 6, 5)"',
      )
    yield from _check_tokens(model, 'fsq_levels', len(model.fsq_levels))
  elif model.latent in ('vq', 'lfq'):
    yield from _check_tokens(model, 'code_dim', model.code_dim)
  if model.latent == 'lfq' and model.code_dim > _MAX_BITS:
    yield (
      'model.code_dim',
      f"must be at most {_MAX_BITS} for model.latent='lfq', whose "
      f'2**{model.code_dim} codes are counted one by one',
      'model.code_dim=10',
    )
  if model.latent == 'none' and config.critic.prior_fakes:
    yield (
      'critic.prior_fakes',
      "needs a prior, and model.latent='none' has none",
    )


def _check_tokens(model, field: str, code_dim: int) -> Conflicts:
  rest = model.latent_dim % code_dim
  if rest:
    below = max(model.latent_dim - rest, code_dim)
    yield (
      'model.latent_dim',
      f'must be a multiple of {code_dim}, the size of a code (model.{field}='
      f'{as_argument(model[field])}); {model.latent_dim} / {code_dim} leaves '
      f'{rest}',
      f'model.latent_dim={below}',
    )


def check_attention(config: ml_collections.ConfigDict) -> Conflicts:
  """Yields sizes of attention that no feature map has."""
  model, shorter = config.model, min(spatial_shape(config.data))
  sides = feature_sizes(shorter, model)
  for side in model.attention_sides:
    if side not in sides:
      *most, last = sides
      yield (
        'model.attention_sides',
        f'names {side}, but the feature maps of {shape_flag(config.data)} have '
        f'the sides {", ".join(map(str, most))} and {last}',
        f'model.attention_sides={as_argument((last,))}',
      )


def check_trained_critic(config: ml_collections.ConfigDict) -> Conflicts:
  """Yields the conflicts of a critic that is trained."""
  critic = config.critic
  if critic.num_scales > 1 and critic.head != 'patch':
    yield (
      'critic.num_scales',
      f'joins {critic.num_scales} maps of logits, but '
      f'critic.head={critic.head!r} gives one logit per example',
      'critic.head=patch',
    )
  yield from _check_views(config)
  yield from _check_sizes(config, 'critic', critic.num_scales)
  if critic.weights:
    yield (
      'critic.weights',
      f'is only read for critic.network={either(PRETRAINED_CRITICS)}',
      'critic.network=vgg16',
    )
  if critic.weight_clip and critic.spectral_norm:
    yield (
      'critic.weight_clip',
      'contradicts critic.spectral_norm=True, which rescales clipped weights',
    )
  for field in ('gradient_penalty_weight', 'r1_weight'):
    if critic[field] and critic.norm == 'batch':
      yield (
        f'critic.{field}',
        "contradicts critic.norm='batch': the penalty needs each example's "
        'own gradient, and batch statistics mix them; critic.norm=group works',
        f'critic.{field}=0',
      )
  if config.loss.adaptive_weight and not config.loss.adversarial_weight:
    yield (
      'loss.adaptive_weight',
      'multiplies loss.adversarial_weight=0.0, which is off',
      'loss.adversarial_weight=0.5',
    )
  if critic.long_round_steps % critic.num_steps:
    raise UserError(
      not_divisible(
        'critic.long_round_steps',
        critic.long_round_steps,
        critic.num_steps,
        'critic.num_steps=',
      )
    )


def _check_views(config) -> Conflicts:
  """Yields views that examples do not have, or that blocks cannot halve."""
  critic, space = config.critic, spatial_shape(config.data)
  if tuple(critic.views) == ('wave',):
    return
  if len(space) > 1:
    yield (
      'critic.views',
      f'must be ("wave",) for examples of {len(space)} axes: spectra and '
      'periods are of sounds, which have one',
    )
  if critic.head != 'patch':
    yield (
      'critic.views',
      f'joins maps of logits, but critic.head={critic.head!r} gives one logit '
      'per example',
      'critic.head=patch',
    )
  if critic.patch_size > 1 and 'wave' not in critic.views:
    yield ('critic.patch_size', "is only read where critic.views has 'wave'")
  multiple = 2**critic.depth
  for window in critic.stft_windows if 'stft' in critic.views else ():
    if not can_halve(window, space[0], multiple):
      yield (
        'critic.stft_windows',
        f'has {window}, whose spectrum of {shape_flag(config.data)}, '
        f'{4 * space[0] / window:g} frames of {window // 2} frequencies, '
        f'cannot be halved critic.depth={critic.depth} times',
        _remedy_for_windows(critic.stft_windows, config.data, multiple),
      )
    edges = band_edges(window, critic.stft_bands, multiple)
    if len(set(edges)) < len(edges):
      yield (
        'critic.stft_bands',
        f'leaves a band without frequencies: those of the window {window} are '
        f'cut at multiples of {multiple}',
      )


def _remedy_for_windows(windows, data, multiple: int) -> str:
  """Returns a flag with windows that fit, or else with a length for them."""
  num_samples, most = spatial_shape(data)[0], max(*windows, 2 * multiple)
  powers = (2**n for n in range(most.bit_length() - 1, 3, -1))
  fitting = [w for w in powers if can_halve(w, num_samples, multiple)]
  step = most * multiple // 4
  if fitting and (num_samples < step or len(fitting) >= len(windows)):
    return f'critic.stft_windows={as_argument(tuple(fitting)[: len(windows)])}'
  length = max(round(num_samples / step), 1) * step
  return f'{shape_field(data)}={as_argument((length,))}'


def _check_sizes(config, section: str, scales: int = 1) -> Conflicts:
  network, data = config[section], config.data
  depth, is_residual = network.depth, network.network == 'residual'
  count = depth + is_residual
  if len(network.channel_multipliers) != count:
    of_each = f'each of the {section}.depth={depth} blocks'
    if is_residual:
      of_each = (
        f'full resolution and each of the {section}.depth={depth} halvings, '
        f'{depth} + 1 = {count}'
      )
    example = as_argument(tuple(2 ** min(block, 3) for block in range(count)))
    yield (
      f'{section}.channel_multipliers',
      f'must have one entry for {of_each}',
      f'{section}.channel_multipliers={example}',
    )
  sides, halvings = spatial_shape(data), depth + scales - 1
  power = f'{section}.depth'
  if scales > 1:
    power = f'({section}.depth + {section}.num_scales - 1)'
  factor, why = 2**halvings, f'2**{power}=2**{halvings}='
  if section == 'model' and network.strides:
    if len(network.strides) != depth:
      yield (
        'model.strides',
        f'must have one entry for each of the model.depth={depth} blocks',
        f'model.depth={len(network.strides)}',
      )
    factor = math.prod(network.strides)
    why = f'the product of model.strides={as_argument(network.strides)}, '
  if network.patch_size > 1:
    factor *= network.patch_size
    why = why.rstrip('=, ')
    why = f'{section}.patch_size={network.patch_size} times {why}, '
  if network.norm == 'instance' and min(sides) // factor == 1:
    yield (
      f'{section}.norm',
      'makes 0 of a feature map of one pixel, to which '
      f'{shape_flag(data)} is halved',
      f'{section}.norm=group',
    )
  for side in sides:
    if side % factor:
      raise UserError(not_divisible(shape_field(data), side, factor, why))


def check_pretrained_critic(config: ml_collections.ConfigDict) -> Conflicts:
  """Yields the conflicts of a pretrained, frozen critic."""
  network, data = f'critic.network={config.critic.network!r}', config.data
  if config.objective == 'mse':
    yield (
      'critic.network',
      "is a critic, but objective='mse' has none",
      'objective=geometric',
    )
  if config.critic.network == 'lpips':
    yield from _check_lpips(config)
  elif not config.critic.weights.strip():
    yield (
      'critic.weights',
      f'must name the file of weights that {network} needs (see '
      'vaegan_jax/models/pretrained/vgg.py for where to get it)',
      f'critic.weights=/data/{config.critic.network}.pth',
    )
  if config.loss.adversarial_weight:
    yield (
      'loss.adversarial_weight',
      f'must be 0, because {network} is not trained and has no logits',
      'loss.adversarial_weight=0',
    )
  if data.channels not in (1, 3):
    yield 'data.channels', f'must be 1 or 3 for {network}'
  if min(spatial_shape(data)) < 16 and config.critic.network != 'lpips':
    field = shape_field(data)
    yield (
      field,
      f'must be at least 16 for {network}, which halves it four times',
      f'{field}="(64, 64)"',
    )


def _check_lpips(config) -> Conflicts:
  """Yields what would not compute the published LPIPS."""
  if not is_files(config.critic.weights, 2, 2):
    yield (
      'critic.weights',
      "must name two files for critic.network='lpips', VGG16's and LPIPS's "
      'heads (see vaegan_jax/models/pretrained/vgg.py, and lpips.py beside it, '
      'for where to get them)',
      'critic.weights=/data/vgg16.pth,/data/lpips_vgg.pth',
    )
  for field, needed in (('normalize', 'none'), ('reduction', 'spatial')):
    if config.loss[field] != needed:
      yield (
        f'loss.{field}',
        f"must be {needed!r} for critic.network='lpips', which is not LPIPS "
        'otherwise',
        'loss.normalize=none',
        'loss.reduction=spatial',
      )
