"""Errors while printing do not end a run."""

import io
import logging as python_logging
import os
import sys
import warnings

import pytest
from absl import logging

from vaegan_jax.runtime import terminal


def _broken_pipe():
  """Returns a text stream whose reader is gone."""
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
    os.dup2(null, stream.fileno())  # Otherwise its end would warn.
    os.close(null)
    stream.close()


def test_closed_streams_are_opened_and_strange_names_escaped(monkeypatch):
  narrow = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
  monkeypatch.setattr(sys, 'stdout', narrow)
  monkeypatch.setattr(sys, 'stderr', None)
  with terminal.lenient_output():
    print('caf\u00e9', flush=True)
    print('to nobody', file=sys.stderr)
    assert not sys.stdout.isatty()
    sys.stderr.close()
  assert narrow.buffer.getvalue() == b'caf\\xe9\n'
  assert sys.stdout is narrow and sys.stderr is None


def test_a_stream_that_broke_can_be_flushed_afterwards(monkeypatch):
  stream = _broken_pipe()
  monkeypatch.setattr(sys, 'stdout', stream)
  with terminal.lenient_output():
    print('unread', flush=True)
    print('unread')
  stream.close()  # Otherwise Python would end with status 120.


def test_log_lines_of_orbax_are_hidden(monkeypatch):
  handler = logging.get_absl_handler()
  monkeypatch.setattr(handler, 'filters', [])
  verbosity = logging.get_verbosity()

  def is_shown(path):
    record = python_logging.LogRecord('', 40, path, 1, 'failed', (), None)
    return bool(handler.filter(record))

  with warnings.catch_warnings():
    terminal.quiet_orbax()
    try:
      logging.set_verbosity(logging.WARNING)
      assert not is_shown('/lib/orbax/checkpoint/a.py')
      assert is_shown('/project/vaegan_jax/a.py')
      logging.set_verbosity(logging.INFO)
      assert is_shown('/lib/orbax/checkpoint/a.py')
    finally:
      logging.set_verbosity(verbosity)
