"""Tests that the update equals the same one in PyTorch."""

import pytest

from configs import default
from tests.benchmarks import peers

TOLERANCE = 2e-4  # Relative, in float32.


def tiny_config(objective):
  """Returns the default configuration with small networks."""
  config = default.get_config(objective)
  config.batch_size = 4
  config.data.image_size = 16
  config.model.latent_dim = 4
  for network in (config.model, config.critic):
    network.width = 4
    network.depth = 2
    network.channel_multipliers = (1, 2)
  return config


@pytest.mark.parametrize('objective', ['geometric', 'mse'])
def test_losses_and_gradients_are_those_of_pytorch(objective):
  pytest.importorskip('torch', reason='pip install torch==2.13.0')
  found = peers.create(tiny_config(objective))
  turns = {'update', 'evaluation'}
  if objective == 'geometric':
    turns.add('update_with_r1')
  assert found.ours.keys() == found.theirs.keys() == turns
  assert found.differences.keys() == turns
  for name, differences in found.differences.items():
    assert max(differences.values()) < TOLERANCE, (name, differences)
