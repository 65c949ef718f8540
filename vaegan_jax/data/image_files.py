"""A user's folder of images: its files, which are damaged, and its splits."""

import hashlib
import os
import pathlib
import stat
from collections.abc import Callable, Collection, Mapping
from concurrent import futures

import tqdm
from absl import logging

from vaegan_jax.data import decoding
from vaegan_jax.errors import UserError

# Files of these names are images, and damaged if their content is not.
_FIRST_SUFFIXES = (
  *('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif'),
  *('.tif', '.tiff', '.ppm', '.pgm'),
)
_SUFFIXES = (
  *_FIRST_SUFFIXES,
  *('.jfif', '.jpe', '.avif', '.heic', '.heif', '.hif', '.jxl'),
  *('.jp2', '.j2k', '.jpf', '.jpx'),
)
# Of thumbnails and notes, which a Synology and a Mac add.
_OTHER_FOLDERS = ('@eaDir', '__MACOSX')
_TEST_FOLDERS = ('test', 'validation', 'val')
_TEST_EVERY = 10  # One image in so many is held out.
_MAX_DAMAGED = 0.1  # Of all images.
_CHECKED_TOGETHER = 1000  # Bounds the memory that the check takes.
_MAX_BYTES = 2**28  # Of one file.
DAMAGED_FILE = 'damaged_images.txt'  # Beside the prepared data.
RULES = 2  # By which a folder is read today; earlier runs keep theirs.


