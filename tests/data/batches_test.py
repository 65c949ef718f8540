"""The order of batches, and how they are shared out."""

import functools
import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.opening import Examples
from vaegan_jax.data import batches
from vaegan_jax.errors import UserError


def _numbers(count):
  """Returns images whose only pixel is their index."""
  return Examples(np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1))


def _batches(images, **options):
  options = {'seed': 0, 'batch_size': 4, 'num_devices': 1, **options}
  return batches.create_batches(images, **options)


def _take(count, images, **options):
  """The first batches, each flattened to the indices of its images."""
  stream = _batches(images, **options)
  return np.stack([b.ravel() for b in itertools.islice(stream, count)])


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 30), seed=st.integers(0, 2**32))
def test_every_epoch_is_a_permutation(count, seed):
  # Also of fewer images than a batch: epochs follow each other without a gap.
  stream = _take(count, _numbers(count), seed=seed).ravel()
  for epoch in stream.reshape(4, count):
    np.testing.assert_array_equal(np.sort(epoch), np.arange(count))


def test_epochs_and_seeds_have_orders_of_their_own():
  orders = [
    tuple(epoch)
    for seed in range(3)
    for epoch in _take(10, _numbers(20), seed=seed).reshape(2, 20)
  ]
  assert len(set(orders)) == 6


@settings(max_examples=20, deadline=None)
@given(step=st.integers(0, 25))
def test_a_resumed_stream_goes_on_where_it_stopped(step):
  whole = _take(30, _numbers(17))
  resumed = _take(30 - step, _numbers(17), start_step=step)
  np.testing.assert_array_equal(resumed, whole[step:])


def test_resuming_late_is_as_good_as_resuming_early():
  late = _take(2, _numbers(17), start_step=10**9)
  np.testing.assert_array_equal(
    late[1:], _take(1, _numbers(17), start_step=10**9 + 1)
  )


@pytest.mark.parametrize('processes', [1, 2, 4])
def test_the_processes_share_the_batch_of_one(processes):
  take = functools.partial(_take, 9, _numbers(30), batch_size=8)
  parts = [
    take(process_index=index, process_count=processes)
    for index in range(processes)
  ]
  np.testing.assert_array_equal(np.concatenate(parts, axis=1), take())


def test_the_devices_share_the_batch_of_one():
  batch = next(_batches(_numbers(30), batch_size=8, num_devices=4))
  assert batch.shape == (4, 2, 1, 1, 1)
  assert batch.dtype == np.uint8
  one = next(_batches(_numbers(30), batch_size=8))
  np.testing.assert_array_equal(batch.ravel(), one.ravel())


@pytest.mark.parametrize('start_step', [0, 2])
def test_the_parts_of_a_step_are_consecutive_batches(start_step):
  images = _numbers(30)
  steps = _take(4, images, num_parts=3, start_step=start_step)
  plain = _take(12, images, start_step=3 * start_step)
  np.testing.assert_array_equal(steps.reshape(12, 4), plain)


@pytest.mark.parametrize(
  ('devices', 'processes'), [(1, 1), (2, 1), (1, 2), (4, 1), (2, 2)]
)
def test_each_part_is_the_same_however_it_is_shared_out(devices, processes):
  take = functools.partial(
    _batches, _numbers(30), num_parts=3, num_devices=devices
  )
  plain = _take(15, _numbers(30)).reshape(5, 3, 4)
  shares = [
    itertools.islice(take(process_index=i, process_count=processes), 5)
    for i in range(processes)
  ]
  per_device = 4 // (devices * processes)
  for parts, *step in zip(plain, *shares, strict=True):
    for share in step:
      assert share.shape == (devices, 3 * per_device, 1, 1, 1)
    # [all devices, K, B]: on each device part after part.
    everywhere = np.concatenate(step).reshape(-1, 3, per_device)
    for k, part in enumerate(parts):
      np.testing.assert_array_equal(everywhere[:, k].ravel(), part)


def test_batches_are_placed_ahead_and_in_order():
  placed, ahead = [], threading.Event()

  def place(batch):
    placed.append(batch)
    if len(placed) > 1:
      ahead.set()
    return len(placed)

  stream = _batches(_numbers(17), place=place, start_step=3)
  assert next(stream) == 1
  assert ahead.wait(10)  # Nobody has asked for the second.
  assert [next(stream) for _ in range(3)] == [2, 3, 4]
  found = np.stack([batch.ravel() for batch in placed[:4]])
  np.testing.assert_array_equal(found, _take(4, _numbers(17), start_step=3))


def test_a_batch_that_devices_cannot_share_is_a_users_error():
  with pytest.raises(UserError, match=r'batch_size is 6.* multiple of 4.*8\.$'):
    _batches(_numbers(9), batch_size=6, num_devices=2, process_count=2)


def test_the_order_is_the_same_in_every_release():
  # A change here changes what a resumed run sees: say so in the release notes.
  assert _take(2, _numbers(8)).tolist() == [[2, 4, 3, 6], [5, 0, 1, 7]]
