"""A run that starts from another run's weights.

`bucket_test.py` covers buckets and two processes; `old_workdirs_test.py` covers
runs of earlier versions.
"""

import os
import shutil

import jax
import numpy as np
import pytest

from tests.finished_run import finish, restore_state
from tests.networks import assert_equal
from tests.processes import read_rows, saved_steps
from vaegan_jax.commands import train
from vaegan_jax.config.io import load_config
from vaegan_jax.errors import UserError
from vaegan_jax.setup.networks import create_networks
from vaegan_jax.training.loop import DONE

NORM = '--config.model.norm=batch'  # Averages exist beside the weights.


@pytest.fixture(scope='module')
def first(tiny_run, tmp_path_factory, run):
  """Returns the workdir of a run of three steps, which must not change."""
  workdir = tmp_path_factory.mktemp('runs') / 'first'
  few = ('--config.num_train_steps=3', NORM)
  assert run(workdir, *tiny_run, *few) == DONE
  return workdir


@pytest.fixture
def begin(tiny_run, tmp_path, run, monkeypatch):
  """Returns a function that starts a run and returns its initial state.

  The networks are those of `first`, unless flags change them.
  """

  def begin(*args, name='second'):
    states = []

    def take(loop, state, start_step, batches, **_):
      assert start_step == 0
      states.append(state)
      return DONE

    with monkeypatch.context() as patch:
      patch.setattr(train.Loop, 'run', take)
      assert run(tmp_path / name, *tiny_run, NORM, *args) == DONE
    return states[0]

  return begin


def _differ(got, want):
  pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
  return any((np.asarray(a) != np.asarray(b)).any() for a, b in pairs)


def test_networks_come_from_the_other_run_and_the_rest_is_new(
  first, begin, capsys
):
  source = restore_state(first)[0]
  state = begin(f'--config.init_from={first}', '--config.seed=7')
  told = f'Starting from step 3 of {first}.\n'
  assert told in capsys.readouterr().out
  for name, network in source.networks.items():
    assert_equal(state.networks[name].variables, network.variables)
  assert_equal(state.ema_params, source.ema_params)
  assert _differ(state.ema_params, source.networks['autoencoder'].params)
  config = load_config(first / 'config.json')
  fresh = create_networks(config)[2]()
  for name, network in fresh.networks.items():
    assert_equal(state.networks[name].opt_state, network.opt_state)
    assert _differ(source.networks[name].opt_state, network.opt_state)
  assert_equal(state.averages, fresh.averages)
  assert (state.step, state.num_skipped, state.num_rollbacks) == (0, 0, 0)


def test_the_other_run_may_be_removed_after_the_start(
  first, tiny_run, tmp_path, run, begin, capsys
):
  gone = shutil.copytree(first, tmp_path / 'gone')
  began = begin(f'--config.init_from={gone}')
  # The run ended before it saved a step other than step 0.
  assert saved_steps(tmp_path / 'second') == [0]
  shutil.rmtree(gone)
  assert_equal(begin(f'--config.init_from={gone}'), began)
  told = f"init_from='{gone}' is not read again"
  assert told in capsys.readouterr().out
  # The field is not part of the run: it resumes without it too.
  args = (*tiny_run, NORM, '--config.checkpoint_every_steps=1')
  assert run(tmp_path / 'second', *args, '--config.num_train_steps=2') == DONE
  assert [row['step'] for row in read_rows(tmp_path / 'second')] == [1, 2]
  assert saved_steps(tmp_path / 'second') == [0, 1, 2]


def test_a_different_critic_starts_afresh_with_a_message(first, begin, capsys):
  change = ('--config.critic.width=4', '--config.critic.spectral_norm=True')
  state = begin(f'--config.init_from={first}', *change)
  assert (
    f'{first}, but the critic starts afresh, because critic.width is 2 there '
    'and 4 here and critic.spectral_norm is False there and True here.\n'
  ) in capsys.readouterr().out
  assert_equal(state.ema_params, restore_state(first)[0].ema_params)
  fresh = begin(*change, name='third').networks['critic']
  assert_equal(state.networks['critic'], fresh)


