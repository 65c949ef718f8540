"""Values that mean no data: declared, stated, NaN; skipped, masked, told."""

import numpy as np
import pytest

from tests.data.contents import tiff
from tests.data.opening import (
  everything,
  load,
  names_in,
  open_dataset,
  open_splits,
)
from vaegan_jax.data import arrays, no_data
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.pictures import Pictures
from vaegan_jax.data.reading import NoData, Reading
from vaegan_jax.errors import UserError

LOWEST = float(np.finfo(np.float32).min)


@pytest.mark.parametrize(
  ('dtype', 'text', 'value'),
  [
    ('float32', '-9999', -9999),
    ('float32', '-3.4028234663852886e+38', LOWEST),
    ('float32', '-3.40282347e+38', LOWEST),
    ('float32', 'nan', np.nan),
    ('float64', '-1.7976931348623157e+308', np.finfo(np.float64).min),
    ('int16', '-32768', -32768),
    ('uint16', '65535.0', 65535),
    ('uint8', '255', 255),
    ('int32', '-2147483648', -(2**31)),
  ],
)
def test_a_declared_value_is_none_in_its_dtype(dtype, text, value):
  array = np.arange(30).reshape(5, 6).astype(dtype)
  array[1, 2:4] = value
  options = {'extratags': [(42113, 's', 0, text, True)]}
  stored = arrays.read_stored(tiff(array, **options))
  want = np.zeros((5, 6), bool)
  want[1, 2:4] = True
  np.testing.assert_array_equal(stored.missing, want)
  reading = Reading(max_nodata=0.1)
  options |= {'photometric': 'minisblack'}
  example = arrays.decode_array(
    tiff(array, **options), channels=1, shape=(5, 6), reading=reading
  )[..., 0]
  np.testing.assert_array_equal(np.isnan(example), want)
  assert example.dtype == np.float32
  np.testing.assert_array_equal(example[~want], array[~want].astype('f4'))


@pytest.mark.parametrize(
  ('text', 'dtype', 'value'),
  [
    ('-9999', 'int16', -9999),
    ('-9999', 'uint16', None),
    *((text, 'uint8', None) for text in ('-1', '256', '0.5', '3.5', 'inf')),
    *((text, 'uint8', None) for text in ('1e400', 'x', '')),
    ('-3.4028234663852886e+38', 'float32', np.finfo(np.float32).min),
    # As GDAL writes the least int64.
    ('-9.2233720368547758e+18', 'int64', np.iinfo(np.int64).min),
    ('9007199254740993', 'int64', 2**53 + 1),
    ('none', 'float32', None),
    (' 0 \0', 'uint8', 0),
  ],
)
def test_no_data_is_a_value_of_the_dtype_or_means_nothing(text, dtype, value):
  found = no_data.parse(text, np.dtype(dtype))
  assert found == value
  assert found is None or found.dtype == dtype
  if value is None:
    assert no_data.find(np.arange(6).astype(dtype), text, Reading()) is None


def test_a_stated_value_and_none_come_before_the_declared_one():
  array = np.arange(30, dtype=np.int16).reshape(5, 6)
  data = tiff(array, extratags=[(42113, 's', 0, '0', True)])
  for nodata, number in (('', 0), ('7', 7), ('none', None)):
    missing = arrays.read_stored(data, Reading(nodata=nodata)).missing
    if number is None:
      assert missing is None
    else:
      np.testing.assert_array_equal(missing, array == number)
  # As earlier versions, whose runs resume.
  assert arrays.read_stored(data, Reading(rules=2)).missing is None
  array = array.astype(np.float32)
  array[0, 0] = np.nan
  with pytest.raises(ValueError, match='1 are NaN'):
    arrays.decode_array(
      array, channels=1, shape=(5, 6), reading=Reading(rules=2)
    )
  with pytest.raises(NoData, match=r'3\.33% of its values are missing'):
    arrays.decode_array(array, channels=1, shape=(5, 6))


