"""Settings of the tests and of the processes that they start."""

import functools
import gc
import importlib.metadata
import math
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
def check_shapes_untraced():
  """Checks parameters' shapes without tracing their initializers.

  By default, Flax traces every initializer in every `apply`, which is a tenth
  of the time of tracing an update. Its own check reports a mismatch.
  """
  import numpy as np
  from flax.core import Scope

  param = Scope.param

  def param_of_shape(self, name, init, shape, *args, **kwargs):
    value = self.get_variable('params', name)
    if value is None or np.shape(value) != tuple(shape):
      return param(self, name, init, shape, *args, **kwargs)
    self.reserve(name, 'params')
    return value

  Scope.param = param_of_shape


@functools.cache
def draw_initial_weights():
  """Lets JAX's initializers take normal numbers out of a table, by their key.

  By default, a sampler is compiled for every shape: nine tenths of the time of
  initializing a network.
  """
  import jax
  import numpy as np
  from jax._src.nn import initializers

  offsets = 1024
  table = np.random.default_rng(0).normal(size=1 << 14).clip(-2, 2)

  def truncated_normal(key, lower, upper, shape, dtype, **_):
    assert (lower, upper) == (-2, 2)
    size = math.prod(shape)
    values = np.resize(table, size + offsets).astype(dtype)
    offset = jax.random.key_data(key)[-1] % offsets
    return jax.lax.dynamic_slice(values, [offset], [size]).reshape(shape)

  initializers.random.truncated_normal = truncated_normal
