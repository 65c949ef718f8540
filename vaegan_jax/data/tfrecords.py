"""Records by their index out of tfrecord files, as TFDS writes by default.

Of each record a file has its length, 8 bytes, their CRC32C, the record, and its
CRC32C (https://www.tensorflow.org/tutorials/load_data/tfrecord). There is no
list of where records begin: the lengths of a file are followed when one of its
records is first asked for. TensorFlow is not imported.
"""

import bisect
import functools
import itertools
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import google_crc32c
import tensorflow_datasets as tfds

_HEAD = struct.Struct('<QI')  # The length, and its checksum.
_TAIL = struct.Struct('<I')


class TFRecords(Sequence):
  """The records of a split, as `as_data_source` gives them of array_record."""

  def __init__(
    self,
    info: tfds.core.DatasetInfo,
    split: str,
    decoders: Mapping[str, Any] | None,
  ):
    """Opens no file yet.

    Args:
      info: of a dataset that is stored as tfrecord.
      split: a TFDS split, such as 'train[:90%]'.
      decoders: as TFDS takes them; None: records stay as they are stored.

    Raises:
      ValueError: there is no such split.
    """
    self.dataset_info = info
    self._parts = info.splits[split].file_instructions
    self._ends = list(itertools.accumulate(part.take for part in self._parts))
    self._decoders = decoders
    self._find = functools.cache(find_records)

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def __getitem__(self, index: int) -> dict | bytes:
    return self.__getitems__([index])[0]

  def __getitems__(self, indices: Sequence[int]) -> list[dict | bytes]:
    """Returns the records at these places.

    Raises:
      ValueError, OSError: a file is damaged, or gone.
    """
    records = [self._read(index) for index in indices]
    if self._decoders is None:
      return records
    deserialize = self.dataset_info.features.deserialize_example_np
    return [deserialize(record, decoders=self._decoders) for record in records]

  def _read(self, index: int) -> bytes:
    if not 0 <= index < len(self):
      raise IndexError(index)
    which = bisect.bisect_right(self._ends, index)
    part = self._parts[which]
    place = index - self._ends[which] + part.take + part.skip
    starts = self._find(os.fspath(part.filename))
    if len(starts) != part.examples_in_shard:
      raise ValueError(
        f'{part.filename} has {len(starts)} records, not '
        f'{part.examples_in_shard}'
      )
    with open(part.filename, 'rb') as file:
      file.seek(starts[place])
      length, _ = _HEAD.unpack(file.read(_HEAD.size))
      record = file.read(length)
      (checksum,) = _TAIL.unpack(file.read(_TAIL.size))
    if checksum != _masked_crc32c(record):
      raise ValueError(f'the CRC32C of record {place} of {part.filename}')
    return record


def find_records(path: str) -> list[int]:
  """Returns where each record of a tfrecord file begins, in bytes.

  Args:
    path: of the file.

  Raises:
    ValueError: the file is cut, or a length is damaged.
    OSError: it cannot be read.
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
