"""Where images come from: every dataset is a TFDS builder, prepared once.

Beside the datasets that TFDS knows there are two of our own: `image_folder`,
any directory of images, and `drawn_faces`, which needs no download. All are
stored as array_record, which is read without importing TensorFlow.
"""

import difflib
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any

import tensorflow_datasets as tfds
import tqdm
from absl import logging
from PIL import Image

from vaegan_jax import drawn_faces, input_pipeline
from vaegan_jax.errors import UserError

_SUFFIXES = (
  *('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif'),
  *('.tif', '.tiff', '.ppm', '.pgm'),
)
_TEST_FOLDERS = ('test', 'validation', 'val')
_TEST_EVERY = 10  # One image in so many is held out.
_MAX_DAMAGED = 0.1  # Of all images.
_CHECKED_TOGETHER = 1000  # Bounds the memory that the check takes.
DAMAGED_FILE = 'damaged_images.txt'  # Beside the prepared data.


def create_builder(name: str, *, path: str = '', data_dir: str = ''):
  """Opens a dataset, preparing it first if that was never finished.

  Args:
    name: 'drawn_faces', 'image_folder', or a TFDS name, which may have a
      configuration and a version: 'cifar10', 'cifar10:3.0.2'.
    path: the folder of images, for 'image_folder'.
    data_dir: where prepared data lives, '~' and '$NAME' allowed;
      '': ~/tensorflow_datasets.

  Returns:
    A TFDS builder whose data is on disk as array_record.

  Raises:
    UserError: the name is unknown, the folder has no usable images, or the
      data cannot be downloaded or written.
  """
  data_dir = _expand(data_dir or '~/tensorflow_datasets')
  if name == 'image_folder':
    images = ImageFiles(path)
    # One data directory for each state of the folder: changed, it is new.
    data_dir = os.path.join(data_dir, 'image_folder', images.fingerprint)
    builder = ImageFolder(images, data_dir=data_dir)
  elif name == 'drawn_faces':
    builder = DrawnFaces(data_dir=data_dir)
  else:
    builder = _create_ready_builder(name, data_dir)
  folder = builder.data_path  # Appears, by a rename, when all is written.
  if not folder.exists():
    _prepare(builder, name)
  builder = tfds.builder_from_directory(folder)
  if builder.info.file_format.value != 'array_record':
    raise UserError(
      f'data.name is {name!r}, which {folder} holds as '
      f'{builder.info.file_format.value}; it must be array_record, so delete '
      'that folder, or set data.data_dir to another, such as "~/arrays".'
    )
  return builder


def load_splits(
  data: Mapping[str, Any], fields: Sequence[str]
) -> list[input_pipeline.Images]:
  """Prepares the dataset that a configuration describes; opens its splits.

  Args:
    data: the fields of `config.data`.
    fields: which splits: 'train_split', 'eval_split'.

  Returns:
    The images of each.

  Raises:
    UserError: as `create_builder` and `load_images`.
  """
  builder = create_builder(
    data['name'], path=data['path'], data_dir=data['data_dir']
  )
  return [
    input_pipeline.load_images(
      builder,
      data[field],
      image_size=data['image_size'],
      channels=data['channels'],
      center_crop=data['center_crop'],
      cache_images=data['cache_images'],
      field=f'data.{field}',
    )
    for field in fields
  ]


def _expand(path: str) -> str:
  return os.path.expanduser(os.path.expandvars(path))


def _create_ready_builder(name: str, data_dir: str):
  try:
    return tfds.builder(name, data_dir=data_dir)
  except tfds.core.DatasetNotFoundError as error:
    known = [
      *tfds.list_builders(with_community_datasets=False),
      'image_folder',
      'drawn_faces',
    ]
    close = difflib.get_close_matches(name, known, cutoff=0.5)
    raise UserError(
      f'data.name is {name!r}, which is no dataset; it must be "drawn_faces", '
      '"image_folder" or a TFDS name, such as '
      f'{", ".join(close) or "celeb_a, cifar10, lfw"}.'
    ) from error
  except (ValueError, AssertionError) as error:  # A bad version or config.
    raise UserError(
      f'data.name is {name!r}, which TFDS cannot open '
      f'({_cause(error)}); write "cifar10" or "cifar10:3.0.2".'
    ) from error


