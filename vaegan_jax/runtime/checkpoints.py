"""Saves and restores the training state with orbax.

`<workdir>/checkpoints/<step>/` holds `state`, the pytree as orbax writes it,
and `meta`, a JSON with the CRC32, dtype and shape of every leaf, the
configuration and the dataset; see `checkpoint_files.py`.

A checkpoint of another configuration, dataset or network is refused. A damaged
one moves to `<workdir>/quarantine/`, and the one before it is restored. Only
the first of several processes writes; all read, and all get the same result.
"""

import contextlib
import functools
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any

import flax
import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from vaegan_jax.errors import UserError
from vaegan_jax.runtime import checkpoint_files, distributed
from vaegan_jax.runtime.checkpoint_files import load_checkpoint

PyTree = Any
_FORMAT = 1  # Of `meta`: increased when older code would misread it.
_MAX_FAILED_SAVES = 3  # In a row.


class _Manager(ocp.CheckpointManager):
  """Orbax's manager without its polls for a signal.

  It polls by step, within saves and in its thread. JAX counts polls, and those
  of `preemption.py` are all: a step among them, in process 0 alone, makes the
  processes stop at different polls, and wait for each other.
  """

  def reached_preemption(self, step: int) -> bool:
    """Polls nothing."""
    return False


class Checkpoints:
  """The checkpoints of one workdir; constructing this touches nothing."""

  def __init__(self, workdir: epath.PathLike, *, max_to_keep: int = 3):
    self._directory = epath.Path(workdir) / 'checkpoints'
    self._quarantine_directory = epath.Path(workdir) / 'quarantine'
    self._max_to_keep = max_to_keep
    self._manager = None  # Opened by the first save, and after a failure.
    # (step, items) of the save that is not confirmed; items in process 0.
    self._pending = None
    self._failures = 0  # Saves in a row that failed twice.

  def steps(self) -> list[int]:
    """Returns the steps that have a folder, ascending, damaged or not."""
    return checkpoint_files.list_steps(self._directory)

  def save(self, step: int, state: PyTree, *, config: dict, data: dict) -> bool:
    """Finishes the last save, then starts this one, which a thread completes.

    The state is copied before this returns: its buffers may be donated. An
    existing step is not written again. All processes must call this, and
    `wait`, at the same time.

    Args:
      step: Number of updates of `state`.
      state: Pytree of numpy arrays or of replicated jax arrays.
      config, data: Configuration and identity of the dataset, which have JSON
        types and tuples.

    Returns:
      False if the last save or the start of this one failed twice (logged).

    Raises:
      UserError: Three saves in a row failed.
      ValueError: A leaf is sharded over the devices.
    """
    settled = self.wait()
    if distributed.from_first(lambda: step in self.steps()):
      return settled
    error, items = None, None
    if distributed.is_first():
      host = jax.tree_util.tree_map_with_path(_host_copy, state)
      meta = _meta(step, host, config, data)
      meta = ocp.args.JsonSave(checkpoint_files.seal(meta))
      state = ocp.args.StandardSave(host)
      items = ocp.args.Composite(state=state, meta=meta)
    self._pending = (step, items)
    if items is not None:
      error = self._start()
    started = distributed.every_process(error is None)
    return (started or self._settle(error)) and settled

  def wait(self) -> bool:
    """Waits for the last save and checks it; after a failure, tries again.

    Returns:
      False if that failed, too. Do not ignore it for the last save of a run.

    Raises:
      UserError: Three saves in a row failed.
    """
    if self._pending is None:
      return True
    return self._settle(self._finish() if distributed.is_first() else None)

  def remove_after(self, step: int) -> None:
    """Removes every later step, for a run that is rolled back to `step`."""
    self.close()
    for later in self.steps():
      if later > step:
        self._discard(later)
    # No process may list the steps before they are removed.
    distributed.every_process(True)

  def close(self) -> None:
    """Waits, as `wait` does, and closes orbax; the next save reopens it."""
    self.wait()
    if self._manager is not None:
      self._manager.close()
      self._manager = None

  def restore(
    self,
    template: PyTree,
    *,
    config: dict | None = None,
    data: dict | None = None,
    free_fields: tuple[str, ...] = (),
    upgrade: Callable[[dict], dict] = dict,
    initial: Callable[[], PyTree] | None = None,
    partial: bool = False,
    quarantine: bool = True,
  ) -> tuple[PyTree, int] | None:
    """Restores the newest undamaged checkpoint.

    Damaged ones move to the quarantine once an older one is restored. If none
    can be, all stay, so that no run starts afresh unnoticed.

    Args:
      template: Pytree of arrays or `jax.ShapeDtypeStruct`.
      config, data: The current ones; None: not compared.
      free_fields: Dotted fields, or groups, of `config` that may differ.
      upgrade: Adds the fields that a saved configuration is too old for.
      initial: Returns the state before step 1, or the part that `template`
        covers, for leaves that an older version did not save. The weights of
        a network are never taken from it. None: all leaves must be there.
      partial: Reads and checks only the leaves of `template`, whose paths are
        some of the state's, such as {'ema_params': ...}.
      quarantine: False: changes nothing on disk, for reading beside a trainer.

    Returns:
      The state, numpy arrays in the structure of `template`, and its step;
      None if there is no checkpoint at all.

    Raises:
      UserError: One belongs to another run, or all are damaged; none was moved.
    """
    self.close()
    load = functools.partial(
      load_checkpoint,
      template=template,
      now={'config': config, 'data': data, 'format': _FORMAT},
      free_fields=free_fields,
      upgrade=upgrade,
      initial=initial,
      partial=partial,
    )
    return self._restore_newest(load, quarantine)

  def _restore_newest(self, load, quarantine) -> tuple[PyTree, int] | None:
    tried = []
    # Beside a trainer, newer steps appear and older ones are removed.
    while (step := self._newest(but=tried)) is not None:
      with distributed.together():
        state = load(self._directory / str(step))
      if distributed.every_process(state is not None):
        if quarantine:
          self._quarantine([*tried, *self._misnamed(before=step)])
        return state, step
      tried.append(step)
    left = distributed.from_first(self.steps)
    if damaged := [str(step) for step in tried if step in left]:
      raise UserError(
        f'Every checkpoint in {self._directory} is damaged (steps '
        f'{", ".join(damaged)}) and no run starts afresh over them: put a '
        'whole one back or use a new --workdir.'
      )
    return None

  def _newest(self, but: list[int]) -> int | None:
    return distributed.from_first(
      lambda: max(set(self.steps()) - set(but), default=None)
    )

  def _misnamed(self, before: int) -> list[int]:
    """Returns earlier steps in renamed folders, whose names orbax trusts."""
    misnamed = []
    for step in self.steps() if distributed.is_first() else []:
      try:
        if step < before:
          checkpoint_files.read_meta(self._directory / str(step))
      except checkpoint_files.Misnamed as error:
        logging.warning('In %s/%d, %s', self._directory, step, error)
        misnamed.append(step)
      except Exception:  # Damaged: orbax will remove it in time.
        pass
    return misnamed

  def _open(self) -> _Manager:
    self._directory.mkdir(parents=True, exist_ok=True)
    # Only in process 0: others must not wait for it after an error there.
    alone = ocp.options.MultiprocessingOptions(
      primary_host=0, active_processes={0}
    )
    options = ocp.CheckpointManagerOptions(
      max_to_keep=self._max_to_keep,
      cleanup_tmp_directories=True,
      create=False,
      multiprocessing_options=alone,
    )
    return _Manager(self._directory, options=options)

  def _start(self) -> Exception | None:
    step, items = self._pending
    try:
      self._manager = self._manager or self._open()
      if not _call_in_daemon(lambda: self._manager.save(step, args=items)):
        raise RuntimeError(f'a step after {step} exists')
    except Exception as error:
      return error

  def _finish(self) -> Exception | None:
    try:
      self._manager.wait_until_finished()
      if self._pending[0] not in self.steps():
        raise FileNotFoundError(f'step {self._pending[0]} was not written')
    except Exception as error:
      return error

  def _settle(self, error: Exception | None) -> bool:
    """Finishes the pending save; after an error, with a second attempt."""
    step, _ = self._pending
    if error:
      logging.warning('Saving step %d failed; trying again: %r', step, error)
      self._discard(step)
      error = self._start() or self._finish()
    self._pending = None
    # Only process 0 has one.
    message = distributed.gather(repr(error) if error else '')[0]
    self._failures = self._failures + 1 if message else 0
    if not message:
      return True
    self._discard(step)
    logging.error('Step %d is not in %s: %s', step, self._directory, message)
    if self._failures < _MAX_FAILED_SAVES:
      return False
    raise UserError(
      f'The last {self._failures} checkpoints could not be written to '
      f'{self._directory} (step {step}: {message}) and a run must be able to '
      'save: free space or repair the disk, and start it again.'
    ) from error

  def _discard(self, step: int) -> None:
    """Removes the files of a failed save, which take space."""
    self._manager = None  # It would still list the step.
    if distributed.is_first() and self._directory.is_dir():
      for path in self._directory.iterdir():
        if path.name.split('.')[0] != str(step):  # 20, 20.orbax-...-tmp
          continue
        for _ in range(2):  # A thread of that save may still write into it.
          # The next attempt reports it; errors of buckets are no OSErrors.
          with contextlib.suppress(Exception):
            path.rmtree()

  def _quarantine(self, steps: list[int]) -> None:
    here = list(self._directory.iterdir()) if distributed.is_first() else []
    for path in here:
      # By its number: a renamed folder may be '010'.
      if not path.name.isdecimal() or int(path.name) not in steps:
        continue
      self._quarantine_directory.mkdir(parents=True, exist_ok=True)
      target = self._quarantine_directory / path.name
      while target.exists():
        target = target.with_name(f'{target.name}-again')
      path.rename(target)
      logging.warning('Moved the damaged checkpoint to %s', target)
    # No process may list the steps before they are moved.
    distributed.every_process(True)


def _call_in_daemon(function: Callable[[], Any]) -> Any:
  """Calls `function` in a daemon thread and returns its result.

  The threads that orbax starts there are daemons, too. After an error one of
  them waits 300 s for the others, and Python's end would wait for it.
  """
  result = futures.Future()

  def call():
    try:
      result.set_result(function())
    except BaseException as error:
      result.set_exception(error)

  threading.Thread(target=call, daemon=True).start()
  return result.result()


def _meta(step, state, config, data) -> dict:
  return {
    'format': _FORMAT,
    'step': step,
    'leaves': checkpoint_files.describe_leaves(state),
    'crc32s': list(checkpoint_files.crc32s_of(state).values()),
    'config': config,
    'data': data,
    'versions': {m.__name__: m.__version__ for m in (jax, flax, ocp, np)},
    'devices': jax.device_count(),
    'processes': jax.process_count(),
  }


def _host_copy(path, x) -> np.ndarray:
  if isinstance(x, jax.Array) and not x.is_fully_replicated:
    raise ValueError(f'{jax.tree_util.keystr(path)} is sharded over devices')
  x = x.addressable_data(0) if isinstance(x, jax.Array) else x
  return np.array(x)  # Always a copy: the next update donates the buffer.
