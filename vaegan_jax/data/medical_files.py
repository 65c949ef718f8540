"""Volumes in NIfTI files and in DICOM series, in the units of their headers."""

import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from vaegan_jax.data import store
from vaegan_jax.data.reading import UnreadableKind

_NIFTI = ('.nii', '.nii.gz')
_SUBJECT = re.compile(r'sub-[A-Za-z0-9]+')  # The subject's folder in BIDS.
_TAGS = (
  *('PatientID', 'SeriesInstanceUID', 'InstanceNumber', 'NumberOfFrames'),
  *('ImagePositionPatient', 'ImageOrientationPatient', 'PixelSpacing'),
  *('Rows', 'Columns', 'PixelPaddingValue'),
  *('SharedFunctionalGroupsSequence', 'PerFrameFunctionalGroupsSequence'),
)
_FRAME_TAGS = (
  *('Rows', 'Columns', 'RescaleSlope', 'RescaleIntercept'),
  'ModalityLUTSequence',
)
# In files of several frames, a frame's tags are in groups of its own.
_GROUPS = (
  *('PlanePositionSequence', 'PlaneOrientationSequence'),
  *('PixelMeasuresSequence', 'PixelValueTransformationSequence'),
)
_GAP = 1.5  # Distance of two slices, over the median, of which one is missing.
_PARALLEL = 1e-3  # Of the cosines of two slices.


def find_files(root: str) -> dict[str, list[str]]:
  """Returns the relative names of files, by 'nifti' and 'dicom', sorted."""
  found = {'nifti': [], 'dicom': []}
  for folder, subfolders, names in os.walk(root):
    subfolders[:] = [name for name in subfolders if name[0] != '.']
    for name in names:
      path = os.path.join(folder, name)
      if name[0] == '.' or name == 'DICOMDIR':
        continue
      if name.lower().endswith(_NIFTI):
        kind = 'nifti'
      elif store.read_start(path, 132)[128:] == b'DICM':
        kind = 'dicom'
      else:
        continue
      found[kind].append(pathlib.Path(path).relative_to(root).as_posix())
  return {kind: sorted(names) for kind, names in found.items()}


def scan_nifti(root: str, names: Sequence[str]) -> list[dict[str, Any]]:
  """Reads the headers of NIfTI files.

  Returns:
    For each: its `files`, the `group` that a split keeps together, the
    `orientation` of its axes and their `spacing`.
  """
  nibabel = store.import_reader('nibabel', root, 'a folder with NIfTI')
  found = []
  for name in names:
    match = _SUBJECT.search(name)
    example = {'files': [name], 'group': match[0] if match else name}
    try:
      image = nibabel.load(os.path.join(root, name))
      example['orientation'] = ''.join(
        axis or '?' for axis in nibabel.aff2axcodes(image.affine)
      )
      example['spacing'] = [float(n) for n in image.header.get_zooms()[:3]]
      is_plain = image.get_data_dtype().kind in 'buif' and image.ndim < 5
      example['is_in_place'] = is_plain and name.lower().endswith('.nii')
    except Exception:  # The check names what is damaged.
      pass
    found.append(example)
  return found


def read_nifti(path: str) -> np.ndarray:
  """Reads a volume, with its scale and intercept applied.

  Returns:
    [X, Y, Z] or [X, Y, Z, T] float32, in the order of the file's axes; vectors
    without an axis of time.
  """
  import nibabel

  values = np.asarray(nibabel.load(path).dataobj)
  if values.dtype.names:  # Colors.
    values = np.stack([values[name] for name in values.dtype.names], -1)
  return to_float32(drop_time(values))


def drop_time(values: np.ndarray) -> np.ndarray:
  """Returns vectors [X, Y, Z, 1, C] of NIfTI as [X, Y, Z, C]."""
  is_vector = values.ndim == 5 and values.shape[3] == 1
  return values[..., 0, :] if is_vector else values


