"""Command lines that run in the tests' own process."""

import contextlib
from unittest import mock

from absl import flags

import main
from vaegan_jax.commands import train
from vaegan_jax.config import cli
from vaegan_jax.config.rules import flatten
from vaegan_jax.config.schema import resumable_fields
from vaegan_jax.report.live import LivePage
from vaegan_jax.training import loop

_updates = {}  # Keyed by the fields that may not change during a run.


def parse(*args):
  """Parses the arguments of main.py into a command."""
  values = flags.FlagValues()
  cli.define_flags(values)
  return main.parse(['main.py', *map(str, args)], values)


def run(*args):
  """Runs main.py with these arguments and returns its exit status."""
  return run_command(parse(*args))


@contextlib.contextmanager
def in_short():
  """Leaves out what takes training long: its page, and measured latents."""
  with (
    mock.patch.object(LivePage, 'write', lambda *_: None),
    mock.patch.object(train, 'measure_finished', lambda *_: loop.DONE),
  ):
    yield


def run_command(command):
  """Runs a parsed command and returns its exit status.

  Updates are kept, so the next run of equal networks does not trace them again.
  """
  from vaegan_jax.setup import run as setup_run

  create_updates = setup_run.create_updates

  def create_updates_once(config, modules, optimizers):
    free = resumable_fields(config)
    key = frozenset(
      (name, repr(value))
      for name, value in flatten(config).items()
      if name not in free
    )
    if key not in _updates:
      _updates[key] = create_updates(config, modules, optimizers)
    return _updates[key]

  with mock.patch.object(setup_run, 'create_updates', create_updates_once):
    return main.run(command)
