"""What the tests of the modes share: runs of a command line in this process."""

import pytest
from absl import flags, logging

import main
from vaegan_jax.commands import train
from vaegan_jax.config import cli
from vaegan_jax.config.rules import flatten
from vaegan_jax.runtime import writers
from vaegan_jax.setup import updates

_create_updates = updates.create_updates
_updates = {}  # By the fields that may not change while a run goes on.


def _create_updates_once(config, modules, optimizers):
  free = train.free_fields(config)
  key = frozenset(
    (name, repr(value))
    for name, value in flatten(config).items()
    if name not in free and name.partition('.')[0] not in free
  )
  if key not in _updates:
    _updates[key] = _create_updates(config, modules, optimizers)
  return _updates[key]


@pytest.fixture(scope='module')
def run():
  """Returns a function that runs a command line here, without TensorBoard.

  What it has compiled is kept, or the next run would trace it again.
  """
  verbosity = logging.get_verbosity()

  def run(workdir, *args):
    values = flags.FlagValues()
    cli.define_flags(values)
    return main.run(
      main.parse(['main.py', *args, f'--workdir={workdir}'], values)
    )

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(writers, '_tensorboard_writer', lambda _: None)
    patch.setattr(updates, 'create_updates', _create_updates_once)
    yield run
  logging.set_verbosity(verbosity)
