"""The configurations of a study: every objective with every seed.

If a sweep names a field, also with every value of it.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from etils import epath

from vaegan_jax.config import overrides, schema
from vaegan_jax.config.cli_flags import FLAGS, SEEDS, SWEEP
from vaegan_jax.config.io import (
  add_objective,
  is_saved,
  load_config_file,
  make_paths_absolute,
  split_source,
)
from vaegan_jax.config.rules import either, flatten, nearest
from vaegan_jax.config.validation import validate
from vaegan_jax.errors import UserError
from vaegan_jax.names import OBJECTIVES

# A value such as '0.3x', a multiple of the objective's own.
_MULTIPLE = re.compile(r'([0-9.]+(?:e[+-]?[0-9]+)?)x')
_RESERVED = ('objective', 'seed')  # A study has other flags for these.


def create_runs(
  source: str,
  argv: Sequence[str],
  workdir: str,
  *,
  objectives: Sequence[str],
  seeds: Sequence[str],
  sweep: Sequence[str],
) -> dict[str, ml_collections.ConfigDict]:
  """Creates every configuration of a study, so that none fails later.

  Args:
    source: the value of `--config`.
    argv: the program's name and its `--config.<field>` flags.
    workdir: absolute path of the study.
    objectives, seeds, sweep: values of the flags of these names.

  Returns:
    {workdir of a run: its valid configuration}.

  Raises:
    UserError: a flag is wrong, a configuration is not valid, or they differ in
      their data.
  """
  if is_saved(source):
    raise UserError(
      f'--config={source} is the configuration of one run, but a study has '
      'several: name a Python file, such as --config=configs/celeba.py'
    )
  path, objective, _ = split_source(source)
  if objective:
    raise UserError(
      f'--config={source} names an objective, but a study has its own: for '
      f'example, --config={path} --study.objectives={objective}'
    )
  for field in _RESERVED:
    if any(re.match(rf'--?config\.{field}(=|$)', arg) for arg in argv):
      raise UserError(
        f'--config.{field} is set by --mode=study, from --study.{field}s: for '
        f'example, --study.{field}s={FLAGS[f"study.{field}s"].example}'
      )
  names, numbers = _parse_objectives(objectives), _parse_seeds(seeds)
  runs, given = {}, set()
  changes = _parse_sweep(sweep) or ['']
  for objective, change, seed in itertools.product(names, changes, numbers):
    folder = epath.Path(workdir, objective, change, f'seed_{seed}')
    config, fields = _create_config(source, argv, objective, seed, change)
    runs[str(folder)], given = config, given | fields
  _check_same_data(source, list(runs.values()))
  overrides.tell_unread([*runs.values()], given)
  for config in runs.values():
    make_paths_absolute(config)
  return runs


def _check_same_data(
  source: str, configs: Sequence[ml_collections.ConfigDict]
) -> None:
  first, *others = configs
  for config in others:
    for field, value in config.data.items():
      if value != first.data[field]:
        raise UserError(
          f'--config={source} sets data.{field} to {first.data[field]!r} for '
          f'{first.objective!r} and {value!r} for {config.objective!r}, but a '
          'study needs the same images for all: set it for all, with '
          f'--config.data.{field}={value}'
        )


def _create_config(
  source: str, argv: Sequence[str], objective: str, seed: int, change: str
) -> tuple[ml_collections.ConfigDict, set[str]]:
  """Returns a run's configuration, and the names of its flags' fields."""
  config = load_config_file(add_objective(source, objective))
  overrides.adopt_network(config, argv)
  given = overrides.apply_overrides(config, argv)
  if change:
    change = _resolve(change, flatten(config))
    # With the other flags, which it may contradict.
    given = overrides.apply_overrides(config, [*argv, f'--config.{change}'])
  if config.objective != objective:
    raise UserError(
      f'--config={source} has the objective {config.objective!r} instead of '
      f'{objective!r}: its get_config(objective) must pass that on, as '
      'configs/celeba.py does'
    )
  config.seed = seed
  try:
    validate(config)
  except UserError as error:
    raise UserError(f'For the objective {objective!r}, {error}') from error
  return config, given


def _resolve(change: str, fields: Mapping[str, Any]) -> str:
  """Multiplies 'field=0.3x' by the field's value; returns others unchanged."""
  field, _, value = change.partition('=')
  factor, own = _MULTIPLE.fullmatch(value), fields.get(field)
  if factor is None or field not in fields:
    return change
  try:
    if isinstance(own, bool) or not own:
      raise ValueError
    number = float(f'{float(factor[1]) * own:.6g}')
    return f'{field}={type(own)(number) if number.is_integer() else number}'
  except (TypeError, ValueError):
    raise UserError(
      f'--study.sweep={change} multiplies {field}, which is {own!r} and must '
      f'be a number other than 0: for example, --study.sweep={SWEEP}'
    ) from None


def _parse_objectives(texts: Sequence[str]) -> list[str]:
  names = list(filter(None, texts)) or list(OBJECTIVES)
  for name in names:
    if name not in OBJECTIVES:
      guess = nearest(name, OBJECTIVES) or OBJECTIVES[0]
      raise UserError(
        f'--study.objectives={",".join(texts)} names {name!r}, which must be '
        f'{either(OBJECTIVES)}: did you mean {guess!r}?'
      )
  _check_distinct('objectives', names)
  return names


def _parse_seeds(texts: Sequence[str]) -> list[int]:
  rule = next(field.rule for field in schema.FIELDS if field.name == 'seed')
  names = list(filter(None, texts))
  seeds = [int(name) for name in names if re.fullmatch(r'[0-9]{1,10}', name)]
  seeds = list(dict.fromkeys(filter(rule.holds, seeds)))
  if not seeds or len(seeds) < len(names):
    example = ','.join(map(str, seeds)) or SEEDS
    raise UserError(
      f'--study.seeds={",".join(texts)} must be whole numbers {rule.text}, '
      f'each once: for example, --study.seeds={example}'
    )
  return seeds


def _parse_sweep(texts: Sequence[str]) -> list[str]:
  """Returns one 'field=value' each; creating the configurations checks them."""
  if not texts:
    return []
  text = ','.join(texts)
  field, separator, rest = text.partition('=')
  values = [value.strip() for value in rest.split(',') if value.strip()]
  if not field or not separator or not values:
    raise UserError(
      f'--study.sweep={text} must be a field and its values: for example, '
      f'--study.sweep={SWEEP}'
    )
  if field in _RESERVED:
    raise UserError(
      f'--study.sweep={text} sweeps {field!r}, for which a study has another '
      f'flag: for example, --study.{field}s={rest}'
    )
  _check_distinct('sweep', values, f'{field}=')
  return [f'{field}={value}' for value in values]


def _check_distinct(flag: str, values: list[str], prefix: str = '') -> None:
  distinct = list(dict.fromkeys(values))
  if distinct != values:
    raise UserError(
      f'--study.{flag}={prefix}{",".join(values)} must name each once: for '
      f'example, --study.{flag}={prefix}{",".join(distinct)}'
    )
