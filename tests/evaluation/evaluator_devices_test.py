"""Batches over several devices: an even share for each, the values of one."""

import jax
import numpy as np
import pytest

from tests import networks
from tests.networks import loss_config
from tests.processes import call_on_devices
from vaegan_jax.evaluation.evaluator import Evaluator
from vaegan_jax.models.critic import Critic
from vaegan_jax.runtime import devices
from vaegan_jax.training.train_state import (
  create_train_state,
  inference_variables,
)

NUM_DEVICES = 4
_LOSS = loss_config(
  normalize='batch',  # Its mean is over the images of all devices.
  reduction='mean',
)
_BATCH_SIZES = (8, 64)  # Within the split, and above its 22 images.


def evaluate():
  """Returns the scores at each batch size, and each device's share."""
  modules = {
    'autoencoder': networks.autoencoder(16, 3),
    'critic': Critic(2, (1, 2)),
  }
  state = create_train_state(modules, {}, seed=0, image_shape=(16, 16, 3))
  images = np.random.default_rng(0).integers(0, 256, (22, 16, 16, 3), np.uint8)
  shares, share_out = [], devices.share_out

  def recording(batch):
    shared = share_out(batch)
    shards = jax.tree.leaves(shared)[0].addressable_shards
    shares.append([len(shards), *{s.data.shape[0] for s in shards}])
    return shared

  devices.share_out = recording
  scores = [
    Evaluator(modules, images, loss=_LOSS, batch_size=batch_size, seed=0).score(
      inference_variables(state)
    )
    for batch_size in _BATCH_SIZES
  ]
  devices.share_out = share_out
  return {'scores': scores, 'shares': shares}


def test_several_devices_score_as_one_and_share_alike():
  many, one = call_on_devices(NUM_DEVICES, evaluate), evaluate()
  for found, wanted in zip(many['scores'], one['scores'], strict=True):
    assert found == pytest.approx(wanted, rel=1e-5)
  assert one['scores'][0]['distance'] > 0
  assert many['shares'] == [[NUM_DEVICES, 2]] * 4 + [[NUM_DEVICES, 16]] * 2


def test_batches_are_filled_up_and_no_padding_comes_back():
  shapes = []
  double = jax.jit(lambda x: shapes.append(x.shape) or {'doubled': 2 * x})
  found = list(
    devices.map_batches(
      double,
      np.arange(100),
      batch_size=4,
      what='Doubling',
      indices=range(50, 60),
      part_size=6,
    )
  )
  wanted = [[50, 51, 52, 53], [54, 55], [56, 57, 58, 59]]
  assert [indices.tolist() for indices, _ in found] == wanted
  for indices, values in found:
    assert isinstance(values['doubled'], np.ndarray)
    np.testing.assert_array_equal(values['doubled'], 2 * indices)
  assert shapes == [(4,)]  # One compilation.


def test_a_poll_ends_the_work_before_the_next_batch():
  computed = []

  def poll():
    if len(computed) == 2:
      raise InterruptedError

  def compute(batch):
    computed.append(batch)
    return batch

  with pytest.raises(InterruptedError):
    list(
      devices.map_batches(
        compute, np.arange(50), batch_size=5, what='Computing', poll=poll
      )
    )
  assert len(computed) == 2
