"""Whatever becomes of what a run says, it goes on."""

import io
import logging as python_logging
import os
import sys
import threading
import warnings

import pytest
from absl import logging

from vaegan_jax.runtime import terminal


def _broken_pipe():
  """A text stream that nobody reads."""
  reader, writer = os.pipe()
  os.close(reader)
  return open(writer, 'w')


def _closed():
  stream = io.StringIO()
  stream.close()
  return stream


@pytest.mark.parametrize('create', (_broken_pipe, _closed))
def test_what_cannot_be_written_is_dropped(create, monkeypatch):
  stream = create()
  with pytest.raises((OSError, ValueError)):
    print('x' * 10**6, file=stream, flush=True)
  monkeypatch.setattr(sys, 'stdout', terminal.LenientStream(stream))
  print('x' * 10**6, flush=True)
  sys.stdout.flush()
  monkeypatch.undo()
  if not stream.closed:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())  # Or its end would warn.
    os.close(null)
    stream.close()


def test_closed_streams_are_opened_and_strange_names_escaped(monkeypatch):
  narrow = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
  monkeypatch.setattr(sys, 'stdout', narrow)
  monkeypatch.setattr(sys, 'stderr', None)
  terminal.keep_printing()
  print('caf\u00e9', flush=True)
  print('to nobody', file=sys.stderr)
  assert narrow.buffer.getvalue() == b'caf\\xe9\n'
  assert not sys.stdout.isatty()
  sys.stderr.close()


def test_what_orbax_says_of_a_failed_save_is_kept_to_itself(monkeypatch):
  monkeypatch.setattr(threading, 'excepthook', threading.excepthook)
  handler = logging.get_absl_handler()
  monkeypatch.setattr(handler, 'filters', [])
  verbosity = logging.get_verbosity()
  told = []
  monkeypatch.setattr(threading, '__excepthook__', told.append)

  def say(path):
    """A line, and an error in a thread, of a file of that name."""
    record = python_logging.LogRecord('', 40, path, 1, 'failed', (), None)
    thread = threading.Thread(
      target=eval, args=(compile('1 / 0', path, 'eval'),)
    )
    thread.start()
    thread.join()
    count = len(told)
    told.clear()
    return bool(handler.filter(record)), count == 1

  with warnings.catch_warnings():
    terminal.quiet_orbax()
    try:
      logging.set_verbosity(logging.WARNING)
      assert say('/lib/orbax/checkpoint/a.py') == (False, False)
      assert say('/project/vaegan_jax/a.py') == (True, True)
      logging.set_verbosity(logging.INFO)
      assert say('/lib/orbax/checkpoint/a.py') == (True, True)
    finally:
      logging.set_verbosity(verbosity)
