"""A user's folder of images: its files, which are damaged, and its splits."""

import hashlib
import os
import pathlib
import stat
from concurrent import futures

import tqdm
from absl import logging

from vaegan_jax.data import decoding
from vaegan_jax.errors import UserError

_SUFFIXES = (
  *('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif'),
  *('.tif', '.tiff', '.ppm', '.pgm'),
)
_TEST_FOLDERS = ('test', 'validation', 'val')
_TEST_EVERY = 10  # One image in so many is held out.
RULES = 2  # By which a folder is read today; earlier runs keep theirs.
_MAX_DAMAGED = 0.1  # Of all images.
_CHECKED_TOGETHER = 1000  # Bounds the memory that the check takes.
_MAX_BYTES = 2**28  # Of one file.
DAMAGED_FILE = 'damaged_images.txt'  # Beside the prepared data.


class ImageFiles:
  """The image files of a folder, however deep, by name relative to it.

  If there is a `train` folder and one of `test`, `validation` or `val`, these
  are the splits, and files elsewhere are left out. Otherwise about one image in
  ten is held out as 'test', chosen by a hash of its file's content alone: no
  image changes sides when others come or go, copies of one are on one side, and
  names do not matter. Of so few that none would be, the one with the smallest
  hash is. Hidden files are left out.
  """

  def __init__(self, path: str, rules: int = RULES):
    """Lists a folder.

    Args:
      path: the folder, '~' and '$NAME' allowed.
      rules: 2; or 1, as the first versions did: every tenth image in the order
        of their names is held out, so that one that is added moves others.

    Raises:
      UserError: the path is empty, no folder, or has no images.
    """
    if not path:
      raise UserError(
        'data.path is empty, but data.name "image_folder" needs the folder of '
        'your images, such as "~/photos".'
      )
    self.root = pathlib.Path(expand_path(path))
    self._rules = rules
    if not os.path.isdir(self.root):  # Of strange names, `Path`'s own raises.
      exists = os.path.exists(self.root)
      problem = 'is not a folder' if exists else 'does not exist'
      raise self._error(
        f'which {problem}; it must be a folder of images, such as "~/photos"'
      )
    self._folders = self._find_split_folders()
    sizes_and_times = _list_images(self.root)
    if self._folders:
      prefixes = tuple(f'{folder}/' for folder in self._folders.values())
      sizes_and_times = {
        name: stat
        for name, stat in sizes_and_times.items()
        if name.startswith(prefixes)
      }
    if not sizes_and_times:
      raise self._error(
        'in which there is no image; it must hold files that end in '
        f'{", ".join(_SUFFIXES)}, such as "cat.jpg"'
      )
    self.names = sorted(sizes_and_times)
    listing = repr([(name, *sizes_and_times[name]) for name in self.names])
    if rules > 1:
      listing += f' rules {rules}'
    self.fingerprint = hashlib.sha256(listing.encode()).hexdigest()[:16]
    # Of all bytes, and of each file's; known when `find_damaged` has read.
    self.content_hash = ''
    self._digests = {}

  def read(self, name: str) -> bytes:
    """Returns the bytes of one file.

    Raises:
      OSError: it cannot be read, is a pipe or a device, or is too large.
    """
    # A pipe must not keep us waiting for its writer.
    path = self.root / name
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 'rb') as file:
      status = os.fstat(file.fileno())
      if not stat.S_ISREG(status.st_mode):
        raise OSError('it is no ordinary file')
      if status.st_size > _MAX_BYTES:
        raise OSError(f'it has more than {_MAX_BYTES:,} bytes')
      return file.read(status.st_size)

  def find_damaged(self, report: str = DAMAGED_FILE) -> dict[str, str]:
    """Decodes every image once.

    Returns:
      Why an image is damaged, by name; few enough to go on without them.

    Raises:
      UserError: more than a tenth of the images are damaged.
    """
    damaged, content = {}, hashlib.sha256()
    if self._rules > 1 and not self._folders:
      content.update(f'rules {self._rules}'.encode())
    with (
      futures.ThreadPoolExecutor() as pool,
      tqdm.tqdm(
        total=len(self.names), desc='Checking images', disable=None
      ) as progress,
    ):
      for first in range(0, len(self.names), _CHECKED_TOGETHER):
        names = self.names[first : first + _CHECKED_TOGETHER]
        found = pool.map(self._inspect, names)
        for name, (digest, reason) in zip(names, found, strict=True):
          content.update(os.fsencode(name) + digest)
          self._digests[name] = digest
          if reason:
            damaged[name] = reason
        progress.update(len(names))
    self.content_hash = content.hexdigest()[:16]
    if not damaged:
      return damaged
    count = f'{len(damaged)} of {len(self.names)} images'
    some = ', '.join(repr(name) for name in list(damaged)[:3])
    if len(damaged) > _MAX_DAMAGED * len(self.names):
      raise self._error(
        f'in which {count} are damaged, such as {some} '
        f'({next(iter(damaged.values()))}); at most one in ten may be, so mend '
        'or remove them'
      )
    logging.warning(
      'Left out %s of %s as damaged: %s%s (all of them in %s)',
      count,
      self.root,
      some,
      ', ...' if len(damaged) > 3 else '',
      report,
    )
    return damaged

  def split(self, damaged) -> dict[str, list[str]]:
    """Returns the names of each split's images, without the damaged ones.

    Args:
      damaged: what `find_damaged` has returned.

    Raises:
      UserError: a split would be empty.
    """
    names = [name for name in self.names if name not in damaged]
    if self._folders:
      splits = {
        split: [name for name in names if name.startswith(f'{folder}/')]
        for split, folder in self._folders.items()
      }
    else:
      test = self._hold_out(names)
      splits = {'train': sorted(set(names) - set(test)), 'test': test}
    for split, members in splits.items():
      if not members:
        raise self._error(
          f'which leaves no image for the split {split!r}; it must hold at '
          'least one image to train with and another to hold out, such as '
          '"cat.jpg" and "dog.jpg"'
        )
    return splits

  def _hold_out(self, names: list[str]) -> list[str]:
    """Which of these images are held out."""
    if self._rules == 1 or not names:
      return names[::_TEST_EVERY]
    numbers = {n: int.from_bytes(self._digests[n][:8]) for n in names}
    test = [name for name in names if numbers[name] % _TEST_EVERY == 0]
    least = min(numbers.values())
    return test or [name for name in names if numbers[name] == least]

  def _find_split_folders(self) -> dict[str, str]:
    """The folders of 'train' and 'test', or none where one is missing."""
    if not (self.root / 'train').is_dir():
      return {}
    for folder in _TEST_FOLDERS:
      if (self.root / folder).is_dir():
        return {'train': 'train', 'test': folder}
    return {}

  def _inspect(self, name: str) -> tuple[bytes, str]:
    """A hash of a file, and why it cannot be decoded; '' if it can."""
    digest = b''
    try:
      data = self.read(name)
      digest = hashlib.sha256(data).digest()
      decoding.read_image(data)
    except Exception as error:  # Pillow raises nearly anything.
      return digest, describe_error(error)
    return digest, ''

  def _error(self, complaint: str) -> UserError:
    return UserError(f'data.path is {str(self.root)!r}, {complaint}.')


