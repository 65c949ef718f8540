"""The paths that a command line names, as every mode takes them."""

import os
import re
import sys
from collections.abc import Iterable, Iterator

import ml_collections

from vaegan_jax.errors import UserError

# Fields that are paths. Every machine may have its own.
PATHS = (
  *('data.path', 'data.data_dir', 'data.copy_dir', 'critic.weights'),
  *('evaluation.features_weights', 'evaluation.lpips_weights'),
)
_SHARED = 'init_from'  # It is of all machines, as the workdir is.


def absolute(path: str) -> str:
  """Makes a local path absolute, `~` expanded; '' and `gs://...` stay."""
  if not path or '://' in path:
    return path
  return os.path.abspath(os.path.expanduser(os.path.expandvars(path)))


def make_paths_absolute(config: ml_collections.ConfigDict) -> None:
  """Makes the paths of a run's configuration absolute, in place."""
  pairs = ['evaluation.lpips_weights']  # Two, with a comma between them.
  if config.critic.network == 'lpips':
    pairs.append('critic.weights')
  for name in (*PATHS, _SHARED):
    section, _, field = name.rpartition('.')
    fields = config[section] if section else config
    paths = fields[field].split(',') if name in pairs else [fields[field]]
    fields[field] = ','.join(map(absolute, paths))


def check_encoding(flag: str, path: str) -> None:
  """Refuses a path that is another one to the libraries that write there.

  These take every path as UTF-8, whatever the locale, and Python does not.

  Args:
    flag: that names it.
    path: as it was given; '' is none.

  Raises:
    UserError: some letter of it is not the same to both.
  """
  path = absolute(path)
  try:
    same = path.encode() == os.fsencode(path)
  except UnicodeEncodeError:
    same = False
  if not same:
    encoding = sys.getfilesystemencoding()
    raise UserError(
      f'--{flag}={path} has letters that mean something else in this locale, '
      f'whose encoding is {encoding}, than in UTF-8: set PYTHONUTF8=1 in the '
      'environment, or name a folder of ASCII letters, such as /tmp/first'
    )


def check_data_outside(
  config: ml_collections.ConfigDict, workdir: str, args: Iterable[str] = ()
) -> None:
  """Refuses a run's own configuration that has its data within the run.

  A workdir may be from anybody, and what is in it is no dataset of the user's.
  What the command line itself names is.

  Args:
    config: as it was read from the workdir.
    workdir: that it was read from.
    args: of the command line, which may name other data.

  Raises:
    UserError: a path leads there, by a link or a relative name too.
  """
  named = {arg.lstrip('-').partition('=')[0] for arg in args}
  root = resolve(workdir)
  for field, path in _data_paths(config.data):
    within = f'{resolve(path)}/'.startswith(f'{root}/')
    if within and f'config.{field}' not in named:
      raise UserError(
        f'{workdir}/config.json has {field}={path!r}, which is in that run '
        'itself, and a run may be from anybody: if this one is yours, say so '
        f'with --mode=evaluate --config.{field}={path}, or move the data out '
        'and change config.json'
      )


def _data_paths(data: ml_collections.ConfigDict) -> Iterator[tuple[str, str]]:
  if data.path:
    yield 'data.path', data.path
  if data.data_dir:
    yield 'data.data_dir', data.data_dir
    # Of a name with a configuration or a version, TFDS's folder.
    name = re.split('[/:]', data.name)[0]
    yield 'data.data_dir', os.path.join(data.data_dir, name)


def resolve(path: str) -> str:
  """The same text for the same folder: absolute, without links or a last '/'.

  A bucket's folder has no links.
  """
  path = absolute(path)
  return (path if '://' in path else os.path.realpath(path)).rstrip('/')
