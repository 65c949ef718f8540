"""Command lines that run in the tests' own process."""

import contextlib
from unittest import mock

import numpy as np
from absl import flags

import main
from vaegan_jax.commands import train
from vaegan_jax.config import cli
from vaegan_jax.config.rules import flatten
from vaegan_jax.config.schema import resumable_fields
from vaegan_jax.evaluation.evaluator import Evaluator
from vaegan_jax.evaluation.scores import Evaluation
from vaegan_jax.report.live import LivePage
from vaegan_jax.runtime import writers
from vaegan_jax.training import loop

_created = {}  # Keyed by the fields that may not change during a run.


def parse(*args):
  """Parses the arguments of main.py into a command."""
  values = flags.FlagValues()
  cli.define_flags(values)
  return main.parse(['main.py', *map(str, args)], values)


def run(*args, whole=False):
  """Runs main.py with these arguments and returns its exit status."""
  return run_command(parse(*args), whole=whole)


@contextlib.contextmanager
def in_short():
  """Leaves out TensorBoard (it imports TensorFlow), page, measured latents."""
  with (
    mock.patch.object(writers, '_tensorboard_writer', lambda _: None),
    mock.patch.object(LivePage, 'write', lambda *_: None),
    mock.patch.object(train, 'measure_finished', lambda *_: loop.DONE),
  ):
    yield


@contextlib.contextmanager
def _of_updates_alone():
  """Leaves out all that is compiled beside the update."""
  nothing = Evaluation({'psnr': 0.0}, {}, np.zeros(0))
  with (
    in_short(),
    mock.patch.object(train, '_lacks_evaluation', lambda *_: False),
    mock.patch.object(Evaluator, 'evaluate', lambda *_, **__: nothing),
    mock.patch.object(Evaluator, 'plot', lambda *_, **__: {}),
    mock.patch.object(Evaluator, 'play', lambda *_, **__: {}),
  ):
    yield


def _create_once(setup_run, name):
  """Keeps what a function of `setup_run` has created."""
  create = getattr(setup_run, name)

  def create_once(config, *args):
    free = resumable_fields(config)
    key = (
      name,
      frozenset(
        (field, repr(value))
        for field, value in flatten(config).items()
        if field not in free
      ),
    )
    if key not in _created:
      _created[key] = create(config, *args)
    return _created[key]

  return mock.patch.object(setup_run, name, create_once)


def run_command(command, *, whole=False):
  """Runs a parsed command and returns its exit status.

  Networks and updates are kept, so the next run of equal ones does not trace
  them again. Training has no evaluation, figures, page and measured latents
  unless it is asked for as a whole.
  """
  from vaegan_jax.setup import run as setup_run

  with contextlib.ExitStack() as stack:
    if command.mode == 'train' and not whole:
      stack.enter_context(_of_updates_alone())
    for name in ('create_networks', 'create_updates'):
      stack.enter_context(_create_once(setup_run, name))
    return main.run(command)
