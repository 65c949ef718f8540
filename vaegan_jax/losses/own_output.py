"""Finds layers that add no feature: a critic's logits, and repeated layers.

The logits are what the module returns or computes its output from. A wrapper
such as `SpectralNorm` repeats the output of the layer inside it. Neither adds a
feature. Arrays do not say where they come from, so the module is traced once
more, abstractly, and the program is read. This costs no computation.
"""

from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

# Operations that return the very arrays that they are given, ...
_SAME = {
  *('copy', 'copy_p', 'name', 'optimization_barrier', 'sharding_constraint'),
  'stop_gradient',
}
# ... or all of its entries in another shape, type or order, ...
_RESHAPED = {
  *('broadcast_in_dim', 'convert_element_type', 'expand_dims', 'pcast'),
  *('pvary', 'reduce_precision', 'reshape', 'reshard', 'rev', 'squeeze'),
  'transpose',
}
# ... or, if there are as many, perhaps all of them ...
_TAKEN = {'dynamic_slice', 'gather', 'slice'}
# ... or those of several, and operations that run another program once.
_JOINED = {'concatenate', 'stack'}
_CALLS = {
  *('checkpoint', 'closed_call', 'core_call', 'custom_jvp_call'),
  *('custom_vjp_call', 'jit', 'pjit', 'remat', 'remat2'),
}
# Operations that are or may hold the product of a layer with its weights.
_PRODUCTS = {'conv_general_dilated', 'cond', 'dot_general', 'scan', 'while'}
# A feature of more channels is not a logit, whatever the output is computed
# from.
_MAX_LOGITS = 2


class _Value(NamedTuple):
  """An array in a program."""

  array: object  # Identity of the array: aliases have one.
  sources: frozenset  # Identities of the arrays whose entries it consists of.


def distinct_features(
  run: Callable[[], tuple[Any, dict[str, jax.Array]]], selected: Container[str]
) -> list[str] | None:
  """Returns the names of features that are neither repeated nor the output.

  An array that several layers return counts under the first one's name. A
  feature is the module's output if no other feature is computed from it, and
  the module returns its values, in any shape and type. A feature of one or two
  channels also is if the output is computed from it, by any operations: it is a
  logit. Its mean, scale or sigmoid, in a layer around it, is the same feature.

  Args:
    run: runs the module: () -> (its output, {name: feature} in forward order),
      with the features of all layers.
    selected: the names to choose from.

  Returns:
    The names to keep; None if the module cannot be traced.
  """
  names, num_outputs = [], 0

  def traced():
    nonlocal names, num_outputs
    outputs, features = run()
    outputs = [o for o in jax.tree.leaves(outputs) if hasattr(o, 'dtype')]
    names, num_outputs = list(features), len(outputs)
    return outputs, list(features.values())

  try:
    program = jax.make_jaxpr(traced)()
  except jax.errors.JAXTypeError:  # Its Python depends on the images' values.
    return None
  avals = dict(zip(names, program.out_avals[num_outputs:], strict=True))
  narrow = {name for name in names if _num_channels(avals[name]) <= _MAX_LOGITS}
  reader = _Reader()
  values = reader.read(program.jaxpr, [])
  features = dict(zip(names, values[num_outputs:], strict=True))
  is_output = _output_finder(reader, values[:num_outputs], features, narrow)
  first = {}
  for name, value in features.items():
    if name in selected:
      first.setdefault(value.array, name)
  return [name for name in first.values() if not is_output(name)]


def _output_finder(reader, outputs, features, narrow) -> Callable[[str], bool]:
  """Returns (name of a feature) -> whether it is the module's output.

  The reader has read the program. `narrow` are the names of features with at
  most _MAX_LOGITS channels.
  """
  returned = set().union(*(value.sources for value in outputs))
  logits = [
    features[name].sources
    for name in narrow
    if reader.reached_from(features[name]) & returned
  ]
  returned = returned.union(*logits)

  def is_output(name):
    value = features[name]
    if not value.sources <= returned:
      return False
    same = reader.reached_from(value, by_products=False)
    others = (
      other.sources
      for key, other in features.items()
      if not ({key, name} <= narrow and other.sources & same)
    )
    return not reader.reached_from(value) & set().union(*others)

  return is_output


class _Reader:
  """Reads a program and follows its values."""

  def __init__(self):
    # In order: from, to, and whether it may be a matrix product.
    self._uses: list[tuple[frozenset, frozenset, bool]] = []

  def read(self, jaxpr: Jaxpr, inputs: Sequence[_Value]) -> list[_Value]:
    """Returns the values of a program's outputs."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def value_of(variable):
      if not hasattr(variable, 'val'):  # A literal has no name.
        return known.setdefault(variable, _new())
      return _new()

    for equation in jaxpr.eqns:
      values = [value_of(variable) for variable in equation.invars]
      known |= zip(equation.outvars, self._apply(equation, values), strict=True)
    return [value_of(variable) for variable in jaxpr.outvars]

  def _apply(self, equation: JaxprEqn, values: list[_Value]) -> list[_Value]:
    """Returns the values of an operation's outputs."""
    kind, num_outputs = equation.primitive.name, len(equation.outvars)
    inner = _inner(equation)
    if inner is not None and len(inner.invars) == len(values):
      return self.read(inner, values)
    if kind in _SAME and len(values) == num_outputs:
      return values
    if kind in _RESHAPED or (kind in _TAKEN and _takes_all(equation)):
      return [_new(values[0].sources)]
    if kind in _JOINED:
      return [_new(frozenset().union(*(value.sources for value in values)))]
    outputs = [_new() for _ in range(num_outputs)]
    used, made = (
      frozenset().union(*(value.sources for value in each))
      for each in (values, outputs)
    )
    self._uses.append((used, made, kind in _PRODUCTS))
    return outputs

  def reached_from(self, value: _Value, *, by_products: bool = True) -> set:
    """Returns the sources computed from a value, besides its own.

    Without `by_products`, matrix products and convolutions are not followed.
    """
    reached = set(value.sources)
    for used, made, is_product in self._uses:
      if reached & used and (by_products or not is_product):
        reached |= made
    return reached - value.sources


def _new(sources: frozenset | None = None) -> _Value:
  array = object()
  return _Value(array, frozenset((array,)) if sources is None else sources)


def _num_channels(aval) -> float:
  """Returns the size of the last axis; one number per image is one channel."""
  size = aval.shape[-1] if aval.ndim > 1 else 1
  return size if isinstance(size, int) else float('inf')  # Symbolic: of space.


def _takes_all(equation: JaxprEqn) -> bool:
  """Returns whether an output is as large as the array that it is taken of."""
  return equation.outvars[0].aval.size == equation.invars[0].aval.size


def _inner(equation: JaxprEqn) -> Jaxpr | None:
  """Returns the program that an operation calls once; None if there is none."""
  if equation.primitive.name not in _CALLS:
    return None
  for name in ('jaxpr', 'call_jaxpr', 'fun_jaxpr'):
    inner = equation.params.get(name)
    if isinstance(inner, ClosedJaxpr):
      return inner.jaxpr
    if isinstance(inner, Jaxpr):
      return inner
  return None
