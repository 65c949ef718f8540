"""NIfTI and DICOM: values in units, order of slices, and what is refused."""

import logging
import sys

import numpy as np
import pytest

from tests.data.contents import cut
from tests.data.opening import everything, load, open_dataset, report, stored
from vaegan_jax.data import medical_files
from vaegan_jax.errors import UserError
from vaegan_jax.inference import nifti_files

SHAPE = {'shape': (4, 5, 6), 'channels': 1}


def volume(seed, shape=(4, 5, 6)):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 2000, shape).astype(np.int16)


def open_scans(path, tmp_path, **fields):
  fields = {'shape': (4, 5, 6), **fields}
  return open_dataset('medical', tmp_path / 'data', path=path, **fields)


def save_nifti(path, values, scale=None, turned=False):
  nibabel = pytest.importorskip('nibabel')
  affine = np.diag([-2.0 if turned else 2.0, 2, 3, 1])
  image = nibabel.Nifti1Image(values, affine)
  if scale:  # nibabel stores the values as they are, with this scale.
    image.header.set_slope_inter(*scale)
  path.parent.mkdir(parents=True, exist_ok=True)
  nibabel.save(image, path)
  return path


def save_slice(path, values, position=None, **tags):
  """Writes a slice of unsigned 12 bits, in Hounsfield units."""
  pydicom = pytest.importorskip('pydicom')
  meta = pydicom.dataset.FileMetaDataset()
  meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
  meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
  meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
  data = pydicom.dataset.FileDataset(
    str(path), {}, file_meta=meta, preamble=bytes(128)
  )
  data.SOPClassUID = meta.MediaStorageSOPClassUID
  data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
  data.SeriesInstanceUID, data.PatientID = '1.2.3', 'anna'
  data.Rows, data.Columns = values.shape[-2:]
  data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
  data.PixelRepresentation, data.SamplesPerPixel = 0, 1
  data.PhotometricInterpretation = 'MONOCHROME2'
  data.RescaleSlope, data.RescaleIntercept = 2, -1024
  data.PixelSpacing = [0.5, 0.5]
  if position is not None:
    data.ImagePositionPatient = [0, 0, position]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
  for name, value in tags.items():
    setattr(data, name, value)
  data.PixelData = values.astype('<u2').tobytes()
  pydicom.filewriter.correct_ambiguous_vr(data, is_little_endian=True)
  path.parent.mkdir(parents=True, exist_ok=True)
  data.save_as(path, enforce_file_format=True)
  return path


def save_series(folder, values, **tags):
  """Writes slices under names that are not in the order of positions."""
  for number, index in enumerate(np.argsort(np.sin(range(len(values))))):
    save_slice(folder / f'{number}', values[index], 2.5 * index, **tags)
  return folder


def patients(folder, count=3, **tags):
  """Writes one series for each patient."""
  for number in range(count):
    save_series(
      folder / str(number),
      volume(number),
      PatientID=f'p{number}',
      SeriesInstanceUID=f'1.2.{number + 1}',
      **tags,
    )
  return folder


def test_a_scale_of_nifti_is_applied_once(folder, tmp_path):
  save_nifti(folder / 'a.nii.gz', volume(0), (0.5, 10))
  save_nifti(folder / 'b.nii', volume(1))
  save_nifti(folder / 'c.nii', volume(2).astype(np.float64))
  dataset = open_scans(folder, tmp_path)
  read = stored(dataset)
  np.testing.assert_array_equal(read["'a.nii.gz'"], volume(0) * 0.5 + 10)
  np.testing.assert_array_equal(read["'b.nii'"], volume(1))
  np.testing.assert_array_equal(read["'c.nii'"], volume(2))
  assert {array.dtype for array in read.values()} == {np.dtype('float32')}
  train = everything(load(dataset, **SHAPE))
  assert train.shape == (2, 4, 5, 6, 1)
  lines = report(dataset)
  assert 'Orientations of axes: RAS (3).' in lines
  holed = np.array(volume(3), np.float32)
  holed[1, 2, 3] = np.nan
  save_nifti(folder / 'd.nii', holed)
  dataset = open_scans(folder, tmp_path, channels=1)
  assert sum(dataset.counts.values()) == 3
  masked = {'max_nodata': 0.1, 'nodata': '7'}
  dataset = open_scans(folder, tmp_path, channels=1, **masked)
  found = everything(load(dataset, 'train+test', **masked, **SHAPE))
  assert len(found) == 4 and np.isnan(found[:, 1, 2, 3]).sum() == 1
  assert 'Voxel spacing: 2 x 2 x 3 mm.' in lines


