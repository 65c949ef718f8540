"""Opens a finished model, from the workdir of a run or from an export of one.

An export is a folder of `config.json`, `model.safetensors` and `latents.json`;
`commands/export.py` writes it. Orbax reads a run's newest complete checkpoint;
an export needs no orbax. Neither needs TensorFlow or the data.
"""

import os

import jax
import ml_collections
from etils import epath

from vaegan_jax.config.io import load_config
from vaegan_jax.config.paths import absolute
from vaegan_jax.config.settings import loss_settings, with_data
from vaegan_jax.errors import UserError
from vaegan_jax.inference.latent_statistics import read_statistics
from vaegan_jax.inference.model import TrainedModel
from vaegan_jax.setup.exported_run import WEIGHTS_FILE, read_export


def load_model(
  path: os.PathLike | str, config: ml_collections.ConfigDict | None = None
) -> TrainedModel:
  """Loads a model to the default device; see `vaegan_jax.load`.

  The configuration is that of the run; None: as its folder has it.

  Raises:
    UserError: the folder is neither, is damaged, or of a newer version.
  """
  path = absolute(os.fspath(path))
  root = epath.Path(path)
  if not (root / 'config.json').exists():
    raise UserError(
      f'{path} is neither a run nor an export, because it has no config.json: '
      'name the --workdir of --mode=train, or the --output of --mode=export'
    )
  own = load_config(root / 'config.json')
  # The range was found once.
  config = with_data(config or own, value_range=own.data.value_range)
  if (root / WEIGHTS_FILE).exists():
    modules, variables, step = read_export(root, config)
  else:
    from vaegan_jax.setup.networks import restore_networks  # With orbax.

    restored = restore_networks(config, path)
    modules, step = restored.modules, restored.step
    variables = restored.inference_variables
  statistics = read_statistics(root)
  if statistics and statistics.step != step:
    statistics = None  # The run has gone on since.
  return TrainedModel(
    variables=jax.device_put(variables),  # `jnp` would compile each shape.
    statistics=statistics and jax.device_put(statistics),
    autoencoder=modules['autoencoder'],
    critic=modules.get('critic') if 'critic' in variables else None,
    loss=loss_settings(config),
    config=ml_collections.FrozenConfigDict(config),
    step=step,
    source=path,
  )
