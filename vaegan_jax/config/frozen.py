"""Which configurations make sense with a critic that others have trained."""

import ml_collections

from vaegan_jax.config.path_names import is_two_files
from vaegan_jax.config.rules import VGG_CONVOLUTIONS
from vaegan_jax.config.shapes import shape_field, shape_flag, spatial_shape
from vaegan_jax.errors import UserError


def frozen_layers(network: str) -> tuple[str, ...]:
  """The names that `layer_names` of a frozen critic's module will have.

  Args:
    network: the field `critic.network`.

  Returns:
    The names in forward order; () of a critic that is trained.
  """
  if network == 'lpips':  # The last of each stage.
    last = enumerate(VGG_CONVOLUTIONS['vgg16'], start=1)
    return tuple(f'conv{stage}_{count}' for stage, count in last)
  return tuple(
    f'conv{stage}_{index}'
    for stage, count in enumerate(VGG_CONVOLUTIONS.get(network, ()), start=1)
    for index in range(1, count + 1)
  )


def check_frozen_critic(config: ml_collections.ConfigDict) -> None:
  """Checks a run whose critic is frozen.

  Args:
    config: with fields that are valid by themselves.

  Raises:
    UserError: another field contradicts such a critic.
  """
  network = f'critic.network={config.critic.network!r}'
  if config.objective == 'mse':
    raise UserError(
      f"{network} is a critic, but objective='mse' has none: for example, "
      '--config.objective=geometric'
    )
  if config.critic.network == 'lpips':
    _check_lpips(config)
  elif not config.critic.weights.strip():
    raise UserError(
      f'critic.weights={config.critic.weights!r} must name the file of '
      f'weights that {network} needs: for example, '
      f'--config.critic.weights=/data/{config.critic.network}.pth (see '
      'vaegan_jax/models/pretrained/vgg.py for where to get it)'
    )
  if config.loss.adversarial_weight:
    raise UserError(
      f'loss.adversarial_weight={config.loss.adversarial_weight} must be 0, '
      f'because {network} is not trained and has no verdict: '
      '--config.loss.adversarial_weight=0'
    )
  if config.data.channels not in (1, 3):
    raise UserError(
      f'data.channels={config.data.channels} must be 1 or 3 for {network}: '
      'for example, --config.data.channels=3'
    )
  shorter = min(spatial_shape(config.data))
  if shorter < 16 and config.critic.network != 'lpips':
    raise UserError(
      f'{shape_flag(config.data)} must be at least 16 for '
      f'{network}, which halves it four times: for example, '
      f'--config.{shape_field(config.data)}="(64, 64)"'
    )


def _check_lpips(config: ml_collections.ConfigDict) -> None:
  """Refuses what would make another distance of LPIPS."""
  weights, loss = config.critic.weights, config.loss
  if not is_two_files(weights):
    raise UserError(
      f'critic.weights={weights!r} must name two files for critic.network='
      "'lpips', VGG16's and LPIPS's heads: for example, "
      '--config.critic.weights=/data/vgg16.pth,/data/lpips_vgg.pth (see '
      'vaegan_jax/models/pretrained/vgg.py for where to get them)'
    )
  if loss.normalize != 'none' or loss.reduction != 'spatial':
    raise UserError(
      f'loss.normalize={loss.normalize!r} and '
      f"loss.reduction={loss.reduction!r} must be 'none' and 'spatial' for "
      "critic.network='lpips', which is no LPIPS otherwise: "
      '--config.loss.normalize=none --config.loss.reduction=spatial'
    )
