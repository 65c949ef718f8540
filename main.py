"""Trains, evaluates, compares, studies or uses autoencoders.

  python main.py --config=configs/celeba.py --workdir=runs/celeba
  python main.py --mode=evaluate --workdir=runs/celeba
  python main.py --mode=compare --workdirs=runs/mse,runs/geometric
  python main.py --mode=study --config=configs/celeba.py \\
    --study.objectives=mse,geometric --study.seeds=0,1,2 --workdir=runs/study
  python main.py --mode=encode --input=/data/my_photos --workdir=runs/celeba

`decode`, `reconstruct`, `sample` and `export` use a finished model, as `encode`
does. Any field of vaegan_jax/config/schema.py is a flag:
--config.batch_size=128. A Cloud TPU, SLURM, Open MPI or --coordinator,
--num_processes and --process_id connect several processes.
"""

import contextlib
import dataclasses
import os
import signal
from collections.abc import Sequence


def _stop_loading(*_) -> None:
  with contextlib.suppress(OSError):
    os.write(2, b'Stopped by Ctrl-C.\n')
  os._exit(130)


# Libraries may crash if they are interrupted while they are loaded.
if __name__ == '__main__' and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
  signal.signal(signal.SIGINT, _stop_loading)

from absl import app, flags, logging

from vaegan_jax.commands.dispatch import check_processes, run_command
from vaegan_jax.config import cli
from vaegan_jax.runtime import processes
from vaegan_jax.runtime.kept_programs import keep_programs
from vaegan_jax.runtime.preemption import answering_interrupts, interruptible
from vaegan_jax.runtime.terminal import lenient_output, quiet_orbax


def parse(argv: Sequence[str], flag_values: flags.FlagValues) -> cli.Command:
  """Turns a command line into a checked command; see `cli.parse`."""
  launched = processes.launched_by() is not None
  return cli.parse(argv, flag_values, launched=launched)


def run(command: cli.Command) -> int:
  """Connects the processes, runs the mode and returns the exit status."""
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)  # Orbax and TFDS log much.
  where = dataclasses.asdict(command.processes) if command.processes else {}
  processes.initialize(**where)
  keep_programs(command.workdir)
  with processes.only_first_prints():
    check_processes(command)
    return run_command(command)


if __name__ == '__main__':
  quiet_orbax()
  cli.define_flags(flags.FLAGS)
  with (
    lenient_output(),
    processes.ending_interrupted_libraries(),
    interruptible(),
    answering_interrupts(),
    processes.reporting_errors(),
  ):
    app.run(run, flags_parser=lambda argv: parse(argv, flags.FLAGS))
