"""Trains, evaluates, compares or studies autoencoders, or transfers style.

  python main.py --config=configs/celeba.py --workdir=runs/celeba
  python main.py --mode=evaluate --workdir=runs/celeba
  python main.py --mode=compare --workdirs=runs/mse,runs/geometric
  python main.py --mode=style --config.content=photo.jpg \\
    --config.style=painting.jpg --config.critic=runs/celeba --workdir=runs/style
  python main.py --mode=study --config=configs/celeba.py \\
    --study.objectives=mse,geometric --study.seeds=0,1,2 --workdir=runs/study

Any field of configs/default.py can be set, as in --config.batch_size=128 (for
--mode=style, of configs/style.py).
Several processes train together where a Cloud TPU, SLURM or Open MPI started
them, or with --coordinator=host:port --num_processes=2 --process_id=0 and 1.
A mistake is told in one sentence, with exit status 2.
"""

import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence

import flax
import jax
import ml_collections
from absl import app, flags, logging
from etils import epath

from vaegan_jax.configuration import defaults, grid
from vaegan_jax.configuration.overrides import (
  apply_overrides,
  reject,
  with_objective,
)
from vaegan_jax.configuration.rules import PATH, either, nearest
from vaegan_jax.configuration.serialization import load_config, load_config_file
from vaegan_jax.configuration.validation import validate, validate_style
from vaegan_jax.errors import UserError
from vaegan_jax.runtime import distributed

MODES = ('train', 'evaluate', 'compare', 'style', 'study')
_SHARED_MODES = ('train', 'study')  # Of several processes.
_STUDY_FLAGS = {
  'study.objectives': 'mse,geometric',
  'study.seeds': grid.SEEDS,
}
_PATHS = (('data', 'path'), ('data', 'data_dir'), ('critic', 'weights'))


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
  """

  mode: str
  workdir: str
  config: ml_collections.ConfigDict | None
  runs: Mapping[str, ml_collections.ConfigDict]
  processes: distributed.Processes | None = None


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
  define('study.seeds', grid.SEEDS, 'Of --mode=study, separated by commas.')


def parse(argv: Sequence[str], flag_values: flags.FlagValues) -> Command:
  """Turns a command line into a checked command.

  Args:
    argv: the program's name and its arguments.
    flag_values: where `define_flags` has put the flags.

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
  processes = distributed.parse_flags(
    flag_values.coordinator, flag_values.num_processes, flag_values.process_id
  )
  _check_study_flags(mode, rest, flag_values)
  for path in (flag_values.workdir, *flag_values.workdirs.split(',')):
    if not PATH.holds(path):
      raise UserError(
        f'--workdir={path!r} must be {PATH.text}: for example, '
        '--workdir=runs/first'
      )
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
    return _parse_study(rest, flag_values)
  if mode == 'evaluate' and not flag_values['config'].present:
    config = load_config(epath.Path(workdir) / 'config.json')
  else:
    config = load_config_file(with_objective(flag_values.config, rest))
  apply_overrides(config, rest)
  validate(config)
  _make_paths_absolute(config)
  return Command(mode, workdir, config, {})


def _make_paths_absolute(config: ml_collections.ConfigDict) -> None:
  for section, field in _PATHS:
    config[section][field] = absolute(config[section][field])


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


def _check_study_flags(
  mode: str, rest: list[str], flag_values: flags.FlagValues
) -> None:
  """Tells flags of a study that are misspelt, or not of this mode."""
  for arg in rest[1:]:
    if arg.startswith(('--study', '-study')):
      name = arg.strip('-').partition('=')[0]
      guess = nearest(name, _STUDY_FLAGS) or 'study.objectives'
      raise UserError(
        f'{arg} is not an option: did you mean --{guess}={_STUDY_FLAGS[guess]}?'
      )
  for name, example in _STUDY_FLAGS.items():
    if flag_values[name].present and mode != 'study':
      raise UserError(
        f'--{name}={flag_values[name].value} is for --mode=study: add that, as '
        f'in --mode=study --{name}={example}'
      )


