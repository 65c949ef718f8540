"""Compares the speed of the update with the same one in PyTorch.

Run from the root of the repository:

    python -m tests.benchmarks.peers
    python -m tests.benchmarks.peers --configs=configs/cifar10.py --compile

PyTorch is not a requirement of the project. Install it with
`pip install torch==2.13.0`, for example in a separate environment. `--compile`
also needs a C++ compiler.

Both take the same weights, images and noise. Their losses and gradients are
compared, without `--compile`, before the timing. Both alternate, so that other
programs slow both alike and the ratios are reliable. Prints one JSON object. A
ratio below 1 means that PyTorch is slower. On a GPU, which both must find, it
adds bfloat16 and the memory.
"""

import argparse
import functools
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from tests.benchmarks.update import planned_bytes
from vaegan_jax.config.io import load_config_file
from vaegan_jax.data.pixels import to_float
from vaegan_jax.runtime import devices
from vaegan_jax.setup.networks import create_networks
from vaegan_jax.setup.updates import create_updates
from vaegan_jax.training.random_inputs import create_random_inputs
from vaegan_jax.training.step_kinds import StepKind

_CONFIGS = (
  'configs/default.py',
  'configs/default.py:mse',
  'configs/quickstart.py',
)
# Tolerance for a loss, and for the norm of an array's gradient.
_TOLERANCES = {'float32': 1e-3, 'bfloat16': 0.1}
# An array whose gradient is a smaller share of its network's is rounding.
_SMALL_SHARE = 1e-2
# Options that the PyTorch version has too.
_WRITTEN = {
  'update_order': 'alternating',
  'model.network': 'plain',
  'model.latent': 'gaussian',
  'model.latent_shape': 'flat',
  'model.norm': 'none',
  'critic.network': 'plain',
  'critic.norm': 'none',
  'critic.spectral_norm': False,
  'critic.head': 'dense',
  'critic.num_steps': 1,
  'critic.long_round_steps': 0,
  'critic.weight_clip': 0.0,
  'critic.gradient_penalty_weight': 0.0,
  'critic.lecam_weight': 0.0,
  'critic.prior_fakes': False,
  'loss.layers': (),
  'loss.layer_weights': (),
  'loss.normalize': 'local',
  'loss.distance_weight': 1.0,
  'loss.pixel_weight': 0.0,
  'loss.adversarial_ramp_steps': 0,
  'loss.adversarial_to_encoder': True,
  'loss.adaptive_weight': False,
  'optimizer.name': 'adam',
  'optimizer.warmup_steps': 0,
  'optimizer.schedule': 'constant',
  'optimizer.max_grad_norm': 0.0,
}
_WRITTEN_OF = {
  'geometric': {'loss.reduction': 'mean'},
  'mse': {'loss.variance': 'optimal'},
}


class Peers(NamedTuple):
  """Both programs: 'update', 'update_with_r1' and 'evaluation'.

  Attributes:
    ours, theirs: {name: function that runs it once}, in JAX and in PyTorch.
    differences: {name: {item: relative difference}} of the first losses and
      gradients. For an array whose gradient is a small share of its network's,
      the difference is relative to that share.
    planned_bytes: {name: () -> memory that XLA plans} of the updates.
  """

  ours: dict[str, Callable]
  theirs: dict[str, Callable]
  differences: dict[str, dict[str, float]]
  planned_bytes: dict[str, Callable[[], int]]


def main(argv: list[str]) -> None:
  """Compares, times, and prints the ratios."""
  args = _parse_args(argv)
  if importlib.util.find_spec('torch') is None:
    sys.exit('PyTorch is missing: pip install torch==2.13.0')
  import torch

  allowed = sorted(os.sched_getaffinity(0))
  os.sched_setaffinity(0, allowed[: args.cores or len(allowed)])
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  torch.set_float32_matmul_precision('high')  # TF32 on a GPU, as JAX's.
  torch.backends.cudnn.allow_tf32 = True
  torch.backends.cudnn.benchmark = True
  on_gpu = jax.default_backend() == 'gpu'
  if on_gpu != torch.cuda.is_available():
    sys.exit('JAX and PyTorch must both have the GPU, or neither')
  result = {}
  for path in args.configs:
    for dtype in ('float32', 'bfloat16')[: 1 + on_gpu]:
      name = path if dtype == 'float32' else f'{path} {dtype}'
      result[name] = _measure(path, dtype, args)
      print(name, 'measured', file=sys.stderr, flush=True)
  result |= {
    'batch_size': args.batch_size,
    'torch_compile': args.compile,
    'device': jax.devices()[0].device_kind,
    'cores': len(os.sched_getaffinity(0)),
    'load_average': round(os.getloadavg()[0], 2),
    'python': platform.python_version(),
    'versions': {
      name: importlib.metadata.version(name) for name in ('jax', 'torch')
    },
  }
  print(json.dumps(result, indent=2))


