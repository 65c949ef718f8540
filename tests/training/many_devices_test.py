"""Tests that updates over many devices compute the same as on one."""

import functools

import jax
import numpy as np
import optax
import pytest

from tests import networks
from tests.benchmarks import hlo
from tests.processes import call_on_devices
from tests.training import no_data_update_test as no_data
from tests.training import update_options_test as options
from tests.training.assembly import parallel_updates
from tests.training.update_test import POST_LOSS, poisoned, preprocess
from vaegan_jax.runtime import devices
from vaegan_jax.training.step_kinds import StepKind
from vaegan_jax.training.train_state import create_train_state

NUM_DEVICES = 4
CASE = 'everything'
# Fields of the model: latents whose statistics are over all devices.
CODES = {
  'vq': {'latent': 'vq', 'latent_dim': 4, 'codebook_size': 16},
  'lfq': {'latent': 'lfq', 'latent_dim': 4},
  'fsq': {'latent': 'fsq', 'latent_dim': 2},
}


def split(images, parts):
  """Splits [K B, ...] into [D, K B/D, ...], a share of each microbatch."""
  num_devices = jax.local_device_count()
  images = images.reshape(parts, num_devices, -1, *images.shape[1:])
  return images.swapaxes(0, 1).reshape(num_devices, -1, *images.shape[3:])


def run(updates):
  """Returns metrics and parameters after 6 updates."""
  images = options.batches(CASE, 6)
  images[3] = poisoned(images[3])  # Only one device sees a NaN.
  state, metrics = devices.replicate(options.initial_state()), []
  for step, batch in enumerate(images, start=1):
    update = updates(options.kind_at(CASE, step))
    batch = devices.share_out(split(batch, options.num_parts_of(CASE)))
    with jax.transfer_guard('disallow'):  # All data is on its device.
      state, values = update(state, batch)
    metrics.append({k: float(v) for k, v in values.items()})
  state = jax.device_get(state)
  leaves = jax.tree.leaves((options.params_of(state), state.averages))
  return {'metrics': metrics, 'leaves': [leaf.tolist() for leaf in leaves]}


def run_codes(name, num_chunks=1):
  """Returns metrics and the autoencoder after 6 updates with codes."""
  modules = {
    'autoencoder': networks.autoencoder(
      options.SIDE, 1, latent_shape='map', **CODES[name]
    )
  }
  optimizers = {'autoencoder': optax.sgd(0.01)}
  update = parallel_updates(
    modules,
    optimizers,
    POST_LOSS | {'entropy_weight': 0.5},
    objective=None,
    seed=options.SEED,
    preprocess=preprocess,
    num_chunks=num_chunks,
  )(StepKind(True, (False,)))
  state = create_train_state(
    modules, optimizers, seed=0, image_shape=(options.SIDE, options.SIDE, 1)
  )
  state, metrics = devices.replicate(state), []
  batches = options.batches('plain', 6 * (1 + (name == 'vq')))
  batches = batches.reshape(6, -1, *batches.shape[2:])
  update = update.lower(state, split(batches[0], 1)).compile()
  for batch in batches:
    state, values = update(state, split(batch, 1))
    metrics.append({k: float(v) for k, v in values.items()})
  network = jax.device_get(state.networks['autoencoder'])
  leaves = jax.tree.leaves((network.params, network.batch_stats))
  return {
    'metrics': metrics,
    'leaves': [leaf.tolist() for leaf in leaves],
    'all_reduces': hlo.count_all_reduces(update.as_text()),
  }


def run_masked():
  """Returns metrics and parameters after 3 updates with no data."""
  loss = {'normalize': 'local', 'norm': 'log', 'reduction': 'mean'}
  update = no_data.masked_update(loss | {'image_weight': 0.5})
  state, metrics = devices.replicate(options.initial_state()), []
  for batch in no_data.masked_batches(3):
    state, values = update(state, split(batch, 1))
    metrics.append({k: float(v) for k, v in values.items()})
  leaves = jax.tree.leaves(options.params_of(jax.device_get(state)))
  return {'metrics': metrics, 'leaves': [leaf.tolist() for leaf in leaves]}


def run_all():
  """Returns all runs, and the number of compilations of the first."""
  runs = {'devices': jax.local_device_count()}
  devices.replicate(options.initial_state())
  compilations = []

  def listen(event, _, **__):
    if event == '/jax/core/compile/backend_compile_duration':
      compilations.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  runs[CASE] = run(options.case_updates(**options.CASES[CASE]))
  runs['compilations'] = len(compilations)
  runs['masked'] = run_masked()
  # In chunks, a codebook is as on more devices.
  return runs | {name: run_codes(name, 1 + (name == 'vq')) for name in CODES}


@functools.cache
def on_many():
  """Returns what `run_all` returns in the process with many devices."""
  runs = call_on_devices(NUM_DEVICES, run_all)
  assert (jax.local_device_count(), runs['devices']) == (1, NUM_DEVICES)
  return runs


def test_many_devices_compute_the_same_as_one_and_compile_once():
  one, many = run(options.compiled(CASE)), on_many()[CASE]
  # One for each kind of step: there are warm-ups of two.
  assert on_many()['compilations'] == 2
  skipped = [m['skipped_in_a_row'] for m in many['metrics']]
  assert skipped == [0, 0, 0, 1, 0, 0]
  for expected, got in zip(one['metrics'], many['metrics'], strict=True):
    assert set(expected) == set(got)
    assert ('loss' in got) == (
      {'output_std', 'input_std', 'feature_scale'} < set(got)
    )
    for metric, value in expected.items():
      rtol = 1e-4 if metric.endswith(('norm', 'penalty')) else 1e-5
      np.testing.assert_allclose(
        got[metric], value, rtol=rtol, atol=1e-6, err_msg=metric
      )
  for got, want in zip(many['leaves'], one['leaves'], strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_no_data_on_many_devices_counts_as_on_one():
  one, many = run_masked(), on_many()['masked']
  for expected, got in zip(one['metrics'], many['metrics'], strict=True):
    assert got == pytest.approx(expected, rel=1e-4, abs=1e-6)
  for got, want in zip(many['leaves'], one['leaves'], strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', CODES)
def test_codebooks_on_many_devices_equal_those_on_one(name):
  one, many = run_codes(name), on_many()[name]
  for expected, got in zip(one['metrics'], many['metrics'], strict=True):
    assert {'perplexity', 'usage', 'largest_share', 'rate'} < set(expected)
    assert got == pytest.approx(expected, rel=1e-5, abs=1e-6)
  assert one['metrics'][-1]['usage'] > 0.1
  # A codebook is averaged with the gradients; an entropy of all codes cannot.
  assert many['all_reduces'] == (2 if name == 'lfq' else 1)
  for got, want in zip(many['leaves'], one['leaves'], strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
