"""How `--config.<field>=<value>` flags change a configuration."""

import re
from collections.abc import Iterable, Sequence

import ml_collections
from absl import flags
from ml_collections import config_flags

from vaegan_jax.config import variants
from vaegan_jax.config.rules import OBJECTIVES, flatten, must_be, nearest
from vaegan_jax.errors import UserError

_FLAGS = (
  *('config', 'mode', 'workdir', 'workdirs', 'help'),
  *('study.objectives', 'study.seeds', 'study.sweep'),
  *('input', 'split', 'output', 'num_samples', 'with_critic'),
)


def apply_overrides(config: ml_collections.ConfigDict, argv: list[str]) -> None:
  """Sets the fields named by `--config.<field>` flags, in place.

  Args:
    config: a locked configuration.
    argv: the program's name and its `--config.<field>` flags.

  Raises:
    UserError: a field does not exist, a value is not of its type, or there is
      anything else among the arguments.
  """
  fields = flatten(config)
  for arg in argv[1:]:
    name = re.match(r'--?(?:no)?config\.([^=]*)|', arg)[1]
    if name is not None and name not in fields:
      guess = _similar_field(name, fields)
      raise UserError(f'{arg} names no field of the configuration: {guess}')
  overrides = flags.FlagValues()
  overrides.set_gnu_getopt(True)
  config_flags.DEFINE_config_dict(
    'config', config, flag_values=overrides, sys_argv=argv
  )
  try:
    rest = overrides(argv)[1:]
  except flags.UnrecognizedFlagError as error:
    rest = [f'--{error.flagname}']
  # The others are of Python's own parser, which reads the tuples.
  except (flags.Error, ValueError, MemoryError, RecursionError) as error:
    found = re.match(r'flag --config\.([\w.]+)=', str(error))
    if not found:
      reason = str(error) or 'A value of --config is nested too deeply'
      raise UserError(f'{reason}: see --help') from error
    name = found[1]
    value = str(error).partition('=')[2].partition(':')[0]
    raise UserError(
      f'--config.{name}={value} {must_be(name, fields[name])}'
    ) from error
  reject(rest)


def with_objective(source: str, argv: Sequence[str]) -> str:
  """Names the variant of a configuration file that `--config.objective` asks.

  A file sets other fields by the objective too, such as the weight of the KL,
  so that `--config.objective=mse` must mean the same as `file.py:mse`.

  Args:
    source: `path` or `path:variant`, as in `--config`.
    argv: arguments, among them perhaps that flag.

  Returns:
    The source with the objective if the flag is there and the source names no
    variant but presets, else as it is.
  """
  found = re.findall(r'(?:^|\n)--?config\.objective[=\n](\w+)', '\n'.join(argv))
  _, variant, _ = variants.split(source)
  known = found and found[-1] in OBJECTIVES  # Another is told by its rule.
  return variants.add(source, found[-1]) if known and not variant else source


def _similar_field(name: str, fields: Iterable[str]) -> str:
  sections = {field.partition('.')[0] for field in fields if '.' in field}
  guess = nearest(name, [*fields, *sections])
  if guess in sections:  # A whole section: show one of its fields.
    guess = next(field for field in fields if field.startswith(f'{guess}.'))
  if not guess:
    file = 'configs/style.py' if 'content' in fields else 'configs/default.py'
    return f'see {file} for them all, such as --config.{next(iter(fields))}'
  return f'did you mean --config.{guess}?'


def reject(args: Sequence[str]) -> None:
  """Raises a UserError for the first of the arguments that nobody wanted."""
  if not args:
    return
  guess = nearest(args[0].strip('-').partition('=')[0], _FLAGS)
  hint = f'did you mean --{guess}?' if guess else 'see --help'
  raise UserError(f'{args[0]} is not an option: {hint}')