def _measure(path: str, dtype: str, args) -> dict[str, Any]:
  """Measures one configuration."""
  config = load_config_file(path)
  config.batch_size = args.batch_size
  config.model.dtype = config.critic.dtype = dtype
  peers = create(config, compiled=args.compile)
  worst = max(max(found.values()) for found in peers.differences.values())
  if not worst < _TOLERANCES[dtype]:
    sys.exit(f'The two do not compute the same: {peers.differences}')
  result = _time(peers, args.runs, config.batch_size)
  return {'turns': result, 'largest_difference': float(f'{worst:.1e}')}


def create(
  config: ml_collections.ConfigDict, *, compiled: bool = False
) -> Peers:
  """Builds both from one configuration, and compares them.

  Args:
    config: configuration of a run; flips and Muon are turned off in it.
    compiled: whether to compile the PyTorch program.

  Returns:
    Both programs.
  """
  import torch

  from tests.benchmarks.torch_update import Update

  config.data.random_flip = False  # Only the noise is random.
  config.optimizer.muon_learning_rate = 0.0  # PyTorch's has matrices alone.
  _check_written(config)
  modules, optimizers, create_state = create_networks(config)
  update_of = create_updates(config, modules, optimizers)
  state = jax.device_get(create_state())
  params = {name: net.params for name, net in state.networks.items()}
  images, batch = _images(config), _images(config)[None]
  peer = Update(params, config, compiled=compiled)
  noise = torch.from_numpy(_noise(config, modules['autoencoder'], images))
  given = torch.from_numpy(images).to(peer.device), noise.to(peer.device)
  kinds = {'update': StepKind(True, (False,))}
  if config.critic.r1_weight and 'critic' in modules:
    kinds['update_with_r1'] = StepKind(True, (True,))
  differences = {}
  for name, kind in kinds.items():
    fresh = Update(params, config)
    new, metrics = update_of(kind)(devices.replicate(state), batch)
    losses = fresh(*given, lazy=kind.regularize_critic[0])
    differences[name] = _compare(jax.device_get(new), metrics, fresh, losses)
  reconstruct = _create_reconstruct(modules['autoencoder'], params, images)
  differences['evaluation'] = _compare_images(
    reconstruct(), Update(params, config).reconstruct(given[0])
  )
  holder = [devices.replicate(state)]

  def step(kind):
    holder[0], _ = update_of(kind)(holder[0], batch)
    jax.block_until_ready(holder[0])

  ours = {name: functools.partial(step, kind) for name, kind in kinds.items()}
  theirs = {
    name: functools.partial(peer, *given, lazy=kind.regularize_critic[0])
    for name, kind in kinds.items()
  }
  ours['evaluation'] = reconstruct
  theirs['evaluation'] = functools.partial(peer.reconstruct, given[0])
  planned = {
    name: functools.partial(_plan, update_of(kind), state, batch)
    for name, kind in kinds.items()
  }
  return Peers(ours, theirs, differences, planned)


def _check_written(config) -> None:
  if config.objective not in _WRITTEN_OF:
    sys.exit(f'objective {config.objective!r}: only geometric and mse are here')
  for name, value in (_WRITTEN | _WRITTEN_OF[config.objective]).items():
    *section, field = name.split('.')
    found = (config[section[0]] if section else config)[field]
    if found != value:
      sys.exit(f'config.{name} is {found!r}: only {value!r} is in PyTorch too')


def _images(config) -> np.ndarray:
  """Returns [B, S, S, C] uint8 images: blocks of colour with noise.

  Without noise all inner pixels of a block give one value. If that is 0 up to
  rounding, the two programs differ in the gradient of a whole block.
  """
  rng = np.random.default_rng(0)
  small = config.data.image_size // 8
  shape = (config.batch_size, small, small, config.data.channels)
  images = rng.integers(32, 224, shape).repeat(8, 1).repeat(8, 2)
  return (images + rng.integers(-32, 32, images.shape)).astype(np.uint8)


