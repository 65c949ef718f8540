"""What a run says to the terminal: saying it may fail, and never ends the run.

Whoever reads may have gone (`| head -3`), its disk may be full, and its locale
may know no letter of a folder's name.
"""

import contextlib
import logging as python_logging
import os
import sys
import threading
import traceback
import warnings
from typing import Any, TextIO

from absl import logging

_ORBAX = f'{os.sep}orbax{os.sep}'  # In the paths of its files.


class LenientStream:
  """A text stream that drops what it cannot write; all else is the stream's."""

  def __init__(self, stream: TextIO):
    self._stream = stream

  def write(self, text: str) -> int:
    """Writes the text, or not."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed.
      self._stream.write(text)
    return len(text)

  def flush(self) -> None:
    """Sees what was written on its way, or not."""
    with contextlib.suppress(OSError, ValueError):
      self._stream.flush()

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)


def keep_printing() -> None:
  """Makes stdout and stderr of this process lenient, or open if they are not.

  Where they are closed, the next file to be opened would take their number, and
  with it what libraries write there.
  """
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # It gets the lowest that is free.
  for name in ('stdout', 'stderr'):
    stream = getattr(sys, name)
    if stream is None:  # It was closed when Python began.
      stream = open(os.devnull, 'w')  # noqa: SIM115
    with contextlib.suppress(OSError):  # It may be less than it was opened as.
      stream.reconfigure(errors='backslashreplace')
    setattr(sys, name, LenientStream(stream))


def quiet_orbax() -> None:
  """Keeps from the terminal what orbax says of a save that failed.

  On a full disk that is thousands of lines, of several of its threads; ours is
  one. With --verbosity=0 all of it is shown.
  """
  logging.get_absl_handler().addFilter(_is_shown)
  threading.excepthook = _tell_of_thread
  warnings.filterwarnings('ignore', r'coroutine .* was never', RuntimeWarning)


def _is_shown(record: python_logging.LogRecord) -> bool:
  of_orbax = record.name == 'asyncio' or _ORBAX in record.pathname
  return logging.level_info() or not of_orbax


def _tell_of_thread(args: threading.ExceptHookArgs) -> None:
  frames = traceback.extract_tb(args.exc_traceback)
  of_orbax = any(_ORBAX in frame.filename for frame in frames)
  if logging.level_info() or not of_orbax:
    threading.__excepthook__(args)
