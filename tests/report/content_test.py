"""What a page holds: which examples, which numbers, and how large it is."""

import base64
import io
import json
import re
import types
import wave

import numpy as np
import pytest
from PIL import Image

from tests import command_line
from tests.report.made_up import NUM_EXAMPLES, FakeEvaluator, create_run
from vaegan_jax.commands import report
from vaegan_jax.config import cli
from vaegan_jax.errors import UserError
from vaegan_jax.evaluation import metrics, spectra, tables
from vaegan_jax.evaluation.meanings import MEANINGS
from vaegan_jax.evaluation.scores import by_example
from vaegan_jax.report import examples, facts, live
from vaegan_jax.report.media import Media
from vaegan_jax.report.page import build_page


def data_of(page):
  """Returns what a page was filled with."""
  text = re.search(r'id="data">(.*?)</script>', page, re.S)[1]
  return json.loads(text)


def bytes_of(uri):
  return base64.b64decode(uri.partition(',')[2])


def picture_of(item):
  return np.asarray(Image.open(io.BytesIO(bytes_of(item['picture']))))


def test_every_metric_has_a_meaning():
  assert {row.name for row in metrics.TABLE} | {'distance'} == set(MEANINGS)
  for name, sign in (('psnr', 1), ('lpips', -1), ('energy', 0)):
    assert facts.meaning_of(f'{name}_sampled').sign == sign
  assert facts.meaning_of('distance (geometric)') == MEANINGS['distance']
  assert facts.meaning_of('psnr_band_3').text == 'PSNR of channel 3.'


def test_the_first_and_the_extremes_are_chosen():
  psnr = np.array([5.0, 9, 1, 7, 3, np.nan, 8, 2, 6, 4])
  orders = examples.rank({'psnr': psnr, 'lpips': psnr / 10, 'energy': psnr})
  # Worst first; high LPIPS is bad, and energy is neither.
  assert {k: v.tolist() for k, v in orders.items()} == {
    'psnr': [2, 7, 4, 9, 0, 8, 3, 6, 1],
    'lpips': [1, 6, 3, 8, 0, 9, 4, 7, 2],
  }
  # One of the first; the worst, median and best; the next of each.
  assert examples.choose(orders, 10, 5) == [0, 2, 1, 7, 8]
  assert sorted(examples.choose(orders, 10, 99)) == list(range(10))
  assert examples.choose({}, 3, 2) == [0, 1]


def test_examples_are_measured_one_by_one():
  values = {
    'psnr': np.float32([20, 30]),
    'judge': np.float32([1, 2]),
    'rate': np.float32([64, 64]),
    'energy': np.float32([[3, 1], [2, 2]]),
    'energy_recon': np.float32([[1, 0], [4, 4]]),
    'energy_common': np.float32([[1, 1], [2, 0]]),
    'counted': np.array([True, True]),
  }
  found = by_example(values, np.array([True, False]))
  expected = {
    'psnr': [20, 30],
    'judge': [1, np.nan],
    'rate': [64, 64],
    'detail': [2 / 4, 2 / 8],
  }
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)
  values['counted'][0] = False
  assert np.isnan(by_example(values, np.array([True, False]))['psnr'][0])


def test_pictures_keep_every_value():
  rng = np.random.default_rng(0)
  photo = rng.integers(0, 256, (5, 7, 3)) / 127.5 - 1
  item = Media((5, 7, 3), (), 1).encode(photo)
  np.testing.assert_array_equal(picture_of(item), np.round((photo + 1) * 127.5))
  # Six tiles, row by row on a sheet of three columns: C by D.
  volume = rng.uniform(-1, 1, (3, 4, 5, 2))
  volume[0, 0, 0, 0] = np.nan
  media = Media((3, 4, 5, 2), (0,), 1)
  sheet = picture_of(media.encode(volume))
  assert sheet.shape == (2 * 4, 3 * 5) and sheet[0, 0] == 0
  expected = np.round((volume[1, :, :, 1] + 1) * 127.5)
  np.testing.assert_array_equal(sheet[4:, 5:10], expected)
  described = media.describe()
  assert (described['depth'], described['channels']) == (3, 2)
  assert media.of_middle(volume[None]).shape == (1, 1, 4, 5, 2)


