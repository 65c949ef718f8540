"""Measures the update: its arithmetic, its collectives and its time.

Run from the root of the repository:

    python -m tests.benchmarks.update
    python -m tests.benchmarks.update --config=configs/celeba.py --order=both

The arithmetic is counted in the program compiled for 8 virtual CPU devices, and
compared with the minimum for the networks' shapes. The time is measured on the
available devices. The update orders alternate, so that other programs slow both
alike. Prints one JSON object.
"""

import argparse
import functools
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import ml_collections

from configs import default
from tests.benchmarks import hlo
from tests.benchmarks.minimum import minimum_flops
from tests.environment import environment
from vaegan_jax.config.io import load_config_file
from vaegan_jax.config.shapes import example_shape
from vaegan_jax.names import UPDATE_ORDERS
from vaegan_jax.runtime import devices
from vaegan_jax.setup.networks import create_networks
from vaegan_jax.setup.updates import create_updates
from vaegan_jax.training import train_state
from vaegan_jax.training.step_kinds import StepKind

_NUM_VIRTUAL_DEVICES = 8
_STEPS = 5  # The update may compile once in them.
_RUNS = 7
_SECONDS_A_RUN = 2
_COMPILED = '/jax/core/compile/backend_compile_duration'


def main(argv: list[str]) -> None:
  """Prints the counts of the programs and their times."""
  args = parse_args(argv)
  if args.programs:
    print(json.dumps(count_programs(args), indent=2))
    return
  result = describe_programs(argv)
  _log('timing')
  timed = _measure_time(args)
  for order in result:
    result[order] |= timed[order]
  if len(result) == 2:
    both = [timed[order]['seconds_per_step'] for order in UPDATE_ORDERS]
    result['simultaneous_to_alternating'] = round(both[1] / both[0], 3)
  config = _load_config(args)
  result |= {
    'config': 'small' if args.small else args.config,
    'image': [config.data.image_size] * 2 + [config.data.channels],
    'batch_size_per_device': args.batch_size,
    'device': jax.devices()[0].device_kind,
    'num_devices': jax.local_device_count(),
    'cores': os.cpu_count(),
    'load_average': round(os.getloadavg()[0], 2),
    'python': platform.python_version(),
    'versions': {
      name: importlib.metadata.version(name)
      for name in ('jax', 'jaxlib', 'flax', 'optax')
    },
  }
  print(json.dumps(result, indent=2))


def describe_programs(argv: list[str]) -> dict[str, dict]:
  """Compiles each order's update for 8 devices, in its own process.

  Args:
    argv: flags of this program.

  Returns:
    {order: counts of its compiled program, on one device}.
  """
  process = subprocess.run(
    [sys.executable, '-m', __spec__.name, *argv, '--programs'],
    env=environment(_NUM_VIRTUAL_DEVICES),
    stdout=subprocess.PIPE,
    check=True,
  )
  return json.loads(process.stdout)


def create(
  config: ml_collections.ConfigDict,
  order: str,
  *,
  regularize_critic: bool = False,
) -> tuple[Callable, Callable[[], train_state.TrainState]]:
  """Creates the update over all devices, and a function for its first state.

  By default it is the update for steps without the lazy penalty.
  """
  config = config.copy_and_resolve_references()
  config.update_order = order
  modules, optimizers, create_state = create_networks(config)
  num_steps = config.critic.num_steps if 'critic' in optimizers else 1
  update_of = create_updates(config, modules, optimizers)
  return update_of(
    StepKind(True, (regularize_critic,) * num_steps)
  ), create_state


def planned_bytes(compiled: jax.stages.Compiled) -> int:
  """Returns the peak memory that XLA plans for a program on one device."""
  plan = compiled.memory_analysis()
  return (
    plan.argument_size_in_bytes
    + plan.output_size_in_bytes
    + plan.temp_size_in_bytes
    - plan.alias_size_in_bytes
  )


