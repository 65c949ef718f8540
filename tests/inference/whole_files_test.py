"""Files that are read whole and written back, with the values they had."""

import dataclasses
import io
import json

import numpy as np
import pytest
import soundfile
import tifffile
from etils import epath
from PIL import Image

from tests.data.contents import encode, tiff
from vaegan_jax.data import reading
from vaegan_jax.data.arrays import encode_npy
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.errors import UserError
from vaegan_jax.inference import large_files
from vaegan_jax.inference.whole_files import Form, read_whole, write_whole

LOWEST = np.finfo(np.float64).min


def sound(values, kind, subtype):
  content = io.BytesIO()
  soundfile.write(content, values, 44_100, format=kind, subtype=subtype)
  return content.getvalue()


def whole_numbers(*shape, dtype=np.uint16):
  return np.random.default_rng(0).integers(0, 200, shape).astype(dtype)


def floats(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def nodata(text):
  return {'extratags': [(42113, 2, 0, text, True)]}


GREY = {'photometric': 'minisblack'}
HOLES = np.where(floats(9, 8) > 0, LOWEST, 1.0)
# Content, spatial shape and channels of the run, values that are read.
FILES = {
  'volume': (tiff(floats(5, 9, 8), **GREY), (4, 4, 4), 1, floats(5, 9, 8)),
  'white is 0': (
    tiff(whole_numbers(9, 8), photometric='miniswhite', compression='zlib'),
    (4, 4),
    1,
    whole_numbers(9, 8),
  ),
  'many bands': (
    tiff(whole_numbers(9, 8, 13), planarconfig='contig', **GREY),
    (4, 4),
    13,
    whole_numbers(9, 8, 13),
  ),
  'OME': (  # The bands are last in what is written.
    tiff(floats(2, 5, 9, 8), ome=True, metadata={'axes': 'CZYX'}),
    (4, 4, 4),
    2,
    floats(2, 5, 9, 8).transpose(1, 2, 3, 0),
  ),
  'NaN': (
    tiff(np.where(HOLES < 0, np.nan, HOLES).astype(np.float32)),
    (4, 4),
    1,
    np.where(HOLES < 0, np.nan, HOLES),
  ),
  "float64's lowest": (
    tiff(HOLES, **nodata('-1.7976931348623157e+308')),
    (4, 4),
    1,
    np.maximum(HOLES, np.finfo(np.float32).min),
  ),
  'zero is no data': (
    tiff(whole_numbers(9, 8) // 100, **nodata('0')),
    (4, 4),
    1,
    whole_numbers(9, 8) // 100,
  ),
  '16 bits': (encode(whole_numbers(9, 8)), (4, 4), 1, whole_numbers(9, 8)),
  'colors': (
    encode(whole_numbers(9, 8, 3, dtype=np.uint8)),
    (4, 4),
    3,
    whole_numbers(9, 8, 3),
  ),
  **{
    f'{kind} {subtype}': (
      sound(whole_numbers(50, 2, dtype=np.int16), kind, subtype),
      (16,),
      2,
      whole_numbers(50, 2) / 2**15,
    )
    for kind in ('WAV', 'FLAC')
    for subtype in ('PCM_16', 'PCM_24')
  },
}


def settings(shape, channels):
  return DataConfig(
    'array_folder', shape=shape, channels=channels, sample_rate=44_100
  )


@pytest.mark.parametrize('name', FILES)
def test_values_survive(name):
  data, shape, channels, wanted = FILES[name]
  run = settings(shape, channels)
  whole = read_whole(data, run)
  assert whole.values.shape[-1] == channels
  assert np.isfinite(whole.values).all()
  form = json.loads(json.dumps(dataclasses.asdict(whole.form)))
  values = whole.values.astype(np.float32)
  again = write_whole(values, Form.from_json(form), run, whole.missing)
  file = io.BytesIO(again)
  if whole.form.kind == 'tiff':
    found = tifffile.imread(file)
  elif whole.form.kind == 'png':
    found = np.asarray(Image.open(file))
  else:
    assert again[:4] == data[:4]
    assert soundfile.info(file).subtype in name
    found, rate = soundfile.read(io.BytesIO(again))
    assert rate == 44_100
  np.testing.assert_array_equal(found, wanted)
  second = read_whole(again, run)  # What was no data is so again.
  np.testing.assert_array_equal(second.values, whole.values)
  np.testing.assert_array_equal(second.missing, whole.missing)


def test_a_form_of_another_shape_gives_one_message():
  data, shape, channels, _ = FILES['colors']
  run = settings(shape, channels)
  whole = read_whole(data, run)
  for claimed in ((9, 8, 4), (8, 9, 3), (10**6,) * 3):
    form = dataclasses.replace(whole.form, shape=claimed)
    with pytest.raises(UserError, match='encode it again'):
      write_whole(whole.values, form, run)


LARGE = {
  'npy': (encode_npy(floats(3, 40, 8)), (4, 4), 3, None),
  'pages': (tiff(floats(3, 40, 8), **GREY), (4, 4), 3, None),
}
LARGE |= {
  name: FILES[name]
  for name in ('volume', 'many bands', 'OME', 'WAV PCM_24', 'FLAC PCM_16')
}


@pytest.mark.parametrize('name', LARGE)
def test_large_files_are_read_and_written_in_parts(name, tmp_path, monkeypatch):
  data, shape, channels, _ = LARGE[name]
  run = settings(shape, channels)
  path, again = tmp_path / 'in', tmp_path / 'out'
  path.write_bytes(data)
  whole = read_whole(data, run)
  assert large_files.open_large(str(path), run) is None
  monkeypatch.setattr(reading, 'MAX_BYTES', 100)
  monkeypatch.setattr(large_files, '_PART_BYTES', 200)
  large = large_files.open_large(str(path), run)
  assert large.values.shape == whole.values.shape
  places = [np.array([0, 1, length - 1]) for length in whole.values.shape[:-1]]
  np.testing.assert_array_equal(
    large.values[np.ix_(*places)], whole.values[np.ix_(*places)]
  )
  form = Form.from_json(json.loads(json.dumps(dataclasses.asdict(large.form))))
  for values in (large.values, whole.values.astype(np.float32)):
    large_files.write_large(values, form, run, epath.Path(again), (-1e9, 1e9))
    written = large_files.open_large(str(again), run)
    rows = written.values.rows(0, len(whole.values))
    np.testing.assert_array_equal(rows, whole.values)
    assert written.form == large.form
  with pytest.raises(UserError, match='encode it again'):
    large_files.write_large(whole.values[1:], form, run, epath.Path(again))
  monkeypatch.undo()
  same = read_whole(again.read_bytes(), run)
  np.testing.assert_array_equal(same.values, whole.values)


def test_large_files_hold_neither_infinities_nor_no_data(tmp_path, monkeypatch):
  monkeypatch.setattr(reading, 'MAX_BYTES', 100)
  run, path = settings((4, 4), 1), tmp_path / 'a'
  for hole, told in ((np.inf, '1 infinite'), (np.nan, 'mean no data')):
    values = floats(9, 8)
    values[3, 3] = hole
    np.save(path.with_suffix('.npy'), values)
    with pytest.raises(ValueError, match=told):
      large_files.open_large(f'{path}.npy', run)


def test_no_data_of_nifti_is_filled_and_comes_back():
  nibabel = pytest.importorskip('nibabel')
  values = floats(4, 5, 6)
  values[1, 2, 3], values[0, 0, 0] = -9999, np.nan
  data = nibabel.Nifti1Image(values, np.eye(4)).to_bytes()
  fields = {'shape': (4, 4, 4), 'channels': 1, 'nodata': '-9999'}
  run = DataConfig('medical', max_nodata=0.5, **fields)
  whole = read_whole(data, run)
  missing = np.isnan(values) | (values == -9999)
  np.testing.assert_array_equal(whole.missing[..., 0], missing)
  assert whole.values.min() >= np.nanmin(values[~missing])
  again = write_whole(whole.values, whole.form, run, whole.missing)
  found = np.asarray(nibabel.Nifti1Image.from_bytes(again).dataobj)
  np.testing.assert_array_equal(found[~missing], values[~missing])
  assert np.isnan(found[missing]).all()  # As the first of them was.
