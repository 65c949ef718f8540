"""One checkpoint: its `meta`, sealed with a CRC32 of its own, and its `state`.

Orbax alone restores a flipped byte, another dtype and (into numpy) another
shape without an error. Restored leaves are therefore compared with `meta`.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax
import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from vaegan_jax.errors import UserError

PyTree = Any
_WEIGHTS = {'params', 'ema_params'}
# A difference on the left follows from one on the right; only that is reported.
_CAUSES = {'leaves.': 'config.', 'data.': 'config.data.'}


class Misnamed(ValueError):
  """Error of a checkpoint whose folder is named after another step."""


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
  """Adds a CRC32 to `content`, which holds JSON types and tuples."""
  return {'crc32': zlib.crc32(canonical(content)), 'content': content}


def canonical(content: Mapping[str, Any]) -> bytes:
  """Returns the JSON text of `content`, with sorted keys."""
  return json.dumps(content, sort_keys=True).encode()


def read_meta(path: epath.Path) -> dict[str, Any]:
  """Reads the content of a checkpoint's `meta`.

  Raises:
    Misnamed: the folder is named after another step.
    Exception: of nearly any class, where `meta` is damaged.
  """
  # A bare handler: a Checkpointer would wait for processes that cannot read.
  sealed = ocp.JsonCheckpointHandler().restore(path / 'meta')
  content = sealed['content']
  if sealed['crc32'] != zlib.crc32(canonical(content)):
    raise ValueError('the CRC32 of meta differs')
  if content['step'] != int(path.name):
    raise Misnamed(f'the folder was renamed: it holds step {content["step"]}')
  return content


def read_identity(
  workdir: epath.PathLike, step: int | None = None
) -> dict[str, Any] | None:
  """Reads which configuration and dataset a checkpoint belongs to.

  It is that of a step; None: the newest that can be read. The leaves are not
  checked: that is the work of `Checkpoints.restore`.

  Returns:
    'config', as saved by its version, 'data' and 'step'; None if there is none.
  """
  folder = epath.Path(workdir) / 'checkpoints'
  steps = list_steps(folder) if step is None else [step]
  for candidate in reversed(steps):
    try:
      meta = read_meta(folder / str(candidate))
      return {key: meta[key] for key in ('step', 'config', 'data')}
    except Exception:  # Damage and bucket errors have no common class.
      continue
  return None


def is_run(workdir: epath.PathLike) -> bool:
  """Returns whether a folder is the workdir of a run that has begun to save."""
  return (epath.Path(workdir) / 'checkpoints').exists()


def list_steps(folder: epath.Path) -> list[int]:
  """Returns the steps that have a folder in `folder`, ascending."""
  if not folder.is_dir():
    return []
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())


def describe_leaves(tree: PyTree) -> dict[str, str]:
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


def crc32s_of(tree: PyTree) -> dict[str, int]:
  """Returns the CRC32 of each leaf, a numpy array, by its name."""
  return {name: zlib.crc32(x.tobytes()) for name, x in named(tree).items()}


def new_leaves(was: Mapping[str, str], now: Mapping[str, str]) -> set[str]:
  """Returns the names that only `now` has, without the weights of networks.

  Both are {'averages/logits_real': 'float32[]', ...}. A new moving average or
  counter may start from its initial value. A network that lacks weights is
  another network.
  """
  return {x for x in now.keys() - was if not _WEIGHTS & set(x.split('/'))}


def check_same(
  where: str,
  meta: Mapping[str, Any],
  now: Mapping[str, Any],
  free_fields: Iterable[str],
) -> None:
  """Checks that what a checkpoint or a workdir holds belongs to this run.

  Raises:
    UserError: names the fields whose values differ.
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
      f'In {where}, {", ".join(differ)}, but a run must keep the '
      'configuration, dataset and network that it started with: restore the '
      "old values (--config takes the run's own config.json) or use a new "
      '--workdir.'
    )


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
  meta = _unless_damaged(path, read_meta, path)
  if meta is None:
    return None
  names = list(named(template))
  now = {k: v for k, v in now.items() if v is not None}
  now['leaves'] = leaves = describe_leaves(template)
  # Tuples become lists, as in `meta`.
  now = json.loads(canonical(now))
  saved = meta.get('leaves', {})
  new = new_leaves(saved, leaves) if initial else set()
  read = {n: leaf for n, leaf in saved.items() if n in leaves or not partial}
  upgraded = {
    'config': upgrade(meta.get('config') or {}),
    'leaves': read | {name: leaves[name] for name in new},
  }
  check_same(f'the checkpoint {path}', meta | upgraded, now, free_fields)
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
    arrays = named(initial()) | arrays
  arrays = [np.asarray(arrays[name]) for name in names]
  return jax.tree.unflatten(jax.tree.structure(template), arrays)


def _read_state(path, target, crc32s) -> dict[str, np.ndarray]:
  """Reads the leaves of `target`, or of all if it is None, by their names."""
  args = ocp.args.PyTreeRestore(target, partial_restore=True)
  state = ocp.PyTreeCheckpointHandler().restore(path, args=args)
  if not crc32s.items() <= crc32s_of(state).items():
    raise ValueError('the CRC32 of a leaf differs')
  return named(state)


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
