"""Command lines that run in the tests' own process."""

from absl import flags

import main
from vaegan_jax.config import cli


def parse(*args):
  """Parses the arguments of main.py into a command."""
  values = flags.FlagValues()
  cli.define_flags(values)
  return main.parse(['main.py', *map(str, args)], values)


def run(*args):
  """Runs main.py with these arguments and returns its exit status."""
  return main.run(parse(*args))
