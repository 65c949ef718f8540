"""Configurations in files.

A Python file (`configs/celeba.py`) describes a run. `config.json` in a workdir
records the configuration of a run. `configs/` is beside this package in a
clone, and inside it in an installation.
"""

import functools
import json
import math
import os
import runpy
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ml_collections
from etils import epath

from vaegan_jax.config import schema
from vaegan_jax.config.migrations import upgrade
from vaegan_jax.config.paths import absolute
from vaegan_jax.config.rules import FILES, PATH, flatten, nearest
from vaegan_jax.config.validation import validate
from vaegan_jax.errors import UserError, naming
from vaegan_jax.names import OBJECTIVES

_MAX_BYTES = 2**20  # Limit of a `config.json`, which has about 3,000.
_PACKAGE = Path(__file__).resolve().parents[1]
# The folder that relative paths such as `configs/celeba.py` start from.
PROJECT = next(
  folder
  for folder in (_PACKAGE.parent, _PACKAGE)
  if (folder / 'configs' / 'default.py').is_file()
)


@functools.cache
def get_presets() -> dict[str, Callable[[ml_collections.ConfigDict], None]]:
  """Returns {name: function that changes a configuration in place}."""
  return runpy.run_path(str(PROJECT / 'configs' / 'presets.py'))['PRESETS']


def load_config(path: os.PathLike | str) -> ml_collections.ConfigDict:
  """Reads a `config.json`, on disk or in a bucket, and locks what is valid.

  Raises:
    UserError: the file is missing or damaged, or has fields that no version up
      to this one knows.
  """
  path = epath.Path(path)
  saved = _read_fields(path)
  _check_names(saved, path)
  config = schema.create_config().lock()
  with config.ignore_type():  # `validate` reports types, in one sentence.
    config.update_from_flattened_dict(
      {
        field.name: _restore(saved[field.name], field.default)
        for field in schema.FIELDS
      }
    )
  with naming(str(path)):
    validate(config)
  return config


def load_config_file(source: str) -> ml_collections.ConfigDict:
  """Runs `get_config` of a Python file, or reads a run's `config.json`.

  Args:
    source: `path` or `path:words`, an objective and presets with commas between
      them; a relative path is searched for in the working directory and then in
      the project. A `.json` file, in a bucket too, has no words.

  Returns:
    The configuration, locked; its values are not yet checked.

  Raises:
    UserError: the file does not exist or describes no configuration.
  """
  if is_saved(source):
    return load_config(source)
  name, objective, presets = split_source(source)
  paths = (Path(name), PROJECT / name) if PATH.holds(name) else ()
  path = next((path for path in paths if path.is_file()), None)
  if path is None:
    raise UserError(f'--config={name} does not exist: {_similar_file(name)}')
  if path.suffix != '.py':
    raise UserError(
      f'--config={name} must be a Python file, such as configs/celeba.py, or '
      "the config.json of a run, without ':' and words"
    )
  try:
    get_config = runpy.run_path(str(path))['get_config']
    config = get_config(objective) if objective else get_config()
    fields = flatten(config)
    for preset in presets:
      get_presets()[preset](config)
    config.lock()
  # The file is the user's program: it may raise anything, or exit.
  except (Exception, SystemExit) as error:
    raise UserError(
      f'--config={source} is not a configuration ({type(error).__name__}: '
      f'{error}): it must define get_config(objective), as configs/celeba.py'
    ) from error
  _check_names(fields, path)
  # The file took the word for an objective, and there is none of that name.
  if config.objective == objective and objective not in ('', *OBJECTIVES):
    raise UserError(f'--config={source}: {_unknown_word(objective)}')
  return config


def is_saved(source: str) -> bool:
  """Returns whether `--config` names a saved configuration."""
  return source.endswith('.json')