class ImageFiles:
  """The image files of a folder, however deep, by name relative to it.

  A file is an image by its suffix or, whatever its name, by its content. If
  there is a `train` folder and one of `test`, `validation` or `val`, these are
  the splits, and files elsewhere are left out. Otherwise about one image in ten
  is held out as 'test', chosen by a hash of its file's content alone: no image
  changes sides when others come or go, copies of one are on one side, and names
  do not matter. Of so few that none would be, the one with the smallest hash
  is. Hidden files are left out.
  """

  noun = 'images'  # What the files are called.

  def __init__(self, path: str, rules: int = RULES):
    """Lists a folder.

    Args:
      path: the folder, '~' and '$NAME' allowed.
      rules: 2; or 1, as the first versions did: files of fewer suffixes, of
        which every tenth in the order of their names is held out, so that one
        that is added moves others.

    Raises:
      UserError: the path is empty, no folder, or has no images.
    """
    if not path:
      raise UserError(
        'data.path is empty, but data.name "image_folder" needs the folder of '
        'your images, such as "~/photos".'
      )
    self.root = pathlib.Path(expand_path(path))
    if not os.path.isdir(self.root):  # Of strange names, `Path`'s own raises.
      exists = os.path.exists(self.root)
      problem = 'is not a folder' if exists else 'does not exist'
      raise self._error(
        f'which {problem}; it must be a folder of images, such as "~/photos"'
      )
    self.rules = rules
    self._kinds = decoding.FIRST_KINDS if rules == 1 else None
    self._folders = self._find_split_folders()
    # Of what makes other splits of the same files.
    self._marker = '' if rules == 1 or self._folders else f'rules {rules}'
    sizes_and_times = self._list()
    self.names = sorted(sizes_and_times)
    listing = repr([(name, *sizes_and_times[name]) for name in self.names])
    if rules > 1:  # What cannot be read today may be tomorrow.
      listing += repr((self._marker, self._readable_kinds()))
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
      check_size(status.st_size)
      return file.read(status.st_size)

  def find_damaged(self, report: str = DAMAGED_FILE) -> dict[str, str]:
    """Decodes every image once, and warns of those that are left out.

    Args:
      report: the file that will name them all, for the warning.

    Returns:
      Why an image is left out, by name: few because they are damaged, and any
      number because something is needed to read them.

    Raises:
      UserError: more than a tenth of the images are damaged, or none is left.
    """
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
          if isinstance(error, decoding.UnreadableKind):
            unreadable[name] = str(error)
          elif error:
            damaged[name] = describe_error(error)
        progress.update(len(names))
    self.content_hash = content.hexdigest()[:16]
    self._check_left_out(damaged, unreadable)
    for left_out, why in ((damaged, 'damaged'), (unreadable, 'not readable')):
      if left_out:
        logging.warning(
          'Left out %s of %s as %s: %s%s (all of them in %s)',
          self._count(left_out),
          self.root,
          why,
          _some(left_out),
          ', ...' if len(left_out) > 3 else '',
          report,
        )
    return damaged | unreadable

  def split(self, damaged: Collection[str]) -> dict[str, list[str]]:
    """Returns the names of each split's images, without the damaged ones.

    Args:
      damaged: what `find_damaged` has returned.

    Raises:
      UserError: a split would be empty.
    """
    splits = self._split([name for name in self.names if name not in damaged])
    for split, members in splits.items():
      if not members:
        raise self._error(
          f'which leaves no image for the split {split!r}; it must hold at '
          'least one image to train with and another, no copy of it, to hold '
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
    """Which of these images are held out."""
    if not self._marker or not names:
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

  def _list(self) -> dict[str, tuple[int, int]]:
    """Returns (bytes, nanoseconds of the last change) by relative name."""
    found = (
      list_files(self.root, _has_first_suffix)
      if self._kinds
      else find_images(self.root)
    )
    found = self._of_splits(found)
    if not found:
      raise self._error(
        'in which there is no image; it must hold JPEG, PNG or other images, '
        'such as "cat.jpg"'
      )
    return found

  def _of_splits(
    self, found: dict[str, tuple[int, int]]
  ) -> dict[str, tuple[int, int]]:
    """Without what is beside the folders of the splits, if there are any."""
    if not self._folders:
      return found
    prefixes = tuple(f'{folder}/' for folder in self._folders.values())
    return {n: stat for n, stat in found.items() if n.startswith(prefixes)}

  def _inspect(self, name: str) -> tuple[bytes, Exception | None]:
    """A hash of a file, and why it cannot be decoded; None if it can."""
    digest = b''
    try:
      data = self.read(name)
      digest = hashlib.sha256(data).digest()
      self._check(name, data)
    except Exception as error:  # Pillow raises nearly anything.
      return digest, error
    return digest, None

  def _readable_kinds(self) -> tuple[str, ...]:
    return decoding.readable_kinds()

  def _check(self, name: str, data: bytes) -> None:
    """Raises what is wrong with a file, if anything is."""
    del name  # Of those that keep what they have found.
    decoding.read_image(data, self._kinds)

  def _check_left_out(
    self, damaged: Mapping[str, str], unreadable: Mapping[str, str]
  ) -> None:
    if len(damaged) > _MAX_DAMAGED * len(self.names):
      raise self._error(
        f'in which {self._count(damaged)} are damaged, such as '
        f'{_some(damaged)} ({next(iter(damaged.values()))}); at most one in '
        'ten may be, so mend or remove them'
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
  """Finds the images of a folder by the rules of today; as `list_files`."""
  return list_files(root, _is_image, _OTHER_FOLDERS)


def list_files(
  root: pathlib.Path,
  is_image: Callable[[pathlib.Path], bool],
  other_folders: Collection[str] = (),
) -> dict[str, tuple[int, int]]:
  """Finds files in a folder, however deep, but hidden ones.

  Args:
    root: the folder.
    is_image: says which of them.
    other_folders: names of folders that are left out.

  Returns:
    (bytes, nanoseconds of the last change) by name relative to the folder.
  """
  images, seen = {}, set()
  for folder, subfolders, files in os.walk(
    root, onerror=_warn_of_folder, followlinks=True
  ):
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:  # A link up, or twice here.
      subfolders.clear()
      continue
    seen.add((status.st_dev, status.st_ino))
    subfolders[:] = sorted(
      s for s in subfolders if s[0] != '.' and s not in other_folders
    )
    for file in files:
      path = pathlib.Path(folder, file)
      if not file.startswith('.') and is_image(path):
        images[path.relative_to(root).as_posix()] = _size_and_time(path)
  return images


def _has_first_suffix(path: pathlib.Path) -> bool:
  return path.suffix.lower() in _FIRST_SUFFIXES


def _is_image(path: pathlib.Path) -> bool:
  if path.suffix.lower() in _SUFFIXES:
    return True
  try:  # Of a pipe nothing is there to be read, and not waited for.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 'rb') as file:
      return bool(decoding.find_kind(file.read(64) or b''))
  except OSError:
    return False


def _warn_of_folder(error: OSError) -> None:
  logging.warning('Left out a folder that cannot be read: %s', error)


def _size_and_time(path: pathlib.Path) -> tuple[int, int]:
  try:
    status = path.stat()
  except OSError:  # A dangling link: listed, and found damaged when read.
    return 0, 0
  return status.st_size, status.st_mtime_ns


def check_size(size: int) -> None:
  """Raises an OSError if a file has too many bytes to be an image."""
  if size > _MAX_BYTES:
    raise OSError(f'it has more than {_MAX_BYTES:,} bytes')


def expand_path(path: str) -> str:
  """Replaces '~' and '$NAME'."""
  return os.path.expanduser(os.path.expandvars(path))


def describe_error(error: Exception) -> str:
  """Returns the error's type and the first line of its message."""
  lines = str(error).strip().splitlines() or ['no message']
  line = lines[0].partition(' <_io.')[0]  # Pillow names the buffer's address.
  return f'{type(error).__name__}: {line.rstrip(".:")}'


def _some(names: Collection[str]) -> str:
  return ', '.join(repr(name) for name in list(names)[:3])