def _prepare(builder, name: str) -> None:
  try:
    builder.download_and_prepare(file_format='array_record')
  except UserError:
    raise
  except Exception as error:  # TFDS and the network raise nearly anything.
    if builder.data_path.exists():  # Another process was faster.
      return
    raise UserError(
      f'data.name is {name!r}, which could not be prepared in '
      f'{builder.data_path} ({_cause(error)}); mend that, or use a dataset '
      'that needs no download, such as "drawn_faces" or "image_folder".'
    ) from error


def _cause(error: Exception) -> str:
  lines = str(error).strip().splitlines() or ['no message']
  return f'{type(error).__name__}: {lines[0].rstrip(".:")}'


class DrawnFaces(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Cartoon faces of fine detail: 4,000 to train with and 512 held out."""

  VERSION = tfds.core.Version('1.0.0')  # Raise it when the drawing changes.
  num_images = (('train', 4000), ('test', 512))
  url_infos = None  # Nothing is downloaded, so there are no checksums to find.

  def _info(self):
    shape = (drawn_faces.SIZE, drawn_faces.SIZE, 3)
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {'image': tfds.features.Image(shape=shape, encoding_format='png')}
      ),
    )

  def _split_generators(self, dl_manager):
    splits, first = {}, 0
    for name, count in self.num_images:
      splits[name] = self._generate_examples(range(first, first + count))
      first += count
    return splits

  def _generate_examples(self, indices):
    for index in indices:
      image = Image.fromarray(drawn_faces.draw_face(index))
      yield index, {'image': image}


class ImageFolder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A directory of images, whose files are stored as they are."""

  VERSION = tfds.core.Version('1.0.0')
  url_infos = None  # Nothing is downloaded, so there are no checksums to find.

  def __init__(self, images: 'ImageFiles', *, data_dir: str):
    self._images = images
    super().__init__(data_dir=data_dir)

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(None, None, None)),
          'path': tfds.features.Text(),
        }
      ),
    )

  def _split_generators(self, dl_manager):
    damaged = self._images.find_damaged()
    if damaged:
      lines = [f'{name!r}: {reason}\n' for name, reason in damaged.items()]
      path = pathlib.Path(self.data_dir, DAMAGED_FILE)
      path.write_text(''.join(lines), encoding='utf-8')
    splits = self._images.split(damaged)
    return {key: self._generate_examples(splits[key]) for key in splits}

  def _generate_examples(self, names):
    for name in names:
      key = os.fsencode(name)  # A file's name need not be valid text.
      yield key, {'image': self._images.read(name), 'path': key}


