"""Files that hold many arrays: .npy, .npz, .mat, HDF5 and Zarr.

Nothing is unpickled, and nothing outside of the file is read.
"""

import base64
import contextlib
import dataclasses
import functools
import os
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vaegan_jax.data.reading import Declared
from vaegan_jax.data.store import Blocks, import_reader, reporting_damage
from vaegan_jax.errors import UserError, describe_error

SUFFIXES = (
  *('.npy', '.npz', '.mat', '.h5', '.hdf5', '.hdf', '.he5', '.nc'),
  '.zarr',
)
_HDF5 = b'\x89HDF\r\n\x1a\n'
_MATLAB_HDF5 = b'MATLAB 7.3 MAT-file'
_ZARR = ('zarr.json', '.zarray', '.zgroup')
_MAX_OF_MEMORY = 0.5  # Share that an array which is read whole may take.
_STRIDED_BYTES = 2**26  # Read together where an example is scattered.
# Attributes of NetCDF, with the values that change nothing.
_SCALES = {'scale_factor': 1, 'add_offset': 0}


@dataclasses.dataclass(frozen=True)
class Entry:
  """An array in a file."""

  name: str  # Its key; '' if the file has only one, without a name.
  shape: tuple[int, ...]  # In the writer's order of axes.
  dtype: Any = None
  problem: str = ''  # Why it cannot be read.
  open: Callable[[], Any] = lambda: None  # Returns values, which are sliced.
  chunks: tuple[int, ...] | None = None  # The shape that is stored together.
  is_reversed: bool = False  # Whether stored axes are in the reverse order.
  no_data: str = ''  # The values that mean it, as `no_data.find` takes them.

  def __str__(self) -> str:
    kind = f' {np.dtype(self.dtype).name}' if self.dtype is not None else ''
    problem = f' ({self.problem})' if self.problem else ''
    return f'{self.name!r} {list(self.shape)}{kind}{problem}'


class Rows:
  """The examples of an array, along one of its axes."""

  def __init__(self, entry: Entry, axis: int):
    """Reads nothing yet; `axis` is one of `entry.shape`."""
    self.entry, self._axis = entry, axis
    self.shape = entry.shape[:axis] + entry.shape[axis + 1 :]
    self._values = None
    length, num_axes = entry.shape[axis], len(entry.shape)
    stored = num_axes - 1 - axis if entry.is_reversed else axis
    self._slices = (slice(None),) * stored
    row_bytes = int(np.prod(self.shape)) * np.dtype(entry.dtype).itemsize
    rows = 1
    if entry.chunks:
      rows = entry.chunks[stored]
    elif stored:
      rows = _STRIDED_BYTES // max(row_bytes, 1)
    self._blocks = Blocks(self._read, length, rows, row_bytes)

  @property
  def read_together(self) -> int:
    """The number of neighbours that are read with each example."""
    return self._blocks.rows

  def __len__(self) -> int:
    return self.entry.shape[self._axis]

  def __getitem__(self, number: int) -> np.ndarray | Declared:
    row, no_data = self._blocks[number], self.entry.no_data
    return Declared(row, no_data) if no_data else row

  def close(self) -> None:
    """Releases memory and the file; reading opens it again."""
    self._blocks.clear()
    self._values = None

  def _read(self, first: int, end: int) -> np.ndarray:
    if self._values is None:
      self._values = self.entry.open()
    block = np.asarray(self._values[(*self._slices, slice(first, end))])
    block = block.T if self.entry.is_reversed else block
    return np.ascontiguousarray(np.moveaxis(block, self._axis, 0))


def is_zarr(path: str) -> bool:
  """Returns whether a folder is a Zarr store."""
  return any(os.path.isfile(os.path.join(path, name)) for name in _ZARR)


def open_entries(path: str) -> list[Entry]:
  """Lists the arrays of a file, by its content.

  Raises:
    UserError: it is of another kind, damaged, or its library is missing.
  """
  with reporting_damage(f'data.path={path!r}'):
    try:
      return list(_find_opener(path)(path))
    except ValueError as error:
      if 'Python objects' not in str(error):
        raise
      raise UserError(
        f'data.path={path!r} holds pickled objects, which are not loaded: save '
        'arrays of numbers'
      ) from error


