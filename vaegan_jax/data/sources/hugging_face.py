"""Data sets of Hugging Face: saved to disk, as Parquet, or by their names."""

import os
import pathlib
import re

from vaegan_jax.data import store, tables
from vaegan_jax.data.no_data import IGNORE
from vaegan_jax.data.reading import Declared
from vaegan_jax.data.source_bases import StoreSource
from vaegan_jax.data.split_names import find_file_split
from vaegan_jax.errors import UserError, describe_error

_NAME = re.compile(r'\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?')  # And a configuration.
_SUFFIXES = ('.parquet', '.arrow')
_FIRST_SAFE = 4  # The version of datasets that runs no code of data sets.


class Column(store.SplitStore):
  """The cells of one column, in all splits."""

  def __init__(self, path, data):
    self.feature, self.are_photos = data.feature, not data.shape
    self.options = (self.feature,)
    self._has_no_nulls = data.nodata == IGNORE
    self._files = _find_files(path)
    self.location = path
    if not os.path.exists(path):  # A name.
      self.options += (path,)
      first = next(iter(self._files.values()))[0]
      self.location = os.path.dirname(first)

  def state(self):
    return [
      (split, os.path.basename(file), *store.stat_of(file))
      for split, files in self._files.items()
      for file in files
    ]

  def load(self, found):
    with store.reporting_damage(f'data.path={self.location!r}'):
      parts = {
        split: tables.Table(self.location, files)
        for split, files in self._files.items()
      }
    self.use_parts(parts)
    first = next(iter(parts.values()))
    self.feature = self._find_column(first.schema)
    try:  # Cells that are only paths are an error, once for all.
      self.read(0)
    except UserError:
      raise
    except Exception:  # The check counts what is damaged.
      pass

  def read(self, number):
    split, row = self.find(number)
    cell = self._parts[split].cell(self.feature, row)
    example = tables.to_example(cell, self.feature, self.location)
    if self._has_no_nulls and isinstance(example, Declared):
      raise ValueError(f'{example.hidden.sum():,} of its values are null')
    return example

  def describe(self, number):
    split, row = self.find(number)
    return f'row {row:,} of {split!r}' if split else f'row {row:,}'

  def report(self):
    return [f'data.feature: column {self.feature!r} is read in place.']

  def _find_column(self, schema):
    usable = [field.name for field in schema if tables.is_usable(field.type)]
    if self.feature in usable:
      return self.feature
    if not self.feature and 'image' in usable:
      return 'image'
    if not self.feature and len(usable) == 1:
      return usable[0]
    listed = ', '.join(f'{field.name!r} ({field.type})' for field in schema)
    raise UserError(
      f'data.feature={self.feature!r} must be a column with images, sounds or '
      f'arrays of data.path={self.location!r}, which has {listed}: '
      + (
        f'for example, --config.data.feature={usable[0]}'
        if usable
        else 'name other data'
      )
    )


def _find_files(path):
  """Returns the files of tables by split; '' stands for all."""
  if os.path.isfile(path):
    return {'': [path]}
  if not os.path.isdir(path):
    return _load_by_name(path)
  if any(
    os.path.isfile(os.path.join(path, name))
    for name in ('dataset_dict.json', 'state.json')
  ):
    return tables.saved_files(path)
  files = sorted(
    file
    for file in pathlib.Path(path).rglob('*')
    if file.suffix in _SUFFIXES
    and not any(part[0] == '.' for part in file.relative_to(path).parts)
  )
  splits = {}
  for file in files:
    split = find_file_split(str(file.relative_to(path)))
    splits.setdefault(split, []).append(str(file))
  if '' in splits and len(splits) > 1:
    raise UserError(
      f'data.path={path!r} has files of no split, such as '
      f'{splits[""][0]!r}, besides files that are named like splits: name '
      'another folder, or give them a name such as "train-0.parquet"'
    )
  if not splits:
    raise UserError(
      f'data.path={path!r} must be a folder that save_to_disk of datasets '
      'wrote, or have .parquet files, and has none: name another folder'
    )
  return splits


def _load_by_name(path):
  """Returns the files by split that `datasets` downloads, or has already."""
  if not _NAME.fullmatch(path):
    raise UserError(
      f'data.path={path!r} does not exist: name a folder that save_to_disk '
      'wrote, a .parquet, or a data set such as "owner/name"'
    )
  what = 'the name of a data set of Hugging Face, as there is no such file'
  datasets = store.import_reader('datasets', path, what)
  if int(datasets.__version__.split('.')[0]) < _FIRST_SAFE:
    raise UserError(
      f'data.path={path!r} needs datasets {_FIRST_SAFE} or later, because '
      'earlier versions run the code of a data set: pip install -U datasets'
    )
  name, _, config = path.partition(':')
  try:
    splits = datasets.load_dataset(name, config or None)
  except Exception as error:  # The network and the hub raise many kinds.
    raise UserError(
      f'data.path={path!r} is not a file, and cannot be loaded as a data set '
      f'({describe_error(error)}): download it where there is a network, or '
      'name a folder that save_to_disk wrote'
    ) from error
  return {
    split: [part['filename'] for part in table.cache_files]
    for split, table in splits.items()
  }


class Source(StoreSource):
  """The images, sounds or arrays of one column."""

  store = Column
  holds_arrays = None  # If `data.shape` is set.
  path_is = 'a folder of save_to_disk, Parquet files, or the name of a data set'
  has_features = True
  converts_profiles = True