@pytest.mark.parametrize('crop', ['center', 'random'])
def test_vectors_of_nifti_have_channels(crop, folder, tmp_path):
  for index in range(2):
    values = volume(index, (4, 5, 6, 1, 3))
    path = save_nifti(folder / f'{index}.nii', values)
  fields = {'shape': (4, 5, 6), 'channels': 3}
  images = load(open_scans(folder, tmp_path, crop=crop, **fields), **fields)
  assert any((images[[0]] == volume(n, (4, 5, 6, 3))).all() for n in range(2))
  array, facts = nifti_files.read_nifti(path.read_bytes())
  np.testing.assert_array_equal(array, values[..., 0, :])
  path.write_bytes(nifti_files.encode_nifti(array, facts))
  again = sys.modules['nibabel'].load(path)
  np.testing.assert_array_equal(again.get_fdata(), values)


def test_mixed_scans_are_reported_and_cropped(folder, tmp_path):
  for number in range(4):
    turned = number == 3
    shape = (8, 5, 6) if turned else (4, 5, 6)
    save_nifti(folder / f'{number}.nii', volume(number, shape), turned=turned)
  dataset = open_scans(folder, tmp_path)
  everyone = np.concatenate(
    [everything(load(dataset, s, **SHAPE)) for s in dataset.counts]
  )
  wanted = volume(3, (8, 5, 6))[2:6, ..., None]
  assert any((array == wanted).all() for array in everyone)
  lines = report(dataset)
  assert 'RAS (3), LAS (1): scans are not turned' in lines


def test_a_subject_is_in_one_split(folder, tmp_path):
  for number in range(20):
    for session in 'ab':
      name = f'sub-{number:02}/ses-{session}.nii'
      save_nifti(folder / name, volume(number, (2, 2, 2)))
  dataset = open_scans(folder, tmp_path, shape=(2, 2, 2))
  subjects = [
    {dataset.describe(split, i)[:7] for i in range(count)}
    for split, count in dataset.counts.items()
  ]
  assert len(subjects[0] | subjects[1]) == 20
  assert not subjects[0] & subjects[1]
  assert '20 groups of scans' in report(dataset)


def test_slices_are_sorted_and_in_units(tmp_path):
  dataset = open_scans(patients(tmp_path / 'scans'), tmp_path)
  read = sorted(stored(dataset).values(), key=lambda array: array.sum())
  wanted = [volume(n).astype(np.float32) * 2 - 1024 for n in range(3)]
  wanted.sort(key=lambda array: array.sum())
  np.testing.assert_array_equal(read, wanted)
  lines = report(dataset)
  assert 'Voxel spacing: 2.5 x 0.5 x 0.5 mm.' in lines
  assert '3 groups of scans' in lines


def test_images_of_two_axes_are_slices_of_a_patient(tmp_path):
  folder = patients(tmp_path / 'scans')
  dataset = open_scans(folder, tmp_path, shape=(5, 6))
  assert sum(dataset.counts.values()) == 12
  assert dataset.counts['test'] % 4 == 0  # All of a patient.
  (first,) = dataset.read('train', [0])
  assert first.shape == (5, 6)


def test_monochrome1_is_inverted(tmp_path):
  path = save_slice(
    tmp_path / 'a', volume(0, (5, 6)), PhotometricInterpretation='MONOCHROME1'
  )
  wanted = (4095.0 - volume(0, (5, 6))) * 2 - 1024
  np.testing.assert_array_equal(medical_files.read_dicom([str(path)]), wanted)


def test_declared_padding_is_no_data(tmp_path, caplog):
  """As pydicom writes it; a negative one also as an unsigned number."""
  values = volume(0, (5, 6))
  values[:2] = 7
  values[2] = 5
  want = values * np.float32(2) - 1024
  path = str(save_slice(tmp_path / 'x', values, PixelPaddingValue=7))
  found = medical_files.read_dicom([path])
  assert found.dtype == np.float32 and np.isnan(found[:2]).all()
  np.testing.assert_array_equal(found[2:], want[2:])
  np.testing.assert_array_equal(
    medical_files.read_dicom([path], masks=False), want
  )
  tags = {'PhotometricInterpretation': 'MONOCHROME1'}
  tags |= {'PixelPaddingValue': 7, 'PixelPaddingRangeLimit': 4}
  path = str(save_slice(tmp_path / 'y', values, **tags))
  found = medical_files.read_dicom([path])
  np.testing.assert_array_equal(np.isnan(found), (values >= 4) & (values <= 7))
  folder = patients(tmp_path / 'scans', 12)
  pydicom = pytest.importorskip('pydicom')
  for path in (folder / '3').iterdir():
    data = pydicom.dcmread(path)
    data.add_new('PixelPaddingValue', 'US', int(data.pixel_array[0, 0]))
    data.save_as(path)
  dataset = open_scans(folder, tmp_path)
  assert sum(dataset.counts.values()) == 11
  assert '1 scans declare a value of padding' in report(dataset)
  for fields in ({'nodata': 'none'}, {'max_nodata': 0.5}):
    dataset = open_scans(folder, tmp_path, channels=1, **fields)
    assert sum(dataset.counts.values()) == 12


