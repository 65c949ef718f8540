"""Traces of some steps, for TensorBoard's plug-in `xprof`."""

import os
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from vaegan_jax.runtime.progress import WarnOnce


class Profiler:
  """Trace of a range of steps; a failure costs one warning."""

  def __init__(self, workdir: epath.PathLike, steps: Sequence[int]):
    """Prepares a trace of the first to the last of two steps; (): of none."""
    self._workdir = os.fspath(workdir)
    self._first, self._last = steps or (0, 0)
    self._errors = WarnOnce('Tracing for config.profile_steps')
    self._is_tracing = False

  def begin(self, step: int) -> None:
    """Starts the trace if it is due; call it before each step is dispatched."""
    if self._first <= step <= self._last and not self._is_tracing:
      with self._errors:
        jax.profiler.start_trace(self._workdir)
        self._is_tracing = True

  def end(self, step: int, outputs: Any) -> None:
    """Ends the trace after the last step, once its `outputs` are computed."""
    if self._is_tracing and step >= self._last:
      jax.block_until_ready(outputs)
      self.close()

  def close(self) -> None:
    """Writes a trace that has started."""
    if self._is_tracing:
      self._is_tracing = False
      with self._errors:
        jax.profiler.stop_trace()
        print(f'wrote {self._workdir}/plugins/profile', flush=True)
