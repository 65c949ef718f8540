"""The faults of the suite by name, with the functions that inject them."""

import dataclasses
import functools
from collections.abc import Callable

from tests.faults import (
  buckets,
  clock,
  damage,
  disks,
  inputs,
  kills,
  locks,
  readers,
  several,
)
from tests.faults.lab import Lab


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of the table.

  Attributes:
    fault: the fault.
    done: how it is injected.
    do: injects it and returns (how often, what happened). It raises Loss if a
      run was lost, and Skipped if this machine cannot inject the fault.
  """

  fault: str
  done: str
  do: Callable[[Lab], tuple[str, str]]


def _tests(*names: str) -> Callable[[Lab], tuple[str, str]]:
  return lambda lab: inputs.run_tests(*names)


def create_rows(num_kills: int) -> dict[str, Row]:
  """Returns the rows by name, in the order of the table."""
  return {
    'again': Row(
      'none', 'the same run again, with and without cache', kills.run_again
    ),
    'kills': Row(
      'the process is killed',
      'SIGKILL at random moments of a run; resumed to its end',
      functools.partial(kills.kill_randomly, kills=num_kills),
    ),
    'sigterm': Row(
      'the process is stopped',
      'SIGTERM at random moments; resumed to its end',
      kills.terminate_randomly,
    ),
    'ctrl_c': Row(
      'Ctrl-C, or the terminal is closed',
      'SIGINT and SIGHUP at random moments, imports included, some twice; '
      'resumed',
      functools.partial(kills.interrupt_randomly, times=20),
    ),
    'closed_output': Row(
      'the output is closed',
      'stdout and stderr closed after three lines',
      kills.close_output,
    ),
    'damage': Row(
      'a file of the newest checkpoint is damaged',
      f'each of its files {", ".join(damage.METHODS)}; resumed',
      damage.damage_each_file,
    ),
    'damaged_checkpoints': Row(
      'whole checkpoints are damaged',
      'emptied, without meta or state, a junk one, two in a row; resumed',
      damage.damage_whole_checkpoints,
    ),
    'renamed': Row(
      'a checkpoint is renamed',
      'the oldest to be the newest, the newest to be the oldest; resumed',
      damage.rename_checkpoints,
    ),
    'all_damaged': Row(
      'every checkpoint is damaged', 'zeros in all files', damage.damage_all
    ),
    'full_disk': Row(
      'the disk is full',
      'a disk of 4 MB is filled while a run saves',
      disks.fill_the_disk,
    ),
    'read_only': Row(
      'the workdir is read-only', 'trained there', disks.read_only
    ),
    'read_only_checkpoints': Row(
      'checkpoints/ is read-only',
      'from the beginning, and from the middle of a run on',
      disks.read_only_checkpoints,
    ),
    'cache': Row(
      'the compilation cache is damaged',
      'SIGKILL while it is written; then garbled',
      disks.garble_the_cache,
    ),
    'tensorboard': Row(
      'TensorBoard fails', 'every call raises', disks.break_tensorboard
    ),
    'readers': Row(
      'several read one workdir',
      'evaluations at once, of a finished run and beside a trainer',
      readers.read_together,
    ),
    'two_trainers': Row(
      'two trainers on one workdir',
      'a second is started, twice; then the first is killed',
      locks.train_twice,
    ),
    'stale_lock': Row(
      'a lock is left behind',
      'it names a living process, is empty, is garbage',
      locks.leave_a_lock,
    ),
    'clock': Row(
      'the clock goes back',
      'by a day, for the whole process, within a run and between two',
      clock.set_back,
    ),
    'configuration': Row(
      'another configuration',
      'resumed with one other field',
      inputs.change_the_configuration,
    ),
    'data': Row(
      'another dataset',
      'resumed with an image less, more, or another',
      inputs.change_the_data,
    ),
    'grown_data': Row(
      'the folder of images grows',
      'photos that sort first are added; evaluated and resumed, by '
      'tests/setup/data_identity_test.py',
      _tests(
        'tests/setup/data_identity_test.py::'
        'test_a_folder_that_grows_under_a_run'
      ),
    ),
    'damaged_data': Row(
      'the index of a folder, or its decoded images, are damaged',
      f'each {", ".join(damage.METHODS)}',
      inputs.damage_the_data,
    ),
    'bad_input': Row(
      'a wrong split, folder, size or value',
      'tests/config/malformed_configs_test.py',
      _tests('tests/config/malformed_configs_test.py'),
    ),
    'nan': Row(
      'a batch is not finite',
      'NaN at step 7; then a learning rate of 1e30',
      inputs.give_nan,
    ),
    'compilations': Row(
      'an update compiles again',
      'tests/training/update_test.py counts',
      _tests(
        'tests/training/update_test.py::'
        'test_five_steps_compile_once_and_reuse_the_buffers'
      ),
    ),
    'move': Row(
      'another number of devices or processes', 'resumed there', several.move
    ),
    'two_sigterm': Row(
      'one of two processes is stopped',
      'SIGTERM to each in turn; resumed',
      several.terminate_one,
    ),
    'two_sigkill': Row(
      'one of two processes is killed',
      'SIGKILL to each in turn; resumed',
      several.kill_one,
    ),
    'two_damage': Row(
      'two processes find a damaged checkpoint',
      'a file of its arrays cut, or a byte flipped; resumed',
      several.damage_the_newest,
    ),
    'two_unreadable': Row(
      'one of two processes cannot read a checkpoint',
      'its reading fails; resumed',
      several.fail_one_read,
    ),
    'bucket': Row(
      'one of two processes is killed while it copies data of a bucket',
      'SIGKILL while it copies the images; then every file of a copy is '
      'damaged; resumed',
      buckets.kill_while_copying,
    ),
  }
