"""Where images come from: every dataset is a TFDS builder, prepared once.

Beside the datasets that TFDS knows there are our own: `image_folder`, any
directory of images, `array_folder`, one of arrays, `celeb_a` out of one, where
a path is given, and those of `drawn.py`, which need no download. All are stored
as array_record; what TFDS has prepared as tfrecord, its default, is read as it
is. Neither needs TensorFlow.
"""

import difflib
import errno
import os
import re
import sys
from collections.abc import Sequence

import tensorflow_datasets as tfds
from tensorflow_datasets.core import naming

from vaegan_jax.data import downloads, prepared_copies
from vaegan_jax.data.drawn import DRAWN
from vaegan_jax.data.features import Tensors, is_tensor
from vaegan_jax.data.folders import FOLDERS, ImageFolder, list_files
from vaegan_jax.data.image_files import RULES, describe_error, expand_path
from vaegan_jax.data.prepared_files import check_prepared
from vaegan_jax.data.tfrecords import TFRecords
from vaegan_jax.errors import UserError

HOME_DATA_DIR = '~/tensorflow_datasets'  # As TFDS has it.
# A dataset, a configuration and a version. TFDS would take more: the name of a
# namespace, whose code it downloads and runs, and arguments of the builder.
_TFDS_NAME = re.compile(r'[A-Za-z]\w*(/\w[\w.+-]*)?(:\d[\d.*]*)?')


def create_builder(
  name: str,
  *,
  path: str = '',
  data_dir: str = '',
  folder_rules: int = RULES,
  num_samples: int = 0,
) -> tfds.core.DatasetBuilder:
  """Opens a dataset, preparing it first if that was never finished.

  Args:
    name: one of `DRAWN`, 'image_folder', 'array_folder', or a TFDS name, which
      may have a configuration and a version: 'cifar10', 'cifar10:3.0.2'.
    path: the folder, for 'image_folder' and 'array_folder', and for 'celeb_a'
      if it is not to be TFDS's.
    data_dir: where prepared data lives, '~' and '$NAME' allowed;
      '': ~/tensorflow_datasets.
    folder_rules: how a folder is read, as `ImageFiles` has it.
    num_samples: the least that a sound must have, as `ArrayFiles` has it.

  Returns:
    A TFDS builder whose data is on disk, as array_record or tfrecord.

  Raises:
    UserError: the name is unknown, the folder has no usable images, the data
      cannot be downloaded or written, or what is prepared there names code
      other than that of TFDS.
  """
  data_dir = expand_path(data_dir or HOME_DATA_DIR)
  files = list_files(name, path, folder_rules, num_samples)
  if files is None:
    builder = create_unprepared(name, data_dir)
  else:
    builder = FOLDERS[name](files, data_dir=data_dir)
  folder = builder.data_path  # Appears, by a rename, when all is written.
  copy = isinstance(builder, ImageFolder) and (builder.copy, builder.source)
  if copy:
    prepared_copies.hold(*copy)
  if not folder.exists():
    _prepare(builder, name)
  if copy:
    prepared_copies.remove_older(*copy)
  return open_prepared(name, folder)


