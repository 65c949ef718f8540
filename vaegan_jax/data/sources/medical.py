"""Volumes of NIfTI files and DICOM series in a folder, read in place."""

import collections
import os

import numpy as np

from vaegan_jax.data import medical_files, no_data
from vaegan_jax.data.source_bases import StoreSource
from vaegan_jax.data.split_names import numbers_of, splits_of
from vaegan_jax.data.store import Store, hash_names, stat_of
from vaegan_jax.errors import UserError

_MAX_LISTED = 3  # Orientations in a line.


class Scans(Store):
  """NIfTI files and DICOM series; or DICOM slices for images of two axes."""

  noun = 'scans'
  lengths_vary = True

  def __init__(self, path, data):
    self.location = path
    if not os.path.isdir(self.location):
      raise UserError(
        f'data.path={self.location!r} must be a folder with NIfTI files or '
        'DICOM series, such as "~/scans"'
      )
    self._by_slice = len(data.read_shape) == 2
    self._masks = data.nodata != no_data.IGNORE
    self._files = medical_files.find_files(self.location)
    self._dicom = frozenset(self._files['dicom'])
    self.options = (self._by_slice,)
    if self._dicom:  # Indices of earlier versions know neither.
      self.options += ('padding', 'frames')

  def state(self):
    names = [name for names in self._files.values() for name in names]
    if not names:
      raise UserError(
        f'data.path={self.location!r} has no .nii, .nii.gz and no DICOM files: '
        'name another folder, such as "~/scans"'
      )
    return [(n, *stat_of(os.path.join(self.location, n))) for n in names]

  def scan(self):
    found = []
    if self._files['nifti']:
      found += medical_files.scan_nifti(self.location, self._files['nifti'])
    if self._files['dicom']:
      found += medical_files.scan_dicom(
        self.location, self._files['dicom'], self._by_slice
      )
    return found

  def load(self, found):
    self._scans = found
    names = [scan['files'][0] for scan in found]
    self.splits = numbers_of(splits_of(names))

  def __len__(self):
    return len(self._scans)

  def read(self, number):
    """Returns [X, Y, Z] of NIfTI, [D, H, W] of DICOM; see `Store.read`."""
    scan = self._scans[number]
    if 'problem' in scan:
      raise ValueError(scan['problem'])
    paths = [os.path.join(self.location, name) for name in scan['files']]
    if scan['files'][0] in self._dicom:
      return medical_files.read_dicom(paths, self._masks)
    return medical_files.read_nifti(paths[0])

  def is_in_place(self, number):
    return self._scans[number].get('is_in_place', False)

  def open(self, number):
    (name,) = self._scans[number]['files']
    return medical_files.NiftiFile(os.path.join(self.location, name))

  def describe(self, number):
    name, *others = self._scans[number]['files']
    return f'the series of {name!r}' if others else repr(name)

  def hashes(self):
    """Returns hashes of patients, who are in one split each."""
    return hash_names([scan['group'] for scan in self._scans])

  def report(self):
    groups = len({scan['group'] for scan in self._scans})
    lines = []
    padded = sum(scan.get('is_padded', False) for scan in self._scans)
    if padded and self._masks:
      lines.append(
        f'{padded:,} scans declare a value of padding (PixelPaddingValue), '
        'which counts as no data: those with more than data.max_nodata are '
        'skipped, so that --config.data.max_nodata=0.5 keeps those with up to '
        'half, and --config.data.nodata=none takes it for data.'
      )
    if not self.splits:
      lines.append(
        f'{groups:,} groups of scans (patients of DICOM, subjects "sub-..." of '
        'NIfTI, or else one scan) are in one split each.'
      )
    found = [s['orientation'] for s in self._scans if 'orientation' in s]
    counts = collections.Counter(found)
    listed = ', '.join(
      f'{name} ({count:,})' for name, count in counts.most_common(_MAX_LISTED)
    )
    listed += ', ...' if len(counts) > _MAX_LISTED else ''
    line = f'Orientations of axes: {listed or "unknown"}'
    if len(counts) > 1:
      line += ': scans are not turned, so convert them to one orientation'
    lines.append(f'{line}.')
    spacings = [s['spacing'] for s in self._scans if 'spacing' in s]
    lengths = {len(spacing) for spacing in spacings}
    if len(lengths) == 1:
      low, high = np.min(spacings, 0), np.max(spacings, 0)
      least, most = (' x '.join(f'{n:.3g}' for n in ns) for ns in (low, high))
      line = f'Voxel spacing: {least} mm'
      if not np.allclose(low, high, rtol=1e-2):
        line += f' to {most} mm: scans are not resampled, so resample them'
      lines.append(f'{line}.')
    return lines


class Source(StoreSource):
  """Scans in the units of their headers, as float32."""

  store = Scans
  holds_arrays = True
