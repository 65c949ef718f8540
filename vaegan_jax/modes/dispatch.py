"""Hands a command over to the file of its mode.

These are imported late because they bring in TensorFlow, and a mistake should
be told before that.
"""

import jax

from vaegan_jax.configuration.command_line import Command
from vaegan_jax.configuration.validation import validate
from vaegan_jax.runtime.preemption import interruptible


def run_mode(command: Command) -> int:
  """Does what a command asks for.

  Args:
    command: with valid configurations.

  Returns:
    The process's exit status.

  Raises:
    UserError: a file or a value is wrong.
  """
  if command.mode == 'train':
    from vaegan_jax.modes import train

    validate(command.config, num_devices=jax.device_count())
    return train.train(command.config, command.workdir)
  if command.mode == 'study':
    from vaegan_jax.modes import study

    for config in command.runs.values():
      validate(config, num_devices=jax.device_count())
    return study.study(command.runs, command.workdir)
  if command.mode == 'evaluate':
    from vaegan_jax.modes import evaluate

    with interruptible():
      evaluate.evaluate(command.config, command.workdir)
  elif command.mode == 'compare':
    from vaegan_jax.modes import compare

    with interruptible():
      compare.compare(command.runs, command.workdir)
  else:
    from vaegan_jax.modes import style

    with interruptible():
      style.transfer_style(command.config, command.workdir, command.runs)
  return 0
