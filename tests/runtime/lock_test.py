"""The lock of a workdir: held by one, freed by any end, never by a live one."""

import errno
import fcntl
import json
import os
import signal
import socket
import threading
import time

import pytest

from tests.processes import SERVER
from vaegan_jax.errors import UserError
from vaegan_jax.runtime import lock
from vaegan_jax.runtime.lock import hold


def _hold(workdir):
  with hold(workdir):
    time.sleep(600)


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
  process = SERVER.Process(target=_hold, args=(tmp_path,))
  process.start()
  while not (tmp_path / 'lock').exists() or not (tmp_path / 'lock').read_text():
    assert process.is_alive()
    time.sleep(0.01)
  where = f'process {process.pid} on {socket.gethostname()}: stop that one'
  for _ in range(2):
    with pytest.raises(UserError, match=where), hold(tmp_path):
      pass
  assert _read(tmp_path)['pid'] == process.pid
  process.kill()
  process.join()
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


def test_a_workdir_that_cannot_be_written_is_reported(tmp_path):
  (tmp_path / 'lock').mkdir()
  message = r'cannot be written \(.*such as --workdir=runs/first'
  with pytest.raises(UserError, match=message), hold(tmp_path):
    pass
  assert (tmp_path / 'lock').is_dir()


@pytest.fixture
def bucket(fake_bucket, monkeypatch):
  """A bucket whose lock is written and watched within a second."""
  pytest.importorskip('google.cloud.storage')
  for name, value in fake_bucket.client_environment.items():
    monkeypatch.setenv(name, value)
  monkeypatch.setattr(lock, '_BEAT_SECONDS', 0.02)
  monkeypatch.setattr(lock, '_WATCH_SECONDS', 0.5)
  return fake_bucket


_RUN = 'gs://bucket/run'


def _read_in(bucket):
  return json.loads(bucket.read('run/lock'))


def test_in_a_bucket_a_holder_that_writes_is_refused(bucket, capsys):
  with hold(_RUN), hold(_RUN):
    assert _read_in(bucket)['pid'] == os.getpid()
    lock._held.remove(_RUN)  # As another process sees it.
    refused = pytest.raises(UserError, match=f'process {os.getpid()} on ')
    with refused, hold(_RUN):
      pass
    lock._held.add(_RUN)
  assert 'watching for 0.5 s' in capsys.readouterr().out
  assert 'run/lock' not in bucket.names()


@pytest.mark.parametrize(
  'left', ['{"host": "a", "pid": 1, "beat": 7}', '', '3']
)
def test_in_a_bucket_a_holder_that_does_not_write_is_replaced(left, bucket):
  bucket.write('run/lock', left.encode())
  with hold(_RUN):
    assert _read_in(bucket)['pid'] == os.getpid()
  assert 'run/lock' not in bucket.names()


_OTHER = {'host': 'other', 'pid': 1, 'token': 'a', 'beat': 0}


@pytest.mark.parametrize('left', [False, True])
def test_in_a_bucket_one_of_two_that_come_at_once_is_refused(
  left, bucket, monkeypatch
):
  if left:
    bucket.write('run/lock', b'{}')
  write = lock._BucketLock.write

  def write_second(self):
    bucket.write('run/lock', json.dumps(_OTHER).encode())
    return write(self)

  monkeypatch.setattr(lock._BucketLock, 'write', write_second)
  with pytest.raises(UserError, match='process 1 on other'), hold(_RUN):
    pass
  assert _read_in(bucket) == _OTHER
  bucket.remove('run/lock')


def test_in_a_bucket_a_holder_that_was_replaced_stops(bucket, caplog):
  stopped = threading.Event()
  before = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
  try:
    with hold(_RUN):
      bucket.write('run/lock', json.dumps(_OTHER).encode())
      assert stopped.wait(60)
  finally:
    signal.signal(signal.SIGTERM, before)
  assert 'Process 1 on other has taken' in caplog.text
  assert _read_in(bucket) == _OTHER  # No write of the other is lost.
  bucket.remove('run/lock')


def test_in_a_bucket_a_lock_that_is_removed_is_written_again(bucket):
  with hold(_RUN):
    bucket.remove('run/lock')
    deadline = time.monotonic() + 60
    while 'run/lock' not in bucket.names():
      assert time.monotonic() < deadline
      time.sleep(0.01)