def test_the_dense_head_alone_is_new_where_images_have_another_size(
  tiny_run, begin, tmp_path, capsys
):
  fields = 'model.latent_shape=map', 'model.norm=batch'
  finish(tmp_path / 'half', tiny_run, 'data.image_size=8', *fields)
  source = restore_state(tmp_path / 'half')[0].networks
  map_ = f'--config.{fields[0]}'
  state = begin(f'--config.init_from={tmp_path / "half"}', map_)
  assert (
    'half, but the dense head of the critic starts afresh, because '
    'data.image_size is 8 there and 16 here.\n'
  ) in capsys.readouterr().out
  assert_equal(
    state.networks['autoencoder'].variables, source['autoencoder'].variables
  )
  critic, first = state.networks['critic'].params, source['critic'].params
  assert_equal(critic['block_0'], first['block_0'])
  assert critic['Dense_0']['kernel'].shape == (8 * 8 * 4, 1)
  assert first['Dense_0']['kernel'].shape == (4 * 4 * 4, 1)
  assert not critic['Dense_0']['bias'].any() and first['Dense_0']['bias'].any()


def test_a_critic_that_only_one_of_them_has(
  first, begin, tmp_path, capsys, vgg16_file
):
  def from_run(workdir, *args, name):
    state = begin(f'--config.init_from={workdir}', *args, name=name)
    return state, capsys.readouterr().out

  pixels = tmp_path / 'pixels'
  state, out = from_run(first, '--config.objective=mse', name='pixels')
  assert set(state.networks) == {'autoencoder'} and 'starts afresh' not in out
  _, out = from_run(pixels, name='second')
  assert "because objective is 'mse' there, which has none." in out
  # A frozen critic is read from its own file.
  vgg = (
    '--config.critic.network=vgg16',
    f'--config.critic.weights={vgg16_file}',
    '--config.loss.adversarial_weight=0',
  )
  _, out = from_run(pixels, *vgg, name='frozen')
  assert 'starts afresh' not in out
  _, out = from_run(tmp_path / 'frozen', name='third')
  assert "because critic.network is 'vgg16' there." in out


@pytest.fixture
def refused(tiny_run, tmp_path, run, monkeypatch):
  """Returns a function that starts a run which is refused."""
  monkeypatch.setattr(
    'vaegan_jax.setup.run.load_data', lambda _: pytest.fail('too late')
  )

  def refused(init_from, *args, workdir=tmp_path / 'second'):
    with pytest.raises(UserError) as caught:
      run(workdir, *tiny_run, NORM, f'--config.init_from={init_from}', *args)
    return str(caught.value)

  return refused


@pytest.mark.parametrize(
  ('change', 'told'),
  (
    ('model.latent_dim=5', 'model.latent_dim is 4 there and 5 here'),
    ('model.norm=none', "model.norm is 'batch' there and 'none' here"),
    ('data.image_size=32', 'data.image_size is 16 there and 32 here'),
    ('data.channels=1', 'data.channels is 3 there and 1 here'),
  ),
)
def test_another_autoencoder_is_refused_by_its_field(
  change, told, first, refused, tmp_path
):
  sentence = refused(first, f'--config.{change}')
  assert sentence.startswith(f"init_from='{first}': {told}")
  assert not (tmp_path / 'second').exists()


def test_a_missing_or_damaged_run_is_reported(first, refused, tmp_path):
  assert 'there is no such folder' in refused(tmp_path / 'nothing')
  (tmp_path / 'empty').mkdir()
  told = 'it has no config.json: name a workdir, an export or a folder of dif'
  assert told in refused(tmp_path / 'empty')
  (tmp_path / 'sd.ckpt').write_bytes(b'PK')
  assert 'it is a file, and folders are' in refused(tmp_path / 'sd.ckpt')
  copied = shutil.copytree(first, tmp_path / 'copied')
  os.truncate(copied / 'checkpoints' / '3' / 'meta' / 'metadata', 10)
  assert f"init_from='{copied}': Every checkpoint in " in refused(copied)
  # Nothing in the other run is moved.
  assert (copied / 'checkpoints' / '3').exists()
  shutil.rmtree(copied / 'checkpoints')
  assert 'has no checkpoint' in refused(copied)


def test_a_run_cannot_start_from_itself(first, refused, tmp_path):
  assert 'itself: leave it out' in refused(tmp_path / 'second')
  assert 'itself' in refused(f'{first}/', workdir=first)
  (tmp_path / 'link').symlink_to(first)
  assert 'itself' in refused(tmp_path / 'link', workdir=first)
  assert 'itself' in refused('gs://b/run/', workdir='gs://b/run')