def groups(**tags):
  """Returns an item of functional groups: {its name: its tags}."""
  pydicom = pytest.importorskip('pydicom')
  item = pydicom.Dataset()
  for name, values in tags.items():
    group = pydicom.Dataset()
    for key, value in values.items():
      setattr(group, key, value)
    setattr(item, name, pydicom.Sequence([group]))
  return item


def test_frames_of_one_file_are_sorted_and_in_units(tmp_path):
  values, order = volume(0), [2, 0, 3, 1]
  shared = {'PixelMeasuresSequence': {'PixelSpacing': [0.5, 0.25]}}
  turned = {'ImageOrientationPatient': [1, 0, 0, 0, 1, 0]}
  frames = [
    groups(
      PlanePositionSequence={'ImagePositionPatient': [0, 0, 3 * place]},
      PixelValueTransformationSequence={
        'RescaleSlope': place + 1,
        'RescaleIntercept': -5,
      },
    )
    for place in order
  ]
  for number in range(2):
    if number:  # Else the line of the positions tells the order.
      shared['PlaneOrientationSequence'] = turned
    save_slice(
      tmp_path / 'scans' / str(number),
      (values + number)[order],
      NumberOfFrames=4,
      SharedFunctionalGroupsSequence=[groups(**shared)],
      PerFrameFunctionalGroupsSequence=frames,
      SeriesInstanceUID=f'1.{number}',
      PatientID=f'p{number}',
    )
  dataset = open_scans(tmp_path / 'scans', tmp_path)
  slopes = np.arange(1, 5)[:, None, None]
  for number in range(2):
    wanted = (values + number) * slopes - np.float32(5)
    np.testing.assert_array_equal(stored(dataset)[f"'{number}'"], wanted)
  assert 'Voxel spacing: 3 x 0.5 x 0.25 mm.' in report(dataset)


@pytest.mark.parametrize(
  ('positions', 'told'),
  [
    ((0, 1, 2, 4), 'a slice is missing: two are 2 mm apart, and most 1'),
    ((0, 1, 2, 2), 'two of its slices are at the same position'),
  ],
)
def test_a_series_that_is_no_stack_is_skipped(
  positions, told, tmp_path, caplog
):
  folder = patients(tmp_path / 'scans', 12)
  for number, position in enumerate(positions):
    save_slice(
      folder / 'odd' / str(number),
      volume(0)[number],
      position,
      SeriesInstanceUID='1.9',
    )
  caplog.set_level(logging.WARNING)
  dataset = open_scans(folder, tmp_path)
  assert sum(dataset.counts.values()) == 12
  assert told in caplog.text and "the series of 'odd/0'" in caplog.text


def test_a_missing_decoder_is_named(folder, tmp_path):
  pydicom = pytest.importorskip('pydicom')
  for number in range(2):
    path = save_slice(folder / f'{number}', volume(number, (5, 6)))
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
    frame = b'\xff\xd8\xff\xf7' + bytes(20)
    data.PixelData = pydicom.encaps.encapsulate([frame])
    data['PixelData'].is_undefined_length = True
    data.save_as(path)
  decoder = pydicom.pixels.get_decoder(pydicom.uid.JPEGLSLossless)
  if decoder.is_available:
    pytest.skip('a decoder of JPEG-LS is installed')
  with pytest.raises(UserError, match=r'JPEG-LS.*pip install "pylibjpeg'):
    open_scans(folder, tmp_path, shape=(5, 6))


REFUSED = {
  r"'a\.nii' .OSError: Expected 240 bytes": lambda p: (
    cut(save_nifti(p / 'x' / 'a.nii', volume(0)), -60).parent
  ),
  'fewer bytes|less than expected': lambda p: (
    cut(save_slice(p / 'x' / 'a', volume(0, (5, 6)), 0), -60).parent
  ),
  'has no .nii, .nii.gz and no DICOM files': lambda p: p,
  'must be a folder with NIfTI files': lambda p: p / 'absent',
}


@pytest.mark.parametrize('told', REFUSED)
def test_what_cannot_be_used_is_one_sentence(told, tmp_path):
  with pytest.raises(UserError, match=told) as caught:
    open_scans(REFUSED[told](tmp_path), tmp_path)
  assert 'data.path' in str(caught.value)


@pytest.mark.parametrize('module', ('nibabel', 'pydicom'))
def test_a_missing_library_is_named(module, folder, tmp_path, monkeypatch):
  if module == 'nibabel':
    (folder / 'a.nii').write_bytes(bytes(400))
  else:
    (folder / 'a').write_bytes(bytes(128) + b'DICM')
  monkeypatch.setitem(sys.modules, module, None)
  with pytest.raises(UserError, match=f'pip install {module}'):
    open_scans(folder, tmp_path)
