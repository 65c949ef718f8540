"""Training measures its latents at its end, and at no cost to the run."""

import functools
import json
import os
import signal

import numpy as np
import pytest
from absl import logging

import vaegan_jax
from tests.finished_run import use
from vaegan_jax.inference import measure_latents
from vaegan_jax.inference.latent_statistics import num_measured
from vaegan_jax.runtime.preemption import PREEMPTED


@pytest.fixture
def run(run):
  return functools.partial(run, whole=True)


@pytest.fixture
def few_steps(tiny_run):
  return (*tiny_run, '--config.num_train_steps=2')


def test_fewer_images_of_a_map_are_measured():
  flat, sounds, pictures = (num_measured(50_000, n) for n in (1, 128, 4096))
  assert (flat, sounds, pictures) == (10_000, 1_024, 1_000)
  assert num_measured(70, 128) == 70


def test_a_finished_run_is_measured_once_and_again_when_it_goes_on(
  few_steps, tmp_path, run, monkeypatch
):
  with monkeypatch.context() as patch:
    patch.setattr(measure_latents, 'num_measured', lambda n, _: n - 1)
    assert run(tmp_path, *few_steps) == 0
  measured = json.loads((tmp_path / 'latents.json').read_text())
  assert measured['num_images'] == 37
  model = vaegan_jax.load(tmp_path)
  assert (model.step, model.statistics.step) == (2, 2)
  structure = dict(model.statistics.structure)
  assert 1 <= structure['effective_rank'] <= 4
  assert 0 < structure['velocity_variance'] < 1.58
  written = (tmp_path / 'latents.json').stat().st_mtime_ns
  assert run(tmp_path, *few_steps) == 0  # Nothing to do.
  assert (tmp_path / 'latents.json').stat().st_mtime_ns == written
  assert run(tmp_path, *few_steps[:-1], '--config.num_train_steps=3') == 0
  assert vaegan_jax.load(tmp_path).statistics.step == 3
  # As encoding the same images finds.
  use(tmp_path, mode='encode', split='train')
  parts = [np.load(path) for path in (tmp_path / 'latents').glob('mean-*')]
  np.testing.assert_allclose(
    np.concatenate(parts).mean(0),
    vaegan_jax.load(tmp_path).latent_mean,
    atol=1e-5,
  )


def test_a_signal_ends_it_and_the_next_start_does_it(
  few_steps, tmp_path, run, monkeypatch
):
  measure = measure_latents.measure

  def stopped(*args):
    os.kill(os.getpid(), signal.SIGTERM)
    return measure(*args)

  with monkeypatch.context() as patch:
    patch.setattr(measure_latents, 'measure', stopped)
    assert run(tmp_path, *few_steps) == PREEMPTED
  assert not (tmp_path / 'latents.json').exists()
  assert run(tmp_path, *few_steps) == 0
  assert vaegan_jax.load(tmp_path).statistics.step == 2


def test_a_disk_that_is_full_costs_the_file_and_not_the_run(
  few_steps, tmp_path, run, monkeypatch, caplog
):
  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(measure_latents, 'write_text', full)
  monkeypatch.setattr(logging.get_absl_logger(), 'propagate', True)
  assert run(tmp_path, *few_steps) == 0
  assert 'latents.json was not written' in caplog.text
  assert '--mode=encode --split=train --workdir=' in caplog.text
