"""Validation of a whole configuration.

`schema.py` has the rule of each field; the checks here and in `data_checks.py`
and `network_checks.py` are of several fields together.
"""

import math

import ml_collections

from vaegan_jax import models
from vaegan_jax.config import schema
from vaegan_jax.config.data_checks import check_axes, check_data
from vaegan_jax.config.network_checks import (
  Conflicts,
  check_attention,
  check_autoencoder,
  check_pretrained_critic,
  check_trained_critic,
  not_divisible,
)
from vaegan_jax.config.rules import as_argument, conflict
from vaegan_jax.config.shapes import shape_flag, spatial_shape
from vaegan_jax.errors import UserError
from vaegan_jax.names import PRETRAINED_CRITICS


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
  schema.check_fields(config)
  critic = check_trained_critic
  if config.critic.network in PRETRAINED_CRITICS:
    critic = check_pretrained_critic
  checks = (check_data, check_axes, check_autoencoder, critic)
  for check in (*checks, _check_layers, _check_loss, _check_schedules):
    _refuse(config, check(config))
  if num_devices and config.batch_size % num_devices:
    raise UserError(
      f'{not_divisible("batch_size", config.batch_size, num_devices)} '
      '(the number of devices)'
    )


def validate_new_run(config: ml_collections.ConfigDict) -> None:
  """Checks what a new run must obey, and a resumed run need not.

  A norm removes the contrast of an image, and BatchNorm mixes it with the rest
  of the batch: the distance in such a critic's features alone ignores them.
  Runs of earlier versions that started so may be resumed.

  Raises:
    UserError: the critic ignores contrast, or attention has no feature map.
  """
  _refuse(config, check_attention(config))
  _refuse(config, _check_contrast(config))


def _refuse(config, conflicts: Conflicts) -> None:
  """Raises the first of the conflicts, if any."""
  for name, rule, *remedies in conflicts:
    raise conflict(config, name, rule, *remedies)


def _check_contrast(config) -> Conflicts:
  critic, loss = config.critic, config.loss
  seen = critic.norm == 'none' or loss.image_weight or loss.pixel_weight
  trained = critic.network not in PRETRAINED_CRITICS
  if config.objective != 'mse' and trained and not seen:
    yield (
      'critic.norm',
      'divides the contrast of the images away, so that the distance ignores '
      'it unless the image itself is a layer; critic.norm=none works too',
      'loss.image_weight=1',
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
  if loss.variance == 'optimal' and (
    config.objective != 'mse' or loss.reduction != 'sum'
  ):
    yield (
      'loss.variance',
      'is for the summed errors of pixels, not for objective='
      f'{config.objective!r} with loss.reduction={loss.reduction!r}',
      'objective=mse',
    )
  if loss.image_weight and not loss.distance_weight:
    yield (
      'loss.image_weight',
      'is for a layer of the distance, which loss.distance_weight=0.0 turns '
      'off',
      'loss.image_weight=0',
      'loss.pixel_weight=1',
    )
  if 2**loss.image_halvings > shorter:
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


def _check_schedules(config) -> Conflicts:
  """Yields a schedule that would not end within the run."""
  fields = ['optimizer.warmup_steps']
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
