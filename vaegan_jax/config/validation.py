"""Validation of a whole configuration.

`schema.py` has the rule of each field; the checks here and in `data_checks.py`
and `network_checks.py` are of several fields together.
"""

import math

import ml_collections

from vaegan_jax import models
from vaegan_jax.config import schema
from vaegan_jax.config.data_checks import check_axes, check_data
from vaegan_jax.config.layout_checks import check_blocks
from vaegan_jax.config.network_checks import (
  check_attention,
  check_autoencoder,
  check_pretrained_critic,
  check_trained_critic,
  compares_layers,
  trains_critic,
)
from vaegan_jax.config.rules import (
  Conflicts,
  as_argument,
  check_value,
  conflict,
  flatten,
  not_divisible,
)
from vaegan_jax.config.shapes import (
  latent_space,
  num_latent_entries,
  shape_flag,
  spatial_shape,
)
from vaegan_jax.errors import UserError
from vaegan_jax.names import PRETRAINED_CRITICS

# Beyond 16 bits an entry the noise is below the rounding of half precision.
_MAX_ENTRY_BITS = 16


def validate(
  config: ml_collections.ConfigDict, *, num_devices: int | None = None
) -> None:
  """Checks every value of a configuration.

  Args:
    config: a configuration with the fields of `schema.py`.
    num_devices: if given, the batch must divide evenly over this many.

  Raises:
    UserError: a value has the wrong type, is out of range, or contradicts
      another one.
  """
  values = flatten(config)
  for field in schema.FIELDS:
    check_value(field.name, values[field.name], field.rule, field.default)
  checks = (check_data, check_axes, check_autoencoder)
  if config.critic.network in PRETRAINED_CRITICS:
    checks += (check_pretrained_critic,)
  elif trains_critic(config):
    checks += (check_trained_critic,)
  checks += (_check_layers, _check_loss, _check_equivariance)
  checks += (_check_rate, _check_trained_parts, _check_schedules)
  checks += (_check_chunks, _check_tiles)
  for check in checks:
    _refuse(config, check(config))
  number = config.optimizer.accumulate_steps
  if num_devices and config.batch_size % (num_devices * number):
    why = f'optimizer.accumulate_steps={number} times ' * (number > 1)
    raise UserError(
      not_divisible('batch_size', config.batch_size, num_devices * number)
      + f' ({why}the number of devices)'
    )


def validate_new_run(config: ml_collections.ConfigDict) -> None:
  """Checks what a new run must obey; an earlier version's may be resumed.

  Raises:
    UserError: the critic ignores contrast, attention has no feature map, a
      number of blocks is not read, or the encoder would stay as it is
      initialised.
  """
  for check in (check_attention, check_blocks, _check_contrast, _check_start):
    _refuse(config, check(config))


def _refuse(config, conflicts: Conflicts) -> None:
  """Raises the first conflict; a default mends one without a remedy."""
  for name, rule, *remedies in conflicts:
    raise conflict(config, name, rule, *remedies or [schema.default_flag(name)])


def _check_contrast(config) -> Conflicts:
  # A norm removes the contrast of an image, and BatchNorm mixes it with the
  # rest of the batch: the distance in such features alone ignores it.
  critic, loss = config.critic, config.loss
  seen = critic.norm == 'none' or loss.image_weight or loss.pixel_weight
  if trains_critic(config) and not seen:
    yield (
      'critic.norm',
      'divides the contrast of the images away, so that the distance ignores '
      'it unless the image itself is a layer; critic.norm=none works too',
      'loss.image_weight=1',
    )


def _check_start(config) -> Conflicts:
  if config.model.train != 'all' and not config.init_from:
    yield (
      'model.train',
      'keeps the encoder as it begins, which is random without init_from',
      'init_from=runs/first',
    )
  if config.loss.drift_weight and not config.init_from:
    yield (
      'loss.drift_weight',
      'is for the distance from the decoder of init_from, which is empty',
    )


def _check_trained_parts(config) -> Conflicts:
  """Yields what nothing is left to train, or to steer, for."""
  model, has_critic = config.model, trains_critic(config)
  if model.train == 'none' and not has_critic:
    yield (
      'model.train',
      'trains the critic alone, and this run trains none',
      'model.train=decoder',
    )
  if model.train == 'none' and config.loss.drift_weight:
    yield (
      'loss.drift_weight',
      "is for a decoder that moves, and model.train='none' keeps it",
    )
  if config.critic.warmup_steps and not has_critic:
    yield 'critic.warmup_steps', 'is for a critic that is trained'
  if model.train != 'all' and config.loss.rate:
    yield (
      'loss.rate',
      f'is that of an encoder which moves, and model.train={model.train!r} '
      'keeps it',
    )


def _check_layers(config) -> Conflicts:
  layers = models.create_modules(
    with_critic=True,
    space=spatial_shape(config.data),
    channels=config.data.channels,
    model=config.model,
    critic=config.critic,
  )['critic'].layer_names
  loss = config.loss
  for layer in loss.layers:
    if layer not in layers:
      yield (
        'loss.layers',
        f'names {layer!r}, but the critic has {", ".join(layers)}',
        f'loss.layers={as_argument(layers[-2:])}',
      )
  chosen = loss.layers or layers
  if loss.layer_weights and len(loss.layer_weights) != len(chosen):
    yield (
      'loss.layer_weights',
      f'must have one weight for each of the {len(chosen)} layers '
      f'{", ".join(chosen)}',
      f'loss.layer_weights={as_argument((1.0,) * len(chosen))}',
    )


