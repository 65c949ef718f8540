"""Which texts may be paths, whether or not anything is there."""

import os


def is_path(text: str) -> bool:
  """True for '', a local path or a bucket's, if the system would take it."""
  try:
    encoded = os.fsencode(text)
  except UnicodeEncodeError:  # A lone surrogate, from JSON.
    return False
  scheme, separator, _ = text.partition('://')
  return (
    b'\0' not in encoded
    and len(encoded) < 2048
    and max(map(len, encoded.split(b'/'))) <= 255
    and (not separator or scheme == 'gs')
  )


def is_local_path(text: str) -> bool:
  return '://' not in text and is_path(text)


def is_two_files(text: str) -> bool:
  """True for two local paths with a comma between them."""
  paths = text.split(',')
  return len(paths) == 2 and all(p.strip() and is_local_path(p) for p in paths)
