"""The files of CelebA on a disk, with the splits of its authors.

They are `img_align_celeba`, a folder or a .zip, and `list_eval_partition.txt`
(Kaggle: .csv), in one folder or one level down:
https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html
"""

import hashlib
import pathlib
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence

from absl import logging

from vaegan_jax.data.file_lists import list_files
from vaegan_jax.data.folder_splits import ByName, Splits
from vaegan_jax.data.image_files import DAMAGED_FILE, ImageFiles
from vaegan_jax.data.reading import check_size

_IMAGES = 'img_align_celeba'
_LISTS = ('list_eval_partition.txt', 'list_eval_partition.csv')
_SPLITS = {'0': 'train', '1': 'validation', '2': 'test'}
_SUFFIXES = ('.jpg', '.png')


class _ByList(ByName):
  """Splits images as the list of CelebA's authors does."""

  def __init__(self, path: pathlib.Path):
    text = path.read_bytes()
    self.split_of = dict(_parse(text.decode(errors='replace')))
    self.marker = hashlib.sha256(text).hexdigest()
    self.path = path

  def split(self, names: list[str], digests: Mapping[str, bytes]) -> Splits:
    del digests
    splits = {split: [] for split in _SPLITS.values()}
    for name in names:
      splits[self.split_of[_base(name)]].append(name)
    return splits

  def origin(self, split: str, names: Sequence[str]) -> str:
    return f'by {self.path.name}'


class CelebAFiles(ImageFiles):
  """The images that are on the list of splits and on the disk."""

  def __init__(self, path: str):
    # All rules list the same. With 2, copies that were prepared stay valid.
    super().__init__(path, 2)

  def read(self, name: str) -> bytes:
    if self._zip is None:
      return super().read(name)
    check_size(self.size(name))
    return self._zip.read(name)

  def find_damaged(self, report: str = DAMAGED_FILE) -> dict[str, str]:
    number = len(self._by_list.split_of)
    missing = number - len(self.names)
    if missing > 0:
      logging.warning(
        '%d of the %d images that %s names are not in %s',
        missing,
        number,
        self._by_list.path,
        self.root,
      )
    return super().find_damaged(report)

  def _list(self) -> dict[str, tuple[int, int]]:
    self._by_list = _ByList(self._find(*_LISTS))
    listed = self._by_list.split_of
    images = self._find(_IMAGES, f'{_IMAGES}.zip')
    self._zip = None
    if images.is_dir():
      prefix = images.relative_to(self.root)
      found = list_files(images, _SUFFIXES)
      found = {(prefix / n).as_posix(): stat for n, stat in found.items()}
    else:
      self._zip = self._open_zip(images)
      found = {i.filename: (i.file_size, i.CRC) for i in self._zip.infolist()}
    found = {n: stat for n, stat in found.items() if _base(n) in listed}
    if not found:
      raise self._error(
        f'where {images} has none of the images that {self._by_list.path} '
        'names; it must have them, such as "000001.jpg"'
      )
    return found

  def _choose_rule(self, names: list[str]) -> _ByList:
    return self._by_list

  def _find(self, *names: str) -> pathlib.Path:
    """Returns the first of these that exists, here or one folder down."""
    for pattern in ('', '*/'):
      for name in names:
        for path in sorted(self.root.glob(pattern + name)):
          return path
    raise self._error(
      f'in which there is no {names[0]}; it must hold {_IMAGES}, a folder or '
      f'.zip, and {_LISTS[0]}, as '
      'https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html has them'
    )

  def _open_zip(self, path: pathlib.Path) -> zipfile.ZipFile:
    try:
      return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
      raise self._error(
        f'where {path} cannot be read ({error}); fetch it again'
      ) from error


def _parse(text: str) -> Iterator[tuple[str, str]]:
  """Yields (name, split) of the lines '000001.jpg 0' or '000001.jpg,0'."""
  for line in text.splitlines():
    name, _, number = re.sub(r'[\s,]+', ' ', line.strip()).partition(' ')
    if number in _SPLITS:
      yield name, _SPLITS[number]


def _base(name: str) -> str:
  return name.rpartition('/')[2]
