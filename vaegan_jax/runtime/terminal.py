"""What a run says to the terminal: saying it may fail, and never ends the run.

Whoever reads may have gone (`| head -3`), its disk may be full, and its locale
may know no letter of a folder's name.
"""

import contextlib
import os
import sys
from typing import Any, TextIO


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
    stream.reconfigure(errors='backslashreplace')
    setattr(sys, name, LenientStream(stream))
