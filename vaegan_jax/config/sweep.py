"""The configurations of a study: every objective with every seed.

And with every value of one field, if a sweep names one.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from vaegan_jax.config import variants
from vaegan_jax.config.io import load_config_file
from vaegan_jax.config.overrides import apply_overrides
from vaegan_jax.config.rules import OBJECTIVES, RULES, either, flatten, nearest
from vaegan_jax.config.validation import validate
from vaegan_jax.errors import UserError

SEEDS = '0,1,2'  # As `parse_seeds` takes them.
SWEEP = 'loss.kl_weight=1e-3,1e-2'  # As `parse_sweep` takes it.
# A value that is so many times the objective's own.
_TIMES = re.compile(r'([0-9.]+(?:e[+-]?[0-9]+)?)x')
_RESERVED = ('objective', 'seed')  # A study has flags of its own for these.


class Member(NamedTuple):
  """One run of the grid.

  Attributes:
    label: of its line in the table: the objective and, in a sweep, the value.
    seed: of the run.
  """

  label: str
  seed: int


def create_configs(
  source: str,
  argv: Sequence[str],
  *,
  objectives: Sequence[str],
  seeds: Sequence[int],
  sweep: Sequence[str] = (),
) -> dict[Member, ml_collections.ConfigDict]:
  """Makes every configuration of the grid, so that none fails later.

  Args:
    source: the Python file, perhaps with presets, without an objective.
    argv: the program's name and its `--config.<field>` flags.
    objectives: by name.
    seeds: of every objective.
    sweep: 'field=value' of every run of an objective and a seed, or
      'field=0.3x', that many times the objective's own value; (): one run.

  Returns:
    {member of the grid: its valid configuration}.

  Raises:
    UserError: one is not valid, or they are not on the same images.
  """
  configs = {}
  for objective in objectives:
    for change in sweep or ('',):
      label = f'{objective}, {change}' if change else objective
      for seed in seeds:
        config = _create_config(source, argv, objective, seed, change)
        configs[Member(label, seed)] = config
  first, *others = configs.values()
  for config in others:
    for field, value in config.data.items():
      if value != first.data[field]:
        raise UserError(
          f'--config={source} sets data.{field} to {first.data[field]!r} for '
          f'{first.objective!r} and {value!r} for {config.objective!r}, but a '
          'study needs the same images for all: set it for all, with '
          f'--config.data.{field}={value}'
        )
  return configs


def _create_config(
  source: str, argv: Sequence[str], objective: str, seed: int, change: str
) -> ml_collections.ConfigDict:
  config = load_config_file(variants.add(source, objective))
  apply_overrides(config, list(argv))
  if change:
    change = _resolve(change, flatten(config))
    apply_overrides(config, [argv[0], f'--config.{change}'])
  if config.objective != objective:
    raise UserError(
      f'--config={source} has the objective {config.objective!r} where '
      f'{objective!r} is asked: its get_config(objective) must hand that on, '
      'as configs/celeba.py does'
    )
  config.seed = seed
  try:
    validate(config)
  except UserError as error:
    raise UserError(f'For the objective {objective!r}, {error}') from error
  return config


def _resolve(change: str, fields: Mapping[str, Any]) -> str:
  """Multiplies 'field=0.3x' out, by the field's value; leaves all else.

  The objectives' losses are of different sizes, and so are their KL weights: a
  factor sweeps the rate of each around its own.
  """
  field, _, value = change.partition('=')
  factor, own = _TIMES.fullmatch(value), fields.get(field)
  if factor is None or field not in fields:
    return change
  try:
    if isinstance(own, bool):
      raise ValueError
    number = float(f'{float(factor[1]) * own:.6g}')
    return f'{field}={type(own)(number) if number.is_integer() else number}'
  except (TypeError, ValueError):
    raise UserError(
      f'--study.sweep={change} multiplies {field}, which is {own!r} and no '
      f'number: for example, --study.sweep={SWEEP}'
    ) from None


def parse_objectives(text: str) -> list[str]:
  """Reads names, separated by commas; none are all.

  Raises:
    UserError: a name is unknown, or there twice.
  """
  names = _split(text) or list(OBJECTIVES)
  for name in names:
    if name not in OBJECTIVES:
      guess = nearest(name, OBJECTIVES) or OBJECTIVES[0]
      raise UserError(
        f'--study.objectives={text} names {name!r}, which must be '
        f'{either(OBJECTIVES)}: did you mean {guess!r}?'
      )
  if len(set(names)) < len(names):
    raise UserError(
      f'--study.objectives={text} must name each once: for example, '
      f'--study.objectives={",".join(dict.fromkeys(names))}'
    )
  return names


def parse_seeds(text: str) -> list[int]:
  """Reads whole numbers, separated by commas.

  Raises:
    UserError: one is no seed, or there twice, or there is none.
  """
  rule = RULES['seed']
  names = _split(text)
  seeds = [int(name) for name in names if re.fullmatch(r'[0-9]{1,10}', name)]
  seeds = list(dict.fromkeys(filter(rule.holds, seeds)))
  if not seeds or len(seeds) < len(names):
    example = ','.join(map(str, seeds)) or SEEDS
    raise UserError(
      f'--study.seeds={text} must be whole numbers {rule.text}, each once: for '
      f'example, --study.seeds={example}'
    )
  return seeds


def parse_sweep(text: str) -> list[str]:
  """Reads 'field=value,value,...' as one 'field=value' each; '' as none.

  Whether there is such a field, and a value is valid, is told when the
  configurations are made.

  Raises:
    UserError: it has no field or no value, one twice, or is of the objective or
      the seed.
  """
  if not text:
    return []
  field, separator, rest = text.strip().partition('=')
  values = _split(rest)
  if not field or not separator or not values:
    raise UserError(
      f'--study.sweep={text} must be a field and its values: for example, '
      f'--study.sweep={SWEEP}'
    )
  if field in _RESERVED:
    raise UserError(
      f'--study.sweep={text} sweeps {field!r}, for which a study has a flag of '
      f'its own: for example, --study.{field}s={rest}'
    )
  if len(set(values)) < len(values):
    raise UserError(
      f'--study.sweep={text} must name each value once: for example, '
      f'--study.sweep={field}={",".join(dict.fromkeys(values))}'
    )
  return [f'{field}={value}' for value in values]


def _split(text: str) -> list[str]:
  return [item.strip() for item in text.split(',') if item.strip()]