def _find_opener(path: str) -> Callable[[str], Any]:
  if os.path.isdir(path):
    return _open_zarr
  with open(path, 'rb') as file:
    start = file.read(1024)
  if start.startswith(b'\x93NUMPY'):
    return _open_npy
  if start.startswith(b'PK\x03\x04'):
    return _open_zip
  if start.startswith(_HDF5) or start[512:].startswith(_HDF5):
    return _open_hdf5
  if start.startswith(b'MATLAB 5.0 MAT-file'):
    return _open_mat
  raise UserError(
    f'data.path={path!r} is no .npy, .npz, .mat (from version 5 on), HDF5 or '
    'Zarr, as its first bytes tell: a pickle is not loaded, so save its '
    'array with numpy.save'
  )


def _open_npy(path: str) -> Iterator[Entry]:
  values = np.load(path, mmap_mode='r', allow_pickle=False)
  # Stored in Fortran's order, an example is scattered over all of the file.
  is_reversed = values.ndim > 1 and values.flags.f_contiguous
  yield _entry(
    '',
    values.shape,
    values.dtype,
    open=lambda: values.T if is_reversed else values,
    is_reversed=is_reversed,
  )


def _open_zip(path: str) -> Iterator[Entry]:
  with zipfile.ZipFile(path) as archive:
    members = archive.infolist()
    names = {member.filename for member in members}
    if not names.isdisjoint(_ZARR):
      yield from _open_zarr(path)
      return
    for member in members:
      name = member.filename.removesuffix('.npy')
      if name == member.filename:
        continue
      if member.flag_bits & 1:
        raise UserError(
          f'data.path={path!r} is encrypted: store it without a password'
        )
      with archive.open(member) as file:
        shape, dtype = _read_npy_header(file)
      load = functools.partial(_load_npz, path, name, shape, dtype)
      yield _entry(name, shape, dtype, open=load)


def _read_npy_header(file) -> tuple[tuple[int, ...], np.dtype]:
  version = np.lib.format.read_magic(file)
  headers = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  if version not in headers:
    raise ValueError(f'version {version} of .npy holds no plain numbers')
  shape, _, dtype = headers[version](file)
  return shape, dtype


def _load_npz(path, name, shape, dtype) -> np.ndarray:
  _check_memory(path, shape, dtype)
  with np.load(path, allow_pickle=False) as file:
    return file[name]


def _open_mat(path: str) -> Iterator[Entry]:
  io = import_reader('scipy.io', path, 'a MATLAB file', 'scipy')
  numbers = {'double': 'f8', 'single': 'f4', 'logical': 'u1'}
  for bits in (8, 16, 32, 64):
    numbers |= {f'{sign}int{bits}': f'{sign}int{bits}' for sign in ('', 'u')}
  for name, shape, kind in io.whosmat(path):
    if kind not in numbers:
      yield Entry(name, shape, problem=f'a MATLAB {kind}')
      continue

    def load(name=name, shape=shape, kind=kind):
      _check_memory(path, shape, numbers[kind])
      return io.loadmat(path, variable_names=[name])[name]

    yield _entry(name, shape, numbers[kind], open=load)


def _open_hdf5(path: str) -> list[Entry]:
  h5py = import_reader('h5py', path, 'HDF5')
  with open(path, 'rb') as start:
    is_matlab = start.read(64).startswith(_MATLAB_HDF5)
  found = []

  def visit(name, item):  # Links to other files are not followed.
    if isinstance(item, h5py.Dataset):
      found.append(_hdf5_entry(h5py, path, name, item, is_matlab))

  with h5py.File(path, 'r') as file:
    file.visititems(visit)
  return found