class NiftiFile:
  """The values of an uncompressed NIfTI, read by slices; see `read_nifti`."""

  dtype = np.dtype(np.float32)

  def __init__(self, path: str):
    import nibabel

    self._path, self._state = path, store.stat_of(path)
    self._values = nibabel.load(path).dataobj
    self.shape = self._values.shape

  def __getitem__(self, cuts: tuple[slice, ...]) -> np.ndarray:
    store.check_unchanged(self._path, self._state)
    return to_float32(self._values[cuts])


def to_float32(values: np.ndarray) -> np.ndarray:
  """Returns real numbers as float32; raises a ValueError for any others."""
  if values.dtype.kind not in 'buif':
    raise ValueError(f'it holds {values.dtype}, and must hold real numbers')
  return values.astype(np.float32)


def scan_dicom(
  root: str, names: Sequence[str], by_slice: bool
) -> list[dict[str, Any]]:
  """Reads the headers of DICOM files, and sorts the slices of each series.

  Args:
    root: the folder.
    names: relative names of the files.
    by_slice: whether each file is an example, and not each series.

  Returns:
    See `scan_nifti`. A patient is a group.
  """
  pydicom = store.import_reader('pydicom', root, 'a folder with DICOM')
  series = {}
  for name in names:
    try:
      header = pydicom.dcmread(
        os.path.join(root, name), stop_before_pixels=True, specific_tags=_TAGS
      )
    except Exception:  # The check names what is damaged.
      header = pydicom.Dataset()
    key = str(header.get('SeriesInstanceUID') or name)
    if by_slice or int(header.get('NumberOfFrames') or 1) > 1:
      key = f'{key} {name}'
    series.setdefault(key, []).append((name, header))
  return [_describe_series(key, files) for key, files in series.items()]


def _frames_of(data: Any) -> list[Any]:
  """Returns headers of the frames of one file; it alone if it has no groups."""
  import pydicom

  shared = list(data.get('SharedFunctionalGroupsSequence') or ())
  frames = []
  for own in data.get('PerFrameFunctionalGroupsSequence') or ():
    header = pydicom.Dataset()
    header.InstanceNumber = len(frames) + 1
    for name in _FRAME_TAGS:
      if name in data:
        setattr(header, name, data.get(name))
    for groups in (*shared, own):
      for name in _GROUPS:
        for group in groups.get(name) or ():
          header.update(group)
    frames.append(header)
  return frames or [data]


def _describe_series(key: str, files: list[Any]) -> dict[str, Any]:
  frames = _frames_of(files[0][1]) if len(files) == 1 else []
  group = str(files[0][1].get('PatientID') or key)
  first = frames[0] if frames else files[0][1]
  example = {'files': [name for name, _ in files], 'group': group}
  example['is_padded'] = any('PixelPaddingValue' in h for _, h in files)
  spacing = [float(n) for n in first.get('PixelSpacing') or ()]
  headers = [header for _, header in files] if len(files) > 1 else frames
  if len(headers) > 1:
    try:
      order, distance = _sort_slices(headers)
      if len(files) > 1:
        example['files'] = [files[index][0] for index in order]
      spacing = [distance, *spacing] if distance else []
    except ValueError as error:
      example['problem'] = str(error)
  if spacing:
    example['spacing'] = spacing
  if first.get('ImageOrientationPatient'):
    cosines = np.round([float(n) for n in first.ImageOrientationPatient], 1)
    example['orientation'] = ','.join(f'{n:g}' for n in cosines + 0.0)
  return example


