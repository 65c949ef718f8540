"""Which configurations make sense, and what to say of one that does not.

One field at a time is the business of `rules.py`; here they meet. Values only:
ConfigDict's lock already guards the names.
"""

import math

import ml_collections

from vaegan_jax.config import defaults
from vaegan_jax.config.examples import check_axes, check_data
from vaegan_jax.config.frozen import check_frozen_critic
from vaegan_jax.config.latent import check_latent
from vaegan_jax.config.networks import (
  check_attention,
  check_autoencoder,
  check_trained_critic,
  layer_names,
  not_divisible,
)
from vaegan_jax.config.rules import (
  FROZEN,
  RULES,
  STYLE_RULES,
  as_argument,
  check_fields,
  either,
)
from vaegan_jax.config.shapes import shape_flag, spatial_shape
from vaegan_jax.errors import UserError


def validate(
  config: ml_collections.ConfigDict, *, num_devices: int | None = None
) -> None:
  """Checks every value of a configuration.

  Args:
    config: a configuration with the fields of `configs/default.py`.
    num_devices: if given, the batch must divide evenly over this many.

  Raises:
    UserError: a value has the wrong type, is out of range, or contradicts
      another one.
  """
  check_fields(config, defaults.get_config(), RULES)
  check_data(config.data)
  check_axes(config)
  check_autoencoder(config.model, config.data)
  check_latent(config)
  if config.critic.network in FROZEN:
    check_frozen_critic(config)
  else:
    _check_trained_critic(config)
    _check_stabilisers(config)
  _check_layers(config)
  _check_terms(config)
  _check_schedules(config)
  if num_devices and config.batch_size % num_devices:
    raise UserError(
      f'{not_divisible("batch_size", config.batch_size, num_devices)} '
      '(the number of devices)'
    )


def validate_new_run(config: ml_collections.ConfigDict) -> None:
  """Checks what only a run that begins must heed.

  A norm divides the contrast of an image away, and BatchNorm mixes it with its
  batch-mates: the distance in such a critic's features alone does not see them.
  A run of an earlier version that began with one may go on.

  Args:
    config: a valid configuration.

  Raises:
    UserError: the critic is blind, or no map has a side that attention is for.
  """
  check_attention(config.model, config.data)
  critic, loss = config.critic, config.loss
  sees = critic.norm == 'none' or loss.image_weight or loss.pixel_weight
  trained = config.objective != 'mse' and critic.network not in FROZEN
  if trained and not sees:
    raise UserError(
      f'critic.norm={critic.norm!r} divides the contrast of the images away, '
      'so that the distance cannot see it, unless the image itself is a layer: '
      'for example, --config.loss.image_weight=1 or --config.critic.norm=none'
    )


def validate_style(config: ml_collections.ConfigDict) -> None:
  """Checks every value of a configuration of style transfer.

  Args:
    config: with the fields of `configs/style.py`.

  Raises:
    UserError: as `validate`.
  """
  check_fields(config, defaults.get_style_config(), STYLE_RULES)
  for field in ('content', 'style'):
    if not config[field].strip():
      raise UserError(
        f'{field}={config[field]!r} must name a picture: for example, '
        f'--config.{field}=photo.jpg'
      )
  if bool(config.critic) == bool(config.weights):
    raise UserError(
      f'critic={config.critic!r} and weights={config.weights!r} must be one or '
      'the other, the workdir of a run or the weights of VGG: for example, '
      '--config.critic=runs/celeba'
    )
  if not config.content_weight + config.style_weight:
    raise UserError(
      'content_weight=0.0 and style_weight=0.0 leave nothing to do: for '
      'example, --config.style_weight=10'
    )


def _check_trained_critic(config: ml_collections.ConfigDict) -> None:
  check_trained_critic(config.critic, config.data)
  if config.critic.weights:
    raise UserError(
      f'critic.weights={config.critic.weights!r} is only read for '
      f'critic.network={either(FROZEN)}: for example, '
      '--config.critic.network=vgg16'
    )


