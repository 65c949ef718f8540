"""The sources of data, one file each, found by name.

Owns the way from `data.name` to a source.
May import: `errors`.
"""

import functools
import importlib
import pkgutil

from vaegan_jax.data.source import Source

_DEFAULT = 'tfds'  # Opens any name that has no file here.


def names() -> tuple[str, ...]:
  """Returns the names of all sources but that for TFDS."""
  found = (module.name for module in pkgutil.iter_modules(__path__))
  return tuple(sorted(set(found) - {_DEFAULT}))


@functools.cache
def _load(name: str) -> type[Source]:
  return importlib.import_module(f'{__name__}.{name}').Source


def find(name: str) -> type[Source]:
  """Returns the source for `data.name`, a file here or any TFDS name."""
  return _load(name if name in names() else _DEFAULT)


def holds_arrays(name: str, shape: tuple[int, ...]) -> bool:
  """Returns whether examples of a data set are arrays in units of their own."""
  return bool(shape) or bool(find(name).holds_arrays)


def with_path() -> tuple[str, ...]:
  """Returns the names of the sources that read `data.path`."""
  return tuple(name for name in names() if find(name).path != 'unused')
