"""Data sets that TFDS downloads and stores, as array_record or tfrecord.

Reading needs no TensorFlow. With a `data.data_dir` in a bucket, one machine
prepares the data and stores it there; every machine reads its own copy.
"""

import contextlib
import difflib
import errno
import os
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import naming

from vaegan_jax.data import arrays, downloads, sources
from vaegan_jax.data.buckets import LAST_FILE, BucketFolder, local_folder
from vaegan_jax.data.data_config import DataConfig, in_bucket
from vaegan_jax.data.folder import unwritable
from vaegan_jax.data.source import Dataset
from vaegan_jax.data.tfds_files import TFRecords, check_prepared
from vaegan_jax.errors import UserError, describe_error

# A data set, a configuration and a version. TFDS accepts more: a namespace,
# whose code it downloads and runs, and arguments for the builder.
_TFDS_NAME = re.compile(r'[A-Za-z]\w*(/\w[\w.+-]*)?(:\d[\d.*]*)?')


def open_dataset(data: DataConfig, *, fill_bucket: bool = False) -> Dataset:
  """Opens a TFDS data set, and prepares it first if necessary.

  With `fill_bucket`, missing data is stored in a `data_dir` in a bucket. Only a
  user's own command may do that: a configuration from elsewhere could lead the
  data into a stranger's bucket.

  Raises:
    UserError: the name is unknown, the data cannot be downloaded, read or
      written, or the bucket cannot be used.
  """
  if in_bucket(data.data_dir):
    builder = _open_from_bucket(data, fill_bucket)
  else:
    builder = create_builder(data.name, data.local_dir)
  return TfdsDataset(builder, data.feature)


