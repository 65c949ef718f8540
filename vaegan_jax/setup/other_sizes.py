"""A finished run, for images of another size than it was trained on.

A map of latents has no size: its networks are convolutions alone. A flat latent
has, and so has a critic with one logit an image.
"""

import flax.linen as nn
import ml_collections
from etils import epath

from vaegan_jax.config.io import load_config
from vaegan_jax.config.shapes import shape_flag, spatial_shape
from vaegan_jax.errors import UserError
from vaegan_jax.models import is_frozen
from vaegan_jax.setup.networks import restore_networks
from vaegan_jax.training.train_state import TrainState


def restore_for_size(
  config: ml_collections.ConfigDict, workdir: str
) -> tuple[dict[str, nn.Module], TrainState, int]:
  """Restores a run's newest whole checkpoint, for images of any size.

  Args:
    config: of the run; its `data.image_size` or `data.shape` may be another.
    workdir: of the run.

  Returns:
    Its modules, their state, and the step, as `restore_networks`; without the
    critic, if that is of one size and the images are of another.

  Raises:
    UserError: there is no whole checkpoint, it is of another network, or its
      latent is of one size.
  """
  path = epath.Path(workdir) / 'config.json'
  own = load_config(path).data if path.exists() else config.data
  if spatial_shape(own) == spatial_shape(config.data):
    return restore_networks(config, workdir)
  field, value = shape_flag(own).split('=')
  if config.model.latent_shape == 'flat':
    raise UserError(
      f'{shape_flag(config.data)} must be {value}, which the run in {workdir} '
      "was trained with, as its latent is flat; model.latent_shape='map' takes "
      f'any size: for example, --config.{field}="{value}"'
    )
  config = config.copy_and_resolve_references()
  with config.ignore_type():
    config.data.image_size = own.image_size
    config.data.shape = own.shape
  modules, state, step = restore_networks(config, workdir)
  critic = modules.get('critic')
  if critic and not is_frozen(critic) and config.critic.head == 'dense':
    modules = {'autoencoder': modules['autoencoder']}
    state = state.replace(
      networks={'autoencoder': state.networks['autoencoder']}
    )
  return modules, state, step
