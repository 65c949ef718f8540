"""The variables of the processes that the tests start."""

import importlib.metadata
import os

# An option that later versions of XLA do not know, and end with the process.
HAS_FUSION_EMITTERS = importlib.metadata.version('jaxlib').startswith('0.10.')
# How fast a program is, is not tested: it is compiled without optimisations.
QUICK_FLAGS = '--xla_backend_optimization_level=0'
if HAS_FUSION_EMITTERS:
  QUICK_FLAGS += ' --xla_cpu_use_fusion_emitters=false'


def environment(devices: int) -> dict[str, str]:
  """All of those here, but with so many virtual devices of a CPU."""
  number = f'--xla_force_host_platform_device_count={devices}'
  return os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} {number}'.strip(),
  }
