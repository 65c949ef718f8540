"""Settings of the tests and of the processes that they start."""

import contextlib
import functools
import gc
import importlib.metadata
import os

# Later versions of XLA end the process at an option that they do not have.
HAS_FUSION_EMITTERS = importlib.metadata.version('jaxlib').startswith('0.10.')
# No test measures a program's speed, so programs are compiled without
# optimisations, each in one piece: that takes 30 % less time than in many.
QUICK_FLAGS = (
  '--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1'
)
if HAS_FUSION_EMITTERS:
  QUICK_FLAGS += ' --xla_cpu_use_fusion_emitters=false'


def environment(devices: int) -> dict[str, str]:
  """Returns this process's variables, with a number of virtual CPU devices."""
  number = f'--xla_force_host_platform_device_count={devices}'
  return os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} {number}'.strip(),
  }


def spare_collector():
  """Keeps Python's collector away from what lives as long as the process.

  By default, it takes a tenth of the time: traces have many small objects.
  """
  gc.freeze()
  gc.set_threshold(50_000, 20, 50)


@functools.cache
def remember_initial_shapes():
  """Lets Flax trace an initializer once for each shape.

  By default, every `apply` does that to check every parameter's shape, which is
  a tenth of the time of tracing an update.
  """
  import jax
  import numpy as np
  from flax.core import Scope

  param = Scope.param

  @functools.lru_cache(maxsize=4096)
  def zeros_of(init, args, kwargs):
    shapes = jax.eval_shape(
      lambda: init(jax.random.key(0), *args, **dict(kwargs))
    )
    return jax.tree.map(
      lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), shapes
    )

  def param_of_known_shape(self, name, init, *args, unbox=True, **kwargs):
    if self.has_variable('params', name):
      with contextlib.suppress(TypeError):  # Some arguments cannot be hashed.
        zeros = zeros_of(init, args, tuple(kwargs.items()))
        init, args, kwargs = (lambda _: zeros), (), {}
    return param(self, name, init, *args, unbox=unbox, **kwargs)

  Scope.param = param_of_known_shape
