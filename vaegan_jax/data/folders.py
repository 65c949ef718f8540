"""Datasets out of the user's own folder, whose files are stored as they are.

What is in a folder, and what of it is damaged, is known to `ImageFiles` and its
kin; here are the TFDS builders over them.
"""

import os
import pathlib

import tensorflow_datasets as tfds

from vaegan_jax.data import prepared_copies
from vaegan_jax.data.array_files import ArrayFiles
from vaegan_jax.data.celeba_files import CelebAFiles
from vaegan_jax.data.image_files import DAMAGED_FILE, RULES, ImageFiles


def list_files(
  name: str, path: str, folder_rules: int = RULES, num_samples: int = 0
) -> ImageFiles | None:
  """The files of a dataset of the user's own; None of any other.

  Args:
    name: of the dataset.
    path: its folder.
    folder_rules: how a folder is read, as `ImageFiles` has it.
    num_samples: the least that a sound must have, as `ArrayFiles` has it.

  Raises:
    UserError: the folder has no usable images.
  """
  if name == 'image_folder':
    return ImageFiles(path, folder_rules)
  if name == 'array_folder':
    return ArrayFiles(path, num_samples)
  return CelebAFiles(path) if name == 'celeb_a' and path else None


class ImageFolder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A directory of images, whose files are stored as they are."""

  VERSION = tfds.core.Version('1.0.0')
  url_infos = None  # Nothing is downloaded, so there are no checksums to find.

  def __init__(self, images: ImageFiles, *, data_dir: str):
    self._images = images
    # One data directory for each state of the folder: changed, it is new.
    self.copy = pathlib.Path(data_dir, self.name, images.fingerprint)
    self.source = prepared_copies.describe_source(images.root, images.rules)
    super().__init__(data_dir=os.fspath(self.copy))
    # While preparing, `data_dir` is a temporary folder; this is the last one.
    self._report = os.path.join(self.data_dir, DAMAGED_FILE)

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {'image': self._feature(), 'path': tfds.features.Text()}
      ),
      metadata=tfds.core.MetadataDict(),
    )

  def _feature(self):
    return tfds.features.Image(shape=(None, None, None))

  def _split_generators(self, dl_manager):
    damaged = self._images.find_damaged(self._report)
    self.info.metadata['content_hash'] = self._images.content_hash
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


class CelebAFolder(ImageFolder, skip_registration=True):
  """CelebA out of its own files, with the splits of its authors."""


class ArrayFolder(ImageFolder, skip_registration=True):
  """A directory of arrays, whose files are stored as they are."""

  def _feature(self):
    return tfds.features.Text()  # Any bytes.

  def _split_generators(self, dl_manager):
    generators = super()._split_generators(dl_manager)
    self.info.metadata['dtype'] = self._images.dtype
    self.info.metadata['shape'] = list(self._images.shape)
    if self._images.sample_rate:
      self.info.metadata['sample_rate'] = self._images.sample_rate
    return generators


FOLDERS = {
  'image_folder': ImageFolder,
  'celeb_a': CelebAFolder,
  'array_folder': ArrayFolder,
}
