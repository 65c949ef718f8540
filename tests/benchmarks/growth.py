"""Measures how costs grow with the batch, the image size and the devices.

Run from the root of the repository:

    python -m tests.benchmarks.growth --figure=docs/growth.png
    python -m tests.benchmarks.growth --parts compilation

It measures the time and planned memory of an update per image, and the speed of
the input. It also measures how long each objective's update takes to trace and
compile, with an empty and with a full compilation cache. Devices are virtual
ones of a CPU, which share its cores, so their times show the cost of sharing
and no gain. Each part runs in its own processes. Prints one JSON object.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax

from tests.benchmarks import input as input_benchmark
from tests.benchmarks import update as update_benchmark
from tests.environment import environment
from vaegan_jax.config.io import load_config_file
from vaegan_jax.losses.adversarial import OBJECTIVES
from vaegan_jax.runtime import devices

_BATCHES = (16, 32, 64, 128, 256)
_SIDES = (32, 64, 96, 128)
_DEVICES = (1, 2, 4, 8)
_BATCH, _SHARED_BATCH = 16, 64  # For growing image sizes; over all devices.
_EXAMPLES = tuple(
  input_benchmark.Examples(*kind, number=2000)
  for kind in (
    (32, 3, 'uint8'),
    (64, 3, 'uint8'),
    (128, 3, 'uint8'),
    (64, 3, 'float32'),
    (64, 13, 'uint16'),
  )
)
_CACHED = {
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
}


def main(argv: list[str]) -> None:
  """Measures the requested parts, prints them, and plots them on request."""
  args = _parse_args(argv)
  if args.job:
    print(json.dumps(_JOBS[args.job](args)))
    return
  result = {}
  if args.load:
    with open(args.load) as file:
      result = json.load(file)
  for part in args.parts:
    print(f'measuring: {part}', file=sys.stderr, flush=True)
    result[part] = _PARTS[part](args)
  result |= {
    'config': args.config,
    'cores': len(os.sched_getaffinity(0)),
    'load_average': round(os.getloadavg()[0], 2),
    'python': platform.python_version(),
    'jax': importlib.metadata.version('jax'),
  }
  print(json.dumps(result, indent=2))
  if args.figure:
    from tests.benchmarks import growth_figure  # Needs matplotlib.

    growth_figure.draw(result, args.figure)


def _grow_batch(args) -> list[dict]:
  sizes = [f'{batch_size}x{args.side}' for batch_size in _BATCHES]
  return _run(args, 'update', '--sizes', *sizes)


def _grow_side(args) -> list[dict]:
  return _run(args, 'update', '--sizes', *(f'{_BATCH}x{s}' for s in _SIDES))


def _grow_devices(args) -> list[dict]:
  sizes = '--sizes', f'{_SHARED_BATCH}x{args.side}'
  return [
    row
    for number in _DEVICES
    for row in _run(args, 'update', *sizes, env=environment(number))
  ]


def _compile_all(args) -> list[dict]:
  """Compiles each objective with and without R1, in two processes."""
  rows = []
  for objective in args.objectives:
    for lazy in ('', '--lazy')[: 1 + (objective == 'geometric')]:
      row = {'objective': objective, 'r1': bool(lazy)}
      with tempfile.TemporaryDirectory() as folder:
        env = os.environ | _CACHED | {'JAX_COMPILATION_CACHE_DIR': folder}
        flags = '--objectives', objective, *filter(None, [lazy])
        for cache in ('cold', 'warm'):
          row[cache] = _run(args, 'compilation', *flags, env=env)
      rows.append(row)
  return rows


def _read_all(args) -> list[dict[str, Any]]:
  return [input_benchmark.measure(e, runs=args.runs) for e in _EXAMPLES]


_PARTS = {
  'batch': _grow_batch,
  'side': _grow_side,
  'devices': _grow_devices,
  'compilation': _compile_all,
  'input': _read_all,
}


def _run(args, job: str, *flags: str, env=None) -> Any:
  """Runs a job in its own process and returns what it prints."""
  command = [sys.executable, '-m', __spec__.name, f'--job={job}']
  command += [f'--config={args.config}', f'--runs={args.runs}', *flags]
  process = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True)
  return json.loads(process.stdout)


def _measure_updates(args) -> list[dict]:
  """Runs the job 'update': time and memory per image at each size."""
  return [_measure_update(args, *map(int, s.split('x'))) for s in args.sizes]


def _measure_update(args, batch_size: int, side: int) -> dict[str, Any]:
  config = load_config_file(args.config)
  config.data.image_size = side
  number = jax.local_device_count()
  update, create_state = update_benchmark.create(config, config.update_order)
  state = jax.block_until_ready(devices.replicate(create_state()))
  images = update_benchmark.images_of(config, batch_size // number)
  compiled = update.lower(state, images).compile()
  taken = []
  for run in range(args.runs + 1):
    cpu, wall = time.process_time(), time.perf_counter()
    state, _ = jax.block_until_ready(compiled(state, images))
    if run:  # The first run warms up.
      taken.append((time.process_time() - cpu, time.perf_counter() - wall))
  cpu, wall = map(statistics.median, zip(*taken, strict=True))
  num_bytes = number * update_benchmark.planned_bytes(compiled)
  return {
    'batch_size': batch_size,
    'side': side,
    'devices': number,
    'cpu_milliseconds_an_image': round(1e3 * cpu / batch_size, 2),
    'milliseconds_an_image': round(1e3 * wall / batch_size, 2),
    'megabytes_an_image': round(num_bytes / 1e6 / batch_size, 2),
  }


def _measure_compilation(args) -> dict[str, float]:
  """Runs the job 'compilation': wall and CPU seconds."""
  (objective,) = args.objectives
  config = load_config_file(f'{args.config}:{objective}')
  update, create_state = update_benchmark.create(
    config, config.update_order, regularize_critic=args.lazy
  )
  state = jax.eval_shape(create_state)
  num_steps = config.critic.num_steps
  images = jax.eval_shape(
    lambda: update_benchmark.images_of(config, num_steps * config.batch_size)
  )
  cpu, start = time.process_time(), time.perf_counter()
  lowered = update.lower(state, images)
  traced = time.perf_counter()
  lowered.compile()
  return {
    'trace_seconds': round(traced - start, 2),
    'compile_seconds': round(time.perf_counter() - traced, 2),
    'cpu_seconds': round(time.process_time() - cpu, 2),
  }


_JOBS = {'update': _measure_updates, 'compilation': _measure_compilation}


def _parse_args(argv: list[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--config', default='configs/default.py')
  parser.add_argument('--parts', nargs='*', default=_PARTS, choices=_PARTS)
  parser.add_argument('--side', type=int, default=64, help='not where it grows')
  parser.add_argument('--objectives', nargs='+', default=(*OBJECTIVES, 'mse'))
  parser.add_argument('--runs', type=int, default=3, help='medians of so many')
  parser.add_argument('--figure', help='the file of a figure')
  parser.add_argument(
    '--load', help="what an earlier run printed, for --parts'"
  )
  hidden = {'help': argparse.SUPPRESS}
  parser.add_argument('--job', choices=_JOBS, **hidden)
  parser.add_argument('--sizes', nargs='+', default=(), **hidden)
  parser.add_argument('--lazy', action='store_true', **hidden)
  return parser.parse_args(argv)


if __name__ == '__main__':
  main(sys.argv[1:])
