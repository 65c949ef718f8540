"""Files of data that TFDS has prepared: reading tfrecord, and safety checks.

A tfrecord file holds for each record its length in 8 bytes, their CRC32C, the
record and its CRC32C (https://www.tensorflow.org/tutorials/load_data/tfrecord).
There is no index: the lengths are followed when a file is first read.

TFDS imports the module of every class that `features.json` names. A stranger's
folder could have it run a file of theirs, so that such names are refused.
"""

import contextlib
import functools
import json
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import google_crc32c
import tensorflow_datasets as tfds
from etils import epath

from vaegan_jax.data.store import Parts
from vaegan_jax.errors import UserError, describe_error

_HEAD = struct.Struct('<QI')  # The length, and its checksum.
_TAIL = struct.Struct('<I')
# The key of TFDS today, another spelling for protobuf, and the former key.
_CLASS_KEYS = ('pythonClassName', 'python_class_name', 'type')
_CLASS = re.compile(r'tensorflow_datasets(\.[A-Za-z_]\w*)+', re.ASCII)
_FOLDER = re.compile(r'\w[\w.+-]*', re.ASCII)


class TFRecords:
  """The records of a split by index, as TFDS's data sources have them."""

  def __init__(
    self,
    info: tfds.core.DatasetInfo,
    split: str,
    decoders: Mapping[str, Any] | None,
  ):
    """Opens no file yet; with `decoders` None records stay serialized."""
    self._features, self._decoders = info.features, decoders
    self._files = info.splits[split].file_instructions
    self._records = Parts(file.examples_in_shard for file in self._files)
    self._find = functools.cache(find_records)

  def __getitems__(self, indices: Sequence[int]) -> list[dict | bytes]:
    records = [self._read(index) for index in indices]
    if self._decoders is None:
      return records
    deserialize = self._features.deserialize_example_np
    return [deserialize(record, decoders=self._decoders) for record in records]

  def _read(self, index: int) -> bytes:
    which, place = self._records.find(index)
    count = self._files[which].examples_in_shard
    path = os.fspath(self._files[which].filename)
    starts = self._find(path)
    if len(starts) != count:
      raise ValueError(f'{path} has {len(starts)} records, not {count}')
    with open(path, 'rb') as file:
      file.seek(starts[place])
      length, _ = _HEAD.unpack(file.read(_HEAD.size))
      record = file.read(length)
      (checksum,) = _TAIL.unpack(file.read(_TAIL.size))
    if checksum != _masked_crc32c(record):
      raise ValueError(f'the CRC32C of record {place} of {path}')
    return record


def find_records(path: str) -> list[int]:
  """Returns where each record of a tfrecord file begins, in bytes.

  Raises:
    ValueError, OSError: the file is damaged, or cannot be read.
  """
  starts, start, size = [], 0, os.path.getsize(path)
  with open(path, 'rb', buffering=0) as file:
    while start < size:
      head = os.pread(file.fileno(), _HEAD.size, start)
      end = size + 1
      if len(head) == _HEAD.size:
        length, checksum = _HEAD.unpack(head)
        if checksum == _masked_crc32c(head[:8]):
          end = start + _HEAD.size + length + _TAIL.size
      if end > size:
        raise ValueError(f'{path} is damaged at byte {start}')
      starts.append(start)
      start = end
  return starts


def _masked_crc32c(data: bytes) -> int:
  crc = google_crc32c.value(data)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def check_prepared(folder: epath.PathLike) -> None:
  """Raises a UserError if prepared data names classes beside those of TFDS.

  Call it before TFDS reads the folder.
  """
  folder = epath.Path(folder)
  default = folder / '.config' / 'metadata.json'  # Names another folder.
  if default.exists():
    for name in _read(default, _folder_names):
      if not _FOLDER.fullmatch(name):
        raise _error(default, f'names the folder {name!r}')
  for pattern in ('features.json', '*/features.json', '*/*/features.json'):
    for path in folder.glob(pattern):
      for name in _read(path, _class_names):
        if not _CLASS.fullmatch(name):
          raise _error(path, f'names the class {name!r}')


def _read(path: epath.Path, find: Callable[[Any], Iterable[str]]) -> list[str]:
  try:
    return list(find(json.loads(path.read_text())))
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(
      f'{path} is damaged ({describe_error(error)}): delete the folder that it '
      'is in to have the data prepared again'
    ) from error


def _folder_names(content: Any) -> Iterator[str]:
  if not isinstance(content, dict):
    raise ValueError('it is not a JSON object')
  if (name := content.get('default_config_name')) is not None:
    yield str(name)


def _class_names(content: Any) -> Iterator[str]:
  """Yields every class that a JSON names; a string may be JSON, too."""
  if isinstance(content, dict):
    for key in _CLASS_KEYS:
      if isinstance(content.get(key), str):
        yield content[key]
    content = list(content.values())
  if isinstance(content, list):
    for value in content:
      yield from _class_names(value)
  elif isinstance(content, str) and content.lstrip().startswith(('{', '[')):
    with contextlib.suppress(ValueError):  # It may be a description.
      yield from _class_names(json.loads(content))


def _error(path: epath.Path, what: str) -> UserError:
  return UserError(
    f'{path} {what}, which is not of TFDS and whose code would be run: use '
    'data that TFDS alone has prepared, with, for example, '
    '--config.data.data_dir=~/tensorflow_datasets'
  )
