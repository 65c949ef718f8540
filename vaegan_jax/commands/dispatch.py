"""Hands a command over to the file of its mode.

These are imported late because they bring in TensorFlow, and a mistake should
be told before that.
"""

from typing import Any

import jax
import ml_collections

from vaegan_jax.config.cli import Command
from vaegan_jax.config.rules import flatten
from vaegan_jax.config.validation import validate
from vaegan_jax.setup.memory import telling_exhaustion

_SIZES = ('batch_size', 'data.image_size', 'model.width', 'critic.width')


def run_mode(command: Command) -> int:
  """Does what a command asks for.

  Args:
    command: with valid configurations.

  Returns:
    The process's exit status.

  Raises:
    UserError: a file or a value is wrong.
  """
  with telling_exhaustion(_sizes(command.config)):
    return _run_mode(command)


def _sizes(config: ml_collections.ConfigDict | None) -> dict[str, Any]:
  """What memory goes to, by the names of the fields."""
  fields = flatten(config) if config else {}
  return {name: fields[name] for name in _SIZES if name in fields}


def _run_mode(command: Command) -> int:
  if command.mode == 'train':
    from vaegan_jax.commands import train

    validate(command.config, num_devices=jax.device_count())
    return train.train(command.config, command.workdir)
  if command.mode == 'study':
    from vaegan_jax.commands import study

    for config in command.runs.values():
      validate(config, num_devices=jax.device_count())
    return study.study(command.runs, command.workdir)
  _look_at_runs(command)
  return 0


def _look_at_runs(command: Command) -> None:
  """The modes that train nothing, and have nothing to save."""
  if command.mode == 'evaluate':
    from vaegan_jax.commands import evaluate

    evaluate.evaluate(command.config, command.workdir)
  elif command.mode == 'compare':
    from vaegan_jax.commands import compare

    compare.compare(command.runs, command.workdir)
  else:
    _use_model(command)


def _use_model(command: Command) -> None:
  """The modes that use a finished model."""
  from vaegan_jax.commands import decode, encode, export, reconstruct, sample

  mode = {
    'encode': encode.encode,
    'decode': decode.decode,
    'reconstruct': reconstruct.reconstruct,
    'sample': sample.sample,
    'export': export.export,
  }[command.mode]
  mode(command.config, command.workdir, command.use)
