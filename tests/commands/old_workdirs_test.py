"""Workdirs of earlier versions of the code resume and load.

Each archive in `tests/fixtures` holds the `images` of a run and its workdir
`run`, stopped half way. `after_20.npz` (every leaf of the state) and
`metrics_after_20.jsonl` show how that version continued. They were made on a
CPU, and other processors round differently. The tests therefore compare the
change over the rest of the run, to a hundredth.
"""

import json
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest

import vaegan_jax
from tests.finished_run import restore_state
from tests.networks import assert_equal
from vaegan_jax.commands import evaluate, train
from vaegan_jax.config.io import load_config
from vaegan_jax.runtime import writers
from vaegan_jax.setup.init_from import read_initial_weights

ARCHIVES = sorted((Path(__file__).parents[1] / 'fixtures').glob('workdir_*'))


def leaves(state):
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
  }


def rows(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize('archive', ARCHIVES, ids=lambda path: path.name)
def test_an_old_workdir_continues_as_in_its_own_version(
  archive, tmp_path, monkeypatch
):
  with tarfile.open(archive) as file:
    file.extractall(tmp_path, filter='data')
  monkeypatch.setattr(writers, '_tensorboard_writer', lambda _: None)
  workdir = tmp_path / 'run'
  config = load_config(workdir / 'config.json')
  config.data.path = str(tmp_path / 'images')
  config.data.data_dir = str(tmp_path / 'data')

  state, step = restore_state(workdir, config)
  assert step == 10
  before = leaves(state)
  # It loads; statistics of its latents are missing.
  model = vaegan_jax.load(workdir)
  assert model.step == 10 and model.statistics is None
  params = model.variables['autoencoder']['params']
  assert_equal(params, state.ema_params)
  # Another run can start from it.
  config.init_from = str(workdir)
  initial = read_initial_weights(config)
  assert_equal(initial.ema_params, state.ema_params)
  assert set(initial.variables) == set(state.networks)
  config.init_from = ''
  assert train.train(config, str(workdir)) == 0
  state, step = restore_state(workdir, config)
  assert step == 20
  after, wanted = leaves(state), np.load(tmp_path / 'after_20.npz')
  assert after.keys() == set(wanted)
  for name, want in wanted.items():
    way = np.abs(want - before[name]).max()
    np.testing.assert_allclose(
      after[name], want, rtol=0, atol=0.01 * way + 1e-6, err_msg=name
    )
  assert any((after[name] != before[name]).any() for name in after)
  assert vaegan_jax.load(workdir).statistics.step == 20
  # The record agrees, earlier steps included.
  recorded = rows(workdir / 'metrics.jsonl')
  assert [row['step'] for row in recorded] == list(range(1, 21))
  for want in rows(tmp_path / 'metrics_after_20.jsonl'):
    got = recorded[want['step'] - 1]
    for name in ('train/loss', 'train/distance', 'train/kl'):
      np.testing.assert_allclose(got[name], want[name], rtol=1e-3)

  evaluate.evaluate(config, str(workdir))
  (scores,) = rows(workdir / 'evaluation.json')
  assert scores['step'] == 20 and np.isfinite(scores['psnr'])
