"""Columns of Arrow and Parquet tables, whose cells are read by number.

Only pyarrow is needed. No type of a file's own is loaded, and nothing outside
of the files is read.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from vaegan_jax.data.reading import Declared
from vaegan_jax.data.store import Parts, Recent, import_reader
from vaegan_jax.errors import UserError

_MAX_GROUP = 2**32  # Bytes of a column in a row group, all of which is read.
_READ_AT_ONCE = 64
_ONLY_A_PATH = (
  'its column {column!r} holds only paths of files, such as {path!r}, as the '
  "cache of datasets' imagefolder does: write the images themselves with "
  'save_to_disk or to_parquet, or read their folder by '
  '--config.data.name=image_folder'
)


class Table:
  """Files of one split, with the same columns, in pyarrow's `schema`."""

  def __init__(self, path: str, files: Sequence[str]):
    """Reads the ends or the beginnings of files of Arrow or Parquet.

    Arrow's are streams, or for random access. `path` is `data.path`.
    """
    self._pa = import_reader('pyarrow', path, 'an Arrow or Parquet table')
    import_reader('pyarrow.parquet', path, 'a Parquet table', 'pyarrow')
    self._path, self._parts = path, []
    for file in files:
      self._open(file)
    counts = [count for _, count, _ in self._parts]
    self._rows = Parts(counts)
    # Threads read examples that are about as near to each other.
    self._recent = Recent(max(2, _READ_AT_ONCE // max(1, min(counts))))
    if len({tuple(map(str, schema)) for _, _, schema in self._parts}) > 1:
      raise UserError(
        f'data.path={path!r} has tables whose columns differ: name one of them'
      )
    self.schema = self._parts[0][2]

  def __len__(self) -> int:
    return len(self._rows)

  def close(self) -> None:
    """Releases memory and files; reading opens them again."""
    self._recent.clear()

  def cell(self, column: str, number: int) -> Any:
    """Returns pyarrow's scalar of one cell."""
    part, row = self._rows.find(number)
    read, _, _ = self._parts[part]
    chunked = self._recent.get((part, column), lambda: read(column))
    return chunked[row]

  def _open(self, file: str) -> None:
    if self._starts_with(file, b'PAR1'):
      parquet = self._pa.parquet.ParquetFile(file)
      schema = parquet.schema_arrow
      for group in range(parquet.num_row_groups):

        def read(column, file=file, group=group):
          table = self._pa.parquet.ParquetFile(file)
          self._check_size(table.metadata.row_group(group), column)
          return _storage(table.read_row_group(group, [column]), column)

        rows = parquet.metadata.row_group(group).num_rows
        self._parts.append((read, rows, schema))
      return
    table = self._map(file)
    self._parts.append(
      (
        lambda column: _storage(self._map(file), column),
        table.num_rows,
        table.schema,
      )
    )

  def _map(self, file: str):
    pa = self._pa
    is_file = self._starts_with(file, b'ARROW1')
    opener = pa.ipc.open_file if is_file else pa.ipc.open_stream
    return opener(pa.memory_map(file)).read_all()

  def _starts_with(self, file: str, magic: bytes) -> bool:
    with open(file, 'rb') as opened:
      return opened.read(len(magic)) == magic

  def _check_size(self, group, column: str) -> None:
    size = sum(
      group.column(i).total_uncompressed_size
      for i in range(group.num_columns)
      if group.column(i).path_in_schema.split('.')[0] == column
    )
    if size > _MAX_GROUP:
      raise UserError(
        f'data.path={self._path!r} has a row group with {size / 2**30:,.1f} '
        'GiB of its column, which is read whole: write it again with '
        'row_group_size=1000'
      )


def _storage(table, column: str):
  """Returns a column as pyarrow's own types, without extensions."""
  chunked = table.column(column)
  if not hasattr(chunked.type, 'storage_type'):
    return chunked
  import pyarrow as pa

  return pa.chunked_array([chunk.storage for chunk in chunked.chunks])


def is_usable(kind) -> bool:
  """Returns whether cells of a type are files, or arrays of numbers."""
  import pyarrow as pa

  kind = getattr(kind, 'storage_type', kind)
  if pa.types.is_struct(kind):
    names = {kind.field(i).name for i in range(kind.num_fields)}
    return {'bytes', 'path'} <= names
  if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
    return True
  depth = 0
  while _is_list(kind):
    kind, depth = kind.value_type, depth + 1
  number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
  return depth > 0 and (number or pa.types.is_boolean(kind))


def _is_list(kind) -> bool:
  import pyarrow as pa

  return (
    pa.types.is_list(kind)
    or pa.types.is_large_list(kind)
    or pa.types.is_fixed_size_list(kind)
  )


def to_example(cell, column: str, path: str) -> bytes | np.ndarray | Declared:
  """Returns the bytes of a file in a cell, or its array, which hides nulls.

  Raises:
    UserError: the cell holds the path of a file, and not its bytes.
    ValueError: it is empty, or its lists differ in length.
  """
  if not cell.is_valid:
    raise ValueError('its cell is empty')
  if hasattr(cell.type, 'value_type'):
    return _to_array(cell.values)
  value = cell.as_py()
  if isinstance(value, dict):
    if value['bytes'] is None and value['path']:
      told = _ONLY_A_PATH.format(column=column, path=value['path'])
      raise UserError(f'data.path={path!r} cannot be read, as {told}')
    value = value['bytes']
  if not value:
    raise ValueError('its cell is empty')
  return value


def _to_array(values) -> np.ndarray | Declared:
  """Returns nested lists of equal lengths as an array; nulls are hidden."""
  import pyarrow.compute as pc

  shape = [len(values)]
  while _is_list(values.type):
    lengths = pc.unique(pc.list_value_length(values)).to_pylist()
    if len(lengths) != 1 or lengths[0] is None:
      raise ValueError(f'its lists have different lengths: {lengths[:4]}')
    shape.append(lengths[0])
    values = values.flatten()
  if not values.null_count:
    return values.to_numpy(zero_copy_only=False).reshape(shape)
  hidden = values.is_null().to_numpy(zero_copy_only=False).reshape(shape)
  filled = values.fill_null(False if str(values.type) == 'bool' else 0)
  array = filled.to_numpy(zero_copy_only=False).reshape(shape)
  return Declared(array, '', hidden)


def saved_files(folder: str) -> dict[str, list[str]]:
  """Returns the files by split of what `save_to_disk` of datasets wrote."""
  folders = {'': folder}
  splits = os.path.join(folder, 'dataset_dict.json')
  if os.path.isfile(splits):
    with open(splits, encoding='utf-8') as file:
      names = json.load(file)['splits']
    folders = {name: _inside(folder, name) for name in names}
  return {split: _files_of_state(place) for split, place in folders.items()}


def _files_of_state(folder: str) -> list[str]:
  with open(os.path.join(folder, 'state.json'), encoding='utf-8') as file:
    state = json.load(file)
  if state.get('_indices_data_files') or state.get('_indices_files'):
    raise UserError(
      f'data.path={folder!r} was saved by an early version of datasets as a '
      'selection of other rows: save it again with save_to_disk'
    )
  return [_inside(folder, part['filename']) for part in state['_data_files']]


def _inside(folder: str, name: str) -> str:
  if os.path.basename(name) != name or name in ('', '.', '..'):
    raise UserError(
      f'data.path={folder!r} names a file outside of it, {name!r}: save it '
      'again with save_to_disk'
    )
  return os.path.join(folder, name)
