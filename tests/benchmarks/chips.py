"""TPU chips: their peaks, what a program takes of them, and their devices.

The peaks are the maker's, from the page of each chip in the documentation of
Cloud TPU, as they stood in November 2026.
"""

import fnmatch
import importlib.metadata
import os
import re
from typing import NamedTuple

import jax
from jax.experimental import topologies

from tests.benchmarks import hlo, plan
from vaegan_jax.errors import UserError

_PAGES = 'https://docs.cloud.google.com/tpu/docs/'

_NAME = re.compile(r'(\w+):(\d+(?:x\d+)+)')
# libtpu runs without a chip, and beside other programs that use it.
_ENVIRONMENT = {
  'ALLOW_MULTIPLE_LIBTPU_LOAD': 'true',
  'TPU_SKIP_MDS_QUERY': 'true',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
  'TPU_WORKER_HOSTNAMES': 'localhost',
}


class Chip(NamedTuple):
  """One chip.

  Attributes:
    flops: a second, in bfloat16. JAX multiplies float32 so too, unless it is
      asked for more precision.
    memory: bytes of its main memory, of which a program gets almost all.
    bandwidth: bytes that it reads or writes there in a second.
    interconnect: bytes that it sends and receives in a second.
    source: page that gives all of these.
    devices: JAX's devices on one chip, which share them.
  """

  flops: float
  memory: float
  bandwidth: float
  interconnect: float
  source: str
  devices: int = 1


CHIPS = {
  'v5e': Chip(197e12, 16 * 2**30, 819e9, 400e9, f'{_PAGES}v5e'),
  'v5p': Chip(459e12, 95 * 2**30, 2765e9, 1200e9, f'{_PAGES}v5p-training'),
  'v6e': Chip(918e12, 32 * 2**30, 1638e9, 800e9, f'{_PAGES}v6e'),
  'v7x': Chip(2307e12, 192 * 2**30, 7380e9, 1200e9, f'{_PAGES}tpu7x', 2),
}


def roofline(
  chip: Chip,
  flops: float,
  size: plan.Size,
  reduced_bytes: int,
  num_devices: int,
) -> dict[str, float]:
  """Returns the least seconds of a program on each of its devices.

  Args:
    chip: the chip.
    flops: of one device.
    size: bytes that one device reads and writes.
    reduced_bytes: bytes of its collectives.
    num_devices: devices that take part.

  Returns:
    Seconds by what takes them: 'compute', 'main_memory' and 'interconnect'.
  """
  # In a ring each byte is sent once to be summed and once as a part of the sum,
  # but for what a device has already. Half of the bandwidth is for sending.
  sent = 2 * reduced_bytes * (num_devices - 1) / num_devices
  return {
    'compute': flops * chip.devices / chip.flops,
    'main_memory': size.main * chip.devices / chip.bandwidth,
    'interconnect': sent * chip.devices / (chip.interconnect / 2),
  }


def describe_plan(
  text: str, chip: Chip, num_devices: int, batch_size: int
) -> dict:
  """Describes a program by its text: its work and what bounds its time.

  Args:
    text: HLO that the TPU's compiler has scheduled.
    chip: the chip.
    num_devices: devices that it runs on.
    batch_size: examples on each of them.
  """
  size, collectives = plan.traffic(text), plan.collectives(text)
  flops, uncounted = 0, {}
  try:
    flops = hlo.count_flops(text)
  except ValueError as error:
    uncounted = {'flops_not_counted': str(error)}
  reduced = sum(entry['bytes'] for entry in collectives.values())
  seconds = roofline(chip, flops, size, reduced, num_devices)
  slowest = max(seconds, key=seconds.get)
  return {
    'flops': flops,
    'main_memory_bytes': size.main,
    'padded_over_logical_bytes': round(size.padded / max(size.logical, 1), 3),
    'collectives': collectives,
    'host_transfers': hlo.count_host_transfers(text),
    'roofline_seconds': {k: float(f'{v:.3g}') for k, v in seconds.items()},
    'bound_by': slowest,
    'images_per_second_per_chip': round(
      chip.devices * batch_size / seconds[slowest]
    ),
  } | uncounted


def find_devices(topology: str) -> tuple[Chip, list[jax.Device], str]:
  """Returns the chip and the devices of a topology, and libtpu's version.

  Raises:
    UserError: the chip or the shape is unknown, or there is no fitting libtpu.
  """
  found = _NAME.fullmatch(topology)
  if not found or found[1] not in CHIPS:
    raise UserError(
      f'--topology={topology} must be a chip and a shape, such as v5e:2x2; the '
      f'chips are {", ".join(CHIPS)}'
    )
  version = check_libtpu()
  os.environ |= _ENVIRONMENT | os.environ
  name = topology.replace('v7x', 'tpu7x')  # As libtpu calls it.
  try:
    devices = topologies.get_topology_desc(name, 'tpu').devices
  except jax.errors.JaxRuntimeError as error:
    reason = str(error).partition('\n')[0]
    raise UserError(
      f'--topology={topology} cannot be used ({reason}): name another shape, '
      'such as 2x2 of v5e and v6e or 2x2x1 of v5p and v7x'
    ) from error
  return CHIPS[found[1]], devices, version


def check_libtpu() -> str:
  """Returns the version of libtpu.

  Raises:
    UserError: there is none, or JAX needs another.
  """
  needed = next(
    re.match(r'libtpu\s*==\s*([\w.*]+)', requirement)[1]
    for requirement in importlib.metadata.requires('jax')
    if requirement.startswith('libtpu')
  )
  install = f'pip install "libtpu=={needed}"'
  try:
    version = importlib.metadata.version('libtpu')
  except importlib.metadata.PackageNotFoundError:
    raise UserError(
      f"The TPU's compiler is missing: install it, {install}"
    ) from None
  if not fnmatch.fnmatch(version, needed):
    raise UserError(
      f'libtpu is {version}, and jax {jax.__version__} needs {needed}: '
      f'{install}'
    )
  return version
