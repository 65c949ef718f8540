"""Lists of the files in a user's folder."""

import os
import pathlib
from collections.abc import Callable, Collection

from absl import logging

from vaegan_jax.data import decode
from vaegan_jax.data.store import stat_of

# Files with these names are images, and damaged if their content is not.
_FIRST_SUFFIXES = (
  *('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif'),
  *('.tif', '.tiff', '.ppm', '.pgm'),
)
_SUFFIXES = (
  *_FIRST_SUFFIXES,
  *('.jfif', '.jpe', '.avif', '.heic', '.heif', '.hif', '.jxl'),
  *('.jp2', '.j2k', '.jpf', '.jpx'),
)
# Folders with thumbnails and notes, which a Synology and a Mac add.
_OTHER_FOLDERS = ('@eaDir', '__MACOSX')


def find_images(root: pathlib.Path) -> dict[str, tuple[int, int]]:
  """Finds the images of a folder by today's rules; see `list_files`."""
  return list_files(root, _is_image, _OTHER_FOLDERS)


def find_first_images(root: pathlib.Path) -> dict[str, tuple[int, int]]:
  """Finds the images of a folder by rules 1; see `list_files`."""
  return list_files(root, _has_first_suffix)


def list_files(
  root: pathlib.Path,
  is_example: Callable[[pathlib.Path], bool],
  other_folders: Collection[str] = (),
) -> dict[str, tuple[int, int]]:
  """Finds files in a folder at any depth, except hidden ones.

  Returns:
    (bytes, nanoseconds of the last change) by name relative to the folder.
  """
  found, seen = {}, set()
  for folder, subfolders, files in os.walk(
    root, onerror=_warn_about_folder, followlinks=True
  ):
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:  # A link up, or a second one.
      subfolders.clear()
      continue
    seen.add((status.st_dev, status.st_ino))
    subfolders[:] = sorted(
      s for s in subfolders if s[0] != '.' and s not in other_folders
    )
    for file in files:
      path = pathlib.Path(folder, file)
      if not file.startswith('.') and is_example(path):
        found[path.relative_to(root).as_posix()] = _size_and_time(path)
  return found


def _has_first_suffix(path: pathlib.Path) -> bool:
  return path.suffix.lower() in _FIRST_SUFFIXES


def _is_image(path: pathlib.Path) -> bool:
  if path.suffix.lower() in _SUFFIXES:
    return True
  try:  # O_NONBLOCK: a pipe has nothing to read, and must not be waited for.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 'rb') as file:
      return bool(decode.find_kind(file.read(64) or b''))
  except OSError:
    return False


def _warn_about_folder(error: OSError) -> None:
  logging.warning('Skipped a folder that cannot be read: %s', error)


def _size_and_time(path: pathlib.Path) -> tuple[int, int]:
  try:
    return stat_of(path)
  except OSError:  # A dangling link counts as a damaged file.
    return 0, 0
