"""Reads one checkpoint or a part of it, and recognises damage."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from vaegan_jax.runtime import checkpoint_metadata

PyTree = Any


def load_checkpoint(
  path: epath.Path,
  template: PyTree,
  now: Mapping[str, Any],
  *,
  free_fields: tuple[str, ...],
  upgrade: Callable[[dict], dict],
  initial: Callable[[], PyTree] | None,
  partial: bool,
) -> PyTree | None:
  """Reads one checkpoint and compares it with its `meta` and with this run.

  Returns:
    The state; None, with a warning, if the checkpoint is damaged.

  Raises:
    UserError: it belongs to another run.
    Exception: from `upgrade` or `initial`; the checkpoint is sound then.
  """
  meta = _unless_damaged(path, checkpoint_metadata.read, path)
  if meta is None:
    return None
  names = list(checkpoint_metadata.named(template))
  now = {k: v for k, v in now.items() if v is not None}
  now['leaves'] = leaves = checkpoint_metadata.leaves(template)
  # Tuples become lists, as in `meta`.
  now = json.loads(checkpoint_metadata.canonical(now))
  saved = meta.get('leaves', {})
  new = checkpoint_metadata.new_leaves(saved, leaves) if initial else set()
  read = {n: leaf for n, leaf in saved.items() if n in leaves or not partial}
  upgraded = {
    'config': upgrade(meta.get('config') or {}),
    'leaves': read | {name: leaves[name] for name in new},
  }
  checkpoint_metadata.check_same(
    f'the checkpoint {path}', meta | upgraded, now, free_fields
  )
  crc32s = dict(zip(saved, meta['crc32s'], strict=True))
  crc32s = {name: crc32s[name] for name in read}
  # Orbax cannot read into a structure with new leaves; without one, it reads
  # all leaves.
  target = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), template)
  target = None if new else target
  arrays = _unless_damaged(path, _read_state, path / 'state', target, crc32s)
  if arrays is None:
    return None
  if new:
    listed = ', '.join(sorted(new))
    logging.warning('%s is older than %s: set to initial values.', path, listed)
    arrays = checkpoint_metadata.named(initial()) | arrays
  arrays = [np.asarray(arrays[name]) for name in names]
  return jax.tree.unflatten(jax.tree.structure(template), arrays)


def _read_state(path, target, crc32s) -> dict[str, np.ndarray]:
  """Reads the leaves of `target`, or of all if it is None, by their names."""
  args = ocp.args.PyTreeRestore(target, partial_restore=True)
  state = ocp.PyTreeCheckpointHandler().restore(path, args=args)
  if not crc32s.items() <= checkpoint_metadata.crc32s(state).items():
    raise ValueError('the CRC32 of a leaf differs')
  return checkpoint_metadata.named(state)


def _unless_damaged(path: epath.Path, read: Callable, *args: Any) -> Any:
  """Returns `read(*args)`, or None, with a warning, if `path` is damaged.

  Orbax and tensorstore raise errors of nearly any class for damage. `read` must
  therefore call nothing else that may fail.
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
