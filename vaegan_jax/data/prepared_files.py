"""What a folder of prepared data may say, whoever it is from.

TFDS imports the module of every class that `features.json` names, so that a
folder of somebody else's could have it import, and run, a file of theirs.
`dataset_info.json` names a module too, which TFDS only shows.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from etils import epath

from vaegan_jax.data.image_files import describe_error
from vaegan_jax.errors import UserError

# As TFDS writes it today, as protobuf would take it too, and as it was once.
_CLASS_KEYS = ('pythonClassName', 'python_class_name', 'type')
_CLASS = re.compile(r'tensorflow_datasets(\.[A-Za-z_]\w*)+', re.ASCII)
_FOLDER = re.compile(r'\w[\w.+-]*', re.ASCII)


def check_prepared(folder: epath.PathLike) -> None:
  """Refuses prepared data that names classes of others than TFDS.

  Call it before TFDS reads the folder: later is too late.

  Args:
    folder: of a dataset, `<data_dir>/<name>`, or of one of its versions, below
      that or below one of its configurations; it need not exist.

  Raises:
    UserError: a file there names such a class, or cannot be read.
  """
  folder = epath.Path(folder)
  default = folder / '.config' / 'metadata.json'  # Says where TFDS looks.
  if default.exists():
    for name in _read(default, _folder_names):
      if not _FOLDER.fullmatch(name):
        raise _error(default, f'names the folder {name!r}')
  for pattern in ('features.json', '*/features.json', '*/*/features.json'):
    for path in folder.glob(pattern):
      for name in _read(path, _class_names):
        if not _CLASS.fullmatch(name):
          raise _error(path, f'names the class {name!r}')


def _read(path: epath.Path, find: Callable[[Any], Iterable[str]]) -> list[str]:
  """The names that are found in the JSON of a file."""
  try:
    return list(find(json.loads(path.read_text())))
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(
      f'{path} is damaged ({describe_error(error)}): delete the folder that it '
      'is in to have the data prepared again'
    ) from error


def _folder_names(content: Any) -> Iterator[str]:
  if not isinstance(content, dict):
    raise ValueError('it is no JSON object')
  if (name := content.get('default_config_name')) is not None:
    yield str(name)


def _class_names(content: Any) -> Iterator[str]:
  """Yields every class that a JSON names; a text in it may be JSON again."""
  if isinstance(content, dict):
    for key in _CLASS_KEYS:
      if isinstance(content.get(key), str):
        yield content[key]
    content = list(content.values())
  if isinstance(content, list):
    for value in content:
      yield from _class_names(value)
  elif isinstance(content, str) and content.lstrip().startswith(('{', '[')):
    with contextlib.suppress(ValueError):  # A description, perhaps.
      yield from _class_names(json.loads(content))


def _error(path: epath.Path, what: str) -> UserError:
  return UserError(
    f'{path} {what}, which is none of TFDS, and its code would be run: use '
    'prepared data that was made by TFDS alone, with, for example, '
    '--config.data.data_dir=~/tensorflow_datasets'
  )
