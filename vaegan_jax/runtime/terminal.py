"""Output to the terminal: an error while printing never ends a run.

The reader may have gone (`| head -3`), the disk may be full, and the locale may
lack a letter of a folder's name.
"""

import contextlib
import logging as python_logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

from absl import logging

_ORBAX = f'{os.sep}orbax{os.sep}'  # In the paths of its files.


class LenientStream:
  """A text stream that drops what cannot be written."""

  def __init__(self, stream: TextIO):
    self._stream = stream

  def write(self, text: str) -> int:
    """Writes the text, or drops it."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed.
      self._stream.write(text)
    return len(text)

  def flush(self) -> None:
    """Flushes the stream if that is possible."""
    with contextlib.suppress(OSError, ValueError):
      self._stream.flush()

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)


@contextlib.contextmanager
def lenient_output() -> Iterator[None]:
  """Makes stdout and stderr lenient within the context, or opens them.

  The streams are replaced, because libraries (tqdm, absl, CLU) print as well.
  """
  # Otherwise the next file to be opened would take the number of a closed one,
  # and libraries would print into it.
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # It gets the lowest free number.
  before = sys.stdout, sys.stderr
  for name, stream in zip(('stdout', 'stderr'), before, strict=True):
    if stream is None:  # It was closed when Python started.
      stream = open(os.devnull, 'w')  # noqa: SIM115
    with contextlib.suppress(OSError, AttributeError):
      stream.reconfigure(errors='backslashreplace')
    setattr(sys, name, LenientStream(stream))
  try:
    yield
  finally:
    sys.stdout, sys.stderr = before
    for stream in before:
      _flush_or_redirect(stream)


def _flush_or_redirect(stream: TextIO | None) -> None:
  """Redirects a broken stream: Python flushes it last, and would fail."""
  try:
    if stream is not None:
      stream.flush()
  except (OSError, ValueError):
    with contextlib.suppress(OSError, ValueError), open(os.devnull, 'w') as to:
      os.dup2(to.fileno(), stream.fileno())


def quiet_orbax() -> None:
  """Hides from the terminal what orbax logs of a save that failed.

  On a full disk that is thousands of lines; this package logs one. With
  --verbosity=0 all are shown.
  """
  logging.get_absl_handler().addFilter(_is_shown)
  warnings.filterwarnings('ignore', r'coroutine .* was never', RuntimeWarning)


def _is_shown(record: python_logging.LogRecord) -> bool:
  from_orbax = record.name == 'asyncio' or _ORBAX in record.pathname
  return logging.level_info() or not from_orbax
