"""What a run prints of folders of real files: scans, sounds, sky, photos."""

import numpy as np
import pytest
import soundfile
import tifffile
from PIL import Image

from configs import default
from tests.data import profiles
from vaegan_jax.errors import UserError
from vaegan_jax.setup.data import load_data


def start(tmp_path, capsys, **fields):
  """Opens data as training does; returns (train, held out, printed)."""
  config = default.get_config()
  config.data.update({'data_dir': str(tmp_path / 'data'), **fields})
  config, train, held_out = load_data(config)
  return train, held_out, capsys.readouterr().out


def test_slices_of_patients_in_a_window(tmp_path, capsys):
  rng = np.random.default_rng(0)
  for patient in range(20):
    folder = tmp_path / 'scans' / f'{patient:02}'
    folder.mkdir(parents=True)
    for number in range(4):
      scan = rng.normal(patient, 300, (16, 16)).astype(np.int16)
      tifffile.imwrite(folder / f'{number}.tif', scan)
  fields = {
    'name': 'array_folder',
    'path': str(tmp_path / 'scans'),
    'image_size': 16,
    'channels': 1,
    'group_by': 'folder',
  }
  config = default.get_config()
  with config.ignore_type():
    config.data.value_range = (-175, 250)
  fields['value_range'] = config.data.value_range
  with pytest.raises(UserError, match=r'48\.\d% .*--config\.data\.clip=true'):
    start(tmp_path, capsys, **fields)
  train, held_out, printed = start(tmp_path, capsys, **fields, clip=True)
  assert len(held_out) % 4 == 0 and len(train) + len(held_out) == 80
  groups = len(held_out) // 4
  assert (
    f"Split 'test': {len(held_out)} arrays, in {groups} groups of "
    "data.group_by='folder', held out." in printed
  )
  assert '-175 becomes -1 and 250 becomes 1' in printed
  assert '48.' in printed and 'Warning' not in printed


def test_sounds_with_peaks(tmp_path, capsys):
  time = np.arange(2000) / 8000
  for split, number in (('Train', 30), ('Valid', 4)):
    (tmp_path / 'drums' / split).mkdir(parents=True)
    for index in range(number):
      hit = np.exp(-90 * time) * np.sin(900 * time) * (index + 9) / 40
      path = tmp_path / 'drums' / split / f'{index}.wav'
      soundfile.write(path, hit, 8000, subtype='FLOAT')
  fields = {
    'name': 'array_folder',
    'path': str(tmp_path / 'drums'),
    'shape': (1024,),
    'channels': 1,
    'sample_rate': 8000,
  }
  train, held_out, printed = start(
    tmp_path, capsys, **fields, value_range='percentiles'
  )
  assert (len(train), len(held_out)) == (30, 4)
  assert "Split 'test': 4 arrays, in 'Valid'." in printed
  assert 'of 30 sampled examples have clipped peaks' in printed
  assert '--config.data.value_range="(-1, 1)" keeps both' in printed


def test_photos_on_every_start(tmp_path, capsys):
  folder = tmp_path / 'photos'
  for index in range(12):
    split = 'test' if index > 8 else 'train'
    path = folder / f'album/{split}/{index}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (30, 20) if index % 2 else (80, 70)
    profile = profiles.rgb('Display P3') if index < 3 else None
    Image.new('RGB', size, (200, 99, 9)).save(path, icc_profile=profile)
  fields = {'name': 'image_folder', 'path': str(folder)}
  first, again = (start(tmp_path, capsys, **fields) for _ in range(2))
  for _, _, printed in (first, again):
    assert [line for line in printed.splitlines() if 'Decoded' not in line] == [
      "Split 'train': 9 images, in 'album/train'.",
      "Split 'test': 3 images, in 'album/test'.",
      '3 of 12 images are converted to sRGB from their color profiles: Display '
      'P3 (3).',
      'Warning: 6 of 12 images are smaller than the 64 x 64 pixels that are '
      "read, and are enlarged; the smallest is 30 x 20 ('album/test/11.jpg').",
    ]
