"""Runs a command: the function `NAME` of `commands/NAME.py`.

Commands are imported late. They bring in TensorFlow, and a mistake should be
reported before that.
"""

import importlib
from typing import Any

import jax
import ml_collections

from vaegan_jax.config.cli import Command
from vaegan_jax.config.rules import flatten
from vaegan_jax.config.validation import validate
from vaegan_jax.setup.memory import reporting_exhaustion

_TRAINING = ('train', 'study')  # They return an exit status.
# Fields that memory depends on, most of all.
_SIZES = ('batch_size', 'data.image_size', 'model.width', 'critic.width')


def run_command(command: Command) -> int:
  """Runs a command.

  Args:
    command: with valid configurations.

  Returns:
    The process's exit status.

  Raises:
    UserError: a file or a value is wrong.
  """
  module = importlib.import_module(f'vaegan_jax.commands.{command.mode}')
  function = getattr(module, command.mode)
  arguments = [command.config or command.runs, command.workdir]
  if command.use:
    arguments.append(command.use)
  with reporting_exhaustion(_sizes(command.config)):
    if command.mode not in _TRAINING:
      function(*arguments)
      return 0
    for config in (command.config, *command.runs.values()):
      if config:
        validate(config, num_devices=jax.device_count())
    return function(*arguments)


def _sizes(config: ml_collections.ConfigDict | None) -> dict[str, Any]:
  fields = flatten(config) if config else {}
  return {name: fields[name] for name in _SIZES if name in fields}
