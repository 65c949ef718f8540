"""Files of many examples, and scans, for the matrix of `formats.py`."""

import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.data.medical_test import save_nifti, save_series
from tests.data.opening import everything, load, open_dataset

DTYPES = (
  *('uint8', 'uint16', 'uint32', 'int8', 'int16', 'int32'),
  *('float32', 'float64'),
)
_SHAPE = (11, 5, 6, 3)  # Examples, height, width, channels.


class Case(NamedTuple):
  """A file or the data of a source, and what it holds."""

  row: tuple[str, str, str]  # (tool, layout, read as) in the table.
  # Function of `data` and the shape of `want`.
  read: Callable[[Any, tuple[int, ...]], np.ndarray]
  data: Any
  want: np.ndarray | None  # None if it must be refused.


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


def _case(
  tool: str, layout: str, source: str, path: Path, want: np.ndarray, **fields
) -> Case:
  """Returns the case of a source, with fields of `config.data`."""
  data = source, path.parent.parent / 'data', {'path': path, **fields}
  return Case((tool, layout, source), _read, data, _in_order(want))


def _read(data: Any, shape: tuple[int, ...]) -> np.ndarray:
  """Reads all examples as training does."""
  source, data_dir, fields = data
  options = {'shape': shape[1:-1], 'channels': shape[-1]}
  logging.disable()
  try:
    dataset = open_dataset(source, data_dir, **options, **fields)
    every = '+'.join(dataset.counts)
    images = load(dataset, every, cache_images=False, **options)
    return _in_order(everything(images))
  finally:
    logging.disable(logging.NOTSET)


def _in_order(examples: np.ndarray) -> np.ndarray:
  """Returns examples [N, *S, C], which a source has in any order, sorted."""
  return np.stack(sorted(on_device(examples), key=np.ndarray.tobytes))


def of_h5py(folder: Path) -> Iterator[Case]:
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
    yield _case('h5py', layout, 'array_file', path, array, example_axis=axis)


def of_zarr(folder: Path) -> Iterator[Case]:
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
    yield _case('zarr', f'version {version}', 'array_file', path, array)


def of_scipy(folder: Path) -> Iterator[Case]:
  """Yields MATLAB's version 5."""
  from scipy import io

  folder.mkdir(parents=True)
  for dtype, packed in itertools.product(DTYPES, (False, True)):
    array, path = values(dtype), folder / f'{dtype}-{packed}.mat'
    io.savemat(path, {'x': array}, do_compression=packed)
    yield _case('scipy', '.mat', 'array_file', path, array)


def of_nibabel(folder: Path) -> Iterator[Case]:
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
    layout = 'scaled' if scale else 'as stored'
    yield _case('nibabel', layout, 'medical', path, want[..., None])


def of_pydicom(folder: Path) -> Iterator[Case]:
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
    yield _case('pydicom', kind, 'medical', path, want)


WRITERS: dict[str, Callable[[Path], Iterator[Case]]] = {
  'h5py': of_h5py,
  'zarr': of_zarr,
  'scipy': of_scipy,
  'nibabel': of_nibabel,
  'pydicom': of_pydicom,
}
