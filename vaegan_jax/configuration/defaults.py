"""Where the configurations that come with the project are, and two of them.

They are in `configs/`, beside this package in a clone, and in an installation
within it.
"""

import functools
import runpy
from collections.abc import Callable
from pathlib import Path

import ml_collections

_PACKAGE = Path(__file__).resolve().parents[1]
# The folder that relative paths such as `configs/celeba.py` are of.
PROJECT = next(
  folder
  for folder in (_PACKAGE.parent, _PACKAGE)
  if (folder / 'configs' / 'default.py').is_file()
)


def get_config(objective: str = '') -> ml_collections.ConfigDict:
  """Returns the defaults of `configs/default.py`, locked.

  Args:
    objective: the variant; '': geometric.
  """
  return _load('default')(objective)


def get_style_config() -> ml_collections.ConfigDict:
  """Returns the fields of `--mode=style`, of `configs/style.py`, locked."""
  return _load('style')()


@functools.cache
def _load(name: str) -> Callable[..., ml_collections.ConfigDict]:
  path = PROJECT / 'configs' / f'{name}.py'
  return runpy.run_path(str(path))['get_config']
