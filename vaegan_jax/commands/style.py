"""The mode `style`: style transfer, with VGG or the critic of a run."""

from collections.abc import Mapping

import ml_collections

from vaegan_jax.errors import UserError
from vaegan_jax.evaluation import style_transfer
from vaegan_jax.models.pretrained.lpips import LPIPS
from vaegan_jax.models.pretrained.vgg import VGG
from vaegan_jax.setup.networks import restore_networks


def transfer_style(
  config: ml_collections.ConfigDict,
  workdir: str,
  runs: Mapping[str, ml_collections.ConfigDict],
) -> None:
  """Transfers the style of a picture to another; see `style_transfer.run`.

  Args:
    config: with the fields of `configs/style.py`.
    workdir: where the pictures are written.
    runs: {workdir: configuration} of the run whose critic is the network; {}
      for VGG.

  Raises:
    UserError: a file or a value is wrong, or the run has no critic.
  """
  network = None
  for run, run_config in runs.items():
    modules, state, _ = restore_networks(run_config, run)
    if 'critic' not in modules:
      raise UserError(
        f'critic={run!r} has none, because its objective is '
        f'{run_config.objective!r}: name another run, such as '
        '--config.critic=runs/celeba'
      )
    module = modules['critic']
    variables = state.networks['critic'].variables
    if isinstance(module, LPIPS):  # It enlarges and scales: VGG alone does not.
      module, variables = VGG(16), {'params': variables['params']['vgg']}
    network = module, variables, run_config.data.channels
  style_transfer.run(config, workdir, network)
