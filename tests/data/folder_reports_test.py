"""A run reports the files in a folder: those that it reads, and the others."""

import re

import numpy as np
import pytest
import soundfile
import tifffile
from PIL import Image

from configs import default
from tests.data import profiles
from tests.data.opening import open_dataset
from vaegan_jax.errors import UserError
from vaegan_jax.setup.data import load_data


@pytest.fixture
def start(folder, tmp_path, capsys):
  """Returns a function that opens the files of `folder` as training does."""

  def open_all(name, **fields):
    """Returns (train, held out, printed)."""
    config = default.get_config()
    with config.ignore_type():
      config.data.value_range = fields.pop('value_range', 'dtype')
    data_dir = str(tmp_path / 'data')
    config.data.update(name=name, path=str(folder), data_dir=data_dir, **fields)
    config, train, held_out = load_data(config)
    return train, held_out, capsys.readouterr().out

  return open_all


def test_slices_of_patients_in_a_window(folder, start):
  rng = np.random.default_rng(0)
  for patient in range(20):
    place = folder / f'{patient:02}'
    place.mkdir()
    for number in range(4):
      scan = rng.normal(patient, 300, (16, 16)).astype(np.int16)
      tifffile.imwrite(place / f'{number}.tif', scan)
  fields = {'image_size': 16, 'channels': 1, 'group_by': 'folder'}
  fields['value_range'] = (-175, 250)
  with pytest.raises(UserError, match=r'48\.\d% .*--config\.data\.clip=true'):
    start('array_folder', **fields)
  train, held_out, printed = start('array_folder', **fields, clip=True)
  assert len(held_out) % 4 == 0 and len(train) + len(held_out) == 80
  groups = len(held_out) // 4
  assert (
    f"Split 'test': {len(held_out)} arrays, in {groups} groups of "
    "data.group_by='folder', held out." in printed
  )
  assert '-175 becomes -1 and 250 becomes 1' in printed
  assert '48.' in printed and 'Warning' not in printed


def test_sounds_with_peaks(folder, start):
  time = np.arange(2000) / 8000
  for split, number in (('Train', 30), ('Valid', 4)):
    (folder / split).mkdir()
    for index in range(number):
      hit = np.exp(-90 * time) * np.sin(900 * time) * (index + 9) / 40
      path = folder / split / f'{index}.wav'
      soundfile.write(path, hit, 8000, subtype='FLOAT')
  fields = {'shape': (1024,), 'channels': 1, 'sample_rate': 8000}
  fields['value_range'] = 'percentiles'
  train, held_out, printed = start('array_folder', **fields)
  assert (len(train), len(held_out)) == (30, 4)
  assert "Split 'test': 4 arrays, in 'Valid'." in printed
  assert 'of 30 sampled examples have clipped peaks' in printed
  assert '--config.data.value_range="(-1, 1)" keeps both' in printed


def test_photos_on_every_start(folder, start):
  for index in range(12):
    split = 'test' if index > 8 else 'train'
    path = folder / f'album/{split}/{index}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (30, 20) if index % 2 else (80, 70)
    profile = profiles.rgb('Display P3') if index < 3 else None
    Image.new('RGB', size, (200, 99, 9)).save(path, icc_profile=profile)
  for _ in range(2):
    _, _, printed = start('image_folder')
    assert [line for line in printed.splitlines() if 'Decoded' not in line] == [
      "Split 'train': 9 images, in 'album/train'.",
      "Split 'test': 3 images, in 'album/test'.",
      '3 of 12 images are converted to sRGB from their color profiles: Display '
      'P3 (3).',
      'Warning: 6 of 12 images are smaller than the 64 x 64 pixels that are '
      "read, and are enlarged; the smallest is 30 x 20 ('album/test/11.jpg').",
    ]


@pytest.mark.parametrize(
  ('source', 'files', 'told'),
  [
    (
      'array_folder',
      {'nii.gz': 4, 'txt': 1},
      'no array, but 4 .nii (--config.data.name=medical reads such files) and '
      '1 .txt; it must hold .npy, .npz, TIFF, PNG, WAV or other files',
    ),
    (
      'array_folder',
      {'jpg': 2},
      'but 2 .jpg (--config.data.name=image_folder reads them);',
    ),
    (
      'image_folder',
      {'npy': 3},
      'no image, but 3 .npy (--config.data.name=array_folder reads them); it '
      'must hold JPEG, PNG',
    ),
    ('image_folder', {'pkl': 2}, 'but 2 .pkl (a pickle may run programs'),
    (
      'array_folder',
      {'a': 9, 'b': 8, 'c': 7, 'd': 6, 'e': 5, 'f': 1, 'g': 1},
      '9 .a, 8 .b, 7 .c, 6 .d, 5 .e and 2 others;',
    ),
    (
      'array_folder',
      {'m4a': 3, 'txt': 1},
      'no array, but 3 .m4a (ffmpeg converts them to .wav) and 1 .txt; it must',
    ),
    ('array_folder', {}, 'in which there is no array; it must hold'),
  ],
)
def test_what_is_found_is_counted_with_its_reader(
  source, files, told, folder, tmp_path
):
  for suffix, number in files.items():
    for index in range(number):
      (folder / f'{index}.{suffix}').write_bytes(b'x')
  with pytest.raises(UserError, match=re.escape(told)):
    open_dataset(source, tmp_path / 'data', path=folder)


def test_errors_of_arrays_are_about_arrays(tmp_path):
  for path in ('', tmp_path / 'gone'):
    with pytest.raises(UserError, match=r'folder of (your )?arrays') as e:
      open_dataset('array_folder', tmp_path / 'data', path=path)
    assert 'image' not in str(e.value) and 'photos' not in str(e.value)
  np.save(tmp_path / 'field.npy', np.eye(8))
  with pytest.raises(UserError, match=r'no array for the split') as e:
    open_dataset('array_folder', tmp_path / 'data', path=tmp_path)
  assert 'field_1.npy' in str(e.value) and 'cat.jpg' not in str(e.value)
