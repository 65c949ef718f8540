"""The variables of the processes that the tests start."""

import os


def environment(devices: int) -> dict[str, str]:
  """All of those here, but with so many virtual devices of a CPU."""
  number = f'--xla_force_host_platform_device_count={devices}'
  return os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} {number}'.strip(),
  }
