"""Fixtures of the commands' tests: run a command line in this process."""

import pytest
from absl import logging

from tests import command_line
from vaegan_jax.runtime import writers


@pytest.fixture(scope='module')
def run():
  """Returns a function that runs a command line here, without TensorBoard."""
  verbosity = logging.get_verbosity()

  def run(workdir, *args, whole=False):
    return command_line.run(*args, f'--workdir={workdir}', whole=whole)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(writers, '_tensorboard_writer', lambda _: None)
    yield run
  logging.set_verbosity(verbosity)
