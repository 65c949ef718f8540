"""The image files of a user's folder: which are damaged or held out."""

import hashlib
import importlib.util
import os
import pathlib
import stat
import types
from collections.abc import Collection, Mapping
from typing import Any

from vaegan_jax.data import decode, file_lists, folder_splits, reading
from vaegan_jax.data.data_config import DataConfig, expand_path
from vaegan_jax.data.folder_counts import ImageCounts
from vaegan_jax.data.reading import NoData, PartOfSet, UnreadableKind
from vaegan_jax.errors import UserError, describe_error

DAMAGED_FILE = 'damaged_images.txt'  # Beside the index of the folder.
RULES = 4  # The current `folder_rules`; earlier runs keep theirs.
# Reasons to skip a file, by its error; the last kind that fits counts.
_SKIPPED = {
  Exception: 'damaged',
  UnreadableKind: 'not readable',
  NoData: 'holding more values that mean no data than data.max_nodata (for '
  'example, --config.data.max_nodata=0.1 masks up to a tenth)',
  PartOfSet: 'parts of other files',
}


class ImageFiles:
  """The image files of a folder, at any depth, by their relative names.

  A file is an image by its suffix or, whatever its name, by its content. If
  there is a folder to train with and another to hold out, named as usual, these
  are the splits, and files elsewhere are ignored. Otherwise about one image in
  ten is held out as 'test', chosen by a hash of the file's content. So an image
  stays in its split when others come or go, copies of an image share a split,
  and names do not matter. A small folder holds out the image with the smallest
  hash. With `group_by`, groups of images are held out. Hidden files are
  ignored.
  """

  noun, _noun = 'images', 'image'  # For messages.
  _examples = '"cat.jpg" and "dog.jpg"'
  _holds_arrays, Counts = False, ImageCounts
  _must_hold = 'JPEG, PNG or other images, such as "cat.jpg"'
  # Clauses of errors: another remedy for damaged files, and what one file of
  # many examples may be.
  _remedy, _hint = '', ''
  place_key = ''  # Other settings by which files are skipped.
  dtype, shape, axes, sample_rate = '', (), '', 0  # Set for arrays.
  least_samples = 0  # The shortest sound that is read.
  # `slices.Facts` by name, of arrays that crops are taken from.
  facts: Mapping[str, Any] = types.MappingProxyType({})

  def __init__(self, path: str, rules: int = RULES, group_by: str = ''):
    """Lists a folder.

    Args:
      path: the folder, '~' and '$NAME' allowed.
      rules: 4; 3, which knows fewer kinds of sounds; 2, which knows fewer
        names of splits; or 1, the rules of the first versions. They know fewer
        suffixes and hold out every tenth name, so that a new file moves others.
      group_by: see `split_names.group_keys`; '' for no groups. Rules 3 read it.

    Raises:
      UserError: the path is empty, not a folder, or has no images, or
        `group_by` does not suit their names.
    """
    if not path:
      raise UserError(
        f'data.path is empty, and must be the folder of your {self.noun}, such '
        'as "~/data".'
      )
    self.root = pathlib.Path(expand_path(path))
    if not os.path.isdir(self.root):  # `Path.is_dir` raises for strange names.
      exists = os.path.exists(self.root)
      problem = 'is not a folder' if exists else 'does not exist'
      raise self._error(
        f'which {problem}; it must be a folder of {self.noun}, such as "~/data"'
      )
    self.rules, self.group_by = rules, group_by if rules > 2 else ''
    self._kinds = decode.FIRST_KINDS if rules == 1 else None
    found = self._list()
    self._rule = self._choose_rule(sorted(found))
    self._found = {n: s for n, s in found.items() if self._rule.covers(n)}
    if not self._found:
      raise self._error(
        f'in which there is no {self._noun}{self._describe_others()}; it must '
        f'hold {self._must_hold}'
      )
    self.names = sorted(self._found)
    listing = repr([(name, *self._found[name]) for name in self.names])
    if rules > 1:  # A file of a kind that is unreadable here may be read later.
      listing += repr((self._rule.marker, self._readable_kinds()))
    self.fingerprint = hashlib.sha256(listing.encode()).hexdigest()[:16]
    if rules > 2 and not importlib.util.find_spec('tifffile'):
      self.place_key = 'without tifffile'  # Some TIFFs are skipped.
    self.content_hash = ''  # Of all bytes, known after `find_damaged`.
    self.counts = self.Counts()  # For `report`, known after `find_damaged`.
    self._digests = {}

  def read(self, name: str) -> bytes:
    """Returns the bytes of one file.

    Raises:
      OSError: it is unreadable, no regular file, too large, or has changed.
    """
    path = self.root / name
    # Without O_NONBLOCK, opening a pipe waits for its writer.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 'rb') as file:
      status = os.fstat(file.fileno())
      if not stat.S_ISREG(status.st_mode):
        raise OSError('it is not a regular file')
      reading.check_size(status.st_size)
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
    skipped = {kind: {} for kind in _SKIPPED}
    content = hashlib.sha256(self._rule.marker.encode())
    found = reading.check_all(self.names, self._inspect, self.noun)
    for name, (digest, error, item) in found:
      content.update(os.fsencode(name) + digest)
      self._digests[name] = digest
      if error:
        *_, kind = (kind for kind in _SKIPPED if isinstance(error, kind))
        reason = describe_error if kind is Exception else str
        skipped[kind][name] = reason(error)
      elif self.counts is not None:
        self.counts.add(name, item)
    self.content_hash = content.hexdigest()[:16]
    self._check_skipped(skipped)
    all_of_them = f'{len(self.names)} {self.noun} in {self.root}'
    for kind, why in _SKIPPED.items():
      named = {repr(name): reason for name, reason in skipped[kind].items()}
      reading.warn_of_skipped(named, why, all_of_them, report)
    return dict(item for found in skipped.values() for item in found.items())

  def split(self, damaged: Collection[str]) -> dict[str, list[str]]:
    """Returns the names of each split's images, without the damaged ones.

    Raises:
      UserError: a split would be empty.
    """
    names = [name for name in self.names if name not in damaged]
    splits = self._rule.split(names, self._digests)
    for split, members in splits.items():
      if not members:
        raise self._error(
          f'which leaves no {self._noun} for the split {split!r}; it must hold '
          f'at least one {self._noun} to train with and another, different one '
          f'to hold out, such as {self._examples}{self._hint}'
        )
    return splits

  def report(
    self, splits: Mapping[str, Collection[str]], counts: Any, data: DataConfig
  ) -> list[str]:
    """Returns lines for the terminal, one a split, and warnings.

    Args:
      splits: as `split` returned them.
      counts: `Counts` of this or of an earlier process.
      data: settings of the run, for the size of its images.
    """
    lines = [
      f'Split {split!r}: {len(names):,} {self.noun}, '
      f'{self._rule.origin(split, names)}.'
      for split, names in splits.items()
    ]
    described, warnings = counts.describe(data)
    warnings = [*self._rule.warnings, *warnings]
    return lines + described + [f'Warning: {warning}.' for warning in warnings]

  def _describe_others(self) -> str:
    """Returns a clause about the files that are not read, or ''."""
    counts = file_lists.count_others(self.root, ())
    found = file_lists.describe_others(counts, self._holds_arrays)
    return f', but {found}' if found else ''

  def _list(self) -> dict[str, tuple[int, int]]:
    """Returns (bytes, nanoseconds of the last change) by relative name."""
    return file_lists.find_images(self.root, self.rules)

  def _choose_rule(self, names: list[str]) -> folder_splits.ByName:
    return folder_splits.choose_rule(
      self.root, self.rules, names, self.group_by
    )

  def _inspect(self, name: str) -> tuple[bytes, Exception | None, Any]:
    """Returns a file's hash, why it cannot be decoded, and what it holds."""
    digest = b''
    try:
      data = self.read(name)
      digest = hashlib.sha256(data).digest()
      return digest, None, self._check(name, data)
    except Exception as error:  # Pillow raises nearly anything.
      return digest, error, None

  def _readable_kinds(self) -> tuple[str, ...]:
    return decode.readable_kinds()

  def _check(self, name: str, data: bytes) -> Any:
    """Returns an item of `counts`, or raises if a file cannot be decoded."""
    del name  # Subclasses record what they find under it.
    image = decode.read_image(data, self._kinds, self.rules)
    return ImageCounts.item(image, data, self.rules)

  def _check_skipped(self, skipped: Mapping[type, Mapping[str, str]]) -> None:
    damaged, unreadable, empty, _ = skipped.values()
    if len(damaged) > reading.MAX_DAMAGED * len(self.names):
      raise self._error(
        f'in which {self._count(damaged)} are damaged, such as '
        f'{_some(damaged)} ({next(iter(damaged.values()))}); at most one in '
        f'ten may be, so repair or remove them{self._remedy}'
      )
    if len(unreadable) == len(self.names):
      raise self._error(
        f'in which {self._count(unreadable)} cannot be read here, such as '
        f'{_some(unreadable)}: {next(iter(unreadable.values()))}'
      )
    if empty and len(damaged | unreadable | empty) == len(self.names):
      raise self._error(
        f'in which {self._count(empty)} hold values that mean no data, such as '
        f'{_some(empty)} ({next(iter(empty.values()))}): for example, '
        '--config.data.max_nodata=0.5 masks them where they are fewer than '
        'half, or --config.data.nodata=none if they are data'
      )

  def _count(self, names: Collection[str]) -> str:
    return f'{len(names)} of {len(self.names)} {self.noun}'

  def _error(self, complaint: str) -> UserError:
    return UserError(f'data.path is {str(self.root)!r}, {complaint}.')


def _some(names: Collection[str]) -> str:
  return ', '.join(repr(name) for name in list(names)[:3])
