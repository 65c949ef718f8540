"""Flags `--config.<field>=<value>`, which change a configuration.

They are defined for the configuration of `--config` or of a workdir.
`DEFINE_config_file` is not used, because it supports neither presets after the
colon nor `config.json`, and prints a traceback for a file with an error.
"""

import functools
import re
from collections.abc import Collection, Iterable, Sequence

import ml_collections
from absl import flags
from etils import epath
from ml_collections import config_flags

from vaegan_jax.config.cli_flags import reject
from vaegan_jax.config.io import add_objective, is_saved, split_source
from vaegan_jax.config.paths import absolute, resolve
from vaegan_jax.config.rules import PATH, flatten, must_be, nearest
from vaegan_jax.config.unread import unread
from vaegan_jax.errors import UserError
from vaegan_jax.models.pretrained import diffusers_files
from vaegan_jax.names import OBJECTIVES


def apply_overrides(
  config: ml_collections.ConfigDict, argv: Sequence[str]
) -> set[str]:
  """Sets the fields named by `--config.<field>` flags, in place.

  The last flag of a field counts.

  Returns:
    The names of these fields, for `tell_unread`, without a KL weight that has
    turned off a rate.

  Raises:
    UserError: a field does not exist, a value is not of its type, or there are
      other arguments.
  """
  fields, given = flatten(config), set()
  for arg in argv[1:]:
    name = re.match(r'--?(?:no)?config\.([^=]*)|', arg)[1]
    if name is not None and name not in fields:
      guess = _similar_field(name, fields)
      raise UserError(f'{arg} names no field of the configuration: {guess}')
    given.add(name)
  overrides = flags.FlagValues()
  overrides.set_gnu_getopt(True)
  config_flags.DEFINE_config_dict(
    'config', config, flag_values=overrides, sys_argv=list(argv)
  )
  for name in overrides:
    if isinstance(overrides[name], flags.MultiFlag):
      _use_last(overrides[name])
  try:
    rest = overrides(argv)[1:]
  except flags.UnrecognizedFlagError as error:
    rest = [f'--{error.flagname}']
  # The other errors come from Python's own parser, which reads the tuples.
  except (flags.Error, ValueError, MemoryError, RecursionError) as error:
    raise _bad_value(error, fields) from error
  reject(rest)
  given.discard(None)
  if 'loss.kl_weight' in given:
    has_rate = config.loss.rate > 0
    _use_weight(config, 'loss.rate' in given)
    given -= {'loss.kl_weight'} if has_rate else set()
  return given


def tell_unread(
  configs: Sequence[ml_collections.ConfigDict], given: Collection[str]
) -> None:
  """Names the given fields that no run reads, with the reason."""
  for message in unread(configs, given):
    _tell(message)


def adopt_network(
  config: ml_collections.ConfigDict, argv: Sequence[str], workdir: str = ''
) -> None:
  """Takes the network of the folder of diffusers that `init_from` names.

  Called before `apply_overrides`, so that a flag changes what it takes. If the
  folder is gone, the run in `workdir` has kept the description. Another kind of
  network raises a UserError.
  """
  folder = _last_value('init_from', argv)
  folder = config.init_from if folder is None else folder
  if not folder or not PATH.holds(folder):  # Its rule reports it.
    return
  folder = absolute(folder)
  if resolve(folder) == resolve(workdir):
    return
  found = diffusers_files.read_config(folder)
  if not found and workdir and not epath.Path(folder).exists():
    found = diffusers_files.read_kept(workdir)
  if found and '_class_name' in found:  # Else it has the scaling alone.
    fields = diffusers_files.read_fields(folder, found)
    config.update_from_flattened_dict(fields)


def _use_weight(config: ml_collections.ConfigDict, has_rate: bool) -> None:
  """Makes a KL weight turn off the rate that a configuration file sets."""
  if has_rate and config.loss.rate:
    raise UserError(
      f'loss.rate={config.loss.rate:g} steers the KL weight, which '
      '--config.loss.kl_weight gives too: give one of them, such as '
      f'--config.loss.rate={config.loss.rate:g}, or turn the other off, '
      '--config.loss.rate=0'
    )
  if config.loss.rate:
    _tell(
      f'--config.loss.kl_weight={config.loss.kl_weight:g} is kept, so that '
      f'loss.rate={config.loss.rate:g} of the configuration file is off.'
    )
  config.loss.rate = 0.0


@functools.cache
def _tell(message: str) -> None:
  """Prints a message once: a study's runs have the same flags."""
  print(message, flush=True)


def _use_last(flag: flags.MultiFlag) -> None:
  """Makes a tuple's flag keep its last occurrence instead of joining all."""
  parse = flag.parse

  def parse_alone(value: str) -> None:
    flag.present = 0  # As if it were the first.
    parse(value)

  flag.parse = parse_alone


def _bad_value(error: Exception, fields: dict) -> UserError:
  found = re.match(r'flag --config\.([\w.]+)=', str(error))
  if not found:
    reason = str(error) or 'A value of --config is nested too deeply'
    return UserError(f'{reason}: see --help')
  name = found[1]
  value = str(error).partition('=')[2].partition(':')[0]
  return UserError(f'--config.{name}={value} {must_be(name, fields[name])}')


def with_objective(source: str, argv: Sequence[str]) -> str:
  """Adds the objective of `--config.objective` to the value of `--config`.

  A file sets other fields by the objective too, such as the KL weight:
  `--config.objective=mse` must mean the same as `file.py:mse`. A source that
  names an objective stays.
  """
  given = _last_value('objective', argv)
  if is_saved(source):  # Its other fields fit its objective.
    return source
  _, objective, _ = split_source(source)
  # The rule of the field reports unknown objectives.
  if objective or given not in OBJECTIVES:
    return source
  return add_objective(source, given)


def _last_value(field: str, argv: Sequence[str]) -> str | None:
  """Returns the value of the last `--config.<field>` flag; None: not given."""
  pattern = rf'(?:^|\n)--?config\.{field}[=\n](.*)'
  found = re.findall(pattern, '\n'.join(argv))
  return found[-1] if found else None


def _similar_field(name: str, fields: Iterable[str]) -> str:
  sections = {field.partition('.')[0] for field in fields if '.' in field}
  guess = nearest(name, [*fields, *sections])
  if guess in sections:  # A whole section: show one of its fields.
    guess = next(field for field in fields if field.startswith(f'{guess}.'))
  if not guess:
    return (
      'vaegan_jax/config/schema.py has them all, such as '
      f'--config.{next(iter(fields))}'
    )
  return f'did you mean --config.{guess}?'
