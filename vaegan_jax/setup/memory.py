"""Checks that updates and evaluations fit in memory, before anything compiles.

An update needs its state, the gradients of the largest network, and what those
gradients need: the results of convolutions and matrix products. On a CPU this
is a lower bound, and an update that needs more is refused. An accelerator's
estimate has the sums of residual blocks, too, and a TPU's padding. XLA computes
results again there if the memory is short. So an update is refused for its
state and gradients, and the rest only causes a warning. XLA may still run out
of memory; that is reported as a user's mistake too.
"""

import contextlib
import functools
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from absl import logging

from vaegan_jax.errors import UserError
from vaegan_jax.models.latents.lfq import LFQ
from vaegan_jax.models.tile_plan import TilePlan, examples_at_once
from vaegan_jax.setup.program_sizes import (
  PRODUCTS,
  forward_pass,
  kept_bytes,
  largest_layer,
)
from vaegan_jax.training.train_state import TrainState, select

# A TPU fills up to this many images or channels, and keeps about so many bytes
# out of its main memory.
_LANES, _BESIDE = 128, 64_000_000
# Files with a container's limit.
_GROUP_LIMITS = ('memory.max', 'memory/memory.limit_in_bytes')


def check_memory(
  modules: Mapping[str, nn.Module],
  state: TrainState,
  shape: tuple[int, int, int],
  batch_size: int,
  num_chunks: int = 1,
  trained_parts: tuple[str, ...] | None = None,
) -> None:
  """Refuses an update that cannot fit in a device's memory.

  Args:
    state: arrays or their shapes.
    shape: (*S, C) of an example.
    batch_size: images of a device.
    num_chunks: in which it computes them one after the other.
    trained_parts: names of the autoencoder's parts that move; None: all.

  Raises:
    UserError: it needs more than there is.
  """
  device, available = jax.local_devices()[0], _available()
  parts = estimate_parts(
    modules,
    state,
    shape,
    batch_size,
    device.platform,
    num_chunks,
    trained_parts,
  )
  needed = sum(parts.values())
  if needed <= available:
    return
  on_cpu = device.platform == 'cpu'
  where = 'each device' if on_cpu else f'each {device.device_kind}'
  listed = ', '.join(f'{n / 1e9:,.1f} {name}' for name, n in parts.items())
  message = (
    f'An update needs about {needed / 1e9:,.1f} GB of memory on {where} '
    f'({listed}), which has {available / 1e9:,.1f}: lower batch_size, '
    'data.image_size, model.width, model.codebook_size or critic.width, as '
    'in --config.batch_size=16, or use --config.model.remat=true'
  )
  if not isinstance(modules['autoencoder'].latent, LFQ):  # It refuses them.
    message += f' or --config.optimizer.accumulate_steps={2 * num_chunks}'
  *fixed, _ = parts.values()
  if on_cpu or sum(fixed) > available:
    raise UserError(message)
  logging.warning('%s', message)


def estimate_parts(
  modules: Mapping[str, nn.Module],
  state: TrainState,
  shape: tuple[int, ...],
  batch_size: int,
  platform: str,
  num_chunks: int = 1,
  trained_parts: tuple[str, ...] | None = None,
) -> dict[str, int]:
  """Estimates the bytes that an update needs on a device.

  Args:
    modules, state, shape, batch_size, num_chunks, trained_parts: as
      `check_memory` takes them.
    platform: 'cpu', 'gpu' or 'tpu'.

  Returns:
    {part: bytes}: the state, the gradients, and last the activations.
  """
  on_cpu = platform == 'cpu'
  options = {
    'lanes': _LANES if platform == 'tpu' else 1,
    # A CPU's forms of convolutions have sums of their own.
    'kept': PRODUCTS if on_cpu else (*PRODUCTS, 'add'),
  }
  batch_size //= num_chunks

  def passes(name) -> int:
    # The critic's step takes photographs and reconstructions. A CPU may take
    # one after the other, and its bound must not exclude that.
    trained = name == 'critic' and state.networks[name].opt_state
    return 2 if trained and not on_cpu else 1

  def kept(name, module) -> int:
    method, taken = None, shape
    if name == 'autoencoder' and trained_parts is not None:
      if 'decoder' not in trained_parts:
        return 0
      method = 'decode'
      taken = (*module.latent_space(shape[:-1]), module.latent.size)
    variables = state.networks[name].variables
    program = forward_pass(module, variables, (batch_size, *taken), method)
    return kept_bytes(program, **options)

  sizes = [passes(name) * kept(name, m) for name, m in modules.items()]
  # A chunk's forward pass is computed again after the critic's step.
  activations = sum(sizes) if num_chunks == 1 else max(sizes)
  if platform == 'tpu':
    activations = max(activations - _BESIDE, 0)
  return {
    'the state': _num_bytes(state),
    'gradients': max(
      _num_bytes(
        select(net.params, trained_parts if name == 'autoencoder' else None)
      )
      for name, net in state.networks.items()
    ),
    f'activations of {batch_size:,} images': activations,
  }


