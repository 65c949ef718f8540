"""Records what the layers of a Flax module return, linen and NNX alike.

Flax stores intermediate values by layer, not in order. The order of the calls
is therefore recorded separately, by name, while Python traces. The values pass
through Flax, which moves them safely out of `nn.remat`, `nn.scan` and their NNX
counterparts. With each value goes an empty marker of its rank, whose only axis
of size 0 is the first. A scan or vmap stacks both alike, so the marker shows
where the layer's own first axis is. The public functions are in
`perceptual.py`.
"""

import collections
import contextlib
import functools
import itertools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import errors
from flax.core.scope import in_filter, union_filters

from vaegan_jax.losses.layers import Call, IsLayer

_CALL = '__call__'
_MARKERS = '__call__ markers'
_RUNS = itertools.count()
_WRAPPING = threading.RLock()  # A class is wrapped for all threads.


def capture_linen(
  module: nn.Module,
  variables: Mapping[str, Any],
  inputs: tuple[Any, ...],
  is_layer: IsLayer,
  *,
  mutable: Any = False,
  **apply_kwargs: Any,
) -> tuple[Any, list[Call], list[str]]:
  """Applies a linen module under `capture_intermediates`.

  Returns the output of `module.apply(variables, *inputs, ...)`, the calls of
  the submodules that `is_layer` selects, and the paths of those submodules
  whose outputs did not come back.
  """
  recorder = _Recorder(is_layer)
  # `nn.jit` would reuse a trace made with the same mutable collections.
  fresh = f'capture {next(_RUNS)}'
  variables = {k: v for k, v in variables.items() if k != 'intermediates'}
  with nn.intercept_methods(recorder.enter):
    outputs, collected = module.apply(
      variables,
      *inputs,
      capture_intermediates=recorder.capture,
      mutable=union_filters(mutable, ('intermediates', fresh)),
      **apply_kwargs,
    )
  collected = dict(collected)
  intermediates = collected.pop('intermediates', {})
  returned = dict(_called(intermediates))
  if in_filter(mutable, 'intermediates') and (sown := _sown(intermediates)):
    collected['intermediates'] = sown
  if mutable is not False:  # As `module.apply` does.
    outputs = (outputs, collected)
  return outputs, *_in_order(returned, recorder.order)


class _Recorder:
  """Selects the calls of a linen module to keep, and records their order."""

  def __init__(self, is_layer: IsLayer):
    self.order: list[str] = []  # The path of each call.
    self._is_layer = is_layer
    self._running: list[nn.Module] = []
    self._returned: Any = None

  def enter(self, call, args, kwargs, context) -> Any:
    """Calls a method, for `nn.intercept_methods`."""
    if context.method_name != _CALL:
      return call(*args, **kwargs)
    self._running.append(context.module)
    try:
      self._returned = call(*args, **kwargs)
      return self._returned
    finally:
      self._running.pop()

  def capture(self, submodule: nn.Module, method_name: str) -> bool:
    """Returns whether to keep an output, for `capture_intermediates`.

    Flax calls it as soon as `enter` has returned the output.
    """
    path = '/'.join(submodule.path)
    # The module itself, with an empty path, is not a layer.
    keep = (
      method_name == _CALL
      and path
      and not any(m is submodule for m in self._running)  # Through `super()`.
      and self._is_layer(path, submodule)
    )
    if keep:
      self.order.append(path)
      submodule.sow('intermediates', _MARKERS, _markers_of(self._returned))
    return bool(keep)


def capture_nnx(
  module: Any,
  inputs: tuple[Any, ...],
  is_layer: IsLayer,
  *,
  method: str | Callable | None = None,
  **kwargs: Any,
) -> tuple[Any, list[Call], list[str]]:
  """Calls an NNX module and records what its layers return.

  `nnx.capture` would not do: its `method_outputs` misses an inherited
  `__call__`, records every other method, and keeps no order. It fails on
  `nnx.RNN`, on a bound method under `nnx.remat` and inside another capture.

  The module changes in place, as it does when it is called. Inside a JAX
  transformation that closes over it, it cannot change, and a copy runs.

  `method`, a name or a function of the module and the inputs, is called instead
  of the module. Returns its output, the calls of the submodules that `is_layer`
  selects, and the paths of those whose outputs did not come back.
  """
  from flax import nnx  # Only here, since importing it takes time.

  class Returned(nnx.Intermediate):
    """A variable type apart from those that the module itself sows."""

  method = getattr(method, '__func__', method)  # Unbound: a copy may run.

  def call(module, *args, **kwargs):
    function = getattr(module, method or _CALL)
    return function(*args, **kwargs)

  def run(module):
    order = []
    layers = _nnx_layers(module, is_layer)
    with _WRAPPING, _instrumented(layers, Returned, order):
      function = method if callable(method) else call
      outputs = function(module, *inputs, **kwargs)
      returned = {
        path: layer.captured_outputs.get_value() for path, layer in layers
      }
    return outputs, *_in_order(returned, order)

  try:
    return run(module)
  except errors.TraceContextError:
    return run(nnx.clone(module))


