"""Counts the work in a program, from the text of its HLO.

It analyses `jax.jit(f).lower(...).compile().as_text()`, which is what runs, or
`jax.jit(f).lower(...).as_text('hlo')`, from which XLA has removed nothing yet.
It counts only convolutions and matrix products. For a convolution it counts
only products with real inputs: none with padding, and none with the zeros of a
dilation.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

# Custom calls that compute nothing.
_HARMLESS_TARGETS = (
  'Sharding',
  'SPMDFullToShardShape',
  'SPMDShardToFullShape',
  'AllocateBuffer',
  'ConcatBitcast',
  'xla.sdy.FuncResultSharding',
)
_HOST_OPCODES = ('infeed', 'outfeed', 'send', 'recv')
_CALLBACK = re.compile('callback|host', re.IGNORECASE)
_CALLED = re.compile(
  r'\b(?:calls|to_apply|body|condition|true_computation|false_computation)='
  r'%?([\w.\-]+)|\b(?:branch_computations|called_computations)=\{([^}]*)\}'
)


@dataclasses.dataclass(frozen=True)
class _Instruction:
  """One line of HLO: `%name = type opcode(operands), attributes`."""

  name: str
  type: str
  opcode: str
  operands: tuple[str, ...]
  attributes: str


def count_flops(text: str) -> int:
  """Returns the FLOPs of all convolutions and dots of one execution.

  A product and its sum count as two.

  Args:
    text: HLO of one module.

  Returns:
    The count on one device.

  Raises:
    ValueError: the count would be unreliable, because of a custom call, or a
      loop of unknown length or a branch around a convolution or dot.
  """
  computations, entry = parse(text)
  counts = {}

  def count(name: str) -> int:
    if name not in counts:
      types = {i.name: i.type for i in computations[name]}
      counts[name] = sum(count_one(i, types) for i in computations[name])
    return counts[name]

  def count_one(instruction: _Instruction, types: dict[str, str]) -> int:
    if instruction.opcode in ('convolution', 'dot'):
      lhs, rhs = (_shape(operand_type(o, types)) for o in instruction.operands)
      flops = {'convolution': _convolution_flops, 'dot': _dot_flops}
      return flops[instruction.opcode](
        lhs, rhs, _shape(instruction.type), instruction.attributes
      )
    target = _custom_call_target(instruction)
    if target and target not in _HARMLESS_TARGETS:
      raise ValueError(f'the work of the custom call {target!r} is unknown')
    inside = sum(map(count, called(instruction)))
    if not inside:
      return 0
    if instruction.opcode == 'while':
      return count_iterations(instruction, computations) * inside
    if instruction.opcode == 'conditional':
      raise ValueError(f'{instruction.name} may or may not do its work')
    return inside

  return count(entry)


def count_iterations(loop, computations) -> int:
  """Returns how often a loop runs.

  A TPU's text has no count. There the number that the loop's condition compares
  with is taken, as JAX counts iterations from 0.

  Args:
    loop: an instruction 'while'.
    computations: {name: instructions} of its module.

  Raises:
    ValueError: neither of the two is there.
  """
  trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
  if trips:
    return int(trips[1])
  condition = re.search(r'\bcondition=%?([\w.\-]+)', loop.attributes)[1]
  values = {i.name: i for i in computations[condition]}
  for instruction in computations[condition]:
    if 'direction=LT' in instruction.attributes:
      last = values.get(instruction.operands[-1].lstrip('%'))
      if last and last.opcode == 'constant' and last.type.startswith('s32[]'):
        return int(last.operands[0])
  raise ValueError(f'{loop.name} loops an unknown number of times')


def count_all_reduces(text: str) -> int:
  """Counts the all-reduces of a module; an asynchronous one counts once."""
  opcodes = count_opcodes(text)
  return opcodes['all-reduce'] + opcodes['all-reduce-start']


def count_host_transfers(text: str) -> int:
  """Counts the host transfers of a module: feeds, sends and callbacks."""
  transfers = 0
  for instruction in instructions(text):
    target = _custom_call_target(instruction)
    transfers += instruction.opcode in _HOST_OPCODES
    transfers += bool(target and _CALLBACK.search(target))
  return transfers


def count_opcodes(text: str) -> collections.Counter[str]:
  """Counts each operation in a module's text, fusions included."""
  return collections.Counter(i.opcode for i in instructions(text))


def parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
  """Returns the instructions of each computation, and the entry's name."""
  computations = {}
  entry = name = ''
  for line in re.sub(r'/\*.*?\*/', '', text).splitlines():
    header = re.match(r'(ENTRY )?%?([\w.\-]+) (?:.*-> .*)?\{$', line)
    if header:
      name = header[2]
      entry = name if header[1] else entry
      computations[name] = []
    elif name and ' = ' in line:
      computations[name].append(_parse_line(line))
  if not entry:
    raise ValueError('no entry computation: is this the text of an HLO module?')
  return computations, entry


def _parse_line(line: str) -> _Instruction:
  name, rest = line.split(' = ', 1)
  # A tuple's type is in parentheses; any other has no space in it.
  end = _close(rest, 0) + 1 if rest[0] == '(' else rest.index(' ')
  opcode, _ = rest[end + 1 :].split('(', 1)
  start = end + 1 + len(opcode)
  stop = _close(rest, start)
  operands = rest[start + 1 : stop]
  return _Instruction(
    name=name.replace('ROOT', '').strip().lstrip('%'),
    type=rest[:end],
    opcode=opcode,
    operands=tuple(_split(operands)),
    attributes=rest[stop + 1 :],
  )


def _close(text: str, start: int) -> int:
  """Returns the position of the parenthesis that closes the one at `start`."""
  depth = 0
  for place in range(start, len(text)):
    depth += {'(': 1, ')': -1}.get(text[place], 0)
    if depth == 0:
      return place
  raise ValueError(f'unbalanced: {text[start : start + 80]}')


def _split(operands: str) -> list[str]:
  """Splits at the commas outside brackets."""
  parts = re.split(r',(?![^\[{(]*[\]})])', operands)
  return [part.strip() for part in parts if part.strip()]


def operand_type(text: str, types: dict[str, str]) -> str:
  """Returns the type of `%name`, or of `f32[2,3]{1,0} %name`."""
  return text if '[' in text else types[text.lstrip('%')]


def instructions(text: str) -> Iterator[_Instruction]:
  for instructions in parse(text)[0].values():
    yield from instructions


def called(instruction: _Instruction) -> list[str]:
  """Returns the names of the computations that an instruction calls."""
  return [
    name.strip().lstrip('%')
    for single, several in _CALLED.findall(instruction.attributes)
    for name in (single or several).split(',')
  ]


def _custom_call_target(instruction: _Instruction) -> str | None:
  if instruction.opcode != 'custom-call':
    return None
  return re.search('custom_call_target="([^"]*)"', instruction.attributes)[1]


def _shape(type_text: str) -> tuple[int, ...]:
  dimensions = re.match(r'\w+\[([\d,]*)\]', type_text)[1]
  return tuple(int(d) for d in dimensions.split(',') if d)


def _dot_flops(lhs, rhs, out, attributes) -> int:
  del rhs
  contracting = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', attributes)
  places = contracting[1].split(',') if contracting else []
  return 2 * math.prod(out) * math.prod(lhs[int(p)] for p in places if p)


def _convolution_flops(lhs, rhs, out, attributes) -> int:
  """Returns twice the number of products with real inputs.

  Every output element sums over the kernel's input features (those of its own
  group, which are all that the kernel has) and over the kernel positions that
  meet an input. Each dimension is independent. Groups and reversed windows do
  not change the count.
  """
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', attributes)
  lhs_at, rhs_at, out_at = (
    dict(zip(label, shape, strict=True))
    for label, shape in zip(labels.groups(), (lhs, rhs, out), strict=True)
  )
  window = re.search(r'window=\{([^}]*)\}', attributes)
  fields = dict(f.split('=') for f in window[1].split()) if window else {}
  spatial = sorted(label for label in out_at if label.isdigit())
  products = out_at['b'] * out_at['f'] * rhs_at['i']
  for place, label in enumerate(spatial):

    def field(name, default, place=place):
      return fields[name].split('x')[place] if name in fields else default

    low = int(field('pad', '0_0').split('_')[0])
    products *= _count_taps(
      lhs_at[label],
      rhs_at[label],
      out_at[label],
      stride=int(field('stride', '1')),
      pad=low,
      lhs_dilation=int(field('lhs_dilate', '1')),
      rhs_dilation=int(field('rhs_dilate', '1')),
    )
  return 2 * products


def _count_taps(
  size, kernel, out, *, stride, pad, lhs_dilation, rhs_dilation
) -> int:
  """Counts (output, kernel position) pairs of one dimension with an input."""
  taps = 0
  for o in range(out):
    for k in range(kernel):
      place = o * stride + k * rhs_dilation - pad
      taps += place % lhs_dilation == 0 and 0 <= place // lhs_dilation < size
  return taps
