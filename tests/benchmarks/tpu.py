"""Compiles a configuration's programs for TPUs, without a TPU.

Run from the root of the repository, with the version of libtpu that JAX needs:

    pip install 'jax[tpu]'
    python -m tests.benchmarks.tpu --topology=v5e:2x2 --config=configs/celeba.py
    python -m tests.benchmarks.tpu --topology=v6e:4x4 --dtype=bfloat16 \
      --programs=update --config=configs/celeba.py --config.model.remat=True

The compiler runs on any CPU and takes minutes. What it prints, as one JSON
object, is its plan and no measurement. The roofline is the least time that the
chip's peaks allow, if nothing else takes any.
"""

import argparse
import functools
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from tests.benchmarks.chips import describe_plan, find_devices
from tests.benchmarks.minimum import minimum_flops
from vaegan_jax.config.io import load_config_file
from vaegan_jax.config.overrides import apply_overrides
from vaegan_jax.config.settings import loss_settings
from vaegan_jax.config.shapes import example_shape, holds_arrays
from vaegan_jax.config.validation import validate
from vaegan_jax.errors import UserError
from vaegan_jax.evaluation.critic_distance import critic_distance
from vaegan_jax.inference.preprocess import prepare
from vaegan_jax.setup.finished_run import create_evaluator
from vaegan_jax.setup.memory import estimate_parts
from vaegan_jax.setup.networks import create_networks, critic_config
from vaegan_jax.setup.updates import create_updates
from vaegan_jax.training.step_kinds import StepKind, step_kind
from vaegan_jax.training.train_state import inference_variables

_NUM_STEPS = 2_000  # Every kind of step occurs among the first of these.


def main(argv: list[str]) -> int:
  """Prints the plan of each program; returns the exit status."""
  args, overrides = parse_args(argv)
  try:
    print(json.dumps(describe(args, overrides), indent=2))
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  return 0


