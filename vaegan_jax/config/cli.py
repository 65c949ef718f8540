"""What the command line means: a mode, a workdir, and valid configurations.

Owns the flags of `main.py`, apart from `--config.<field>`, and what each mode
makes of them. A study's are in `study_flags.py`, those of the modes that use a
finished model in `use_flags.py`, those that connect processes in
`process_flags.py`.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import ml_collections
from absl import flags
from etils import epath

from vaegan_jax.config import defaults, sweep
from vaegan_jax.config.io import load_config, load_config_file
from vaegan_jax.config.overrides import apply_overrides, reject, with_objective
from vaegan_jax.config.paths import (
  absolute,
  check_data_outside,
  check_encoding,
  make_paths_absolute,
)
from vaegan_jax.config.process_flags import Processes, parse_flags
from vaegan_jax.config.rules import PATH, either, nearest
from vaegan_jax.config.study_flags import check_study_flags, parse_study
from vaegan_jax.config.use_flags import (
  USES,
  Use,
  check_use_flags,
  define_use_flags,
  parse_use,
)
from vaegan_jax.config.validation import validate, validate_style
from vaegan_jax.errors import UserError

MODES = ('train', 'evaluate', 'compare', 'style', 'study', *USES)

flags.disclaim_key_flags()  # For --help they are of the program.


@dataclasses.dataclass(frozen=True)
class Command:
  """What the command line asks for.

  Attributes:
    mode: one of MODES.
    workdir: where it is written.
    config: of the command; None for 'compare' and 'study'.
    runs: {workdir: configuration} of the finished runs that it reads, or of
      the runs that a study makes.
    processes: that are to be connected by flags, if any.
    use: what a finished model is to be used for, of the modes that do.
  """

  mode: str
  workdir: str
  config: ml_collections.ConfigDict | None
  runs: Mapping[str, ml_collections.ConfigDict]
  processes: Processes | None = None
  use: Use | None = None


def define_flags(flag_values: flags.FlagValues) -> None:
  """Defines the flags of this program, apart from `--config.<field>`."""

  def define(name: str, value: str, meaning: str) -> None:
    flags.DEFINE_string(name, value, meaning, flag_values=flag_values)

  define('config', 'configs/quickstart.py', 'Python file, or file:objective.')
  define('mode', 'train', f'What to do: {either(MODES)}.')
  define('workdir', '', 'Where a run is kept, or a comparison is written.')
  define('workdirs', '', 'Runs to compare, separated by commas.')
  define('coordinator', '', 'host:port of process 0, if there are several.')
  define('num_processes', '', 'How many processes train together.')
  define('process_id', '', 'Which of them this is, from 0.')
  define('study.objectives', '', 'Of --mode=study, with commas; empty: all.')
  define('study.sweep', '', 'Of --mode=study: field=value,value,...')
  define('study.seeds', sweep.SEEDS, 'Of --mode=study, separated by commas.')
  define_use_flags(flag_values)


def parse(
  argv: Sequence[str], flag_values: flags.FlagValues, *, launched: bool
) -> Command:
  """Turns a command line into a checked command.

  Args:
    argv: the program's name and its arguments.
    flag_values: where `define_flags` has put the flags.
    launched: whether a launcher started several processes, which connects them
      without flags.

  Returns:
    The command, with a valid configuration.

  Raises:
    UserError: the command line, a file it names or a value is wrong.
  """
  flag_values.set_gnu_getopt(True)
  try:
    rest = flag_values(argv, known_only=True)
  except flags.Error as error:
    raise UserError(f'{error}: see --help') from error
  mode = flag_values.mode
  if mode not in MODES:
    guess = nearest(mode, MODES) or 'train'
    raise UserError(
      f'--mode={mode} must be {either(MODES)}: did you mean --mode={guess}?'
    )
  processes = parse_flags(
    flag_values.coordinator,
    flag_values.num_processes,
    flag_values.process_id,
    launched=launched,
  )
  check_study_flags(mode, rest, flag_values)
  check_use_flags(mode, flag_values)
  for path in (flag_values.workdir, *flag_values.workdirs.split(',')):
    if not PATH.holds(path):
      raise UserError(
        f'--workdir={path!r} must be {PATH.text}: for example, '
        '--workdir=runs/first'
      )
    check_encoding('workdir', path)
  command = _parse_mode(mode, rest, flag_values)
  return dataclasses.replace(command, processes=processes)


def _parse_mode(
  mode: str, rest: list[str], flag_values: flags.FlagValues
) -> Command:
  if mode == 'compare':
    return _parse_compare(rest, flag_values)
  workdir = absolute(flag_values.workdir)
  if flag_values.workdirs:
    raise UserError(
      f'--workdirs={flag_values.workdirs} is for --mode=compare: add that, or '
      f'name one run, such as --workdir={flag_values.workdirs.split(",")[0]}'
    )
  if not workdir:
    raise UserError(
      f'--mode={mode} needs --workdir: for example, --workdir=runs/first'
    )
  if mode == 'style':
    return _parse_style(rest, flag_values)
  if mode == 'study':
    return Command(mode, workdir, None, parse_study(rest, flag_values))
  use = None
  if mode in USES:
    own = ('--config.', '-config.', '--noconfig.', '-noconfig.')
    reject([a for a in rest[1:] if a.startswith('-') and not a.startswith(own)])
    use = parse_use(mode, workdir, flag_values)
  if (mode == 'evaluate' or use) and not flag_values['config'].present:
    config = load_config(epath.Path(workdir) / 'config.json')
    check_data_outside(config, workdir, rest)
  else:
    config = load_config_file(with_objective(flag_values.config, rest))
  apply_overrides(config, rest)
  validate(config)
  check_encoding('config.data.data_dir', config.data.data_dir)
  make_paths_absolute(config)
  return Command(mode, workdir, config, {}, use=use)


def _parse_style(rest: list[str], flag_values: flags.FlagValues) -> Command:
  if flag_values['config'].present:
    raise UserError(
      f'--config={flag_values.config} is not for --mode=style, whose fields '
      'are in configs/style.py: for example, --config.content=photo.jpg'
    )
  config = defaults.get_style_config()
  apply_overrides(config, rest)
  validate_style(config)
  for field in ('content', 'style', 'weights', 'critic'):
    config[field] = absolute(config[field])
  runs = _load_runs([config.critic] if config.critic else [])
  return Command('style', absolute(flag_values.workdir), config, runs)


def _parse_compare(rest: list[str], flag_values: flags.FlagValues) -> Command:
  if flag_values['config'].present or any(
    arg.startswith(('--config.', '--noconfig.')) for arg in rest
  ):
    raise UserError(
      '--mode=compare takes no --config, because each workdir has its own: '
      'for example, --mode=compare --workdirs=runs/mse,runs/geometric'
    )
  reject(rest[1:])
  workdirs = tuple(
    absolute(workdir) for workdir in flag_values.workdirs.split(',') if workdir
  )
  if len(set(workdirs)) < 2:
    raise UserError(
      f'--workdirs={flag_values.workdirs} must name two or more runs: for '
      'example, --workdirs=runs/mse,runs/geometric'
    )
  runs = _load_runs(workdirs)
  output = absolute(flag_values.workdir) or _common_parent(workdirs)
  return Command('compare', output, None, runs)


def _load_runs(
  workdirs: Sequence[str],
) -> dict[str, ml_collections.ConfigDict]:
  runs = {
    workdir: load_config(epath.Path(workdir) / 'config.json')
    for workdir in workdirs
  }
  for workdir, config in runs.items():
    check_data_outside(config, workdir)
  return runs


def _common_parent(workdirs: Sequence[str]) -> str:
  """Returns the deepest folder above all of them; buckets have parents too."""
  first, *others = (epath.Path(workdir).parents for workdir in workdirs)
  for parent in first:
    if all(parent in parents for parents in others):
      return str(parent)
  raise UserError(
    f'--workdirs={",".join(workdirs)} have no folder in common: add --workdir '
    'for the comparison, such as --workdir=runs/comparison'
  )
