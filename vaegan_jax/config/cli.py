"""The command line: a mode, a workdir and valid configurations.

`cli_flags.py` has the flags, `overrides.py` those of `--config.<field>`.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence

import ml_collections
from absl import flags
from etils import epath

from vaegan_jax.config import overrides, paths, sweep
from vaegan_jax.config.cli_flags import (
  FLAGS,
  USES,
  as_text,
  bad_flag,
  define_flags,
  parse_flags,
  reject,
)
from vaegan_jax.config.io import (
  load_config,
  load_config_file,
  make_paths_absolute,
)
from vaegan_jax.config.validation import validate
from vaegan_jax.errors import UserError
from vaegan_jax.names import REPORT_FILE

__all__ = ['Command', 'Processes', 'Use', 'define_flags', 'parse']


@dataclasses.dataclass(frozen=True)
class Processes:
  """Position of this process among all, as its flags say."""

  coordinator: str  # 'host:port' of process 0, free to be listened on.
  num_processes: int
  process_id: int  # From 0.


@dataclasses.dataclass(frozen=True)
class Use:
  """Settings of a command that uses a finished model."""

  input: str  # Path of images or latents; '' with a split, or without any.
  split: str  # 'train' or 'eval', of the run's own dataset; '' with an input.
  output: str  # Path of the folder that is written.
  tile: tuple[int, ...]  # Side of overlapping tiles, or one an axis; (): none.
  num_samples: int
  with_critic: bool  # Whether the critic is exported.
  format: str  # The export's, one of `names.EXPORT_FORMATS`.


@dataclasses.dataclass(frozen=True)
class PageOptions:
  """The page that the mode `report` writes."""

  path: str  # The HTML file.
  num_examples: int  # On the page, if they fit.
  megabytes: float  # The most that the page may have.


@dataclasses.dataclass(frozen=True)
class Command:
  """A parsed command line."""

  mode: str  # One of `cli_flags.MODES`.
  workdir: str  # Absolute path of the folder that is written.
  config: ml_collections.ConfigDict | None  # None for modes of several runs.
  # {workdir: configuration} of the finished runs that are read, or of a study.
  runs: Mapping[str, ml_collections.ConfigDict]
  processes: Processes | None = None  # Set if flags connect several.
  # For the modes that use a finished model, and for 'report'.
  use: Use | PageOptions | None = None


def parse(
  argv: Sequence[str], flag_values: flags.FlagValues, *, launched: bool
) -> Command:
  """Turns a command line into a command with a valid configuration.

  Args:
    argv: the program's name and its arguments.
    flag_values: where `define_flags` has defined the flags.
    launched: whether a launcher started several processes, which connects them
      without flags.

  Raises:
    UserError: the command line, a file it names or a value is wrong.
  """
  rest = parse_flags(argv, flag_values)
  processes = _parse_processes(flag_values, launched)
  command = _parse_mode(rest, flag_values)
  return dataclasses.replace(command, processes=processes)


def _parse_mode(rest: list[str], flag_values: flags.FlagValues) -> Command:
  mode, workdir = flag_values.mode, paths.absolute(flag_values.workdir)
  if mode == 'compare':
    return _parse_compare(rest, flag_values)
  if mode == 'report':
    return _parse_report(rest, flag_values)
  if not workdir:
    raise UserError(
      f'--mode={mode} needs --workdir: for example, --workdir=runs/first'
    )
  if mode == 'study':
    runs = sweep.create_runs(
      flag_values.config,
      rest,
      workdir,
      objectives=flag_values['study.objectives'].value,
      seeds=flag_values['study.seeds'].value,
      sweep=flag_values['study.sweep'].value,
    )
    return Command(mode, workdir, None, runs)
  use = None
  if mode in USES:
    own = ('--config.', '-config.', '--noconfig.', '-noconfig.')
    reject([a for a in rest[1:] if a.startswith('-') and not a.startswith(own)])
    use = _parse_use(workdir, flag_values)
  if (mode == 'evaluate' or use) and not flag_values['config'].present:
    config = _load_run(workdir, rest)
  else:
    config = load_config_file(
      overrides.with_objective(flag_values.config, rest)
    )
    overrides.adopt_network(config, rest, workdir)
  given = overrides.apply_overrides(config, rest)
  validate(config)
  overrides.tell_unread([config], given)
  paths.check_encoding('config.data.data_dir', config.data.data_dir)
  make_paths_absolute(config)
  return Command(mode, workdir, config, {}, use=use)


def _parse_compare(rest: list[str], flag_values: flags.FlagValues) -> Command:
  if flag_values['config'].present or any(
    arg.startswith(('--config.', '--noconfig.')) for arg in rest
  ):
    raise UserError(
      '--mode=compare takes no --config, because each workdir has its own: '
      'for example, --mode=compare --workdirs=runs/mse,runs/geometric'
    )
  reject(rest[1:])
  workdirs = [
    paths.absolute(workdir) for workdir in flag_values.workdirs if workdir
  ]
  if len(set(workdirs)) < 2:
    raise bad_flag('workdirs', flag_values.workdirs, 'two or more workdirs')
  runs = {workdir: _load_run(workdir) for workdir in workdirs}
  output = paths.absolute(flag_values.workdir) or _common_parent(workdirs)
  return Command('compare', output, None, runs)


def _parse_report(rest: list[str], flag_values: flags.FlagValues) -> Command:
  workdir = paths.absolute(flag_values.workdir)
  output = paths.absolute(flag_values.output)
  workdirs = [paths.absolute(path) for path in flag_values.workdirs if path]
  if not (workdirs or workdir):
    raise UserError(
      '--mode=report needs --workdir, or --workdirs for several runs: for '
      'example, --mode=report --workdir=runs/first'
    )
  if flag_values['config'].present:
    raise UserError(
      f'--config={flag_values.config} is not for --mode=report, because each '
      'workdir has its own: leave it out; --config.<field> changes a field'
    )
  runs = {path: _load_run(path, rest) for path in workdirs or [workdir]}
  given = set()
  for config in runs.values():
    given |= overrides.apply_overrides(config, rest)
    validate(config)
    make_paths_absolute(config)
  overrides.tell_unread([*runs.values()], given)
  path = epath.Path(output or workdir or _common_parent([*runs]))
  if not output.endswith('.html') or path.is_dir():
    path /= REPORT_FILE
  options = PageOptions(
    path=str(path),
    num_examples=flag_values['report.num_examples'].value,
    megabytes=flag_values['report.megabytes'].value,
  )
  return Command('report', str(path.parent), None, runs, use=options)


def _load_run(
  workdir: str, args: Sequence[str] = ()
) -> ml_collections.ConfigDict:
  """Reads the configuration of a finished run, whose data is not in it."""
  config = load_config(epath.Path(workdir) / 'config.json')
  paths.check_data_outside(config, workdir, args)
  return config


def _common_parent(workdirs: Sequence[str]) -> str:
  """Returns the deepest folder above all workdirs, which may be in a bucket."""
  first, *others = (epath.Path(workdir).parents for workdir in workdirs)
  for parent in first:
    if all(parent in parents for parents in others):
      return str(parent)
  raise UserError(
    f'--workdirs={as_text(workdirs)} have no folder in common: add --workdir '
    'for the comparison, such as --workdir=runs/comparison'
  )


def _parse_processes(
  flag_values: flags.FlagValues, launched: bool
) -> Processes | None:
  names = ('coordinator', 'num_processes', 'process_id')
  given = [flag_values[name].value for name in names]
  if given == ['', None, None] and launched:  # JAX reads the variable itself.
    return None
  given[0] = given[0] or os.environ.get('JAX_COORDINATOR_ADDRESS', '')
  if given == ['', None, None]:
    return None
  missing = [
    f'--{name}'
    for name, value in zip(names, given, strict=True)
    if value in ('', None)
  ]
  if missing:
    example = ' '.join(f'--{name}={FLAGS[name].example}' for name in names)
    raise UserError(
      f'{" and ".join(missing)} must be given too, because several processes '
      f'are connected by all three: for example, {example}'
    )
  coordinator, num_processes, process_id = given
  host, _, port = coordinator.rpartition(':')
  if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise bad_flag('coordinator', coordinator)
  if process_id >= num_processes:
    raise bad_flag(
      'process_id',
      process_id,
      f'from 0 to {num_processes - 1}, one less than '
      f'--num_processes={num_processes}',
    )
  return Processes(coordinator, num_processes, process_id)


def _parse_use(workdir: str, flag_values: flags.FlagValues) -> Use:
  mode = flag_values.mode
  source, split = flag_values.input, flag_values.split or ''
  example = f'--mode={mode} --input={FLAGS["input"].example}'
  if mode == 'decode':
    example = '--mode=decode --input=runs/celeba/latents'
  if mode in FLAGS['split'].modes:
    example += f', or --mode={mode} --split=eval'
  if source and split:
    raise UserError(
      f'--input={source} and --split={split} must be one or the other: for '
      f'example, {example}'
    )
  if mode in FLAGS['input'].modes and not (source or split):
    raise UserError(f'--mode={mode} needs --input: for example, {example}')
  tile = flag_values.tile
  if not all(n.isdecimal() and int(n) for n in tile):
    raise bad_flag('tile', tile)
  if tile and split:
    raise UserError(
      f'--tile={as_text(tile)} is for files of any size, and --split={split} '
      f"has examples of the training's: for example, --mode={mode} "
      f'--input={FLAGS["input"].example} --tile={as_text(tile)}'
    )
  output = paths.absolute(flag_values.output)
  output = output or str(epath.Path(workdir) / USES[mode])
  for name, path in (('workdir', workdir), ('input', source)):
    if path and paths.resolve(output) == paths.resolve(path):
      raise UserError(
        f'--output={output} is --{name} itself, which must not change: name '
        f'another folder, such as --output={output}_2'
      )
  return Use(
    input=paths.absolute(source),
    split=split,
    output=output,
    tile=tuple(map(int, tile)),
    num_samples=flag_values.num_samples,
    with_critic=flag_values.with_critic,
    format=flag_values.format,
  )
