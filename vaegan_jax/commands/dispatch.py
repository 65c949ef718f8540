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
from vaegan_jax.config.schema import path_fields
from vaegan_jax.config.validation import validate
from vaegan_jax.errors import UserError
from vaegan_jax.runtime import distributed
from vaegan_jax.setup.memory import reporting_exhaustion

# They return an exit status, and several processes may share them.
_TRAINING = ('train', 'study')
# Fields that memory depends on, most of all.
_SIZES = ('batch_size', 'data.image_size', 'model.width', 'critic.width')


def run_command(command: Command) -> int:
  """Runs a command.

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


def check_processes(command: Command) -> None:
  """Checks that the command runs on several processes, and is equal on all.

  Raises:
    UserError: the mode is for one process, or the flags differ.
  """
  if jax.process_count() > 1 and command.mode not in _TRAINING:
    raise UserError(
      f'--mode={command.mode} is for one process, and '
      f'{jax.process_count()} were started together: start one alone, without '
      '--coordinator'
    )
  configs = {'': command.config} if command.config else {}
  for i, config in enumerate(command.runs.values(), start=1):
    name = f'run {i} ({config.objective}, seed {config.seed}): '
    configs[name] = config
  values = {'--mode': command.mode}
  for prefix, config in configs.items():
    # Each machine may have its own paths, except for the initial weights.
    for field, value in flatten(config.to_dict()).items():
      if field == 'init_from' or field not in path_fields():
        values[prefix + field] = value
  distributed.check_same(
    values, 'start all with the same flags, except for --process_id'
  )


def _sizes(config: ml_collections.ConfigDict | None) -> dict[str, Any]:
  fields = flatten(config) if config else {}
  return {name: fields[name] for name in _SIZES if name in fields}