class ImageFiles:
  """The image files of a folder, however deep, by name relative to it.

  If there is a `train` folder and one of `test`, `validation` or `val`, these
  are the splits, and files elsewhere are left out. Otherwise every tenth image
  in the order of their names is held out as 'test'. Hidden files are left out.
  """

  def __init__(self, path: str):
    """Lists a folder.

    Args:
      path: the folder, '~' and '$NAME' allowed.

    Raises:
      UserError: the path is empty, no folder, or has no images.
    """
    if not path:
      raise UserError(
        'data.path is empty, but data.name "image_folder" needs the folder of '
        'your images, such as "~/photos".'
      )
    self.root = pathlib.Path(_expand(path))
    if not self.root.is_dir():
      problem = 'is not a folder' if self.root.exists() else 'does not exist'
      raise self._error(f'which {problem}; it must be a folder of images')
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
        + ', '.join(_SUFFIXES)
      )
    self.names = sorted(sizes_and_times)
    listing = repr([(name, *sizes_and_times[name]) for name in self.names])
    self.fingerprint = hashlib.sha256(listing.encode()).hexdigest()[:16]

  def read(self, name: str) -> bytes:
    """Returns the bytes of one file."""
    return (self.root / name).read_bytes()

  def find_damaged(self) -> dict[str, str]:
    """Decodes every image once.

    Returns:
      Why an image is damaged, by name; few enough to go on without them.

    Raises:
      UserError: more than a tenth of the images are damaged.
    """
    damaged = {}
    with (
      futures.ThreadPoolExecutor() as pool,
      tqdm.tqdm(
        total=len(self.names), desc='Checking images', disable=None
      ) as progress,
    ):
      for first in range(0, len(self.names), _CHECKED_TOGETHER):
        names = self.names[first : first + _CHECKED_TOGETHER]
        reasons = pool.map(self._find_damage, names)
        found = zip(names, reasons, strict=True)
        damaged.update((name, reason) for name, reason in found if reason)
        progress.update(len(names))
    if not damaged:
      return damaged
    count = f'{len(damaged)} of {len(self.names)} images'
    some = ', '.join(repr(name) for name in list(damaged)[:3])
    if len(damaged) > _MAX_DAMAGED * len(self.names):
      raise self._error(
        f'in which {count} are damaged, such as {some} '
        f'({next(iter(damaged.values()))}); mend or remove them, for at most '
        'one in ten may be'
      )
    logging.warning(
      'Left out %s of %s as damaged: %s%s (all in %s beside the prepared data)',
      count,
      self.root,
      some,
      ', ...' if len(damaged) > 3 else '',
      DAMAGED_FILE,
    )
    return damaged

  def split(self, damaged) -> dict[str, list[str]]:
    """Returns the names of each split's images, without the damaged ones.

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
      test = names[::_TEST_EVERY]
      splits = {'train': sorted(set(names) - set(test)), 'test': test}
    for split, members in splits.items():
      if not members:
        raise self._error(
          f'which leaves no image for the split {split!r}; it must hold at '
          'least one image to train with and one to hold out'
        )
    return splits

  def _find_split_folders(self) -> dict[str, str]:
    """The folders of 'train' and 'test', or none where one is missing."""
    if not (self.root / 'train').is_dir():
      return {}
    for folder in _TEST_FOLDERS:
      if (self.root / folder).is_dir():
        return {'train': 'train', 'test': folder}
    return {}

  def _find_damage(self, name: str) -> str:
    """Why an image cannot be decoded; '' if it can."""
    try:
      input_pipeline.read_image(self.read(name))
    except Exception as error:  # Pillow raises nearly anything.
      return _cause(error)
    return ''

  def _error(self, complaint: str) -> UserError:
    return UserError(
      f'data.path is {str(self.root)!r}, {complaint}, such as '
      '"~/photos/cat.jpg" in "~/photos".'
    )


def _list_images(root: pathlib.Path) -> dict[str, tuple[int, int]]:
  """Returns (bytes, nanoseconds of the last change) by relative name."""
  images, seen = {}, set()
  for folder, subfolders, files in os.walk(root, followlinks=True):
    stat = os.stat(folder)
    if (stat.st_dev, stat.st_ino) in seen:  # A link back up, or twice here.
      subfolders.clear()
      continue
    seen.add((stat.st_dev, stat.st_ino))
    subfolders[:] = sorted(s for s in subfolders if not s.startswith('.'))
    for file in files:
      path = pathlib.Path(folder, file)
      if path.suffix.lower() in _SUFFIXES and not file.startswith('.'):
        images[path.relative_to(root).as_posix()] = _size_and_time(path)
  return images


def _size_and_time(path: pathlib.Path) -> tuple[int, int]:
  try:
    stat = path.stat()
  except OSError:  # A dangling link: listed, and found damaged when read.
    return 0, 0
  return stat.st_size, stat.st_mtime_ns