def test_too_much_no_data_is_refused():
  missing = np.zeros((2, 4, 3), bool)
  missing[0, :, 1] = True  # 4 of 24 values.
  no_data.check(missing, 0.2)
  with pytest.raises(NoData, match=r'16\.67%.*data\.max_nodata is 0\.1'):
    no_data.check(missing, 0.1)
  missing[..., 1] = True
  with pytest.raises(NoData, match='its channel 1 has no value'):
    no_data.check(missing, 1.0)


def write_scenes(folder, count=30, holes=12):
  """Writes float scenes, of which some have -9999 at the border or inside."""
  for index in range(count):
    scene = np.random.default_rng(index).uniform(100, 3000, (12, 12))
    if index < holes:  # Of the middle 8 x 8, 0, 1, 2, ... values.
      scene[:2] = -9999
      scene[4, 2 : 2 + index % 4] = -9999
    data = tiff(
      scene.astype(np.float32), extratags=[(42113, 's', 0, '-9999', True)]
    )
    (folder / f'{index:02}.tif').write_bytes(data)


def test_scenes_with_holes_are_skipped_or_masked(folder, tmp_path, caplog):
  write_scenes(folder)
  fields = {'channels': 1, 'shape': (8, 8), 'train_split': 'train+test'}
  found = {}
  for most, number in ((0.0, 21), (0.04, 27), (0.05, 30)):
    fields['max_nodata'] = most
    images, lines = open_splits(
      'array_folder', folder, tmp_path / 'data', 'train_split', **fields
    )
    found[images.fingerprint] = everything(images)
    assert len(images) == number
    # A border that is cropped off is no reason to skip, nor to mask.
    masked = number - 21
    told = f'{masked} of {number} arrays hold values that mean no data'
    assert any(told in line for line in lines) == (masked > 0)
    examples = found[images.fingerprint]
    assert np.nanmin(examples) >= 100
    # 1, 2 and 3 values of an example, each in three of them.
    assert np.isnan(examples).sum() == {0: 0, 6: 9, 9: 18}[masked]
  assert len(found) == 3
  assert 'Skipped 9 of 30 arrays' in caplog.text
  assert "'01.tif' (1.56% of its values are missing" in caplog.text


def test_what_is_all_no_data_is_one_sentence(folder, tmp_path):
  for index in range(4):
    values = np.random.default_rng(index).normal(size=(6, 6))
    values[0, 0] = np.nan
    np.save(folder / f'{index}.npy', values)
  with pytest.raises(UserError, match=r'4 of 4 arrays hold .*max_nodata=0\.5'):
    open_dataset('array_folder', tmp_path / 'data', path=folder)


def test_folders_of_earlier_versions_are_read_as_they_were(folder, tmp_path):
  write_scenes(folder)
  splits = []
  for rules in (2, 3):
    options = {'shape': (8, 8), 'channels': 1}
    options |= {'folder_rules': rules, 'max_nodata': 1.0}
    dataset = open_dataset(
      'array_folder', tmp_path / 'data', path=folder, **options
    )
    splits.append(load(dataset, **options))
    assert len(names_in(dataset)) == 30
  old, new = map(everything, splits)
  assert old.min() == -9999 and np.nanmin(new) >= 100
  assert splits[0].fingerprint != splits[1].fingerprint
  same = old != -9999
  np.testing.assert_array_equal(same, ~np.isnan(new))
  np.testing.assert_array_equal(old[same], new[same])


def test_files_that_a_model_is_used_on_are_masked_too(folder):
  write_scenes(folder, count=4, holes=4)
  fields = {'name': 'array_folder', 'channels': 1, 'shape': (8, 8)}
  masked = Pictures(str(folder), DataConfig(**fields, max_nodata=0.1))
  examples = masked[np.arange(4)]
  assert np.nanmin(examples) >= 100 and examples.shape == (4, 8, 8, 1)
  np.testing.assert_array_equal(np.isnan(examples).sum((1, 2, 3)), [0, 1, 2, 3])
  whole = Pictures(str(folder), DataConfig(**fields))
  assert whole[np.arange(1)].min() >= 100  # Only its border means no data.
  with pytest.raises(
    UserError, match=r'\.tif cannot be read as an array .*missing'
  ):
    whole[np.arange(4)]
  assert masked.describe(0, 4) != whole.describe(0, 4)
