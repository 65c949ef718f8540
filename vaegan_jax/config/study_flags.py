"""The part of the command line that is a study's, and the runs it asks for.

What the flags may say, and the configurations that they make, is in `grid.py`.
"""

import re

import ml_collections
from absl import flags
from etils import epath

from vaegan_jax.config import sweep, variants
from vaegan_jax.config.paths import absolute, make_paths_absolute
from vaegan_jax.config.rules import nearest
from vaegan_jax.errors import UserError

_EXAMPLES = {
  'study.objectives': 'mse,geometric',
  'study.seeds': sweep.SEEDS,
  'study.sweep': sweep.SWEEP,
}


def check_study_flags(
  mode: str, argv: list[str], flag_values: flags.FlagValues
) -> None:
  """Tells flags of a study that are misspelt, or not of this mode.

  Args:
    mode: of the command.
    argv: the program's name and the arguments that are no flag of it.
    flag_values: with the flags of a study.

  Raises:
    UserError: there is one.
  """
  for arg in argv[1:]:
    if arg.startswith(('--study', '-study')):
      name = arg.strip('-').partition('=')[0]
      guess = nearest(name, _EXAMPLES) or 'study.objectives'
      raise UserError(
        f'{arg} is not an option: did you mean --{guess}={_EXAMPLES[guess]}?'
      )
  for name, example in _EXAMPLES.items():
    if flag_values[name].present and mode != 'study':
      raise UserError(
        f'--{name}={flag_values[name].value} is for --mode=study: add that, as '
        f'in --mode=study --{name}={example}'
      )


def parse_study(
  argv: list[str], flag_values: flags.FlagValues
) -> dict[str, ml_collections.ConfigDict]:
  """Makes every configuration of the grid, so that none fails later.

  Args:
    argv: the program's name and its `--config.<field>` flags.
    flag_values: with `--config`, `--workdir` and the flags of a study.

  Returns:
    {workdir of a run: its valid configuration}.

  Raises:
    UserError: a flag is not a study's, or a configuration is not valid.
  """
  source = flag_values.config
  name, variant, _ = variants.split(source)
  if variant:
    raise UserError(
      f'--config={flag_values.config} names an objective, but a study has its '
      f'own: for example, --config={name} --study.objectives={variant}'
    )
  for field in ('objective', 'seed'):
    if any(re.match(rf'--?config\.{field}(=|$)', arg) for arg in argv):
      raise UserError(
        f'--config.{field} is set by --mode=study, from --study.{field}s: for '
        f'example, --study.{field}s={_EXAMPLES[f"study.{field}s"]}'
      )
  configs = sweep.create_configs(
    source,
    argv,
    objectives=sweep.parse_objectives(flag_values['study.objectives'].value),
    seeds=sweep.parse_seeds(flag_values['study.seeds'].value),
    sweep=sweep.parse_sweep(flag_values['study.sweep'].value),
  )
  workdir = absolute(flag_values.workdir)
  runs = {}
  for member, config in configs.items():
    make_paths_absolute(config)
    folder = epath.Path(workdir, *member.label.split(', '))
    runs[str(folder / f'seed_{member.seed}')] = config
  return runs