def create_unprepared(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
  """The builder of a dataset that needs no folder of images; nothing is made.

  Args:
    name: as `create_builder` takes it, but for those of a folder.
    data_dir: where its `data_path` is, prepared or not.

  Raises:
    UserError: the name is unknown.
  """
  if name in DRAWN:
    return DRAWN[name](data_dir=data_dir)
  return _create_ready_builder(name, data_dir)


def open_prepared(name: str, folder: os.PathLike) -> tfds.core.DatasetBuilder:
  """Opens the data of a builder that is on disk.

  Args:
    name: of the dataset, for the error message.
    folder: with its `dataset_info.json`.

  Raises:
    UserError: it is damaged, in no format that is read here, or names code
      other than that of TFDS.
  """
  check_prepared(folder)
  try:
    builder = tfds.builder_from_directory(folder)
  except Exception as error:  # What damage leads to has no common class.
    raise UserError(
      f'data.name is {name!r}, whose prepared data in {folder} is damaged '
      f'({describe_error(error)}); delete that folder to have it made again.'
    ) from error
  if builder.info.file_format.value not in ('array_record', 'tfrecord'):
    raise UserError(
      f'data.name is {name!r}, which {folder} holds as '
      f'{builder.info.file_format.value}; it must be array_record or tfrecord, '
      'so set data.data_dir to another, such as "~/arrays".'
    )
  return builder


def open_split(
  builder: tfds.core.DatasetBuilder,
  split: str,
  field: str,
  feature: str = 'image',
) -> Sequence[dict]:
  """Opens the records of one split.

  Args:
    builder: a prepared builder, as from `create_builder`.
    split: a TFDS split, such as 'train', 'train[:90%]' or 'train+test'.
    field: the configuration field that holds `split`, for the error message.
    feature: that holds the examples, as `find_feature` finds it.

  Returns:
    Dicts in which that feature is the bytes of the image's, or array's, file,
    or, of a `Tensor`, the array.

  Raises:
    UserError: the split is unknown or empty.
  """
  try:
    source = _open(builder, split, feature)
    if len(source):
      return source
    reason = 'it is empty'
  except (ValueError, AssertionError) as error:
    reason = str(error).splitlines()[0].rstrip('.')
  names = ', '.join(repr(name) for name in builder.info.splits)
  raise UserError(
    f'{field} is {split!r}, which cannot be read from {builder.info.name} '
    f'({reason}); it has the splits {names}, and slices such as '
    f"'{next(iter(builder.info.splits))}[:90%]'."
  )


def _open(builder, split: str, feature: str) -> Sequence[dict]:
  info, decoders = builder.info, {feature: tfds.decode.SkipDecoding()}
  raw = is_tensor(info, feature)
  if info.file_format.value == 'tfrecord':
    records = TFRecords(info, split, None if raw else decoders)
  elif raw:
    records = builder.as_data_source(
      split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
  else:
    records = builder.as_data_source(split, decoders=decoders)
  return Tensors(info, records, feature) if raw else records


def _create_ready_builder(name: str, data_dir: str):
  if not _TFDS_NAME.fullmatch(name):
    raise UserError(
      f'data.name is {name!r}, which is no name of a dataset; write one of '
      'TFDS, such as "cifar10" or "cifar10:3.0.2".'
    )
  # A version, or a dataset that TFDS does not know, is read from its files.
  dataset, _ = naming.parse_builder_name_kwargs(name)
  check_prepared(os.path.join(data_dir, dataset.name))
  try:
    return tfds.builder(name, data_dir=data_dir)
  except tfds.core.DatasetNotFoundError as error:
    known = [
      *tfds.list_builders(with_community_datasets=False),
      *('image_folder', 'array_folder', *DRAWN),
    ]
    close = difflib.get_close_matches(name, known, cutoff=0.5)
    raise UserError(
      f'data.name is {name!r}, which is no dataset; it must be "drawn_faces", '
      '"image_folder" or a TFDS name, such as '
      f'{", ".join(close) or "celeb_a, cifar10, lfw"}.'
    ) from error
  except Exception as error:  # A bad version or configuration, or damage.
    raise UserError(
      f'data.name is {name!r}, which TFDS cannot open '
      f'({describe_error(error)}); write "cifar10" or "cifar10:3.0.2".'
    ) from error


def _prepare(builder, name: str) -> None:
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()  # Of bars a file has every state.
  try:
    with downloads.impatient():
      builder.download_and_prepare(file_format='array_record')
  except UserError:
    raise
  except Exception as error:  # TFDS and the network raise nearly anything.
    if builder.data_path.exists():  # Another process was faster.
      return
    if _is_of_disk(error, os.fspath(builder.data_dir_root)):
      raise UserError(
        f'data.data_dir is {str(builder.data_dir_root)!r}, which cannot be '
        f'written ({describe_error(error)}); name a folder on a disk with '
        'room, such as --config.data.data_dir=/scratch/data.'
      ) from error
    if told := downloads.by_hand(builder, error):
      raise UserError(f'data.name is {name!r}, {told}.') from error
    raise UserError(
      f'data.name is {name!r}, which could not be prepared in '
      f'{builder.data_path} ({describe_error(error)}); mend that, or use other '
      'data, such as "image_folder".'
    ) from error


def _is_of_disk(error: BaseException | None, data_dir: str) -> bool:
  """Whether the cause is that this folder cannot be written."""
  codes = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
  codes += (errno.ENOSPC, errno.EDQUOT)
  while error is not None:
    if isinstance(error, OSError) and error.errno in codes:
      # Not of an image that cannot be read.
      return str(error.filename or data_dir).startswith(data_dir)
    error = error.__cause__ or error.__context__
  return False