def _check_loss(config) -> Conflicts:
  """Yields a loss without effect, or one that any reconstruction minimizes."""
  loss, shorter = config.loss, min(spatial_shape(config.data))
  has_layers = compares_layers(config)
  if loss.variance == 'optimal' and (
    config.objective != 'mse' or loss.reduction != 'sum'
  ):
    yield (
      'loss.variance',
      'is for the summed errors of pixels, not for objective='
      f'{config.objective!r} with loss.reduction={loss.reduction!r}',
      'objective=mse',
    )
  if has_layers and loss.image_weight and not loss.distance_weight:
    yield (
      'loss.image_weight',
      'is for a layer of the distance, which loss.distance_weight=0.0 turns '
      'off',
      'loss.image_weight=0',
      'loss.pixel_weight=1',
    )
  if loss.spectrum_weight:
    yield from _check_spectra(config)
  has_images = has_layers and loss.image_weight > 0
  if has_images and 2**loss.image_halvings > shorter:
    yield (
      'loss.image_halvings',
      f'halves {shape_flag(config.data)} to less than a pixel',
      f'loss.image_halvings={int(math.log2(shorter))}',
    )
  if not loss.distance_weight + loss.pixel_weight:
    yield (
      'loss.distance_weight',
      'and loss.pixel_weight=0.0 leave no reconstruction loss',
      'loss.pixel_weight=1',
    )


def _check_spectra(config) -> Conflicts:
  loss, field = config.loss, 'loss.spectrum_weight'
  if len(spatial_shape(config.data)) > 1:
    yield (
      field,
      f'is for sounds, which have one axis, not for {shape_flag(config.data)}',
    )
  if not loss.distance_weight:
    yield (
      field,
      'is for layers of the distance, which loss.distance_weight=0.0 turns off',
    )
  if loss.variance == 'optimal':
    yield (
      field,
      "replaces the likelihood of the pixels, so that loss.variance='optimal' "
      'has no effect',
      'loss.variance=half',
      'loss.reduction=mean',
    )


def _check_equivariance(config) -> Conflicts:
  model = config.model
  if not config.loss.equivariance_weight:
    return
  field = 'loss.equivariance_weight'
  if model.latent_shape != 'map' or model.latent not in ('gaussian', 'none'):
    yield (
      field,
      'averages neighbours of a latent map of real numbers, not those of '
      f'model.latent={model.latent!r}, model.latent_shape='
      f'{model.latent_shape!r}',
      f'{field}=0',
      'model.latent_shape=map',
    )
  space = latent_space(config)
  if any(side % 2 for side in space):
    yield field, f'halves the latent map, whose shape is {as_argument(space)}'


def _check_rate(config) -> Conflicts:
  """Yields a rate that the latent does not have, or that cannot be steered."""
  loss, model = config.loss, config.model
  if not loss.rate:
    return
  if model.latent != 'gaussian':
    yield (
      'loss.rate',
      "is steered by the KL of model.latent='gaussian'; the rate of "
      f'model.latent={model.latent!r} is '
      + ('not measured' if model.latent == 'none' else 'that of its codes'),
    )
  if not loss.kl_weight:
    yield (
      'loss.kl_weight',
      f'is what loss.rate={loss.rate:g} is steered from, and must be above 0',
      'loss.rate=0',
    )
  least = config.health.min_kl / math.log(2)
  if loss.rate <= least:
    yield (
      'loss.rate',
      f'must be above {least:.3g}, at which health.min_kl='
      f'{config.health.min_kl:g} nats is a collapse',
      f'loss.rate={max(8.0, 8 * least):.0f}',
    )
  num_entries = num_latent_entries(config)
  if loss.rate > _MAX_ENTRY_BITS * num_entries:
    yield (
      'loss.rate',
      f'must be at most {_MAX_ENTRY_BITS} bits for each of the {num_entries:,} '
      f'entries of the latent, {_MAX_ENTRY_BITS * num_entries:,}',
      f'loss.rate={num_entries}',
    )


def _check_tiles(config) -> Conflicts:
  if config.evaluation.tile_size and config.model.latent_shape == 'flat':
    yield (
      'evaluation.tile_size',
      "is for a map of latents, and model.latent_shape='flat' has one latent "
      'for a whole example',
    )


def _check_chunks(config) -> Conflicts:
  """Yields a loss that is not the mean of those of parts of a batch."""
  if config.optimizer.accumulate_steps > 1 and config.model.latent == 'lfq':
    yield (
      'optimizer.accumulate_steps',
      'computes a batch in parts, and the entropy of model.latent="lfq" is '
      "that of the whole batch's codes",
      'optimizer.accumulate_steps=1',
      'model.remat=true',
    )


def _check_schedules(config) -> Conflicts:
  """Yields a schedule that would not end within the run."""
  fields = ['optimizer.warmup_steps', 'critic.warmup_steps']
  if config.loss.adversarial_weight and config.objective != 'mse':
    fields.append('loss.adversarial_ramp_steps')
  for field in fields:
    section, _, name = field.partition('.')
    if config[section][name] > config.num_train_steps:
      yield (
        field,
        f'must be at most num_train_steps={config.num_train_steps}',
        f'{field}={config.num_train_steps // 10}',
      )
