"""Counts the bytes that a network's results take, by its jaxpr."""

import functools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.extend.core import Jaxpr

PRODUCTS = ('conv_general_dilated', 'dot_general')
_RECOMPUTED = ('checkpoint', 'remat', 'remat2')


@functools.partial(jax.jit, static_argnums=(0, 3))
def _apply(module, variables, x, method):
  return module.apply(variables, x, method=method)


def forward_pass(
  module: nn.Module,
  variables: Any,
  shape: tuple[int, ...],
  method: str | None = None,
) -> Jaxpr:
  """Traces a network on a float32 batch of a shape, once for equal networks."""
  x = jax.ShapeDtypeStruct(shape, np.float32)
  return _apply.trace(module, variables, x, method).jaxpr.jaxpr


def kept_bytes(
  jaxpr: Jaxpr, kept: tuple[str, ...] = PRODUCTS, lanes: int = 1
) -> int:
  """Counts what one forward pass keeps for the backward pass.

  It keeps the results of the operations in `kept`. A block that is computed
  again (`remat`) keeps its result alone. What the largest of them keeps within
  is added once. For `lanes` see `_num_bytes`.
  """
  sizes, biases = Counter(), set()
  for equation, block in _equations(jaxpr):
    name = equation.primitive.name
    if name == 'broadcast_in_dim':
      biases.update(equation.outvars)
    if name == 'add' and _adds(equation, biases):
      continue
    if name in kept or name in _RECOMPUTED:
      sizes[block] += _num_bytes(equation.outvars, lanes)
  return sizes.pop(None, 0) + max(sizes.values(), default=0)


def largest_layer(jaxpr: Jaxpr) -> int:
  """Returns the bytes that the largest product takes and returns."""
  return max(
    _num_bytes([*equation.invars, *equation.outvars])
    for equation, _ in _equations(jaxpr)
    if equation.primitive.name in PRODUCTS
  )


def _equations(jaxpr: Jaxpr, block: Any = None) -> Iterator[tuple[Any, Any]]:
  """Yields all equations, each with the innermost recomputed block it is in."""
  for equation in jaxpr.eqns:
    yield equation, block
    within = object() if equation.primitive.name in _RECOMPUTED else block
    for value in equation.params.values():
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        yield from _equations(inner, within)


def _adds(equation, biases) -> bool:
  """Returns whether a sum only adds a bias or a number to an array."""
  shape = equation.outvars[0].aval.shape
  return any(
    x.aval.shape != shape or hasattr(x, 'val') or x in biases
    for x in equation.invars
  )


def _num_bytes(variables, lanes: int = 1) -> int:
  """Returns the bytes of arrays [B, ..., C]; B or C fills whole lanes."""
  total = 0
  for x in variables:
    sizes = x.aval.shape or (1,)
    ends = min(-(-n // lanes) * lanes / n for n in (sizes[0], sizes[-1]))
    total += round(math.prod(sizes) * ends) * x.aval.dtype.itemsize
  return total
