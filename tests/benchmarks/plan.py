"""Reads what a TPU's compiler plans from the text of its compiled program.

A TPU stores the last two axes of an array in tiles, which it fills up with
padding. Which axes are last, and the tiles, are part of an array's type in the
text: `f32[64,3]{1,0:T(8,128)}` has 3 numbers in each row of 128.
"""

import math
import re
from typing import NamedTuple

from tests.benchmarks import hlo

_ARRAY = re.compile(
  r'([a-z]+)(\d*)\w*\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?'
)
# Instructions that move nothing, or whose parts are counted instead.
_FREE = (
  *('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast'),
  *('after-all', 'partition-id', 'replica-id', 'iota'),
)
_COLLECTIVES = (
  *('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all'),
  'collective-permute',
)


class Size(NamedTuple):
  """Bytes of arrays.

  Attributes:
    logical: bytes of their elements.
    padded: bytes that they take, in any memory.
    main: those of `padded` that lie in the chip's main memory. Other arrays
      stay in the small memory beside the arithmetic units.
  """

  logical: int = 0
  padded: int = 0
  main: int = 0

  def plus(self, other: 'Size') -> 'Size':
    """Adds the bytes of other arrays."""
    return Size(*map(sum, zip(self, other, strict=True)))


def size_of(type_text: str) -> Size:
  """Returns the bytes of a type, which may be a tuple's."""
  total = Size()
  for name, bits, shape, order, layout in _ARRAY.findall(type_text):
    if name == 'token':
      continue
    shape = [int(n) for n in shape.split(',') if n]
    bits = int(bits or 8)  # A truth value takes a byte.
    padded = _pad(shape, [int(i) for i in order.split(',') if i], layout)
    space = re.search(r'S\((\d+)\)', layout)
    sizes = [-(-math.prod(each) * bits // 8) for each in (shape, padded)]
    in_main = not space or space[1] == '0'
    total = total.plus(Size(*sizes, sizes[1] * in_main))
  return total


def _pad(shape: list[int], order: list[int], layout: str) -> list[int]:
  """Returns the shape, from the outermost axis in, that the tiles fill.

  Args:
    shape: the array's.
    order: its axes, from the innermost out.
    layout: the rest of the layout, such as 'T(8,128)(2,1)S(1)'.
  """
  padded = [shape[axis] for axis in reversed(order)] if order else [*shape]
  tile = re.search(r'T\(([\d,]+)\)', layout)
  if not tile:
    return padded
  tile = [int(n) for n in tile[1].split(',')]
  padded = [1] * (len(tile) - len(padded)) + padded
  for axis, side in enumerate(tile, len(padded) - len(tile)):
    padded[axis] = -(-padded[axis] // side) * side
  return padded


def traffic(text: str) -> Size:
  """Returns the bytes that one execution reads and writes.

  Each instruction, fused or not, reads its operands once and writes its result
  once. Of a slice or an update in place only the part that moves counts.
  """
  computations, entry = hlo.parse(text)

  def count(name: str) -> Size:
    types = {i.name: i.type for i in computations[name]}
    total = Size()
    for instruction in computations[name]:
      total = total.plus(count_one(instruction, types))
    return total

  def count_one(instruction, types) -> Size:
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith('-done'):
      return Size()
    if opcode in ('while', 'call', 'conditional'):
      times = 1
      if opcode == 'while':
        times = hlo.count_iterations(instruction, computations)
      total = Size()
      for name in hlo.called(instruction):
        total = total.plus(count(name))
      return Size(*(times * n for n in total))
    if opcode in ('copy-start', 'slice-start'):
      return _moved(instruction.type)
    total = size_of(instruction.type)
    for operand in instruction.operands:
      total = total.plus(size_of(hlo.operand_type(operand, types)))
    return total

  return count(entry)


def _moved(type_text: str) -> Size:
  """Returns the bytes of a copy between memories, of a whole or a slice.

  Its type has the array and its copy, in either order, and a semaphore.
  """
  arrays = [size_of(found[0]) for found in _ARRAY.finditer(type_text)][:2]
  least = min(arrays)
  in_main = sum(each.main > 0 for each in arrays)
  return Size(2 * least.logical, 2 * least.padded, in_main * least.padded)


def collectives(text: str) -> dict[str, dict[str, int]]:
  """Returns {kind: {'count', 'bytes'}}; an asynchronous one counts once."""
  found = {}
  for instruction in hlo.instructions(text):
    kind = instruction.opcode.removesuffix('-start')
    if kind in _COLLECTIVES:
      entry = found.setdefault(kind, {'count': 0, 'bytes': 0})
      entry['count'] += 1
      entry['bytes'] += size_of(instruction.type).logical
  return found