def _list_images(root: pathlib.Path) -> dict[str, tuple[int, int]]:
  """Returns (bytes, nanoseconds of the last change) by relative name."""
  images, seen = {}, set()
  for folder, subfolders, files in os.walk(
    root, onerror=_warn_of_folder, followlinks=True
  ):
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:  # A link up, or twice here.
      subfolders.clear()
      continue
    seen.add((status.st_dev, status.st_ino))
    subfolders[:] = sorted(s for s in subfolders if not s.startswith('.'))
    for file in files:
      path = pathlib.Path(folder, file)
      if path.suffix.lower() in _SUFFIXES and not file.startswith('.'):
        images[path.relative_to(root).as_posix()] = _size_and_time(path)
  return images


def _warn_of_folder(error: OSError) -> None:
  logging.warning('Left out a folder that cannot be read: %s', error)


def _size_and_time(path: pathlib.Path) -> tuple[int, int]:
  try:
    status = path.stat()
  except OSError:  # A dangling link: listed, and found damaged when read.
    return 0, 0
  return status.st_size, status.st_mtime_ns


def expand_path(path: str) -> str:
  """Replaces '~' and '$NAME'."""
  return os.path.expanduser(os.path.expandvars(path))


def describe_error(error: Exception) -> str:
  """Returns the error's type and the first line of its message."""
  lines = str(error).strip().splitlines() or ['no message']
  line = lines[0].partition(' <_io.')[0]  # Pillow names the buffer's address.
  return f'{type(error).__name__}: {line.rstrip(".:")}'
