"""Files of many examples, and scans, for the matrix of `formats.py`."""

import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.data.medical_test import save_nifti, save_series
from tests.data.opening import everything, load, open_dataset

DTYPES = (
  *('uint8', 'uint16', 'uint32', 'int8', 'int16', 'int32'),
  *('float32', 'float64'),
)
_SHAPE = (11, 5, 6, 3)  # Examples, height, width, channels.


class Store(NamedTuple):
  """Data of a source."""

  row: tuple[str, str]  # (tool, layout) in the table.
  source: str  # `data.name`.
  path: Path  # `data.path`.
  want: np.ndarray  # The examples [N, *S, C], in any order.
  fields: dict  # Other fields of `config.data`.


def values(dtype: str, shape=_SHAPE) -> np.ndarray:
  """Returns values over all of an integer type; floats in [-2, 2]."""
  rng, dtype = np.random.default_rng(sum(shape)), np.dtype(dtype)
  if dtype.kind == 'f':
    return rng.uniform(-2, 2, shape).astype(dtype)
  limits = np.iinfo(dtype)
  return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def on_device(want: np.ndarray) -> np.ndarray:
  """Returns values in the dtype in which the device has them."""
  return want.astype(np.float32) if want.dtype.itemsize > 4 else want


def of_h5py(folder: Path) -> Iterator[Store]:
  """Yields HDF5: chunks, compressions, the axis of examples."""
  import h5py

  folder.mkdir(parents=True)
  layouts = itertools.product(((3, 5, 6, 3), True), (None, 'gzip', 'lzf'))
  layouts = [(None, None), *layouts]
  for dtype, (chunks, compression), axis in itertools.product(
    DTYPES, layouts, (0, -1)
  ):
    name = f'{dtype}-{chunks}-{compression}-{axis}.h5'
    array, path = values(dtype), folder / name
    stored = np.moveaxis(array, 0, axis)
    if isinstance(chunks, tuple) and axis:
      chunks = (5, 6, 3, 3)
    with h5py.File(path, 'w') as file:
      file.create_dataset(
        'x', data=stored, chunks=chunks, compression=compression
      )
    layout = f'examples {"last" if axis else "first"}'
    fields = {'example_axis': axis}
    yield Store(('h5py', layout), 'array_file', path, array, fields)


def of_zarr(folder: Path) -> Iterator[Store]:
  """Yields Zarr: versions 2 and 3."""
  import zarr

  for dtype, version in itertools.product(DTYPES, (2, 3)):
    array, path = values(dtype), folder / f'{dtype}-{version}.zarr'
    written = zarr.create_array(
      str(path),
      shape=array.shape,
      chunks=(4, 5, 3, 3),
      dtype=array.dtype,
      zarr_format=version,
    )
    written[:] = array
    row = 'zarr', f'version {version}'
    yield Store(row, 'array_file', path, array, {})


def of_scipy(folder: Path) -> Iterator[Store]:
  """Yields MATLAB's version 5."""
  from scipy import io

  folder.mkdir(parents=True)
  for dtype, packed in itertools.product(DTYPES, (False, True)):
    array, path = values(dtype), folder / f'{dtype}-{packed}.mat'
    io.savemat(path, {'x': array}, do_compression=packed)
    yield Store(('scipy', '.mat'), 'array_file', path, array, {})


def of_nibabel(folder: Path) -> Iterator[Store]:
  """Yields NIfTI: with a scale and without, packed and not; read as float32."""
  dtypes = [dtype for dtype in DTYPES if dtype != 'float64']
  scales = (None, (0.5, 10))
  for dtype, scale, suffix in itertools.product(
    dtypes, scales, ('.nii', '.nii.gz')
  ):
    if scale and dtype in ('float32', 'uint32', 'int32'):
      continue
    scans = values(dtype, (3, 4, 5, 6))
    path = folder / f'{dtype}-{bool(scale)}{suffix}'
    for number, scan in enumerate(scans):
      save_nifti(path / f'{number}{suffix}', scan, scale)
    slope, intercept = scale or (1, 0)
    want = (scans.astype(np.float64) * slope + intercept).astype(np.float32)
    row = 'nibabel', 'scaled' if scale else 'as stored'
    yield Store(row, 'medical', path, want[..., None], {'shape': (4, 5, 6)})


def of_pydicom(folder: Path) -> Iterator[Store]:
  """Yields series of DICOM slices: scales, grey of which 0 is white."""
  scales = ((1, 0), (2, -1024))
  kinds = ('MONOCHROME1', 'MONOCHROME2')
  for (slope, intercept), kind in itertools.product(scales, kinds):
    scans = np.random.default_rng(0).integers(0, 4096, (3, 4, 5, 6))
    path = folder / f'{slope}-{kind}'
    for number, scan in enumerate(scans.astype(np.uint16)):
      save_series(
        path / str(number),
        scan,
        PatientID=f'p{number}',
        SeriesInstanceUID=f'1.2.{number + 1}',
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        PhotometricInterpretation=kind,
      )
    if kind == 'MONOCHROME1':
      scans = 4095 - scans
    want = (slope * scans + intercept).astype(np.float32)[..., None]
    row = 'pydicom', kind
    yield Store(row, 'medical', path, want, {'shape': (4, 5, 6)})


WRITERS: dict[str, Callable[[Path], Iterator[Store]]] = {
  'h5py': of_h5py,
  'zarr': of_zarr,
  'scipy': of_scipy,
  'nibabel': of_nibabel,
  'pydicom': of_pydicom,
}


def read(store: Store, folder: Path) -> tuple[str, str]:
  """Reads all examples as training does; returns (outcome, reason)."""
  shape, channels = store.want.shape[1:-1], store.want.shape[-1]
  want = on_device(store.want)
  logging.disable()
  try:
    fields = {'shape': shape, 'channels': channels, **store.fields}
    dataset = open_dataset(store.source, folder, path=store.path, **fields)
    options = {'shape': shape, 'channels': channels, 'cache_images': False}
    parts = [everything(load(dataset, s, **options)) for s in dataset.counts]
  except Exception as error:
    return 'wrong', str(error)
  finally:
    logging.disable(logging.NOTSET)
  found = np.concatenate(parts)
  is_exact = found.dtype == want.dtype
  is_exact = is_exact and _sorted(found) == _sorted(want)
  return ('exact', '') if is_exact else ('wrong', f'other values {found.dtype}')


def _sorted(examples: np.ndarray) -> list[bytes]:
  return sorted(example.tobytes() for example in examples)
