"""Reads one checkpoint, whole or in part, and tells damage from errors."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from vaegan_jax.runtime import checkpoint_metadata

PyTree = Any


def load_checkpoint(
  path, *, template, now, free_fields, upgrade, initial, partial
) -> PyTree | None:
  """Returns the state at `path`, or None, with a warning, if it is damaged.

  An error that the saved bytes cannot cause is raised: it is no damage.
  """
  meta = _unless_damaged(path, checkpoint_metadata.read, path)
  if meta is None:
    return None
  was, leaves = dict(meta.get('leaves', {})), now['leaves']
  new = checkpoint_metadata.new_leaves(was, leaves) if initial else set()
  if partial:
    was = {name: leaf for name, leaf in was.items() if name in leaves}
  upgraded = {
    'config': upgrade(meta.get('config') or {}),
    'leaves': was | {name: leaves[name] for name in new},
  }
  checkpoint_metadata.check_same(path, meta | upgraded, now, free_fields)
  crc32s = dict(zip(meta['leaves'], meta['crc32s'], strict=True))
  crc32s = {name: crc32s[name] for name in was}
  # Orbax cannot read into a structure with new leaves: it reads them all.
  target = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), template)
  target = None if new else target
  arrays = _unless_damaged(path, _read_state, path / 'state', target, crc32s)
  if arrays is None:
    return None
  if new:
    names = ', '.join(sorted(new))
    logging.warning('%s is older than %s: set to initial values.', path, names)
    arrays = checkpoint_metadata.named(initial()) | arrays
  names = checkpoint_metadata.named(template)
  return jax.tree.unflatten(
    jax.tree.structure(template), [np.asarray(arrays[name]) for name in names]
  )


def _read_state(path, target, crc32s) -> dict[str, np.ndarray]:
  """Reads the leaves of `target`, or of all if it is None, by their names."""
  args = ocp.args.PyTreeRestore(target, partial_restore=True)
  state = ocp.PyTreeCheckpointHandler().restore(path, args=args)
  if not crc32s.items() <= checkpoint_metadata.crc32s(state).items():
    raise ValueError('the CRC32 of a leaf differs')
  return checkpoint_metadata.named(state)


def _unless_damaged(path: epath.Path, read: Callable, *args: Any) -> Any:
  """Returns `read(*args)`, or None, with a warning, if `path` is damaged.

  `read` calls nothing that can fail for another reason than what is on disk:
  orbax and tensorstore raise errors of nearly any class for that.
  """
  try:
    return read(*args)
  except MemoryError:
    raise
  except Exception as error:
    if path.exists():
      logging.warning('The checkpoint %s is damaged: %r', path, error)
    else:
      logging.warning('The checkpoint %s was removed while it was read', path)
    return None
