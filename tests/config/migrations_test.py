"""Runs of earlier versions, whose fields had other names, load.

`tests/commands/old_workdirs_test.py` loads the workdirs of real versions, in
`tests/fixtures`.
"""

import json

import jax
import numpy as np
import pytest

import vaegan_jax
from configs import default
from tests.finished_run import STEP, finish, use
from vaegan_jax.config import migrations
from vaegan_jax.config.io import load_config
from vaegan_jax.config.rules import flatten
from vaegan_jax.errors import UserError
from vaegan_jax.runtime.checkpoint_files import read_identity

_NOW = 1 + len(migrations.MIGRATIONS)


def _rename(config):
  """Simulates a later version: the decay is a power of ten, a field is gone."""
  config['ema_decay'] = 1 - 10.0 ** -config.pop('ema_digits')
  del config['model']['colour']
  return config


_LATER = (*migrations.MIGRATIONS, _rename)


def _as_of_now(fields):
  fields = fields | {'ema_digits': 2, 'model': fields['model'] | {'colour': 1}}
  del fields['ema_decay']
  return fields


def test_a_renamed_and_a_removed_field_are_translated(
  tiny_run, tmp_path, monkeypatch
):
  stamp = migrations.stamp
  with monkeypatch.context() as patch:
    patch.setattr(
      'tests.finished_run.stamp', lambda fields: _as_of_now(stamp(fields))
    )
    finish(tmp_path, tiny_run)
  with pytest.raises(UserError, match='lacks ema_decay'):
    vaegan_jax.load(tmp_path)
  monkeypatch.setattr(migrations, 'MIGRATIONS', _LATER)
  model = vaegan_jax.load(tmp_path)
  assert model.config.ema_decay == pytest.approx(0.99)
  assert model.step == STEP
  # Configurations written from now on are not translated again.
  use(tmp_path, mode='export')
  written = json.loads((tmp_path / 'export' / 'config.json').read_text())
  assert written['version'] == _NOW + 1
  exported = vaegan_jax.load(tmp_path / 'export')
  assert exported.config.ema_decay == pytest.approx(0.99)
  jax.tree.map(
    np.testing.assert_array_equal, exported.variables, model.variables
  )


def test_a_run_goes_on_under_a_later_version(tiny_run, tmp_path, monkeypatch):
  """The fields of its checkpoint are translated as its own are."""
  stamp = migrations.stamp
  with monkeypatch.context() as patch:
    patch.setattr(
      'vaegan_jax.setup.resume.stamp', lambda fields: _as_of_now(stamp(fields))
    )
    decay = ('--config.ema_decay=0.99', '--config.objective=mse')
    use(tmp_path, *tiny_run, *decay, '--config.num_train_steps=1')
    assert 'ema_digits' in read_identity(tmp_path)['config']
  monkeypatch.setattr(migrations, 'MIGRATIONS', _LATER)
  use(tmp_path, *tiny_run, *decay, '--config.num_train_steps=2')
  identity = read_identity(tmp_path)
  assert identity['step'] == 2
  assert identity['config']['version'] == _NOW + 1
  assert identity['config']['ema_decay'] == 0.99


def test_a_file_says_its_version_and_a_later_one_is_refused(tmp_path):
  path = tmp_path / 'config.json'
  fields = migrations.stamp(default.get_config().to_dict())
  assert fields['version'] == _NOW
  path.write_text(json.dumps(fields))
  assert flatten(load_config(path)) == flatten(default.get_config())
  for version in (_NOW + 1, 0, -1, '1', 1.0, True, None, [1]):
    path.write_text(json.dumps(fields | {'version': version}))
    with pytest.raises(UserError, match=f'must be from 1 to {_NOW}: install'):
      load_config(path)