def _parse_study(rest: list[str], flag_values: flags.FlagValues) -> Command:
  """Makes every configuration of the grid, so that none fails later."""
  source, _, variant = flag_values.config.partition(':')
  if variant:
    raise UserError(
      f'--config={flag_values.config} names an objective, but a study has its '
      f'own: for example, --config={source} --study.objectives={variant}'
    )
  for field in ('objective', 'seed'):
    if any(re.match(rf'--?config\.{field}(=|$)', arg) for arg in rest):
      raise UserError(
        f'--config.{field} is set by --mode=study, from --study.{field}s: for '
        f'example, --study.{field}s={_STUDY_FLAGS[f"study.{field}s"]}'
      )
  configs = grid.create_configs(
    source,
    rest,
    objectives=grid.parse_objectives(flag_values['study.objectives'].value),
    seeds=grid.parse_seeds(flag_values['study.seeds'].value),
  )
  workdir = absolute(flag_values.workdir)
  runs = {}
  for (objective, seed), config in configs.items():
    _make_paths_absolute(config)
    runs[str(epath.Path(workdir) / objective / f'seed_{seed}')] = config
  return Command('study', workdir, None, runs)


def _load_runs(
  workdirs: Sequence[str],
) -> dict[str, ml_collections.ConfigDict]:
  return {
    workdir: load_config(epath.Path(workdir) / 'config.json')
    for workdir in workdirs
  }


def absolute(path: str) -> str:
  """Makes a local path absolute, `~` expanded; '' and `gs://...` stay."""
  if not path or '://' in path:
    return path
  return os.path.abspath(os.path.expanduser(os.path.expandvars(path)))


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


def run(command: Command) -> int:
  """Hands over to the command's module and returns the exit status.

  These modules are imported late because they bring in TensorFlow, and a
  mistake should be told before that.
  """
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)  # Orbax and TFDS tell a lot.
  distributed.initialize(command.processes)
  with distributed.only_first_prints():
    _check_processes(command)
    return _run_mode(command)


def _check_processes(command: Command) -> None:
  """Tells several processes that they are too many, or want not the same."""
  if jax.process_count() > 1 and command.mode not in _SHARED_MODES:
    raise UserError(
      f'--mode={command.mode} is for one process, and '
      f'{jax.process_count()} were started together: start one alone, without '
      '--coordinator'
    )
  configs = {'': command.config} if command.config else {}
  for config in command.runs.values():
    configs[f'{config.objective}, seed {config.seed}: '] = config
  values = {'--mode': command.mode}
  for prefix, config in configs.items():
    fields = flax.traverse_util.flatten_dict(config.to_dict())
    for path, value in fields.items():
      if path not in _PATHS:  # Every machine may have its own.
        values[prefix + '.'.join(path)] = value
  distributed.check_same(
    values, 'start all with the same flags, but for --process_id'
  )


def _run_mode(command: Command) -> int:
  if command.mode == 'train':
    from vaegan_jax.modes import train

    validate(command.config, num_devices=jax.device_count())
    return train.train(command.config, command.workdir)
  if command.mode == 'study':
    from vaegan_jax.modes import study

    for config in command.runs.values():
      validate(config, num_devices=jax.device_count())
    return study.study(command.runs, command.workdir)
  if command.mode == 'evaluate':
    from vaegan_jax.modes import evaluate

    evaluate.evaluate(command.config, command.workdir)
  elif command.mode == 'compare':
    from vaegan_jax.modes import compare

    compare.compare(command.runs, command.workdir)
  else:
    from vaegan_jax.modes import style

    style.transfer_style(command.config, command.workdir, command.runs)
  return 0


@contextlib.contextmanager
def telling_mistakes() -> Iterator[None]:
  """Turns a user's mistake into one sentence and exit status 2."""
  try:
    yield
  except UserError as error:
    print('error:', error, file=sys.stderr)
    distributed.leave(2)
    sys.exit(2)
  except KeyboardInterrupt:
    distributed.leave(130)
    sys.exit(130)
  except Exception as error:
    distributed.leave(1, error)
    raise


if __name__ == '__main__':
  define_flags(flags.FLAGS)
  with telling_mistakes():
    app.run(run, flags_parser=lambda argv: parse(argv, flags.FLAGS))
