"""The flags of `main.py`, one row each, apart from `--config.<field>`."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from vaegan_jax.config.paths import check_encoding
from vaegan_jax.config.rules import PATH, either, nearest
from vaegan_jax.errors import UserError
from vaegan_jax.names import EXPORT_FORMATS

# Modes that use a finished model, with the folder of the workdir that each
# writes by default.
USES = {
  'encode': 'latents',
  'decode': 'decoded',
  'reconstruct': 'reconstructed',
  'sample': 'samples',
  'export': 'export',
}
MODES = ('train', 'evaluate', 'compare', 'study', 'report', *USES)
SEEDS = '0,1,2'
SWEEP = 'loss.kl_weight=1e-3,1e-2'
NUM_EXAMPLES, MEGABYTES = 32, 20.0  # Of a report.
_MAX_SAMPLES = 10**7
_SPLITS = ('train', 'eval')
_STYLE = 'docs/examples/style_transfer.py'


class _Flag(NamedTuple):
  """One flag."""

  define: Callable[..., Any]  # The function of absl that defines it.
  default: Any
  help: str
  rule: str  # The words after "must be" in an error.
  example: str  # A valid value.
  modes: Sequence[str] = ()  # The modes that take it; (): all.
  options: Mapping[str, Any] = {}  # Further arguments of `define`.


# fmt: off
FLAGS = {
  'config': _Flag(
    flags.DEFINE_string, 'configs/quickstart.py',
    "Python file; after a colon an objective, presets, or both. Or a run's "
    'config.json.',
    'a Python file', 'configs/celeba.py'),
  'mode': _Flag(
    flags.DEFINE_enum, 'train', 'What to do.', either(MODES), 'train',
    options={'enum_values': MODES}),
  'workdir': _Flag(
    flags.DEFINE_string, '', 'Folder of a run, or of what a mode writes.',
    PATH.text, 'runs/first'),
  'workdirs': _Flag(
    flags.DEFINE_list, [], 'Runs to compare, separated by commas.', PATH.text,
    'runs/mse,runs/geometric', ('compare', 'report')),
  'coordinator': _Flag(
    flags.DEFINE_string, '', 'host:port of process 0, if there are several.',
    'a host and a port from 1 to 65535', '10.0.0.1:1234'),
  'num_processes': _Flag(
    flags.DEFINE_integer, None, 'Number of processes that train together.',
    'a whole number from 1', '2', options={'lower_bound': 1}),
  'process_id': _Flag(
    flags.DEFINE_integer, None, 'Index of this process, from 0.',
    'a whole number from 0', '0', options={'lower_bound': 0}),
  'study.objectives': _Flag(
    flags.DEFINE_list, [], 'Objectives of a study; empty: all.',
    'names of objectives', 'mse,geometric', ('study',)),
  'study.sweep': _Flag(
    flags.DEFINE_list, [], 'Field of a study and its values: '
    'field=value,value,...', 'a field and its values', SWEEP, ('study',)),
  'study.seeds': _Flag(
    flags.DEFINE_list, SEEDS, 'Seeds of a study, separated by commas.',
    'whole numbers', SEEDS, ('study',)),
  'input': _Flag(
    flags.DEFINE_string, '',
    'Images to encode or reconstruct, latents to decode: a folder or a file.',
    PATH.text, '/data/my_photos', ('encode', 'decode', 'reconstruct')),
  'split': _Flag(
    flags.DEFINE_enum, None, "Split of the run's dataset, instead of --input.",
    either(_SPLITS), 'eval', ('encode', 'reconstruct'),
    {'enum_values': _SPLITS}),
  'output': _Flag(
    flags.DEFINE_string, '', 'Folder to write; empty: one in the workdir. A '
    'report may be a file.', PATH.text, '/data/latents', (*USES, 'report')),
  'report.num_examples': _Flag(
    flags.DEFINE_integer, NUM_EXAMPLES,
    'Examples on the page of a report, if they fit.',
    'a whole number from 1 to 10000', '64', ('report',),
    {'lower_bound': 1, 'upper_bound': 10_000}),
  'report.megabytes': _Flag(
    flags.DEFINE_float, MEGABYTES,
    'The most that the page of a report may have.',
    'a number from 1 to 1000', '20', ('report',),
    {'lower_bound': 1.0, 'upper_bound': 1000.0}),
  'tile': _Flag(
    flags.DEFINE_list, [],
    'Side of overlapping tiles, in pixels or samples, or one an axis: takes '
    'inputs of any size whole.', 'whole numbers from 1', '256',
    ('encode', 'decode', 'reconstruct')),
  'num_samples': _Flag(
    flags.DEFINE_integer, 64, 'Number of samples.',
    f'a whole number from 1 to {_MAX_SAMPLES}', '1000', ('sample',),
    {'lower_bound': 1, 'upper_bound': _MAX_SAMPLES}),
  'format': _Flag(
    flags.DEFINE_enum, 'own', "Form of an export: 'own' is for "
    "vaegan_jax.load, 'stablehlo' for jax.export.", either(EXPORT_FORMATS),
    'diffusers', ('export',), {'enum_values': EXPORT_FORMATS}),
  'with_critic': _Flag(
    flags.DEFINE_bool, True, 'Whether the critic is exported too.',
    'true or false', 'false', ('export',)),
}
# fmt: on
flags.disclaim_key_flags()  # --help lists them as flags of the program.


def define_flags(flag_values: flags.FlagValues) -> None:
  """Defines the flags of this program, apart from `--config.<field>`."""
  for name, flag in FLAGS.items():
    flag.define(
      name,
      flag.default,
      help=flag.help,
      flag_values=flag_values,
      **flag.options,
    )


def parse_flags(
  argv: Sequence[str], flag_values: flags.FlagValues
) -> list[str]:
  """Parses the flags of this program, and returns the other arguments.

  Raises:
    UserError: a value is wrong, or a flag is not for the mode.
  """
  flag_values.set_gnu_getopt(True)
  try:
    rest = flag_values(argv, known_only=True)
  except flags.Error as error:
    raise _bad_value(str(error), _mode_of(argv)) from error
  mode = flag_values.mode
  for name, flag in FLAGS.items():
    value = as_text(flag_values[name].value)
    if flag_values[name].present and flag.modes and mode not in flag.modes:
      raise UserError(
        f'--{name}={value} is for --mode={" or ".join(flag.modes)}: for '
        f'example, --mode={flag.modes[0]} --{name}={flag.example}'
      )
    if flag.define is flags.DEFINE_float and value == 'nan':
      raise bad_flag(name, value)  # absl's bounds let it pass.
    if flag.rule == PATH.text:
      for path in value.split(','):
        if not PATH.holds(path):
          raise bad_flag(name, path)
        check_encoding(name, path)
  return rest


def as_text(value: Any) -> str:
  """Returns the value of a flag as it is typed."""
  return ','.join(value) if isinstance(value, list) else str(value)


def bad_flag(
  name: str, value: Any, rule: str = '', mode: str = ''
) -> UserError:
  """Returns the error for a flag's value.

  Args:
    name, value: the flag.
    rule: what it must be; '': the rule of the flag.
    mode: the command's mode, to which the flag may not belong; '': it does.
  """
  flag = FLAGS[name]
  remedy = f'--{name}={flag.example}'
  if mode and flag.modes and mode not in flag.modes:
    remedy = f'--mode={flag.modes[0]} {remedy}'
  return UserError(
    f'--{name}={as_text(value)} must be {rule or flag.rule}: for example, '
    f'{remedy}'
  )


def _mode_of(argv: Sequence[str]) -> str:
  """Returns the mode of a command with a wrong flag; '' if it is that flag."""
  alone = flags.FlagValues()
  alone.set_gnu_getopt(True)
  flags.DEFINE_string('mode', FLAGS['mode'].default, '', flag_values=alone)
  try:
    alone(argv, known_only=True)
  except flags.Error:
    return ''
  return alone.mode


def reject(args: Sequence[str]) -> None:
  """Raises a UserError for the first argument that is not a flag, if any."""
  if args:
    guess = nearest(args[0].strip('-').partition('=')[0], (*FLAGS, 'help'))
    hint = 'see --help'
    if guess in FLAGS:
      hint = f'did you mean --{guess}={FLAGS[guess].example}?'
    raise UserError(f'{args[0]} is not an option: {hint}')


def _bad_value(message: str, mode: str) -> UserError:
  found = re.match(r'flag --([\w.]+)=(.*?): ', message, re.DOTALL)
  name, value = found.groups() if found else ('', '')
  if name == 'mode' and value == 'style':
    return UserError(
      f'--mode=style is now an example of the library, {_STYLE}: for example, '
      f'PYTHONPATH=. python {_STYLE} --help'
    )
  if name == 'mode' and (guess := nearest(value, MODES)):
    return UserError(
      f'--mode={value} must be {either(MODES)}: did you mean --mode={guess}?'
    )
  if name in FLAGS:
    return bad_flag(name, value, mode=mode)
  return UserError(f'{message}: see --help')