def test_sounds_are_played_and_seen():
  times = np.arange(2048) / 8000
  x = 0.5 * np.sin(2 * np.pi * 1000 * times)
  x = np.stack([x, 2.5 * x], axis=-1)  # Beyond full scale on the right.
  media = Media((2048, 2), (0,), 8000)
  item = media.encode(x)
  with wave.open(io.BytesIO(bytes_of(item['sound']))) as file:
    assert file.getparams()[:4] == (2, 2, 8000, 2048)
    played = np.frombuffer(file.readframes(2048), '<i2').reshape(-1, 2)
  np.testing.assert_array_equal(played, np.round(32767 * x.clip(-1, 1)))
  picture = picture_of(item).astype(int).sum(axis=-1)
  described = media.describe()
  assert picture.shape == (described['height'], described['width'])
  assert described['width'] >= 256 and described['seconds'] == 0.256
  size = spectra.window_size(2048)
  row = described['height'] - 1 - 1000 * size // 8000  # Low ones are below.
  assert np.argmax(picture[:, described['width'] // 2]) == row


def test_a_page_is_as_small_as_asked_and_says_so():
  runs = [create_run(label, (48, 48, 3)) for label in ('mse', 'geometric')]
  page = build_page(runs, title='a', protocol='', num_examples=64, megabytes=1)
  assert 0.7e6 < len(page) < 1e6
  data = data_of(page)
  number = len(data['examples'])
  assert 8 < number < 64
  assert data['note'].startswith(f'{number} of {NUM_EXAMPLES} evaluated')
  assert data['note'].endswith('The 64 asked for would exceed 1 MB.')
  # The worst and the best are among them: PSNR rises with the index.
  assert {0, NUM_EXAMPLES - 1} <= {e['index'] for e in data['examples']}
  last = next(e for e in data['examples'] if e['index'] == NUM_EXAMPLES - 1)
  assert last['ranks']['psnr'] == [NUM_EXAMPLES, NUM_EXAMPLES]
  assert last['values'][1]['psnr'] == 20 + NUM_EXAMPLES - 1
  small = build_page([create_run('a')], title='', protocol='', num_examples=99)
  assert data_of(small)['note'] == 'All of the 70 evaluated examples.'
  galleries = data['runs'][0]['galleries']
  assert 'fit' in galleries[0]['note'] + galleries[-1]['note']


def test_numbers_have_their_best_and_spread():
  rows = facts.numbers(
    {
      'a': {'psnr': 20.0, 'lpips': 0.5, 'kl': 3.0, 'usage': None},
      'b': {'psnr': tables.Spread(21.0, 0.5), 'lpips': 0.25, 'kl': 2.0},
    }
  )
  assert [(row['name'], row['cells'], row['best']) for row in rows] == [
    ('psnr', ['20.0', '21.00 ± 0.50'], [False, True]),
    ('lpips', ['0.500', '0.250'], [False, True]),
    ('kl', ['3.0', '2.0'], [False, False]),  # Neither is better.
  ]


def test_curves_are_read_while_they_are_written(tmp_path):
  lines = [json.dumps({'step': i, 'train/loss': 0.5 * i}) for i in range(1000)]
  lines[3] = json.dumps({'step': 3, 'train/loss': None, 'eval/psnr': 1 / 3})
  strange = '[1]', '{"step": "x"}', '{"step": 5, "a": "b"}', '{"step": 1'
  (tmp_path / 'metrics.jsonl').write_text('\n'.join([*lines, *strange]))
  curves = facts.read_curves(tmp_path)
  assert curves['eval/psnr'] == [[3, 0.333333]]
  points = curves['train/loss']
  assert len(points) == 400
  assert points[0] == [0, 0.0] and points[-1] == [999, 499.5]
  assert len(curves) == 2 and facts.read_curves(tmp_path / 'none') == {}


def test_codes_and_fields_are_listed():
  assert facts.code_shares(np.array([1, 0, 3])) == [0.75, 0.25, 0.0]
  assert len(facts.code_shares(np.ones(10_000))) == 512
  assert facts.code_shares(np.zeros(0, int)) == []
  rows = facts.configuration([{'seed': 3, 'data': {'shape': (4, 5)}}, {}])
  rows = {row['name']: row for row in rows}
  assert rows['seed']['cells'] == ['3', '0'] and rows['seed']['differs']
  assert rows['data.shape']['cells'] == ['4, 5', 'empty']
  assert rows['data.shape']['own'] and not rows['batch_size']['own']


def test_a_study_has_curves_over_the_rate():
  def row(kl, psnr):
    return {'kl': tables.Spread(kl, 0.5), 'psnr': tables.Spread(psnr, None)}

  summary = {'mse, x=2': row(60.0, 22.0), 'mse, x=1': row(30.0, 20.0)}
  outcomes = [{'label': 'mse, x=1', 'scores': {'kl': 29.5, 'psnr': 20.5}}]
  (chart,) = facts.rate_curves(summary, outcomes, ['psnr', 'ssim'])
  assert chart['title'] == 'PSNR (dB)'
  assert chart['lines'] == [
    {
      'label': 'mse',
      'points': [[30.0, 20.0, 0.5, 0.0], [60.0, 22.0, 0.5, 0.0]],
      'seeds': [[29.5, 20.5]],
    }
  ]


def test_the_page_of_a_training_run_follows_it(tmp_path, caplog):
  run = create_run('a')
  config = run.config | {'num_train_steps': 20}
  evaluator = FakeEvaluator((4, 4, 3))
  evaluator.protocol = '- 70 held-out examples\n'
  page = live.LivePage(config, tmp_path / 'a', evaluator)
  for step, training in (
    (10, {'step': 10, 'total': 20, 'reload': 10}),
    (20, None),
  ):
    page.write(step, {}, run.evaluation)
    data = data_of((tmp_path / 'a' / 'report.html').read_text())
    assert data['training'] == training
  # Nothing that goes wrong ends the training.
  (tmp_path / 'b').write_text('a file')
  page = live.LivePage(config, tmp_path / 'b', evaluator)
  page.write(10, {}, run.evaluation)
  broken = types.SimpleNamespace(protocol='')
  live.LivePage(config, tmp_path / 'c', broken).write(5, {}, run.evaluation)
  assert caplog.text.count('Training continues') == 2


@pytest.fixture
def run_dir(tmp_path):
  """Returns a folder with the configuration of a run."""
  config = command_line.parse('--config=configs/quickstart.py', '--workdir=a')
  path = tmp_path / 'runs' / 'first'
  path.mkdir(parents=True)
  (path / 'config.json').write_text(config.config.to_json())
  return path


def test_the_command_takes_one_run_or_several(run_dir):
  def parse(*flags):
    return command_line.parse('--mode=report', *flags)

  command = parse(f'--workdir={run_dir}', '--config.batch_size=7')
  assert list(command.runs) == [str(run_dir)]
  assert command.runs[str(run_dir)].batch_size == 7
  assert command.use.path == str(run_dir / 'report.html')
  assert (command.use.num_examples, command.use.megabytes) == (32, 20)
  both = f'--workdirs={run_dir},{run_dir.parent / "first/../first"}'
  command = parse(both, '--output=/tmp/page.html', '--report.num_examples=64')
  assert command.use.path == '/tmp/page.html' and command.workdir == '/tmp'
  assert command.use.num_examples == 64
  (run_dir / 'all.html').mkdir()
  command = parse(both, f'--output={run_dir}/all.html')
  assert command.use.path == f'{run_dir}/all.html/report.html'
  for flags, told in (
    ([], r'--mode=report needs --workdir, or --workdirs'),
    ([f'--workdir={run_dir}', '--config=configs/celeba.py'], 'leave it out'),
    ([f'--workdir={run_dir}', '--report.num_examples=0'], 'from 1 to 10000'),
    ([f'--workdir={run_dir}', '--report.megabytes=nan'], 'nan must be a num'),
    ([f'--workdir={run_dir}/no'], 'config.json does not exist'),
  ):
    with pytest.raises(UserError, match=told):
      parse(*flags)


def test_what_cannot_be_shown_is_told_first(run_dir, tmp_path):
  config = command_line.parse('--mode=report', f'--workdir={run_dir}').runs
  (config,) = config.values()
  other = config.copy_and_resolve_references()
  other.data.eval_split = 'other'
  options = cli.PageOptions(str(tmp_path / 'a.html'), 32, 20.0)
  with pytest.raises(UserError, match=r"eval_split is 'other' in b and 'test'"):
    report.report({'a': config, 'b': other}, str(tmp_path), options)
  for field, value in (('crop', 'random'), ('value_range', 'percentiles')):
    other = config.copy_and_resolve_references()
    other.data[field] = value
    with pytest.raises(UserError, match=rf'data\.{field} is .* in b and'):
      report.report({'a': config, 'b': other}, str(tmp_path), options)
  (tmp_path / 'file').write_text('no folder')
  with pytest.raises(UserError, match=r'--output=.*/file cannot be written'):
    report.report({'a': config}, str(tmp_path / 'file'), options)
  with pytest.raises(UserError, match=r'has no checkpoint.*--mode=train'):
    report.report({str(run_dir): config}, str(tmp_path), options)
