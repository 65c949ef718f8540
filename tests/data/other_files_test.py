"""Folders in formats that are not read: what is found, and what reads it."""

import re

import numpy as np
import pytest

from tests.data.opening import open_dataset
from vaegan_jax.errors import UserError


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
