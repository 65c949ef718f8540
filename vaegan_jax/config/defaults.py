"""Where the configurations that come with the project are, and some of them.

They are in `configs/`, beside this package in a clone, and in an installation
within it.
"""

import functools
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
  return _run('default')['get_config'](objective)


def get_presets() -> dict[str, Callable[[ml_collections.ConfigDict], None]]:
  """Returns what `configs/presets.py` has: {name: what changes a config}."""
  return _run('presets')['PRESETS']


def get_style_config() -> ml_collections.ConfigDict:
  """Returns the fields of `--mode=style`, of `configs/style.py`, locked."""
  return _run('style')['get_config']()


@functools.cache
def _run(name: str) -> dict[str, Any]:
  return runpy.run_path(str(PROJECT / 'configs' / f'{name}.py'))
