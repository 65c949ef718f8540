"""The exception for mistakes that the user can fix."""

import contextlib
import os
from collections.abc import Iterator

_MAX_LENGTH = 1000  # Limit of a message: a value may be as long as its file.


class UserError(ValueError):
  """A mistake in the configuration, the data, a file or the workdir.

  The message has the field or file, the value, the rule and the remedy.
  `main.py` prints it without a traceback and exits with status 2.
  """

  def __str__(self) -> str:
    """Returns one line without control characters, of limited length."""
    text = ' '.join(map(str.strip, super().__str__().splitlines()))
    text = ''.join(
      char if char.isprintable() else repr(char)[1:-1] for char in text
    )
    if len(text) <= _MAX_LENGTH:
      return text
    half = _MAX_LENGTH // 2
    return f'{text[:half]} ... {text[-half:]}'


@contextlib.contextmanager
def naming(place: str) -> Iterator[None]:
  """Puts a field or a file before the UserErrors of its context."""
  try:
    yield
  except UserError as error:
    raise UserError(f'{place}: {error}') from error


def unwritable(workdir: str | os.PathLike, error: OSError) -> UserError:
  """Returns the error for a workdir that cannot be written."""
  return UserError(
    f'--workdir={workdir} cannot be written ({error}): name a folder on a '
    'disk with room, such as --workdir=runs/first'
  )


def describe_error(error: BaseException) -> str:
  """Returns the error's type and the first line of its message."""
  lines = str(error).strip().splitlines() or ['no message']
  line = lines[0].partition(' <_io.')[0]  # Pillow names the buffer's address.
  return f'{type(error).__name__}: {line.rstrip(".:")}'