def check_evaluation(
  autoencoder: nn.Module,
  variables: Mapping[str, Any],
  shape: tuple[int, ...],
  num_tiles: int,
  tile: tuple[int, ...],
  trained: tuple[int, ...],
) -> None:
  """Refuses an evaluation that cannot fit in a device's memory.

  Args:
    shape, trained: (*S, C) of an example, and S of the training.
    num_tiles: tiles, or whole examples, at a time.
    tile: in which the autoencoder is applied; (): it takes whole examples.

  Raises:
    UserError: it needs more than there is.
  """
  count = functools.partial(
    _evaluation_bytes, autoencoder, variables, shape, num_tiles
  )
  available, (number, needed) = _available(), count(tile)
  if needed <= available:
    return
  remedies = ['lower batch_size'] if number > 1 else []
  # A large tile fits every network, and its plan says which others do.
  plan = TilePlan(autoencoder, variables, shape, (2**20 * math.prod(shape),))
  side, wanted = max(tile or shape[:-1]), max(trained)
  while (fitting := plan.fitting(min(wanted, side // 2))) < side:
    side = fitting
    if count((side,) * len(trained))[1] <= available:
      remedies.append(f'use tiles: --config.evaluation.tile_size={side}')
      break
  raise UserError(
    f'An evaluation of {number:,} examples of {"x".join(map(str, shape[:-1]))} '
    f'at a time needs at least {needed / 1e9:,.1f} GB of memory on a device, '
    f'which has {available / 1e9:,.1f}: '
    + (', or '.join(remedies) or 'evaluate smaller examples')
  )


def _evaluation_bytes(autoencoder, variables, shape, num_tiles, tile):
  """Returns how many examples a device takes, and a lower bound of its bytes.

  They are of the largest layer, and with tiles of examples and outputs.
  """
  number = examples_at_once(num_tiles, tile, shape[:-1])
  number = -(-number // len(jax.local_devices()))
  taken = (*map(min, tile, shape), shape[-1]) if tile else shape
  examples = 2 * 4 * number * math.prod(shape) if tile else 0
  program = forward_pass(autoencoder, variables, (number, *taken))
  return number, largest_layer(program) + examples


def check_features(
  num_examples: int, num_pictures: int, num_features: int
) -> None:
  """Refuses a Frechet distance whose features exceed the machine's memory.

  An example has one picture, or one for each band. Without a Frechet distance
  there are no features.

  Raises:
    UserError: they need more than there is.
  """
  # Float32 of originals, of two kinds of reconstructions, and a copy.
  needed = 4 * 4 * num_examples * num_pictures * num_features
  available = _machine_memory()
  if needed > available:
    fewer = max(int(num_examples * available / needed) // 2, 2)
    raise UserError(
      f'evaluation.features_weights needs {needed / 1e9:,.1f} GB of memory for '
      f'{num_features:,} features of {num_examples:,} examples with '
      f'{num_pictures:,} pictures each, and the machine has '
      f'{available / 1e9:,.1f}: evaluate fewer, such as '
      f'--config.data.eval_split="test[:{fewer}]", or compute no Frechet '
      'distance, --config.evaluation.features_weights='
    )


def _num_bytes(tree: Any) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _available() -> int:
  """Returns the bytes of one device; CPU devices share the machine's."""
  devices = jax.local_devices()
  stats = devices[0].memory_stats() or {}
  if 'bytes_limit' in stats:
    return stats['bytes_limit']
  return _machine_memory() // len(devices)


def _machine_memory() -> int:
  """Returns the bytes of the machine, or of its container."""
  limits = [os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')]
  for name in _GROUP_LIMITS:
    with contextlib.suppress(OSError, ValueError):  # 'max': no limit.
      limits.append(int(Path('/sys/fs/cgroup', name).read_text()))
  return min(limits)


@contextlib.contextmanager
def reporting_exhaustion(sizes: Mapping[str, Any]) -> Iterator[None]:
  """Reports exhausted memory within the context as a user's mistake.

  Raises:
    UserError: XLA or Python ran out of memory.
  """
  try:
    yield
  except Exception as error:  # XLA's errors differ in their text alone.
    exhausted = 'RESOURCE_EXHAUSTED' in str(error)
    if not exhausted and not isinstance(error, MemoryError):
      raise
    reason = str(error).strip().partition('\n')[0][:200] or 'of Python'
    listed = ', '.join(f'{name}={value}' for name, value in sizes.items())
    raise UserError(
      f'There is too little memory ({reason}) for {listed or "this"}: lower '
      'one '
      'of them, as in --config.batch_size=16, or use more devices'
    ) from error
