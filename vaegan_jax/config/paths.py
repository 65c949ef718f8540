"""The paths that a command line names: which are valid, and where they lead."""

import os
import re
import sys
from collections.abc import Iterable, Iterator

import ml_collections

from vaegan_jax.errors import UserError


def is_path(text: str) -> bool:
  """Returns whether a text can be a path, local or in a bucket, or is ''."""
  try:
    encoded = os.fsencode(text)
  except UnicodeEncodeError:  # A lone surrogate, from JSON.
    return False
  scheme, separator, _ = text.partition('://')
  return (
    b'\0' not in encoded
    and len(encoded) < 2048
    and max(map(len, encoded.split(b'/'))) <= 255
    and (not separator or scheme == 'gs')
  )


def is_local_path(text: str) -> bool:
  """Returns whether a text can be a local path, or is ''."""
  return '://' not in text and is_path(text)


def is_files(text: str, least: int, most: int) -> bool:
  """Returns whether a text is `least` to `most` local paths, with commas."""
  paths = text.split(',')
  return least <= len(paths) <= most and all(
    p.strip() and is_local_path(p) for p in paths
  )


def absolute(path: str) -> str:
  """Makes a local path absolute, `~` expanded; '' and `gs://...` stay."""
  if not path or '://' in path:
    return path
  return os.path.abspath(os.path.expanduser(os.path.expandvars(path)))


def resolve(path: str) -> str:
  """Returns the same text for the same folder: without links or a last '/'."""
  path = absolute(path)
  return (path if '://' in path else os.path.realpath(path)).rstrip('/')


def check_encoding(flag: str, path: str) -> None:
  """Refuses a path that this locale encodes differently from UTF-8."""
  # The libraries that write files take every path as UTF-8; Python does not.
  path = absolute(path)
  try:
    same = path.encode() == os.fsencode(path)
  except UnicodeEncodeError:
    same = False
  if not same:
    raise UserError(
      f'--{flag}={path} has letters that this locale, whose encoding is '
      f'{sys.getfilesystemencoding()}, writes differently from UTF-8: set '
      'PYTHONUTF8=1 in the environment, or name a folder of ASCII letters, '
      'such as /tmp/first'
    )


def check_data_outside(
  config: ml_collections.ConfigDict, workdir: str, args: Iterable[str] = ()
) -> None:
  """Refuses a saved configuration whose data is in its own workdir.

  Anybody may have made a workdir, so files in it are not the user's dataset,
  also if a link or a relative name leads there. A path that the command line,
  `args`, names is accepted.
  """
  named = {arg.lstrip('-').partition('=')[0] for arg in args}
  root = resolve(workdir)
  for field, path in _data_paths(config.data):
    within = f'{resolve(path)}/'.startswith(f'{root}/')
    if within and f'config.{field}' not in named:
      raise UserError(
        f'{workdir}/config.json has {field}={path!r}, which is in that run '
        'itself, and anybody may have made the run: if it is yours, confirm '
        f'with --mode=evaluate --config.{field}={path}, or move the data out '
        'and change config.json'
      )


def _data_paths(data: ml_collections.ConfigDict) -> Iterator[tuple[str, str]]:
  if data.path:
    yield 'data.path', data.path
  if data.data_dir:
    yield 'data.data_dir', data.data_dir
    # TFDS's folder of the dataset, without its configuration and version.
    name = re.split('[/:]', data.name)[0]
    yield 'data.data_dir', os.path.join(data.data_dir, name)
