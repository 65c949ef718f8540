"""The lock of a workdir: held by one, freed by any end, never by a live one."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from etils import epath

from vaegan_jax.errors import UserError
from vaegan_jax.runtime import lock
from vaegan_jax.runtime.lock import hold

_HOLDER = """
import sys, time
from vaegan_jax.runtime.lock import hold
with hold(sys.argv[1]):
  print('held', flush=True)
  time.sleep(600)
"""


def _read(workdir):
  return json.loads((workdir / 'lock').read_text())


def test_the_lock_names_its_holder_and_goes_with_it(tmp_path):
  for _ in range(2):
    with hold(tmp_path), hold(str(tmp_path)):
      assert _read(tmp_path) == {
        'host': socket.gethostname(),
        'pid': os.getpid(),
      }
    assert not list(tmp_path.iterdir())
  with pytest.raises(ZeroDivisionError), hold(tmp_path):
    raise ZeroDivisionError
  assert not list(tmp_path.iterdir())


def test_folders_that_stay_empty_are_removed_again(tmp_path):
  (tmp_path / 'a').mkdir()
  with hold(tmp_path / 'a' / 'b' / 'c'):
    pass
  assert not list((tmp_path / 'a').iterdir())
  with hold(tmp_path / 'a' / 'b' / 'c'):
    (tmp_path / 'a' / 'b' / 'c' / 'config.json').write_text('')
  assert [path.name for path in (tmp_path / 'a').rglob('*')] == [
    'b',
    'c',
    'config.json',
  ]


def test_a_live_holder_is_named_and_a_killed_one_replaced(tmp_path):
  command = [sys.executable, '-c', _HOLDER, tmp_path]
  with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
    assert process.stdout.readline() == b'held\n'
    where = f'process {process.pid} on {socket.gethostname()}: stop that one'
    for _ in range(2):
      with pytest.raises(UserError, match=where), hold(tmp_path):
        pass
    assert _read(tmp_path)['pid'] == process.pid
    process.send_signal(signal.SIGKILL)
  assert _read(tmp_path)['pid'] == process.pid
  with hold(tmp_path):
    assert _read(tmp_path)['pid'] == os.getpid()


def test_a_file_that_its_last_holder_removed_is_not_the_lock(
  tmp_path, monkeypatch
):
  flock, calls = fcntl.flock, []

  def flock_late(descriptor, operation):
    if not calls:
      (tmp_path / 'lock').unlink()
    calls.append(descriptor)
    flock(descriptor, operation)

  monkeypatch.setattr(fcntl, 'flock', flock_late)
  with hold(tmp_path):
    assert len(calls) == 2
    assert _read(tmp_path)['pid'] == os.getpid()


def test_a_disk_without_locks_costs_a_warning(tmp_path, monkeypatch, caplog):
  def flock(*_):
    raise OSError(errno.ENOTSUP, 'Operation not supported')

  monkeypatch.setattr(fcntl, 'flock', flock)
  with hold(tmp_path):
    pass
  assert caplog.text.count('cannot be locked') == 1


def test_a_workdir_that_cannot_be_written_is_told(tmp_path):
  (tmp_path / 'lock').mkdir()
  told = r'cannot be written \(.*such as --workdir=runs/first'
  with pytest.raises(UserError, match=told), hold(tmp_path):
    pass
  assert (tmp_path / 'lock').is_dir()


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """A function like `hold` of a folder that is taken for a bucket's."""
  monkeypatch.setattr(lock, '_BEAT_SECONDS', 0.02)
  monkeypatch.setattr(lock, '_WATCH_SECONDS', 0.5)
  monkeypatch.setattr(lock, '_SETTLE_SECONDS', 0.05)
  return lambda: lock._object_lock(epath.Path(tmp_path))


def test_on_a_bucket_a_holder_that_beats_is_refused(bucket, tmp_path, capsys):
  with bucket():
    assert _read(tmp_path)['pid'] == os.getpid()
    with pytest.raises(UserError, match=f'process {os.getpid()} on '), bucket():
      pass
  assert 'watching for 0.5 s' in capsys.readouterr().out
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'left', ['{"host": "a", "pid": 1, "beat": 7}', '', '3']
)
def test_on_a_bucket_a_holder_that_does_not_beat_is_replaced(
  left, bucket, tmp_path
):
  (tmp_path / 'lock').write_text(left)
  with bucket():
    assert _read(tmp_path)['pid'] == os.getpid()


def test_on_a_bucket_one_of_two_that_come_at_once_is_refused(
  bucket, tmp_path, monkeypatch
):
  other = {'host': 'other', 'pid': 1, 'token': 'a', 'beat': 0}

  def sleep(_):  # Until the other has written, too.
    (tmp_path / 'lock').write_text(json.dumps(other))

  monkeypatch.setattr(lock.time, 'sleep', sleep)
  with pytest.raises(UserError, match='process 1 on other'), bucket():
    pass
  assert _read(tmp_path) == other


def test_on_a_bucket_a_holder_that_was_replaced_stops(bucket, tmp_path, caplog):
  stopped = threading.Event()
  before = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
  other = {'host': 'other', 'pid': 1, 'token': 'a', 'beat': 0}
  try:
    with bucket():
      # A beat may be on its way, and be the last.
      while not stopped.is_set():
        (tmp_path / 'lock').write_text(json.dumps(other))
        stopped.wait(0.05)
  finally:
    signal.signal(signal.SIGTERM, before)
  assert 'Process 1 on other has taken' in caplog.text
  assert _read(tmp_path) == other


def test_a_bucket_is_known_by_its_name(monkeypatch):
  seen = []

  @contextlib.contextmanager
  def lock(workdir):
    seen.append(os.fspath(workdir))
    yield

  monkeypatch.setattr(lock, '_object_lock', lock)
  with hold('gs://bucket/run'), hold('gs://bucket/run'):
    assert seen == ['gs://bucket/run']