def _fill_value(h5py, values):
  """Returns the value of what was not written, if one was chosen, or None."""
  # NetCDF always chooses one. 0 is a value as others, and so are all those of a
  # single byte, unless attributes exclude one.
  properties = values.id.get_create_plist()
  is_set = properties.fill_value_defined() == h5py.h5d.FILL_VALUE_USER_DEFINED
  is_number = values.dtype.kind in 'iuf' and values.dtype.itemsize > 1
  return values.fillvalue if is_set and is_number and values.fillvalue else None


def _hdf5_entry(h5py, path: str, name: str, values, is_matlab: bool) -> Entry:
  try:
    shape, dtype, attrs = values.shape, values.dtype, dict(values.attrs)
  except Exception as error:  # A type that NumPy does not have.
    return Entry(name, (), problem=describe_error(error))
  if shape is None or 'MATLAB_empty' in attrs:
    return Entry(name, (), problem='empty')
  if values.external or values.is_virtual:
    return Entry(name, shape, dtype, 'stored in other files')
  kind = attrs.get('MATLAB_class', b'')
  if kind in (b'char', b'cell', b'struct'):
    return Entry(name, shape, dtype, f'a MATLAB {kind.decode()}')
  return _entry(
    name,
    shape[::-1] if is_matlab else shape,
    dtype,
    # An open file cannot be written, so it is opened when it is read.
    open=lambda: h5py.File(path, 'r')[name],
    chunks=values.chunks,
    is_reversed=is_matlab,
    attrs=attrs,
    fill=_fill_value(h5py, values),
  )


def _open_zarr(path: str) -> Iterator[Entry]:
  zarr = import_reader('zarr', path, 'a Zarr store')
  is_folder = os.path.isdir(path)
  store = path if is_folder else zarr.storage.ZipStore(path, mode='r')
  root = zarr.open(store=store, mode='r')
  members = [('', root)]
  if isinstance(root, zarr.Group):
    members = root.members(max_depth=None)
  for name, values in members:
    if isinstance(values, zarr.Array):
      attrs = dict(values.attrs)
      # In format 2 xarray keeps an array's _FillValue there.
      is_xarray = '_ARRAY_DIMENSIONS' in attrs
      yield _entry(
        name,
        values.shape,
        values.dtype,
        open=lambda values=values: values,
        chunks=values.shards or values.chunks,
        attrs=attrs,
        fill=values.fill_value if is_xarray else None,
      )


def _entry(
  name: str, shape: tuple[int, ...], dtype: Any, attrs=None, fill=None, **fields
) -> Entry:
  """Returns an entry, with its problem; `fill` means no data, too."""
  dtype, attrs = np.dtype(dtype), attrs or {}
  problem = ''
  scaled = [n for n, value in _SCALES.items() if attrs.get(n, value) != value]
  if dtype.kind not in 'buif':
    problem = 'no real numbers'
  elif scaled:
    problem = f'its {scaled[0]} is not applied, so save the scaled values'
  elif dtype.kind == 'i' and str(attrs.get('_Unsigned')).lower() == 'true':
    problem = 'its _Unsigned is not applied, so save it as unsigned'
  declared = fill, _decode(attrs.get('_FillValue')), attrs.get('missing_value')
  numbers = [n for d in declared if d is not None for n in np.ravel(d)]
  no_data = ' '.join(dict.fromkeys(map(str, numbers)))
  return Entry(name, tuple(shape), dtype, problem, no_data=no_data, **fields)


def _decode(value: Any) -> Any:
  """Returns the number of an attribute that xarray wrote into Zarr's JSON."""
  if isinstance(value, str):
    with contextlib.suppress(ValueError):
      content = base64.b64decode(value, validate=True)
      return np.frombuffer(content, '<f8')
  return value


def _check_memory(path: str, shape: tuple[int, ...], dtype: Any) -> None:
  size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  if size > _MAX_OF_MEMORY * memory:
    raise UserError(
      f'data.path={path!r} must be read whole, and its array has '
      f'{size / 2**30:,.1f} GiB of the {memory / 2**30:,.1f} of this machine: '
      'save it as .npy or HDF5, which are read in parts'
    )
