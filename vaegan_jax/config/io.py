"""How configurations are read from files.

A Python file (`configs/celeba.py`) describes a run; `config.json` in a
workdir records the one that was made.
"""

import json
import math
import os
import runpy
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_collections
from etils import epath

from vaegan_jax.config import defaults, variants
from vaegan_jax.config.migrations import upgrade
from vaegan_jax.config.rules import PATH, flatten, nearest
from vaegan_jax.config.validation import validate
from vaegan_jax.errors import UserError

_MAX_BYTES = 2**20  # Of a `config.json`, which has about 3,000.


def load_config(path: os.PathLike | str) -> ml_collections.ConfigDict:
  """Reads the configuration that a run has saved in its workdir.

  Args:
    path: a `config.json`, on disk or in a bucket (`gs://...`).

  Returns:
    The configuration, locked and valid.

  Raises:
    UserError: the file is missing or damaged, or has fields that no version up
      to this one knows.
  """
  path = epath.Path(path)
  saved = _read_fields(path)
  _check_fields(saved, path)
  config = defaults.get_config()
  with config.ignore_type():  # `validate` judges types, in one sentence.
    config.update_from_flattened_dict(
      {
        name: _restore(saved[name], value)
        for name, value in flatten(config).items()
      }
    )
  try:
    validate(config)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error
  return config


def _read_fields(path: epath.Path) -> dict[str, Any]:
  try:
    if not path.is_file():
      raise UserError(
        f'{path} does not exist: name a workdir that --mode=train has written'
      )
    size = path.stat().length
    if not 0 < size <= _MAX_BYTES:  # 0 of a pipe, too, which is not waited for.
      raise ValueError(f'it has {size} bytes')
    saved = json.loads(path.read_text())
    if isinstance(saved, dict):
      return flatten(upgrade(saved))
  except UserError:
    raise
  except (ValueError, RecursionError) as error:  # Also what is not text.
    raise UserError(
      f'{path} is not valid JSON ({error}): restore it, or start a new workdir'
    ) from error
  except Exception as error:  # A bucket's errors are of no common class.
    raise UserError(
      f'{path} cannot be read ({error}): see that you may read it'
    ) from error
  raise UserError(f'{path} must hold one JSON object, such as {{"seed": 0}}')


def load_config_file(source: str) -> ml_collections.ConfigDict:
  """Runs `get_config` of a Python file.

  Args:
    source: `path` or `path:words`, an objective and presets with commas between
      them; a relative path is looked for in the working directory and then in
      the project.

  Returns:
    The configuration, locked; its values are not yet checked.

  Raises:
    UserError: no such file, or it does not describe a configuration.
  """
  name, variant, presets = variants.split(source)
  paths = (Path(name), defaults.PROJECT / name) if PATH.holds(name) else ()
  path = next((path for path in paths if path.is_file()), None)
  if path is None:
    raise UserError(f'--config={name} does not exist: {_similar_file(name)}')
  if path.suffix != '.py':
    raise UserError(
      f'--config={name} must be a Python file: for example, configs/celeba.py'
    )
  try:
    get_config = runpy.run_path(str(path))['get_config']
    config = get_config(variant) if variant else get_config()
    fields = flatten(config)
    for preset in presets:
      defaults.get_presets()[preset](config)
    config.lock()
  # It is the user's program: anything may happen, and it may want to exit.
  except (Exception, SystemExit) as error:
    raise UserError(
      f'--config={source} is not a configuration ({type(error).__name__}: '
      f'{error}): it must define get_config(objective), as configs/celeba.py'
    ) from error
  _check_fields(fields, path)
  variants.check_objective(config.objective, variant)
  return config


def _similar_file(name: str) -> str:
  known = [
    f'configs/{path.name}'
    for path in sorted(defaults.PROJECT.glob('configs/*.py'))
    if 'def get_config(objective' in path.read_text()
  ]
  return f'did you mean {nearest(name, known) or "configs/quickstart.py"}?'


def _check_fields(fields: Iterable[str], path: os.PathLike) -> None:
  expected = set(flatten(defaults.get_config()))
  problems = {
    'lacks': sorted(expected - set(fields)),
    'has the unknown': sorted(set(fields) - expected),
  }
  for problem, names in problems.items():
    if names:
      raise UserError(
        f'{path} {problem} {", ".join(names)}: its fields must be those of '
        'configs/default.py, such as data.image_size'
      )


def _restore(value: Any, like: Any) -> Any:
  """Undoes what JSON, or an editor of it, does to tuples and floats."""
  if isinstance(value, list):  # No field holds one.
    return tuple(value)
  if isinstance(like, float) and type(value) is int:
    return float(value) if abs(value) < sys.float_info.max else math.inf
  return value