def create_builder(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
  """Opens a data set on a disk, and prepares it first if necessary.

  Args:
    name: 'cifar10', or with a configuration and version 'cifar10:3.0.2'.
    data_dir: the folder of prepared data.

  Raises:
    UserError: there is none of that name, or it cannot be prepared.
  """
  builder = _find_builder(name, data_dir)
  if not builder.data_path.exists():  # It appears, by a rename, when complete.
    _prepare(builder, name)
  return _open_prepared(name, builder.data_path)


def _open_from_bucket(data: DataConfig, fill_bucket: bool):
  data_dir, copies = data.data_dir.rstrip('/'), data.copies_dir
  here = str(local_folder(data_dir, copies))
  place = os.path.relpath(_find_builder(data.name, here).data_path, here)
  prepared = BucketFolder(f'{data_dir}/{place}', copies, 'data.data_dir')
  if LAST_FILE not in prepared.files:
    if not fill_bucket:
      raise UserError(
        f'data.data_dir is {data_dir!r}, which does not hold {data.name} as '
        f'{place}; --mode=train prepares it there, or name a folder on a disk, '
        'such as --config.data.data_dir=~/tensorflow_datasets.'
      )
    with prepared.alone():
      prepared.refresh()
      if LAST_FILE not in prepared.files:  # Otherwise another run was faster.
        builder = create_builder(data.name, here)
        prepared.fill(builder.data_path, ignore='decoded-')
  return _open_prepared(data.name, prepared.copy())


def _open_prepared(name: str, folder: os.PathLike) -> tfds.core.DatasetBuilder:
  check_prepared(folder)
  try:
    builder = tfds.builder_from_directory(folder)
  except Exception as error:  # Damage leads to many kinds of exceptions.
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


def _find_builder(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
  """Returns the builder of a data set, which need not be prepared."""
  if not _TFDS_NAME.fullmatch(name):
    raise UserError(
      f'data.name is {name!r}, which cannot name a data set; write one of '
      'TFDS, such as "cifar10" or "cifar10:3.0.2".'
    )
  # TFDS reads the files of a version, or of a data set that it does not know.
  dataset, _ = naming.parse_builder_name_kwargs(name)
  check_prepared(os.path.join(data_dir, dataset.name))
  try:
    return tfds.builder(name, data_dir=data_dir)
  except tfds.core.DatasetNotFoundError as error:
    known = tfds.list_builders(with_community_datasets=False)
    close = difflib.get_close_matches(
      name, [*known, *sources.names()], cutoff=0.5
    )
    raise UserError(
      f'data.name is {name!r}, which is not a data set; it must be '
      '"drawn_faces", "image_folder" or a TFDS name, such as '
      f'{", ".join(close) or "celeb_a, cifar10, lfw"}.'
    ) from error
  except Exception as error:  # A bad version or configuration, or damage.
    raise UserError(
      f'data.name is {name!r}, which TFDS cannot open '
      f'({describe_error(error)}); write "cifar10" or "cifar10:3.0.2".'
    ) from error


def _prepare(builder, name: str) -> None:
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()  # A file would hold every state of the bars.
  try:
    with downloads.fail_soon():
      builder.download_and_prepare(file_format='array_record')
  except UserError:
    raise
  except Exception as error:  # TFDS and the network raise nearly anything.
    if builder.data_path.exists():  # Another process was faster.
      return
    data_dir = os.fspath(builder.data_dir_root)
    for cause in _causes(error):
      if _is_about_disk(cause, data_dir):
        raise unwritable(data_dir, cause) from error
    if message := downloads.by_hand(builder, error):
      raise UserError(f'data.name is {name!r}, {message}.') from error
    raise UserError(
      f'data.name is {name!r}, which could not be prepared in '
      f'{builder.data_path} ({describe_error(error)}); fix that, or use other '
      'data, such as "image_folder".'
    ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
  while error is not None:
    yield error
    error = error.__cause__ or error.__context__


def _is_about_disk(error: BaseException, data_dir: str) -> bool:
  codes = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
  codes += (errno.ENOSPC, errno.EDQUOT)
  if not isinstance(error, OSError) or error.errno not in codes:
    return False
  # A file elsewhere may be one that could not be read.
  return str(error.filename or data_dir).startswith(data_dir)


class TfdsDataset(Dataset):
  """The examples in one feature of a prepared TFDS data set."""

  remedy = 'delete that folder to have the data prepared again'

  def __init__(self, builder: tfds.core.DatasetBuilder, feature: str = ''):
    """Opens the records of each split when they are first read.

    Raises:
      UserError: see `find_feature`.
    """
    self._builder, info = builder, builder.info
    self.name, self.version = info.name, str(info.version)
    self.num_bytes = int(info.dataset_size)
    self.content_hash = (info.metadata or {}).get('content_hash')
    self.feature = find_feature(info, feature)
    self.counts = {name: s.num_examples for name, s in info.splits.items()}
    self.shards = {name: s.shard_lengths for name, s in info.splits.items()}
    self.location = os.fspath(builder.data_path)
    self.cache_dir = pathlib.Path(builder.data_path)
    self._is_tensor = is_tensor(info, self.feature)
    if self._is_tensor:
      kind = info.features[self.feature]
      self.shape = tuple(kind.shape)
      self.dtype = arrays.device_dtype(kind.np_dtype)
      self.sample_rate = getattr(kind, 'sample_rate', 0) or 0
      # The other features need not be decoded.
      partial = tfds.decode.PartialDecoding({self.feature: True})
      self._features = partial.extract_features(info.features)
    self._records = {}

  def read(self, split: str, indices: Sequence[int]) -> list[Any]:
    records = self._open(split).__getitems__(list(indices))
    if self._is_tensor:
      records = map(self._features.deserialize_example_np, records)
    return [record[self.feature] for record in records]

  def describe(self, split: str, index: int) -> str:
    """Returns the number of a record, and the name of its file, if any."""
    name = b''
    with contextlib.suppress(Exception):  # It is damaged, perhaps.
      if not self._is_tensor:
        (record,) = self._open(split).__getitems__([index])
        name = record.get('path') or record.get('file_name') or b''
    return f'Record {index} {name.decode(errors="replace")!r} of {split!r}'

  def _open(self, split: str) -> Sequence[Any]:
    if split not in self._records:
      info = self._builder.info
      decoders = {self.feature: tfds.decode.SkipDecoding()}
      if info.file_format.value == 'tfrecord':
        decoders = None if self._is_tensor else decoders
        records = TFRecords(info, split, decoders)
      elif self._is_tensor:
        records = self._builder.as_data_source(
          split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
      else:
        records = self._builder.as_data_source(split, decoders=decoders)
      self._records[split] = records
    return self._records[split]


def find_feature(info: tfds.core.DatasetInfo, name: str = '') -> str:
  """Returns the name of the feature that holds the examples.

  If `name` is '', it is 'image', or else the only array of numbers.

  Raises:
    UserError: there is none of that name, none at all, or several.
  """
  known = sorted(
    key
    for key, feature in info.features.items()
    if isinstance(feature, tfds.features.Image) or is_tensor(info, key)
  )
  if name in known:
    return name
  if not name and 'image' in info.features:
    return 'image'
  if not name and len(known) == 1:
    return known[0]
  if not known:
    raise UserError(
      f'data.name is {info.name!r}, whose records have no "image", and no '
      'array of numbers; use a data set of images, such as "cifar10".'
    )
  raise UserError(
    f'data.feature={name!r} must be one of {", ".join(map(repr, known))}, the '
    f'images and arrays of data.name={info.name!r}: for example, '
    f'--config.data.feature={known[0]}'
  )


def is_tensor(info: tfds.core.DatasetInfo, name: str) -> bool:
  """Returns whether a feature is an array of numbers, not a label or text."""
  feature = info.features[name]  # Labels and texts are subclasses of Tensor.
  if type(feature) not in (tfds.features.Tensor, tfds.features.Audio):
    return False
  return bool(feature.shape) and np.dtype(feature.np_dtype).kind in 'buif'
