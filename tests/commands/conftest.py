"""Fixtures of the commands' tests: run a command line in this process."""

import pytest
from absl import logging

from tests import command_line
from vaegan_jax.config.rules import flatten
from vaegan_jax.config.schema import resumable_fields
from vaegan_jax.runtime import writers
from vaegan_jax.setup import run as setup_run

_create_updates = setup_run.create_updates
_updates = {}  # Keyed by the fields that may not change during a run.


def _create_updates_once(config, modules, optimizers):
  free = resumable_fields(config)
  key = frozenset(
    (name, repr(value))
    for name, value in flatten(config).items()
    if name not in free
  )
  if key not in _updates:
    _updates[key] = _create_updates(config, modules, optimizers)
  return _updates[key]


@pytest.fixture(scope='module')
def run():
  """Returns a function that runs a command line here, without TensorBoard.

  Compiled functions are kept, so the next run does not trace them again.
  """
  verbosity = logging.get_verbosity()

  def run(workdir, *args):
    return command_line.run(*args, f'--workdir={workdir}')

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(writers, '_tensorboard_writer', lambda _: None)
    patch.setattr(setup_run, 'create_updates', _create_updates_once)
    yield run
  logging.set_verbosity(verbosity)