def small_config() -> ml_collections.ConfigDict:
  """Returns the default configuration with networks that compile quickly."""
  config = default.get_config()
  config.data.image_size = 32
  for network in (config.model, config.critic):
    network.width = 8
    network.depth = 2
    network.channel_multipliers = (1, 2)
  return config


def parse_args(argv: list[str]) -> argparse.Namespace:
  """Parses the flags of this program."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--order', default='both')
  parser.add_argument('--config', default='configs/default.py')
  parser.add_argument('--small', action='store_true', help='a tiny network')
  parser.add_argument('--batch_size', type=int, help='on each device')
  parser.add_argument('--programs', action='store_true', help='do not time')
  args = parser.parse_args(argv)
  args.orders = UPDATE_ORDERS if args.order == 'both' else [args.order]
  args.batch_size = args.batch_size or (8 if args.small else 32)
  return args


def _load_config(args: argparse.Namespace) -> ml_collections.ConfigDict:
  if args.small:
    return small_config()
  return load_config_file(args.config)


def count_programs(args: argparse.Namespace) -> dict[str, dict]:
  """Compiles each order's update for all devices; see `describe_programs`."""
  config = _load_config(args)
  programs = {}
  for order in args.orders:
    _log(f'compiling {order} for {jax.local_device_count()} devices')
    update, create_state = create(config, order)
    images = jax.eval_shape(lambda: images_of(config, args.batch_size))
    compiled = update.lower(jax.eval_shape(create_state), images).compile()
    text = compiled.as_text()
    flops = hlo.count_flops(text)
    minimum = minimum_flops(config, order, args.batch_size)
    programs[order] = {
      'flops': flops,
      'minimum_flops': minimum,
      'ratio': round(flops / minimum, 4),
      'all_reduces': hlo.count_all_reduces(text),
      'host_transfers': hlo.count_host_transfers(text),
      'temporary_bytes': compiled.memory_analysis().temp_size_in_bytes,
    }
  return programs


def _measure_time(args: argparse.Namespace) -> dict[str, dict]:
  """Counts compilations, then times the orders in turn."""
  compilations = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **__: event == _COMPILED and compilations.append(event)
  )
  config = _load_config(args)
  images = images_of(config, args.batch_size)
  steps, timed = {}, {}
  for order in args.orders:
    update, create_state = create(config, order)
    state = jax.block_until_ready(devices.replicate(create_state()))
    compilations.clear()
    steps[order] = functools.partial(_run, update, [state], images)
    seconds = steps[order](_STEPS)
    timed[order] = {'compilations': len(compilations)}
    _log(f'{order}: {seconds:.1f} s for {_STEPS} steps with the compilation')
  num_steps = max(1, math.ceil(_SECONDS_A_RUN / steps[args.orders[0]](1)))
  seconds = {order: [] for order in args.orders}
  for _ in range(_RUNS):
    for order in args.orders:
      seconds[order].append(steps[order](num_steps) / num_steps)
  for order in args.orders:
    timed[order] |= {
      'seconds_per_step': float(f'{statistics.median(seconds[order]):.3g}'),
      'fastest_and_slowest': [
        float(f'{f(seconds[order]):.3g}') for f in (min, max)
      ],
    }
  return timed


def _run(update, holder, images, num_steps) -> float:
  """Times some steps; `holder` keeps the newest state."""
  started = time.perf_counter()
  for _ in range(num_steps):
    holder[0], _ = update(holder[0], images)
  jax.block_until_ready(holder[0])
  return time.perf_counter() - started


def images_of(config: ml_collections.ConfigDict, batch_size: int) -> jax.Array:
  shape = (jax.local_device_count(), batch_size, *example_shape(config.data))
  return jax.random.randint(jax.random.key(0), shape, 0, 256).astype('uint8')


def _log(message: str) -> None:
  print(message, file=sys.stderr, flush=True)


if __name__ == '__main__':
  main(sys.argv[1:])
