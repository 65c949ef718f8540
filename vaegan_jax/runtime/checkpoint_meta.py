"""What a checkpoint must be: its `meta`, sealed with a CRC32 of its own.

Orbax alone restores a flipped byte, another dtype and (into numpy) another
shape without an error: here is what its leaves are compared with.
"""

import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import flax
import jax

from vaegan_jax.errors import UserError

PyTree = Any
# What differs because something else does is not told beside it.
_CAUSES = {'leaves.': 'config.', 'data.': 'config.data.'}


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what is written: JSON types and tuples, and their CRC32."""
  return {'crc32': zlib.crc32(canonical(content)), 'content': content}


def unseal(sealed: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the content of what was read.

  Raises:
    ValueError: it is not what was written.
  """
  if sealed['crc32'] != zlib.crc32(canonical(sealed['content'])):
    raise ValueError('the CRC32 of meta differs')
  return sealed['content']


def canonical(content: Mapping[str, Any]) -> bytes:
  """Returns a JSON that is the same for the same content."""
  return json.dumps(content, sort_keys=True).encode()


def leaves(tree: PyTree) -> dict[str, str]:
  """Returns {'params/dense/kernel': 'float32[3, 4]', ...}."""
  return {
    name: f'{leaf.dtype}{list(leaf.shape)}'
    for name, leaf in named(tree).items()
  }


def named(tree: PyTree) -> dict[str, Any]:
  """Returns {'params/dense/kernel': leaf, ...}."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def crc32s(tree: PyTree, names: Iterable[str] | None = None) -> list[int]:
  """Returns the CRC32 of the leaves of such names, or all, numpy arrays."""
  arrays = named(tree)
  return [zlib.crc32(arrays[name].tobytes()) for name in names or arrays]


def check_same(
  path: Any,
  meta: Mapping[str, Any],
  now: Mapping[str, Any],
  free_fields: Iterable[str],
) -> None:
  """Tells of what another run a checkpoint is.

  Args:
    path: of the checkpoint.
    meta: what was written with it.
    now: what this run has in the place of some of that.
    free_fields: dotted fields, or groups, of `config` that may differ.

  Raises:
    UserError: names the fields of `now` that `meta` has otherwise.
  """
  was = flax.traverse_util.flatten_dict({k: meta.get(k) for k in now}, sep='.')
  now = flax.traverse_util.flatten_dict(now, sep='.')
  free = tuple(f'config.{field}.' for field in free_fields)
  names = [
    name
    for name in sorted(was.keys() | now.keys())
    if was.get(name, 'absent') != now.get(name, 'absent')
    and not f'{name}.'.startswith(free)
  ]
  for effect, cause in _CAUSES.items():
    if any(name.startswith(cause) for name in names):
      names = [name for name in names if not name.startswith(effect)]
  if names:
    differ = [
      f'{name} was {was.get(name, "absent")!r} and is '
      f'{now.get(name, "absent")!r} now'
      for name in names
    ]
    differ[8:] = [f'{len(differ) - 8} more'] if len(differ) > 8 else []
    raise UserError(
      f'In the checkpoint {path}, {", ".join(differ)}, but a run goes on with '
      'the configuration, dataset and network it began with: restore the old '
      'values or use a new --workdir.'
    )