def parse_args(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
  """Parses the flags; the others are those of fields, `--config.<field>`."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
  parser.add_argument('--topology', default='v5e:2x2', help='chips, as v5e:2x2')
  parser.add_argument('--config', default='configs/celeba.py')
  parser.add_argument('--dtype', default='', help='of both networks')
  parser.add_argument('--batch_size', type=int, help='on each device')
  parser.add_argument('--programs', default='', help='some names; default: all')
  parser.add_argument(
    '--text', default='', help="folder for the programs' text"
  )
  return parser.parse_known_args(argv)


def describe(args: argparse.Namespace, overrides: list[str]) -> dict:
  """Compiles the programs.

  Raises:
    UserError: the flags, libtpu or the topology cannot be used, or a program
      does not fit the chip.
  """
  config = _load_config(args, overrides)
  chip, devices, version = find_devices(args.topology)
  batch_size = config.batch_size
  modules, optimizers, create_state = create_networks(config)
  state = jax.eval_shape(create_state)
  lowered = programs(config, modules, optimizers, state, devices, batch_size)
  names = args.programs.split(',') if args.programs else [*lowered]
  if unknown := [name for name in names if name not in lowered]:
    raise UserError(
      f'--programs={args.programs}: this configuration has no {unknown[0]!r}; '
      f'it has {", ".join(lowered)}'
    )
  with _as_on_tpu():
    estimate = estimate_parts(
      modules,
      state,
      example_shape(config.data),
      batch_size,
      'tpu',
      config.optimizer.accumulate_steps,
    )
  return {
    'note': "the compiler's plan and no measurement; figures of one device",
    'topology': args.topology,
    'devices': len(devices),
    'hosts': len({device.process_index for device in devices}),
    'peaks': chip._asdict(),
    'versions': {'jax': jax.__version__, 'libtpu': version},
    'config': [args.config, *overrides],
    'dtype': [config.model.dtype, config.critic.dtype],
    'batch_size_per_device': batch_size,
    'estimate_before_compiling': estimate,
    'programs': {
      name: _describe_one(
        name, lowered[name], config, chip, len(devices), batch_size, args
      )
      for name in names
    },
  }


def _load_config(args, overrides) -> ml_collections.ConfigDict:
  config = load_config_file(args.config).copy_and_resolve_references()
  apply_overrides(config, ['', *overrides])
  if args.dtype:
    config.model.dtype = config.critic.dtype = args.dtype
  config.batch_size = args.batch_size or config.batch_size
  validate(config, num_devices=1)  # It is the batch of one.
  if config.data.value_range == 'percentiles':  # There are no data here.
    with config.ignore_type():
      config.data.value_range = (0.0, 1.0)
  return config


def programs(
  config, modules, optimizers, state, devices: list[jax.Device], batch_size: int
) -> dict[str, Callable[[], jax.stages.Lowered]]:
  """Returns {name: function that lowers the program for the devices}.

  Args:
    config: configuration of a run.
    modules, optimizers: of the run.
    state: shapes of its state.
    devices: of one topology.
    batch_size: examples on each device.
  """
  update_of = create_updates(config, modules, optimizers)
  critic = critic_config(config, optimizers)
  images = _images(config, (len(devices), critic.num_steps * batch_size))

  def lower_update(kind):
    pmap = functools.partial(jax.pmap, devices=devices)
    with mock.patch.object(jax, 'pmap', pmap), _as_on_tpu():
      return update_of(kind).lower(state, images)

  found = {
    name: functools.partial(lower_update, kind) for kind, name in _kinds(critic)
  }
  number = len(devices) * batch_size
  found['evaluate'], found['encode'] = (
    functools.partial(lower, config, modules, state, devices, number)
    for lower in (_lower_evaluation, _lower_encoding)
  )
  return found


def _kinds(critic) -> Iterator[tuple[StepKind, str]]:
  """Yields each kind of update, and its name."""
  kinds = {step_kind(step, critic) for step in range(1, _NUM_STEPS + 1)}
  for kind in sorted(kinds, key=lambda k: (not k[0], k[1])):
    name = 'update' if kind.train_autoencoder else 'critic_update'
    steps = [
      str(i) for i, has_r1 in enumerate(kind.regularize_critic) if has_r1
    ]
    if steps:
      name += '_r1' if len(kind.regularize_critic) == 1 else f'_r1_{steps[0]}'
    yield kind, name


def _lower_evaluation(config, modules, state, devices, number):
  """Lowers all that is measured of a batch, as one program."""
  evaluator = create_evaluator(config, modules, range(number), has_judge=False)
  loss, critic = loss_settings(config), modules.get('critic')

  def evaluate(variables, images, indices):
    distance = critic and functools.partial(
      critic_distance,
      loss,
      critic,
      variables['critic'],
      variables.get('layer_sizes'),
    )
    batch = images, indices
    return evaluator._measure_batch(variables['autoencoder'], distance, batch)

  indices = jax.ShapeDtypeStruct((number,), jnp.int32)
  return _lower(evaluate, state, devices, _images(config, (number,)), indices)


def _lower_encoding(config, modules, state, devices, number):
  """Lowers what `--mode=encode` computes of a batch."""
  autoencoder = modules['autoencoder']

  def encode(variables, images):
    x = prepare(images, config.data)
    return autoencoder.apply(variables['autoencoder'], x, method='encode')

  return _lower(encode, state, devices, _images(config, (number,)))


def _lower(function, state, devices, *batch) -> jax.stages.Lowered:
  """Lowers (variables, *arrays) for devices that share the arrays."""
  mesh = jax.sharding.Mesh(np.array(devices), ('batch',))
  whole, shared = (
    jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
    for axes in ((), ('batch',))
  )
  shardings = whole, *[shared] * len(batch)
  with _as_on_tpu():
    jitted = jax.jit(function, in_shardings=shardings)
    return jitted.lower(inference_variables(state), *batch)


def _images(config, axes: tuple[int, ...]) -> jax.ShapeDtypeStruct:
  dtype = jnp.float32 if holds_arrays(config.data) else jnp.uint8
  return jax.ShapeDtypeStruct((*axes, *example_shape(config.data)), dtype)


def _as_on_tpu():
  """Makes `models/conv.py` choose its forms for a TPU."""
  return mock.patch.object(jax, 'default_backend', lambda: 'tpu')


def _describe_one(
  name, lower, config, chip, num_devices, batch_size, args
) -> dict:
  """Compiles a program and describes its plan."""
  print(f'compiling {name}', file=sys.stderr, flush=True)
  started = time.perf_counter()
  try:
    compiled = lower().compile()
  except jax.errors.JaxRuntimeError as error:
    raise not_fitting(error, name, batch_size, args.topology) from error
  seconds = time.perf_counter() - started
  text = compiled.as_text()
  if args.text:
    folder = Path(args.text)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'{name}.hlo').write_text(text)
  found = describe_plan(text, chip, num_devices, batch_size)
  if name == 'update':
    minimum = minimum_flops(config, config.update_order, batch_size)
    found['flops_over_minimum'] = round(found['flops'] / minimum, 4)
  cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
  sizes = {
    'arguments': memory.argument_size_in_bytes,
    'results_beside_them': memory.output_size_in_bytes
    - memory.alias_size_in_bytes,
    'temporary': memory.temp_size_in_bytes,
    'code': memory.generated_code_size_in_bytes,
  }
  return found | {
    'bytes_accessed': int(cost['bytes accessed']),
    'memory_bytes': sizes,
    'fits': sum(sizes.values()) <= chip.memory / chip.devices,
    'seconds_to_compile': round(seconds, 1),
  }


def not_fitting(error, name, batch_size, topology) -> Exception:
  """Returns the mistake of a user whose program exceeds the chip's memory."""
  text = str(error)
  if 'RESOURCE_EXHAUSTED' not in text:
    return error
  used = re.search(r'Used ([\d.]+\w) of ([\d.]+\w) hbm', text)
  sizes = f' ({used[1]} of {used[2]})' if used else ''
  return UserError(
    f'{name} of {batch_size} examples does not fit a device of {topology}'
    f'{sizes}: lower --batch_size, or add --dtype=bfloat16 or '
    '--config.model.remat=True'
  )


if __name__ == '__main__':
  jax.config.update('jax_platforms', 'cpu')
  # Without a chip JAX cannot read a kept program, and warns.
  jax.config.update('jax_enable_compilation_cache', False)
  sys.exit(main(sys.argv[1:]))
