"""A user's folder of examples, read in place.

A small index keeps the files' order, and which are damaged or held out, so that
only a folder that has changed is checked again. Order and fingerprints are
those of the copies of such folders that earlier versions made by TFDS, so that
their runs resume bit-identically.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from vaegan_jax.data import arrays, slices
from vaegan_jax.data.buckets import BucketFolder
from vaegan_jax.data.data_config import DataConfig, in_bucket
from vaegan_jax.data.image_files import DAMAGED_FILE, ImageFiles
from vaegan_jax.data.source import Dataset
from vaegan_jax.errors import UserError, describe_error

INDEX = 'index.json'


def local_path(data: DataConfig) -> str:
  """Returns `data.path`, or the checked copy of a folder in a bucket."""
  if not in_bucket(data.path):
    return data.path
  folder = BucketFolder(data.path, data.copies_dir, 'data.path')
  return str(folder.copy(exactly=True))


def tfds_order(split: str, keys: Sequence[bytes]) -> list[int]:
  """Returns the indices of `keys` in the order in which TFDS stores examples.

  That is by the MD5 of the split's name and the key of an example.
  """
  salt = hashlib.md5(split.encode(), usedforsecurity=False)

  def digest(index):
    md5 = salt.copy()
    md5.update(keys[index])
    return md5.digest()

  return sorted(range(len(keys)), key=digest)


def tfds_size(**features: int) -> int:
  """Returns the bytes of a `tf.train.Example` of strings with these lengths.

  TFDS counts them as the size of a data set, which is part of fingerprints.
  """

  def field(size):  # Its tag, its length and itself.
    return 1 + max(1, -(-size.bit_length() // 7)) + size

  return field(
    sum(
      field(field(len(name)) + field(field(field(size))))
      for name, size in features.items()
    )
  )


class FolderDataset(Dataset):
  """The examples of a folder, whose files stay where they are."""

  def __init__(self, name: str, files: ImageFiles, data: DataConfig):
    """Reads the index, or checks every file and writes the index.

    Raises:
      UserError: the files cannot be used, or the index cannot be written.
    """
    self.name, self._files = name, files
    self.location = str(files.root)
    data_dir = data.local_dir
    place = _place(name, files, data_dir, files.rules)
    self.cache_dir = place
    index = read_index(place / INDEX)
    if index is None:
      index = _check(files, place)
      write_index(place, index, data_dir)
      _adopt_decoded(place, pathlib.Path(data_dir, name, files.fingerprint))
      for rules in range(2, files.rules):
        _link_decoded(place, _place(name, files, data_dir, rules))
      remove_older(place)
    self._names, self._facts = index['splits'], index.get('facts')
    self._counts = files.Counts(index.get('counts'))
    self.to_srgb = data.converts_profiles and self._counts.has_profiles
    self.counts = {split: len(names) for split, names in self._names.items()}
    self.num_bytes, self.content_hash = index['bytes'], index['content_hash']
    self.reading_key = self._counts.reading_key
    if index['dtype']:
      self.dtype = np.dtype(index['dtype'])
      self.shape = tuple(index['shape'])
      self.axes = index.get('axes', '')
      self.sample_rate = index['sample_rate']

  def read(self, split: str, indices: Sequence[int]) -> list[bytes]:
    names = self._names[split]
    return [self._files.read(names[index]) for index in indices]

  def whole(self, split: str, index: int) -> slices.Facts:
    space, *others = self._facts[self._names[split][index]]
    return slices.Facts(tuple(space), *others)  # JSON has lists.

  def open_whole(self, split: str, index: int) -> arrays.Stored:
    return self._files.open(self._names[split][index])

  def report(self, data: DataConfig) -> list[str]:
    return self._files.report(self._names, self._counts, data)

  def describe(self, split: str, index: int) -> str:
    """Returns the name of a file, relative to the folder."""
    return repr(self._names[split][index])


def _place(
  name: str, files: ImageFiles, data_dir: str, rules: int
) -> pathlib.Path:
  """Returns where the index is: per folder, and per state of its files."""
  key = f'{os.path.realpath(files.root)} {rules} {files.least_samples}'
  key += f' {files.group_by}' if files.group_by else ''
  key += f' {files.place_key}' if files.place_key and rules > 2 else ''
  folder = hashlib.sha256(os.fsencode(key)).hexdigest()[:16]
  return pathlib.Path(data_dir, name, f'in-place-{folder}', files.fingerprint)


def _check(files: ImageFiles, place: pathlib.Path) -> dict[str, Any]:
  damaged = files.find_damaged(os.fspath(place / DAMAGED_FILE))
  splits, size = {}, 0
  for split, names in files.split(damaged).items():
    keys = [os.fsencode(name) for name in names]
    splits[split] = [names[index] for index in tfds_order(split, keys)]
    size += sum(
      tfds_size(image=files.size(name), path=len(key))
      for name, key in zip(names, keys, strict=True)
    )
  status = os.stat(files.root)
  return {
    'folder': [status.st_dev, status.st_ino],
    'content_hash': files.content_hash,
    'bytes': size,
    'dtype': files.dtype,
    'shape': list(files.shape),
    'axes': files.axes,
    'sample_rate': files.sample_rate,
    'counts': files.counts and files.counts.to_json(),
    'facts': dict(files.facts),
    'damaged': damaged,
    'splits': splits,
  }


def read_index(path: pathlib.Path) -> dict[str, Any] | None:
  """Returns the index; None if there is none, or a damaged one."""
  try:
    digest, content = path.read_text().split('\n', 1)
    if hashlib.sha256(content.encode()).hexdigest() == digest:
      return json.loads(content)
    logging.warning('%s is damaged; the folder is checked again.', path)
  except (OSError, ValueError):
    pass
  return None


def write_index(
  place: pathlib.Path, index: Mapping[str, Any], data_dir: str
) -> None:
  """Writes an index and its checksum, whole or not at all.

  Raises:
    UserError: it cannot be written, so that `data_dir` is to be changed.
  """
  content = json.dumps(index)
  digest = hashlib.sha256(content.encode()).hexdigest()
  partial = place / f'{INDEX}.{os.getpid()}-{time.time_ns()}'
  try:
    place.mkdir(parents=True, exist_ok=True)
    damaged = index['damaged'].items()
    if damaged:
      lines = [f'{name!r}: {reason}\n' for name, reason in damaged]
      (place / DAMAGED_FILE).write_text(''.join(lines), encoding='utf-8')
    partial.write_text(f'{digest}\n{content}')
    os.replace(partial, place / INDEX)
  except OSError as error:
    raise unwritable(data_dir, error) from error


def unwritable(data_dir: str, error: OSError) -> UserError:
  """Returns the error for a `data.data_dir` that cannot be written."""
  return UserError(
    f'data.data_dir is {data_dir!r}, which cannot be written '
    f'({describe_error(error)}); name a folder on a disk with room, such as '
    '--config.data.data_dir=/scratch/data.'
  )


def _adopt_decoded(place: pathlib.Path, old: pathlib.Path) -> None:
  """Links the decoded copies that an earlier version made of the same files.

  That version copied the files, too, which nothing reads any more.
  """
  _link_decoded(place, *old.glob('*/*'))
  if old.is_dir():
    print(
      f'{old} is a copy of the folder by an earlier version, which nothing '
      'reads any more: it may be removed.',
      flush=True,
    )


def _link_decoded(place: pathlib.Path, *folders: pathlib.Path) -> None:
  """Links decoded copies, whose names tell what they are decoded from."""
  for folder in folders:
    for path in folder.glob('decoded-*.npy'):
      with contextlib.suppress(OSError):
        os.link(path, place / path.name)


def remove_older(place: pathlib.Path) -> None:
  """Removes the decoded copies of earlier states of the same folder.

  A process that has mapped a copy can still read it. Copies of another folder
  at the same path, as in a container, are kept.
  """
  folder = (read_index(place / INDEX) or {}).get('folder')
  for other in place.parent.iterdir():
    index = None if other == place else read_index(other / INDEX)
    if index and index['folder'] == folder:
      size = sum(p.stat().st_size for p in other.iterdir())
      shutil.rmtree(other, ignore_errors=True)
      print(
        f'Removed {other}, decoded from an earlier state of the folder '
        f'({size / 2**20:,.0f} MiB).',
        flush=True,
      )
