"""The one exception that means "the user can mend this"."""


class UserError(ValueError):
  """A mistake in the configuration, the data, a file or the workdir.

  The message is one sentence that names the field or file, the value found,
  the rule, and what would be right. `main.py` prints it, without a traceback,
  and exits with status 2.
  """