def _noise(config, autoencoder, images: np.ndarray) -> np.ndarray:
  """Returns the noise of the first step, [B, Z], from the seed alone."""
  random_inputs = create_random_inputs(
    lambda images: images,
    seed=config.seed,
    autoencoder=autoencoder,
    num_microbatches=1,
    with_prior=False,
    num_flips=0,
  )
  noise = jax.pmap(
    lambda images: random_inputs(1, 0, images)[0]['noise'],
    axis_name=devices.AXIS,
  )(images[None])
  return np.array(noise[0])


def _create_reconstruct(autoencoder, params, images) -> Callable:
  """Returns () -> reconstructions [B, S, S, C] of the latents' means."""
  apply = jax.jit(
    lambda params, images: autoencoder.apply(
      {'params': params}, to_float(images)
    )[0]
  )
  weights, images = jax.device_put((params['autoencoder'], images))
  return lambda: apply(weights, images).block_until_ready()


def _compare(state, metrics, peer, losses) -> dict[str, float]:
  """Returns relative differences of losses and of each array's gradient.

  Adam's first moment after one step is proportional to the gradient.
  """
  from tests.benchmarks.torch_update import leaves

  found = {
    name: abs(float(metrics[name]) - float(value)) / max(abs(value), 0.1)
    for name, value in ((k, float(v)) for k, v in losses.items())
  }
  for name, moments in peer.first_moments().items():
    (adam, *_) = state.networks[name].opt_state
    total = np.sqrt(sum(np.sum(moment**2) for moment in moments))
    pairs = zip(leaves(adam.mu), moments, strict=True)
    found[f'{name}_gradients'] = max(
      np.linalg.norm(got - want)
      / max(np.linalg.norm(want), _SMALL_SHARE * total)
      for got, want in pairs
    )
  return {name: float(value) for name, value in found.items()}


def _compare_images(got, want) -> dict[str, float]:
  want = want.permute(0, 2, 3, 1).cpu().numpy()
  return {'images': float(np.abs(np.asarray(got) - want).max())}


def _time(peers: Peers, runs: int, batch_size: int) -> dict[str, dict]:
  """Returns medians of CPU and wall seconds, and of their ratios."""
  result = {}
  for name in peers.ours:
    sides = peers.ours[name], peers.theirs[name]
    for function in (*sides, *sides):  # The first runs compile and autotune.
      function()
    taken = [[_seconds(function) for function in sides] for _ in range(runs)]
    result[name] = {}
    for kind, clock in enumerate(('cpu_seconds', 'seconds')):
      pairs = [(a[kind], b[kind]) for a, b in taken]
      medians = [statistics.median(side) for side in zip(*pairs, strict=True)]
      result[name][clock] = {
        'jax': _round(medians[0]),
        'torch': _round(medians[1]),
        'ratio': _round(statistics.median(a / b for a, b in pairs)),
      }
    rates = [round(batch_size / seconds) for seconds in medians]
    result[name]['images_per_second'] = rates
    if jax.default_backend() == 'gpu' and name in peers.planned_bytes:
      result[name]['bytes'] = [
        peers.planned_bytes[name](),
        _peak_bytes(peers.theirs[name]),
      ]
  return result


def _plan(update, state, batch) -> int:
  """Returns the bytes that XLA plans for an update."""
  return planned_bytes(update.lower(state, batch).compile())


def _peak_bytes(function: Callable) -> int:
  """Returns the peak GPU memory of PyTorch."""
  import torch

  torch.cuda.reset_peak_memory_stats()
  function()
  return torch.cuda.max_memory_allocated()


def _seconds(function: Callable) -> tuple[float, float]:
  cpu, wall = time.process_time(), time.perf_counter()
  function()
  if jax.default_backend() == 'gpu':
    import torch

    torch.cuda.synchronize()
  return time.process_time() - cpu, time.perf_counter() - wall


def _round(number: float) -> float:
  return float(f'{number:.3g}')


def _parse_args(argv: list[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--configs', nargs='+', default=_CONFIGS)
  parser.add_argument('--batch_size', type=int, default=32)
  parser.add_argument('--runs', type=int, default=9, help='kinds of each')
  parser.add_argument('--cores', type=int, default=1, help='0: all of them')
  parser.add_argument('--compile', action='store_true', help='torch.compile')
  return parser.parse_args(argv)


if __name__ == '__main__':
  main(sys.argv[1:])
