"""The image files of a user's folder: which are damaged or held out."""

import hashlib
import os
import pathlib
import stat
from collections.abc import Callable, Collection, Mapping
from concurrent import futures

from absl import logging

from vaegan_jax.data import decode
from vaegan_jax.data.data_config import expand_path
from vaegan_jax.errors import UserError, describe_error

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
_TEST_FOLDERS = ('test', 'validation', 'val')
_TEST_EVERY = 10  # One image in this many is held out.
_MAX_DAMAGED = 0.1  # Share of all images.
_CHECKED_TOGETHER = 1000  # Bounds the memory of the check.
_MAX_BYTES = 2**28  # Limit of one file.
DAMAGED_FILE = 'damaged_images.txt'  # Beside the index of the folder.
RULES = 2  # The current `folder_rules`; earlier runs keep theirs.


class ImageFiles:
  """The image files of a folder, at any depth, by their relative names.

  A file is an image by its suffix or, whatever its name, by its content. If
  there is a `train` folder and one of `test`, `validation` or `val`, these are
  the splits, and files elsewhere are ignored. Otherwise about one image in ten
  is held out as 'test', chosen by a hash of the file's content. So an image
  stays in its split when others come or go, copies of an image share a split,
  and names do not matter. A small folder holds out the image with the smallest
  hash. Hidden files are ignored.

  Attributes:
    names: names of all images, sorted.
    fingerprint: fingerprint of the names, sizes and times of the files.
    content_hash: hash of all bytes, known after `find_damaged`.
    dtype, shape, sample_rate: of arrays; '', () and 0 for images.
    least_samples: the samples that a sound must have; 0 otherwise.
  """

  noun = 'images'  # For messages.
  dtype, shape, sample_rate, least_samples = '', (), 0, 0

  def __init__(self, path: str, rules: int = RULES):
    """Lists a folder.

    Args:
      path: the folder, '~' and '$NAME' allowed.
      rules: 2; or 1, the rules of the first versions. They know fewer suffixes
        and hold out every tenth name, so that a new file moves others.

    Raises:
      UserError: the path is empty, not a folder, or has no images.
    """
    if not path:
      raise UserError(
        'data.path is empty, but data.name "image_folder" needs the folder of '
        'your images, such as "~/photos".'
      )
    self.root = pathlib.Path(expand_path(path))
    if not os.path.isdir(self.root):  # `Path.is_dir` raises for strange names.
      exists = os.path.exists(self.root)
      problem = 'is not a folder' if exists else 'does not exist'
      raise self._error(
        f'which {problem}; it must be a folder of images, such as "~/photos"'
      )
    self.rules = rules
    self._kinds = decode.FIRST_KINDS if rules == 1 else None
    self._folders = self._find_split_folders()
    # Separates fingerprints of the same files under other rules.
    self._marker = '' if rules == 1 or self._folders else f'rules {rules}'
    self._found = self._list()
    self.names = sorted(self._found)
    listing = repr([(name, *self._found[name]) for name in self.names])
    if rules > 1:  # A file of a kind that is unreadable here may be read later.
      listing += repr((self._marker, self._readable_kinds()))
    self.fingerprint = hashlib.sha256(listing.encode()).hexdigest()[:16]
    self.content_hash = ''
    self._digests = {}

  def read(self, name: str) -> bytes:
    """Returns the bytes of one file.

    Raises:
      OSError: it cannot be read, is a pipe or a device, is too large, or has
        changed since it was listed.
    """
    path = self.root / name
    # Without O_NONBLOCK, opening a pipe waits for its writer.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 'rb') as file:
      status = os.fstat(file.fileno())
      if not stat.S_ISREG(status.st_mode):
        raise OSError('it is not a regular file')
      check_size(status.st_size)
      if (status.st_size, status.st_mtime_ns) != self._found[name]:
        raise OSError('it has changed since the start')
      return file.read(status.st_size)

  def size(self, name: str) -> int:
    """Returns the number of bytes of one file."""
    return self._found[name][0]

  def find_damaged(self, report: str = DAMAGED_FILE) -> dict[str, str]:
    """Decodes every image once, and warns about those that are skipped.

    Args:
      report: the file that will list them all, for the warning.

    Returns:
      The reason by the name of each skipped image. Few may be damaged; any
      number may need a library that is missing.

    Raises:
      UserError: more than a tenth of the images are damaged, or none is left.
    """
    import tqdm

    damaged, unreadable = {}, {}
    content = hashlib.sha256(self._marker.encode())
    with (
      futures.ThreadPoolExecutor() as pool,
      tqdm.tqdm(
        total=len(self.names), desc=f'Checking {self.noun}', disable=None
      ) as progress,
    ):
      for first in range(0, len(self.names), _CHECKED_TOGETHER):
        names = self.names[first : first + _CHECKED_TOGETHER]
        found = pool.map(self._inspect, names)
        for name, (digest, error) in zip(names, found, strict=True):
          content.update(os.fsencode(name) + digest)
          self._digests[name] = digest
          if isinstance(error, decode.UnreadableKind):
            unreadable[name] = str(error)
          elif error:
            damaged[name] = describe_error(error)
        progress.update(len(names))
    self.content_hash = content.hexdigest()[:16]
    self._check_skipped(damaged, unreadable)
    for skipped, why in ((damaged, 'damaged'), (unreadable, 'not readable')):
      if skipped:
        logging.warning(
          'Skipped %s in %s as %s: %s%s (listed in %s)',
          self._count(skipped),
          self.root,
          why,
          _some(skipped),
          ', ...' if len(skipped) > 3 else '',
          report,
        )
    return damaged | unreadable

  def split(self, damaged: Collection[str]) -> dict[str, list[str]]:
    """Returns the names of each split's images, without the damaged ones.

    Raises:
      UserError: a split would be empty.
    """
    splits = self._split([name for name in self.names if name not in damaged])
    for split, members in splits.items():
      if not members:
        raise self._error(
          f'which leaves no image for the split {split!r}; it must hold at '
          'least one image to train with and another, different one to hold '
          'out, such as "cat.jpg" and "dog.jpg"'
        )
    return splits

  def _split(self, names: list[str]) -> dict[str, list[str]]:
    if self._folders:
      return {
        split: [name for name in names if name.startswith(f'{folder}/')]
        for split, folder in self._folders.items()
      }
    test = self._hold_out(names)
    return {'train': sorted(set(names) - set(test)), 'test': test}

  def _hold_out(self, names: list[str]) -> list[str]:
    if not self._marker or not names:
      return names[::_TEST_EVERY]
    numbers = {n: int.from_bytes(self._digests[n][:8]) for n in names}
    test = [name for name in names if numbers[name] % _TEST_EVERY == 0]
    least = min(numbers.values())
    return test or [name for name in names if numbers[name] == least]

  def _find_split_folders(self) -> dict[str, str]:
    """Returns the folders of 'train' and 'test'; {} if one is missing."""
    if not (self.root / 'train').is_dir():
      return {}
    for folder in _TEST_FOLDERS:
      if (self.root / folder).is_dir():
        return {'train': 'train', 'test': folder}
    return {}

  def _list(self) -> dict[str, tuple[int, int]]:
    """Returns (bytes, nanoseconds of the last change) by relative name."""
    found = (
      list_files(self.root, _has_first_suffix)
      if self._kinds
      else find_images(self.root)
    )
    found = self._in_splits(found)
    if not found:
      raise self._error(
        'in which there is no image; it must hold JPEG, PNG or other images, '
        'such as "cat.jpg"'
      )
    return found

  def _in_splits(
    self, found: dict[str, tuple[int, int]]
  ) -> dict[str, tuple[int, int]]:
    """Removes files outside the folders of the splits, if there are any."""
    if not self._folders:
      return found
    prefixes = tuple(f'{folder}/' for folder in self._folders.values())
    return {n: stat for n, stat in found.items() if n.startswith(prefixes)}

  def _inspect(self, name: str) -> tuple[bytes, Exception | None]:
    """Returns a hash of a file, and why it cannot be decoded, if so."""
    digest = b''
    try:
      data = self.read(name)
      digest = hashlib.sha256(data).digest()
      self._check(name, data)
    except Exception as error:  # Pillow raises nearly anything.
      return digest, error
    return digest, None

  def _readable_kinds(self) -> tuple[str, ...]:
    return decode.readable_kinds()

  def _check(self, name: str, data: bytes) -> None:
    """Raises an exception if a file cannot be decoded."""
    del name  # Subclasses record what they find under it.
    decode.read_image(data, self._kinds)

  def _check_skipped(
    self, damaged: Mapping[str, str], unreadable: Mapping[str, str]
  ) -> None:
    if len(damaged) > _MAX_DAMAGED * len(self.names):
      raise self._error(
        f'in which {self._count(damaged)} are damaged, such as '
        f'{_some(damaged)} ({next(iter(damaged.values()))}); at most one in '
        'ten may be, so repair or remove them'
      )
    if len(unreadable) == len(self.names):
      raise self._error(
        f'in which {self._count(unreadable)} cannot be read here, such as '
        f'{_some(unreadable)}: {next(iter(unreadable.values()))}'
      )

  def _count(self, names: Collection[str]) -> str:
    return f'{len(names)} of {len(self.names)} {self.noun}'

  def _error(self, complaint: str) -> UserError:
    return UserError(f'data.path is {str(self.root)!r}, {complaint}.')


def find_images(root: pathlib.Path) -> dict[str, tuple[int, int]]:
  """Finds the images of a folder by today's rules; see `list_files`."""
  return list_files(root, _is_image, _OTHER_FOLDERS)


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
    status = path.stat()
  except OSError:  # A dangling link counts as a damaged file.
    return 0, 0
  return status.st_size, status.st_mtime_ns


def check_size(size: int) -> None:
  """Raises an OSError if a file has too many bytes to be an image."""
  if size > _MAX_BYTES:
    raise OSError(f'it has more than {_MAX_BYTES:,} bytes')


def _some(names: Collection[str]) -> str:
  return ', '.join(repr(name) for name in list(names)[:3])
