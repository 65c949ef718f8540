"""A run on arrays with no data: resumed, evaluated, and used."""

import json

import jax
import numpy as np
import pytest

import vaegan_jax
from tests.finished_run import parse, restore_state, use
from tests.networks import assert_equal
from tests.processes import read_rows
from tests.tiny_run import tiny_flags
from vaegan_jax.errors import UserError

SPLITS = ('train', 'test')


def write_arrays(folder, no_data):
  """Writes 40 similar fields, of which a swath has no data."""
  for split in SPLITS:
    (folder / split).mkdir(parents=True)
  rng = np.random.default_rng(0)
  grid = np.linspace(0, 1, 16)
  common = 0.5 + 0.4 * np.sin(7 * grid[:, None] + 4 * grid)
  for index in range(40):
    shades = rng.uniform(0.6, 1, 2)
    values = (1 + 4000 * common[..., None] * shades).astype(np.uint16)
    first = index % 12
    values[first : first + 5] = no_data
    values[:, 3, 1] = no_data  # In one channel alone.
    np.save(folder / SPLITS[index % 8 == 0] / f'{index:02}.npy', values)


def flags_of(root, no_data):
  return (
    *tiny_flags(root / 'arrays', root / 'data'),
    '--config.data.name=array_folder',
    '--config.data.channels=2',
    '--config.data.flip_axes=(0,)',
    '--config.data.value_range=percentiles',
    '--config.data.max_nodata=0.5',
    f'--config.data.nodata={no_data}',
    '--config.checkpoint_every_steps=2',
    '--config.loss.normalize=local',
    '--config.loss.image_weight=0.5',
  )


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Returns the folder and the flags of a whole run of three steps."""
  root = tmp_path_factory.mktemp('masked')
  write_arrays(root / 'arrays', 0)
  flags = flags_of(root, 0)
  use(root / 'run', *flags, '--config.num_train_steps=3', whole=True)
  return root, flags


def state_of(workdir, flags):
  """Returns the leaves of the last state."""
  state, step = restore_state(workdir, parse(workdir, *flags).config)
  assert step == 3
  return jax.tree.leaves(state)


def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(run):
  root, flags = run
  use(root / 'resumed', *flags, '--config.num_train_steps=2')
  use(root / 'resumed', *flags, '--config.num_train_steps=3')
  flags = (*flags, '--config.num_train_steps=3')
  wanted = state_of(root / 'run', flags)
  assert_equal(state_of(root / 'resumed', flags), wanted)


def test_what_is_no_data_changes_no_bit_of_a_run(run, tmp_path, capsys):
  root, flags = run
  write_arrays(tmp_path / 'arrays', 65535)
  others = flags_of(tmp_path, 65535)
  three = '--config.num_train_steps=3'
  use(tmp_path / 'run', *others, three)
  told = capsys.readouterr().out
  assert '40 of 40 arrays hold values that mean no data, 33.4' in told
  ranges = [
    json.loads((folder / 'run' / 'config.json').read_text())['data'][
      'value_range'
    ]
    for folder in (root, tmp_path)
  ]
  assert ranges[0] == ranges[1] and 0 < ranges[0][0] < ranges[0][1] < 4001
  got = state_of(tmp_path / 'run', (*others, three))
  assert_equal(got, state_of(root / 'run', (*flags, three)))
  use(tmp_path / 'run', mode='evaluate')
  scores = json.loads((tmp_path / 'run' / 'evaluation.json').read_text())
  logged = read_rows(root / 'run')[-1]  # Training evaluates its last step.
  assert logged['eval/distance'] > 0
  for name, value in scores.items():
    if name != 'step':
      assert value == pytest.approx(logged[f'eval/{name}'], rel=1e-5), name
  for kind in ('reconstructions', 'samples', 'interpolation'):
    assert (root / f'run/figures/{kind}_00000003.png').exists()


def test_a_model_is_used_on_no_data(run, tmp_path):
  root, _ = run
  use(root / 'run', mode='evaluate')
  scores = json.loads((root / 'run' / 'evaluation.json').read_text())
  protocol = (root / 'run' / 'evaluation.md').read_text()
  assert 'no data counts in no metric' in protocol
  use(root / 'run', mode='reconstruct', split='eval', output=tmp_path)
  names = sorted((tmp_path / 'originals').glob('*.npy'))
  x, x_recon = (
    np.stack([np.load(tmp_path / part / n.name) for n in names])
    for part in ('originals', 'reconstructions')
  )
  missing = np.isnan(x)
  assert missing.mean() == pytest.approx(0.334, abs=0.01)
  np.testing.assert_array_equal(np.isnan(x_recon), missing)
  model = vaegan_jax.load(root / 'run')
  low, high = model.config.data.value_range
  errors = np.square((np.clip(x_recon, low, high) - x) / (high - low))
  psnr = -10 * np.log10(np.nanmean(errors, (1, 2, 3)))
  assert psnr.mean() == pytest.approx(scores['psnr'], abs=1e-3)
  # NaN and the stated value are the same, within `jax.jit` and outside.
  given = np.where(missing, 0, np.rint(x)).astype(np.uint16)
  wanted = model.preprocess(np.where(missing, np.nan, given.astype('f4')))
  assert np.isfinite(wanted).all()
  np.testing.assert_array_equal(model.preprocess(given), wanted)
  traced = jax.jit(model.preprocess)(given)
  np.testing.assert_allclose(traced, wanted, atol=1e-6)
  given[0, :, 8:] = 0
  with pytest.raises(UserError, match=r'6\d\.\d+% of its values are missing'):
    model.preprocess(given)
