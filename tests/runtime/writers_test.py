"""Records that survive being killed, and failures that do not stop training."""

import io
import json
import sys
import wave

import numpy as np
import pytest
from PIL import Image

from vaegan_jax.runtime import progress as progress_lib
from vaegan_jax.runtime import writers

_FIGURE = np.zeros((4, 6, 3), np.uint8)


@pytest.fixture
def warnings(monkeypatch):
  """The warnings logged so far."""
  logged = []
  monkeypatch.setattr(
    progress_lib.logging,
    'warning',
    lambda text, *args: logged.append(text % args),
  )
  return logged


class _Board:
  """Stands in for CLU's writer; fails while `error` is set."""

  def __init__(self):
    self.calls = []
    self.error = None

  def __getattr__(self, method):
    def call(*args):
      self.calls.append((method, args))
      if self.error:
        raise self.error

    return call


@pytest.fixture
def board(monkeypatch):
  fake = _Board()
  monkeypatch.setattr(writers, '_tensorboard_writer', lambda _: fake)
  return fake


def _rows(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def _steps(workdir):
  return [row['step'] for row in _rows(workdir)]


def test_lines_are_on_disk_at_once(tmp_path):
  file = writers.MetricsFile(tmp_path / 'new')
  file.write(1, {'loss': np.float32(0.5), 'n': 3})
  file.write(np.int32(2), {'eval/psnr': np.array(20.25)})
  assert _rows(tmp_path / 'new') == [
    {'step': 1, 'loss': 0.5, 'n': 3.0},
    {'step': 2, 'eval/psnr': 20.25},
  ]


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_null(tmp_path, value):
  writers.MetricsFile(tmp_path).write(1, {'loss': np.float32(value)})
  assert _rows(tmp_path) == [{'step': 1, 'loss': None}]


@pytest.mark.parametrize(
  ('start_step', 'kept'), [(0, []), (2, [1, 2, 2]), (9, [1, 2, 2, 3])]
)
def test_resuming_drops_the_steps_to_come(tmp_path, start_step, kept):
  file = writers.MetricsFile(tmp_path)
  for step in (1, 2, 2, 3):
    file.write(step, {'loss': 1})
  resumed = writers.MetricsFile(tmp_path, start_step)
  assert _steps(tmp_path) == kept
  resumed.write(start_step + 1, {'loss': 2})
  assert _steps(tmp_path) == [*kept, start_step + 1]
  assert [p.name for p in tmp_path.iterdir()] == ['metrics.jsonl']


def test_what_a_signal_left_out_of_a_step_is_added_to_its_line(tmp_path):
  file = writers.MetricsFile(tmp_path)
  file.write(1, {'loss': 1})
  file.write(2, {'loss': 2})
  resumed = writers.MetricsFile(tmp_path, 2)
  assert not writers.has_scores(tmp_path, 2)
  resumed.write(2, {'eval/psnr': 20})
  resumed.write(3, {'loss': 3})
  assert _rows(tmp_path) == [
    {'step': 1, 'loss': 1},
    {'step': 2, 'loss': 2, 'eval/psnr': 20},
    {'step': 3, 'loss': 3},
  ]
  assert writers.has_scores(tmp_path, 2)
  assert not writers.has_scores(tmp_path, 9)


@pytest.mark.parametrize(
  'torn', [b'\n{"step": 2, "lo', b'\n\xff\xfe', b'\n7\n', b'\n\n', b'']
)
def test_torn_lines_are_dropped_and_whole_ones_need_no_newline(tmp_path, torn):
  (tmp_path / 'metrics.jsonl').write_bytes(b'{"step": 1}' + torn)
  writers.MetricsFile(tmp_path, 5).write(6, {})
  assert _steps(tmp_path) == [1, 6]


def test_a_file_cut_by_a_dying_process_is_the_old_or_the_new(
  tmp_path, monkeypatch, warnings
):
  content = b'{"step": 1}\n{"step": 2}\n'
  (tmp_path / 'metrics.jsonl').write_bytes(content)
  with monkeypatch.context() as patch:
    patch.setattr(type(writers.epath.Path(tmp_path)), 'replace', _refuse)
    file = writers.MetricsFile(tmp_path, 1)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == content
  assert len(warnings) == 1
  file.write(2, {'again': 1})  # The cut is made up for.
  assert _rows(tmp_path) == [{'step': 1}, {'step': 2, 'again': 1}]


def _refuse(*_, **__):
  raise OSError('no space left on device')


def test_a_disk_that_fails_and_recovers_costs_a_warning_and_no_line(
  tmp_path, monkeypatch, warnings
):
  file = writers.MetricsFile(tmp_path)
  file.write(1, {})
  with monkeypatch.context() as patch:
    patch.setattr(type(writers.epath.Path(tmp_path)), 'open', _refuse)
    file.write(2, {})
    file.write(3, {})
  assert len(warnings) == 1 and 'metrics.jsonl' in warnings[0]
  # A write that failed half-way leaves half a line.
  with (tmp_path / 'metrics.jsonl').open('ab') as torn:
    torn.write(b'{"step": 2, "a lon')
  file.write(4, {})
  assert _steps(tmp_path) == [1, 2, 3, 4]


def test_a_workdir_that_cannot_be_made_costs_a_warning(tmp_path, warnings):
  (tmp_path / 'file').touch()
  file = writers.MetricsFile(tmp_path / 'file' / 'run')
  file.write(1, {})
  file.write(2, {})
  assert len(warnings) == 1


def test_everything_goes_everywhere(tmp_path, board):
  out = writers.Writers(tmp_path)
  out.write_scalars(7, {'loss': np.float32(0.5)})
  out.write_images(7, {'samples': _FIGURE, 'eval/pairs': _FIGURE})
  out.write_texts(7, {'note': 'hello'})
  out.write_hparams({'a': {'b': 1}})
  out.flush()
  out.close()
  assert _rows(tmp_path) == [{'step': 7, 'loss': 0.5}]
  for name in ('samples_00000007.png', 'eval/pairs_00000007.png'):
    with Image.open(tmp_path / 'figures' / name) as image:
      assert image.size == (6, 4)
  assert [method for method, _ in board.calls] == [
    'write_scalars',
    'write_images',
    'write_texts',
    'write_hparams',
    'flush',
    'close',
  ]
  assert board.calls[0][1] == (7, {'loss': 0.5})
  assert board.calls[1][1][1]['samples'].shape == (1, 4, 6, 3)


def test_a_failing_tensorboard_costs_one_warning(tmp_path, board, warnings):
  out = writers.Writers(tmp_path)
  board.error = RuntimeError('occurred ASYNCHRONOUSLY')
  for step in (1, 2):
    out.write_scalars(step, {'loss': 1})
    out.write_images(step, {'samples': _FIGURE})
  out.close()
  assert len(warnings) == 1 and 'TensorBoard' in warnings[0]
  assert _steps(tmp_path) == [1, 2]
  assert len(list((tmp_path / 'figures').iterdir())) == 2


def test_without_tensorflow_the_rest_goes_on(tmp_path, monkeypatch, warnings):
  monkeypatch.setitem(sys.modules, 'tensorflow', None)  # Fails to import.
  out = writers.Writers(tmp_path)
  out.write_scalars(1, {'loss': 1})
  out.close()
  assert len(warnings) == 1 and 'ModuleNotFoundError' in warnings[0]
  assert _steps(tmp_path) == [1]


def test_figures_that_cannot_be_written_cost_one_warning(
  tmp_path, board, warnings
):
  (tmp_path / 'figures').touch()  # A file where the folder should be.
  out = writers.Writers(tmp_path)
  for step in (1, 2):
    out.write_images(step, {'samples': _FIGURE})
  assert len(warnings) == 1 and 'figures' in warnings[0]
  assert len(board.calls) == 2


def test_ctrl_c_is_not_swallowed(tmp_path, board):
  out = writers.Writers(tmp_path)
  board.error = KeyboardInterrupt()
  with pytest.raises(KeyboardInterrupt):
    out.write_scalars(1, {'loss': 1})


def test_tensorboard_events_are_written(tmp_path, warnings):
  pytest.importorskip('tensorflow')
  out = writers.Writers(tmp_path)
  out.write_scalars(1, {'loss': 0.5, 'nan': np.nan})
  out.write_images(1, {'samples': _FIGURE})
  times = np.arange(800, dtype=np.float32) / 8000
  sounds = np.sin(2 * np.pi * 440 * times)[None, :, None]
  out.write_audios(
    1, {'originals': np.concatenate([sounds, -sounds])}, sample_rate=8000
  )
  out.write_hparams({'model': {'width': 32, 'multipliers': (1, 2)}})
  out.close()
  assert not warnings
  (events,) = tmp_path.glob('events.out.tfevents.*')
  content = events.read_bytes()
  assert b'loss' in content and b'samples' in content
  assert b'originals' in content and content.count(b'WAVEfmt ') == 2
  with wave.open(io.BytesIO(content[content.index(b'RIFF') :])) as sound:
    assert (sound.getframerate(), sound.getnframes()) == (8000, 800)
    played = np.frombuffer(sound.readframes(800), np.int16) / 32767
  np.testing.assert_allclose(played, sounds[0, :, 0], atol=1e-3)


class _Clock:
  now = 1000.0

  def __call__(self):
    return self.now


def test_progress_shows_speed_and_time_left(capsys):
  clock = _Clock()
  progress = progress_lib.Progress(20_000, 64, clock=clock)
  clock.now += 90  # Compiles.
  assert progress.update(1, {'loss': 12.3456}) is None
  clock.now += 10
  assert progress.update(101, {'loss': 0.5, 'psnr': np.float32(21)}) == 640
  clock.now += 5
  assert progress.update(201, {}) == 1280
  # 0.075 s a step since step 1, 19,799 steps to go: 1,485 s.
  assert capsys.readouterr().out.splitlines() == [
    'step 1/20,000  0.0%  - examples/s  -:--:-- left  loss 12.35',
    'step 101/20,000  0.5%  640 examples/s  0:33:10 left  loss 0.5  psnr 21',
    'step 201/20,000  1.0%  1,280 examples/s  0:24:45 left',
  ]


def test_pauses_slow_nothing_down_but_count_towards_the_end(capsys):
  clock = _Clock()
  progress = progress_lib.Progress(301, 10, start_step=100, clock=clock)
  progress.update(101, {})
  clock.now += 10
  with progress.pause():
    clock.now += 3600
  assert progress.update(201, {}) == 100
  clock.now += 10
  assert progress.update(301, {}) == 100  # The pause is over and done with.
  lines = capsys.readouterr().out.splitlines()
  assert lines[1].endswith('1:00:10 left')
  assert lines[2].startswith('step 301/301  100.0%')
  assert lines[2].endswith('0:00:00 left')


def test_progress_survives_two_lines_of_one_step_and_a_still_clock(capsys):
  progress = progress_lib.Progress(10, 4, clock=_Clock())
  assert [progress.update(step, {}) for step in (1, 1, 2)] == [None] * 3
  assert capsys.readouterr().out.count('\n') == 3


def test_a_closed_terminal_costs_a_warning(monkeypatch, warnings):
  progress = progress_lib.Progress(10, 4)
  monkeypatch.setattr('builtins.print', _refuse)
  progress.update(1, {})
  progress.update(2, {})
  assert len(warnings) == 1


def test_long_work_shows_plain_lines_where_no_terminal_is(capsys):
  clock = _Clock()
  done = []
  for step in progress_lib.track(range(1, 5), 'Looking', 4, clock=clock):
    done.append(step)
    clock.now += 3
  assert done == [1, 2, 3, 4]
  printed = capsys.readouterr()
  assert printed.err == ''  # Where bars are.
  assert printed.out.splitlines() == [
    'Looking: 2 of 4  0:00:06 left',
    'Looking: 4 of 4  0:00:00 left',
  ]


def test_long_work_shows_a_bar_on_a_terminal(monkeypatch, capsys):
  monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
  monkeypatch.setattr(progress_lib, '_QUIET_SECONDS', 0)
  assert list(progress_lib.track(range(2), 'Looking', 2)) == [0, 1]
  printed = capsys.readouterr()
  assert 'Looking:   0%|' in printed.err and printed.out == ''
