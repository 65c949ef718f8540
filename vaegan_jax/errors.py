"""The one exception that means "the user can mend this", and how it is told."""

import os

_MAX_LENGTH = 1000  # Of a sentence: a value may be as long as its file.


class UserError(ValueError):
  """A mistake in the configuration, the data, a file or the workdir.

  The message is one sentence that names the field or file, the value found,
  the rule, and what would be right. `main.py` prints it, without a traceback,
  and exits with status 2.
  """

  def __str__(self) -> str:
    """One line that no terminal obeys, however strange the value it names."""
    text = ' '.join(map(str.strip, super().__str__().splitlines()))
    text = ''.join(
      char if char.isprintable() else repr(char)[1:-1] for char in text
    )
    if len(text) <= _MAX_LENGTH:
      return text
    half = _MAX_LENGTH // 2
    return f'{text[:half]} ... {text[-half:]}'


def unwritable(workdir: str | os.PathLike, error: OSError) -> UserError:
  """What to raise where the first thing in a workdir cannot be written."""
  return UserError(
    f'--workdir={workdir} cannot be written ({error}): name a folder on a '
    'disk with room, such as --workdir=runs/first'
  )


def describe_error(error: BaseException) -> str:
  """Returns the error's type and the first line of its message."""
  lines = str(error).strip().splitlines() or ['no message']
  line = lines[0].partition(' <_io.')[0]  # Pillow names the buffer's address.
  return f'{type(error).__name__}: {line.rstrip(".:")}'