def split_source(source: str) -> tuple[str, str, list[str]]:
  """Splits the value of `--config`, such as 'configs/celeba.py:mse,kl_f8'.

  Returns:
    The path, the only word that is not a preset or '', and the presets.

  Raises:
    UserError: more than one word is not a preset.
  """
  path, _, text = source.partition(':')
  words = [word.strip() for word in text.split(',')] if text else []
  presets = [word for word in words if word in get_presets()]
  others = [word for word in words if word not in presets]
  if len(others) > 1:
    unknown = [word for word in others if word not in OBJECTIVES]
    if unknown:
      raise UserError(f'--config={source}: {_unknown_word(unknown[0])}')
    raise UserError(
      f'--config={source} names the objectives {" and ".join(others)}, but a '
      f'run has one: for example, --config={path}:{others[0]}'
    )
  return path, others[0] if others else '', presets


def add_objective(source: str, objective: str) -> str:
  """Returns the value of `--config` with an objective beside its presets."""
  path, separator, words = source.partition(':')
  return f'{path}:{objective}{"," if separator else ""}{words}'


def make_paths_absolute(config: ml_collections.ConfigDict) -> None:
  """Makes the paths of a configuration absolute, in place."""
  values = flatten(config)
  pairs = {field.name for field in schema.FIELDS if field.rule is FILES}
  if config.critic.network == 'lpips':
    pairs.add('critic.weights')
  for name in schema.path_fields():
    paths = values[name].split(',') if name in pairs else [values[name]]
    config.update_from_flattened_dict({name: ','.join(map(absolute, paths))})


def _read_fields(path: epath.Path) -> dict[str, Any]:
  try:
    if not path.is_file():
      raise UserError(
        f'{path} does not exist: name a workdir that --mode=train has written'
      )
    size = path.stat().length
    if not 0 < size <= _MAX_BYTES:  # A pipe has 0, and reading it would block.
      raise ValueError(f'it has {size} bytes')
    saved = json.loads(path.read_text())
    if isinstance(saved, dict):
      return flatten(upgrade(saved))
  except UserError:
    raise
  except (ValueError, RecursionError) as error:  # Also bytes that are not text.
    raise UserError(
      f'{path} is not valid JSON ({error}): restore it, or start a new workdir'
    ) from error
  except Exception as error:  # Errors of buckets have no common class.
    raise UserError(
      f'{path} cannot be read ({error}): check its permissions'
    ) from error
  raise UserError(f'{path} must hold one JSON object, such as {{"seed": 0}}')


def _check_names(fields: Iterable[str], path: os.PathLike) -> None:
  expected = {field.name for field in schema.FIELDS}
  problems = {
    'lacks': sorted(expected - set(fields)),
    'has the unknown': sorted(set(fields) - expected),
  }
  for problem, names in problems.items():
    if names:
      raise UserError(
        f'{path} {problem} {", ".join(names)}: its fields must be those of '
        'vaegan_jax/config/schema.py, such as data.image_size'
      )


def _restore(value: Any, like: Any) -> Any:
  """Restores tuples and floats that JSON, or an editor, has changed."""
  if isinstance(value, list):  # No field holds a list.
    return tuple(value)
  if isinstance(like, float) and type(value) is int:
    return float(value) if abs(value) < sys.float_info.max else math.inf
  return value


def _similar_file(name: str) -> str:
  known = [
    f'configs/{path.name}'
    for path in sorted(PROJECT.glob('configs/*.py'))
    if 'def get_config(objective' in path.read_text()
  ]
  return f'did you mean {nearest(name, known) or "configs/quickstart.py"}?'


def _unknown_word(word: str) -> str:
  presets = tuple(get_presets())
  guess = nearest(word, (*OBJECTIVES, *presets))
  hint = f'did you mean {guess!r}?' if guess else 'for example, geometric,kl_f8'
  return (
    f'{word!r} is neither an objective ({", ".join(OBJECTIVES)}) nor a preset '
    f'({", ".join(presets)}): {hint}'
  )