def _check_stabilisers(config: ml_collections.ConfigDict) -> None:
  """Refuses what keeps a critic steady in two contradictory ways."""
  critic = config.critic
  if critic.weight_clip and critic.spectral_norm:
    raise UserError(
      f'critic.weight_clip={critic.weight_clip} contradicts '
      'critic.spectral_norm=True, which rescales what was clipped: for '
      'example, --config.critic.weight_clip=0'
    )
  for field in ('gradient_penalty_weight', 'r1_weight'):
    if critic[field] and critic.norm == 'batch':
      raise UserError(
        f"critic.{field}={critic[field]} contradicts critic.norm='batch', "
        "because it needs each image's own gradient and a batch's moments mix "
        f'them: use --config.critic.norm=group or, for example, '
        f'--config.critic.{field}=0'
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
  if config.loss.adaptive_weight and not config.loss.adversarial_weight:
    raise UserError(
      'loss.adaptive_weight=True multiplies '
      f'loss.adversarial_weight={config.loss.adversarial_weight}, which is '
      'off: for example, --config.loss.adversarial_weight=0.5'
    )


def _check_terms(config: ml_collections.ConfigDict) -> None:
  """Refuses a loss to which any picture is as good, or that is none."""
  loss = config.loss
  if loss.variance == 'optimal' and (
    config.objective != 'mse' or loss.reduction != 'sum'
  ):
    raise UserError(
      "loss.variance='optimal' is of the summed errors of the pixels, not of "
      f'objective={config.objective!r} with loss.reduction={loss.reduction!r}: '
      'for example, --config.objective=mse'
    )
  if loss.image_weight and not loss.distance_weight:
    raise UserError(
      f'loss.image_weight={loss.image_weight} is of a layer of the distance, '
      'which loss.distance_weight=0.0 turns off: for example, '
      f'--config.loss.image_weight=0 --config.loss.pixel_weight=1'
    )
  shorter = min(spatial_shape(config.data))
  if 2**loss.image_halvings > shorter:
    most = int(math.log2(shorter))
    raise UserError(
      f'loss.image_halvings={loss.image_halvings} halves '
      f'{shape_flag(config.data)} to less than a pixel: for '
      f'example, --config.loss.image_halvings={most}'
    )
  if not loss.distance_weight + loss.pixel_weight:
    raise UserError(
      'loss.distance_weight=0.0 and loss.pixel_weight=0.0 leave nothing that '
      'holds a reconstruction to its original: for example, '
      '--config.loss.pixel_weight=1'
    )


def _check_schedules(config: ml_collections.ConfigDict) -> None:
  """Refuses a schedule that would not end within the run."""
  schedules = {'optimizer.warmup_steps': config.optimizer.warmup_steps}
  if config.loss.adversarial_weight and config.objective != 'mse':
    ramp_steps = config.loss.adversarial_ramp_steps
    schedules['loss.adversarial_ramp_steps'] = ramp_steps
  for field, steps in schedules.items():
    if steps > config.num_train_steps:
      raise UserError(
        f'{field}={steps} must be at most '
        f'num_train_steps={config.num_train_steps}: for example, '
        f'--config.{field}={config.num_train_steps // 10}'
      )


def _check_layers(config: ml_collections.ConfigDict) -> None:
  layers = layer_names(config.critic)
  for layer in config.loss.layers:
    if layer not in layers:
      raise UserError(
        f'loss.layers={config.loss.layers} names {layer!r}, but the critic has '
        f'{", ".join(layers)}: for example, '
        f'--config.loss.layers={as_argument(layers[-2:])}'
      )
  chosen = config.loss.layers or layers
  weights = config.loss.layer_weights
  if weights and len(weights) != len(chosen):
    example = as_argument((1.0,) * len(chosen))
    raise UserError(
      f'loss.layer_weights={weights} must have one weight for each of the '
      f'{len(chosen)} layers {", ".join(chosen)}: for example, '
      f'--config.loss.layer_weights={example}'
    )