def _sort_slices(headers: Sequence[Any]) -> tuple[np.ndarray, float]:
  """Returns the order of slices along their normal, and their distance."""
  if len({(h.get('Rows'), h.get('Columns')) for h in headers}) > 1:
    raise ValueError('its slices differ in rows and columns')
  if not all(h.get('ImagePositionPatient') for h in headers):
    numbers = [h.get('InstanceNumber') for h in headers]
    if None in numbers or len(set(numbers)) < len(numbers):
      raise ValueError('its slices have neither positions nor numbers')
    return np.argsort([int(n) for n in numbers]), 0.0
  positions = np.array([h.ImagePositionPatient for h in headers], float)
  if all(h.get('ImageOrientationPatient') for h in headers):
    cosines = np.array([h.ImageOrientationPatient for h in headers], float)
    if np.abs(cosines - cosines[0]).max() > _PARALLEL:
      raise ValueError('its slices are not parallel')
    normal = np.cross(cosines[0, :3], cosines[0, 3:])
  else:  # Along the line of the positions, upwards.
    steps = positions - positions[0]
    normal = steps[np.linalg.norm(steps, axis=1).argmax()]
    normal /= np.linalg.norm(normal) or 1
    normal *= np.sign(normal[np.abs(normal).argmax()])
  along = positions @ normal
  order = np.argsort(along)
  steps = np.diff(along[order])
  distance = float(np.median(steps))
  if steps.min() <= _PARALLEL * max(distance, 1):
    raise ValueError('two of its slices are at the same position')
  if steps.max() > _GAP * distance:
    raise ValueError(
      f'a slice is missing: two are {steps.max():g} mm apart, and most '
      f'{distance:g}'
    )
  return order, distance


def read_dicom(paths: Sequence[str], masks: bool = True) -> np.ndarray:
  """Reads the slices of a series, or one file, in the units of its header.

  The modality's slope and intercept, or its table, are applied. MONOCHROME1,
  where large numbers are dark, is inverted before. The frames of one file are
  sorted by their positions.

  Args:
    paths: the files.
    masks: whether a declared padding counts as missing.

  Returns:
    [D, H, W] float32, or [H, W] or [H, W, 3] of one frame; NaN for no data.

  Raises:
    Exception: a file is damaged.
    UnreadableKind: the decoder for its compression is missing.
  """
  slices = [_read_slice(path, masks) for path in paths]
  return slices[0] if len(slices) == 1 else np.stack(slices)


def _read_slice(path: str, masks: bool) -> np.ndarray:
  import pydicom
  from pydicom import pixels

  data = pydicom.dcmread(path)
  syntax = data.file_meta.TransferSyntaxUID
  if syntax.is_compressed and not pixels.get_decoder(syntax).is_available:
    raise UnreadableKind(
      f'it is compressed as {syntax.name}, which needs a decoder (pip install '
      '"pylibjpeg[all]")'
    )
  kind = data.PhotometricInterpretation
  if kind not in ('MONOCHROME1', 'MONOCHROME2', 'RGB'):
    raise ValueError(f'its colors are {kind}, so convert them to RGB')
  values = data.pixel_array
  if kind == 'RGB':
    return to_float32(values)
  padding = _find_padding(data, values) if masks else None
  if kind == 'MONOCHROME1':
    is_signed = data.PixelRepresentation == 1
    largest = -1 if is_signed else 2**data.BitsStored - 1
    values = largest - values.astype(np.int64)
  frames = _frames_of(data)
  if len(frames) < 2:
    values = pixels.apply_modality_lut(values, frames[0])
  else:
    order, _ = _sort_slices(frames)
    values = np.stack(
      [pixels.apply_modality_lut(values[n], frames[n]) for n in order]
    )
    padding = None if padding is None else padding[order]
  values = to_float32(values)
  return values if padding is None else np.where(padding, np.nan, values)


def _find_padding(data: Any, values: np.ndarray) -> np.ndarray | None:
  """Returns which stored values a header declares as padding; None if none."""
  ends = [data.get('PixelPaddingValue'), data.get('PixelPaddingRangeLimit')]
  if ends[0] is None:
    return None
  ends = [ends[0] if end is None else int(end) for end in ends]
  # Some programs write a negative number as an unsigned one.
  low, high = sorted(np.array(ends, np.int64).astype(values.dtype))
  return (values >= low) & (values <= high)
