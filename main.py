"""Trains, evaluates, compares, studies or uses autoencoders.

  python main.py --config=configs/celeba.py --workdir=runs/celeba
  python main.py --mode=evaluate --workdir=runs/celeba
  python main.py --mode=compare --workdirs=runs/mse,runs/geometric
  python main.py --mode=study --config=configs/celeba.py \\
    --study.objectives=mse,geometric --study.seeds=0,1,2 --workdir=runs/study
  python main.py --mode=encode --input=/data/my_photos --workdir=runs/celeba
  python main.py --mode=export --workdir=runs/celeba

`decode`, `reconstruct` and `sample` use a finished model as the last two do.
Any field of vaegan_jax/config/schema.py is a flag: --config.batch_size=128.
Several processes train together where a Cloud TPU, SLURM or Open MPI started
them, or with --coordinator=host:port --num_processes=2 --process_id=0 and 1.
A mistake is told in one sentence, with exit status 2.
"""

import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Iterator, Sequence


def _stop_loading(*_) -> None:
  """Ends the process at Ctrl-C while there is nothing to be put in order."""
  with contextlib.suppress(OSError):
    os.write(2, b'Stopped by Ctrl-C.\n')
  os._exit(130)


# Libraries that are interrupted while they are loaded may crash.
if __name__ == '__main__' and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
  signal.signal(signal.SIGINT, _stop_loading)

import jax
from absl import app, flags, logging

from vaegan_jax.commands.dispatch import run_command
from vaegan_jax.config import cli
from vaegan_jax.config.cli import Command
from vaegan_jax.config.rules import flatten
from vaegan_jax.config.schema import path_fields
from vaegan_jax.errors import UserError
from vaegan_jax.runtime import distributed, processes
from vaegan_jax.runtime.preemption import (
  INTERRUPTED,
  answering_interrupts,
  interruptible,
)
from vaegan_jax.runtime.terminal import lenient_output, quiet_orbax

_SHARED_MODES = ('train', 'study')  # Of several processes.


def parse(argv: Sequence[str], flag_values: flags.FlagValues) -> Command:
  """Turns a command line into a checked command; see `cli.parse`."""
  launched = processes.launched_by() is not None
  return cli.parse(argv, flag_values, launched=launched)


def run(command: Command) -> int:
  """Connects the processes, if there are several, and runs the mode.

  Args:
    command: from `parse`.

  Returns:
    The exit status.
  """
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)  # Orbax and TFDS tell a lot.
  where = dataclasses.asdict(command.processes) if command.processes else {}
  processes.initialize(**where)
  with processes.only_first_prints():
    _check_processes(command)
    return run_command(command)


def _check_processes(command: Command) -> None:
  """Tells several processes that they are too many, or want not the same."""
  if jax.process_count() > 1 and command.mode not in _SHARED_MODES:
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
    # Each machine may have its own paths, but for the run to start from.
    for field, value in flatten(config.to_dict()).items():
      if field == 'init_from' or field not in path_fields():
        values[prefix + field] = value
  distributed.check_same(
    values, 'start all with the same flags, but for --process_id'
  )


@contextlib.contextmanager
def telling_mistakes() -> Iterator[None]:
  """Turns a user's mistake into one sentence and exit status 2."""
  try:
    yield
  except UserError as error:
    print('error:', error, file=sys.stderr)
    processes.leave(2)
    sys.exit(2)
  except KeyboardInterrupt:
    print('Stopped by Ctrl-C.', file=sys.stderr)
    processes.leave(INTERRUPTED)
    sys.exit(INTERRUPTED)
  except Exception as error:
    processes.leave(1, error)
    raise


if __name__ == '__main__':
  quiet_orbax()
  cli.define_flags(flags.FLAGS)
  with (
    lenient_output(),
    processes.ending_interrupted_imports(),
    interruptible(),
    answering_interrupts(),
    telling_mistakes(),
  ):
    app.run(run, flags_parser=lambda argv: parse(argv, flags.FLAGS))