def _nnx_layers(module: Any, is_layer: IsLayer) -> list[tuple[str, Any]]:
  """Returns the (path, layer) pairs of an NNX module that can be recorded."""
  from flax import nnx

  modules = [(_join(path), part) for path, part in nnx.iter_modules(module)]
  # An RNN scans over its cell, to which nothing can be added.
  carried = tuple(f'{p}/' for p, part in modules if isinstance(part, nnx.RNN))
  return [
    (path, part)
    for path, part in modules
    if path
    and not path.startswith(carried)
    and callable(part)
    and is_layer(path, part)
  ]


def is_nnx(module: Any) -> bool:
  """Returns whether this is an NNX module, without importing NNX."""
  nnx = sys.modules.get('flax.nnx')
  return nnx is not None and isinstance(module, nnx.Module)


def protected_copy(
  module: Any, variables: Any, *, frozen: bool
) -> tuple[Any, Any]:
  """Returns (module, variables) whose calls do not change the given ones.

  An NNX module, which has `variables` of None, is copied. `frozen` stops
  gradients at the variables.
  """
  stop = jax.lax.stop_gradient if frozen else (lambda tree: tree)
  if is_nnx(module):
    from flax import nnx

    graphdef, state = nnx.split(module)
    module = nnx.merge(graphdef, stop(state))
  return module, stop(variables)


@contextlib.contextmanager
def _instrumented(layers, variable_type, order) -> Iterator[None]:
  """Makes NNX layers keep what `__call__` returns, and record the order.

  The class is wrapped, since Python takes `__call__` from the class.
  """
  classes = {
    type(layer): type(layer).__dict__.get(_CALL) for _, layer in layers
  }
  try:
    for path, layer in layers:
      layer.captured_path = path  # Static, so copies have it too.
      layer.captured_outputs = variable_type(())
    for cls in classes:
      _wrap_call(cls, variable_type, order)
    yield
  finally:
    for cls, own in classes.items():
      if _CALL in cls.__dict__:
        delattr(cls, _CALL)
      if own is not None:
        setattr(cls, _CALL, own)
    for _, layer in layers:
      for name in ('captured_path', 'captured_outputs'):
        if hasattr(layer, name):
          delattr(layer, name)


def _wrap_call(cls, variable_type, order) -> None:
  call = getattr(cls, _CALL)

  @functools.wraps(call)
  def wrapped(self, *args, **kwargs):
    outputs = call(self, *args, **kwargs)
    seen = getattr(self, 'captured_outputs', None)
    # Only this capture's variables, and not calls through `super()`.
    if type(seen) is variable_type and type(self) is cls:
      order.append(self.captured_path)
      # A layer closed over by a transformation cannot export its value.
      with contextlib.suppress(errors.TraceContextError):
        seen.set_value((*seen.get_value(), (outputs, _markers_of(outputs))))
    return outputs

  setattr(cls, _CALL, wrapped)


def _markers_of(outputs: Any) -> tuple[np.ndarray, ...]:
  """Returns the marker of each leaf of a layer's outputs; see the module."""
  return tuple(
    np.zeros((0, *[1] * (np.ndim(leaf) - 1))[: np.ndim(leaf)], bool)
    for leaf in jax.tree.leaves(outputs)
  )


def _called(
  intermediates: Mapping[Any, Any], path: tuple = ()
) -> Iterator[tuple[str, tuple]]:
  """Yields (layer, the (outputs, markers) of its calls)."""
  for name, value in intermediates.items():
    if name == _CALL and isinstance(value, tuple):
      yield _join(path), tuple(zip(value, intermediates[_MARKERS], strict=True))
    elif isinstance(value, Mapping):
      yield from _called(value, (*path, name))


def _sown(intermediates: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what the module itself sowed, without the captured values."""
  sown = {}
  for name, value in intermediates.items():
    kept = _sown(value) if isinstance(value, Mapping) else value
    ours = name in (_CALL, _MARKERS)
    if not ours and (kept or not isinstance(value, Mapping)):
      sown[name] = kept
  return sown


def _in_order(
  returned: Mapping[str, tuple], order: Iterable[str]
) -> tuple[list[Call], list[str]]:
  """Pairs each recorded call with its output.

  Flax may trace a layer more often than it runs (`nn.scan`), or reuse a cached
  trace without calling Python (`nnx.jit`). Calls that were not recorded come
  last. Also returns the paths that were called and returned nothing.
  """
  done = collections.Counter()
  calls = []
  order = list(order)
  for path in [*order, *(p for p, outs in returned.items() for _ in outs)]:
    if done[path] < len(returned.get(path, ())):
      output, markers = returned[path][done[path]]
      axes = [m.shape.index(0) if 0 in m.shape else 0 for m in markers]
      calls.append(Call(path, output, axes))
      done[path] += 1
  return calls, [p for p in dict.fromkeys(order) if not returned.get(p)]


def _join(path: Iterable[Any]) -> str:
  return '/'.join(map(str, path))
