"""The configurations of a study: every objective with every seed."""

import re
from collections.abc import Sequence

import ml_collections

from vaegan_jax.configuration.overrides import apply_overrides
from vaegan_jax.configuration.rules import OBJECTIVES, RULES, either, nearest
from vaegan_jax.configuration.serialization import load_config_file
from vaegan_jax.configuration.validation import validate
from vaegan_jax.errors import UserError

SEEDS = '0,1,2'  # As `parse_seeds` takes them.


def create_configs(
  source: str,
  argv: Sequence[str],
  *,
  objectives: Sequence[str],
  seeds: Sequence[int],
) -> dict[tuple[str, int], ml_collections.ConfigDict]:
  """Makes every configuration of the grid, so that none fails later.

  Args:
    source: the Python file, without a variant.
    argv: the program's name and its `--config.<field>` flags.
    objectives: by name.
    seeds: of every objective.

  Returns:
    {(objective, seed): a valid configuration}.

  Raises:
    UserError: one is not valid, or they are not on the same images.
  """
  configs = {
    (objective, seed): _create_config(source, argv, objective, seed)
    for objective in objectives
    for seed in seeds
  }
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
  source: str, argv: Sequence[str], objective: str, seed: int
) -> ml_collections.ConfigDict:
  config = load_config_file(f'{source}:{objective}')
  apply_overrides(config, list(argv))
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


def _split(text: str) -> list[str]:
  return [item.strip() for item in text.split(',') if item.strip()]
