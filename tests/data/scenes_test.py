"""GeoTIFF scenes: exact tiles, splits, no data, and what is refused."""

import re
import sys

import numpy as np
import pytest

from tests.data.contents import cut, save_geotiff
from tests.data.opening import everything, load, open_dataset, stored
from vaegan_jax.data import scene_files
from vaegan_jax.errors import UserError

tifffile = pytest.importorskip('tifffile')

SHAPE = {'shape': (16, 16), 'channels': 3}
NO_DATA = 42113


def scene(seed=0, shape=(70, 53, 3), dtype=np.uint16):
  return np.random.default_rng(seed).integers(1, 4000, shape).astype(dtype)


def save(path, values, no_data=None, scale=None, corner=(), **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  tags = [(NO_DATA, 's', 0, no_data, True)] if no_data else []
  tags += [(33550, 'd', 3, (*scale, 0.0), True)] if scale else []
  tags += [(33922, 'd', 6, (0, 0, 0, *corner, 0), True)] if corner else []
  options = {'photometric': 'minisblack', 'metadata': None, **options}
  options.setdefault('planarconfig', 'contig')
  tifffile.imwrite(path, values, extratags=tags, **options)
  return path


def open_scenes(path, tmp_path, **fields):
  fields = {'shape': (16, 16), **fields}
  return open_dataset('scenes', tmp_path / 'data', path=path, **fields)


def tiles(values):
  """Returns all whole tiles [N, H, W, C], row by row."""
  down, across = values.shape[0] // 16, values.shape[1] // 16
  whole = values[: down * 16, : across * 16]
  whole = whole.reshape(down, 16, across, 16, -1).swapaxes(1, 2)
  return whole.reshape(-1, 16, 16, values.shape[-1])


def read_all(dataset):
  """Returns all tiles of one scene, row by row."""
  tiles_by_place = {
    tuple(map(int, re.findall(r'\d+', name))): tile
    for name, tile in stored(dataset).items()
  }
  return np.stack([tiles_by_place[place] for place in sorted(tiles_by_place)])


PLANES, PACKED = {'planarconfig': 'separate'}, {'compression': 'zlib'}
LAYOUTS = {
  'mapped': {},
  'mapped planes': PLANES,
  'big endian': {'byteorder': '>'},
  'strips': {'rowsperstrip': 9, **PACKED},
  'tiles': {'tile': (32, 16)},
  'packed tiles': {'tile': (32, 32), 'byteorder': '>', **PACKED},
  'tiles of planes': {'tile': (16, 48), **PLANES, **PACKED},
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_tiles_are_exact_in_every_layout(layout, tmp_path):
  options, values = LAYOUTS[layout], scene()
  planes = np.moveaxis(values, -1, 0)
  stored = planes if 'planes' in layout else values
  path = save(tmp_path / 'x.tif', stored, **options)
  dataset = open_scenes(path, tmp_path)
  np.testing.assert_array_equal(read_all(dataset), tiles(values))
  images = load(dataset, 'train+test', **SHAPE)
  assert images.dtype == np.uint16 and len(images) == 12
  wanted = [
    tile
    for split, count in dataset.counts.items()
    for tile in dataset.read(split, range(count))
  ]
  np.testing.assert_array_equal(everything(images), wanted)
  is_mapped = layout.startswith('mapped') or layout == 'big endian'
  assert (dataset.cache_dir is None) == is_mapped  # No second copy.


def test_scenes_are_split_whole(tmp_path):
  folder = tmp_path / 'scenes'
  for number in range(20):
    save(folder / f'{number:02}.tif', scene(number), scale=(10.0, 10.0))
  dataset = open_scenes(folder, tmp_path)
  train, held_out = (names_in(dataset, split) for split in dataset.counts)
  assert len(train | held_out) == 20 and not train & held_out
  assert 'Each scene is in one split.' in dataset.report(None)[1]
  save(folder / '20.tif', scene(20), scale=(20.0, 20.0))
  dataset = open_scenes(folder, tmp_path)
  after = names_in(dataset, 'test')
  assert held_out <= after <= held_out | {"'20.tif'"}
  assert '10 x 10 (20), 20 x 20 (1)' in dataset.report(None)[-1]


def test_one_scene_is_split_by_rows_of_tiles(tmp_path):
  dataset = open_scenes(save(tmp_path / 'x.tif', scene()), tmp_path)
  rows = [set(numbers // 3) for numbers in dataset._numbers.values()]
  assert rows[0] | rows[1] == set(range(4)) and not rows[0] & rows[1]
  assert 'It is split by rows of tiles' in dataset.report(None)[1]


def names_in(dataset, split):
  count = range(dataset.counts[split])
  return {dataset.describe(split, i).split()[0] for i in count}


def test_scenes_of_one_place_are_in_one_split(tmp_path):
  """Dates of 12 places, the last of which overlaps a 13th and it a 14th."""
  folder = tmp_path / 'scenes'
  values, scale = scene(shape=(32, 32)), (10.0, 10.0)
  # Neighbours share an edge.
  corners = [(3e5 + 320 * n, 5e6) for n in range(12)]
  corners += [(3e5 + 320 * 11 + 100, 5e6 + 200), (3e5 + 320 * 12, 5e6 + 400)]
  for place, corner in enumerate(corners):
    for date in range(2):
      name = f'{date}-{min(place, 11)}-{place}.tif'
      save(folder / name, values, scale=scale, corner=corner)
  dataset = open_scenes(folder, tmp_path)
  train, test = (
    {name.split('-')[1] for name in names_in(dataset, split)}
    for split in ('train', 'test')
  )
  assert len(train | test) == 12 and not train & test
  assert 'in one split: 12 places.' in dataset.report(None)[1]
  save(folder / '2-3-3.tif', values, scale=scale, corner=corners[3])
  save(folder / 'x-unknown-x.tif', values, scale=scale)
  dataset = open_scenes(folder, tmp_path)
  after = {name.split('-')[1] for name in names_in(dataset, 'test')}
  assert test <= after <= test | {'unknown'}


def test_scenes_of_the_same_place_only(tmp_path):
  folder, place = tmp_path / 'scenes', {'scale': (10.0, 10.0)}
  place['corner'] = (3e5, 5e6)
  for date in range(3):
    save(folder / f'{date}.tif', scene(date), **place)
  dataset = open_scenes(folder, tmp_path)
  rows = [
    {
      re.findall(r'\[(\d+)', dataset.describe(split, i))[0]
      for i in range(count)
    }
    for split, count in dataset.counts.items()
  ]
  assert rows[0] | rows[1] == {'0', '16', '32', '48'} and not rows[0] & rows[1]
  assert 'one place, which is split by rows of tiles' in dataset.report(None)[1]
  for split in ('train', 'test'):
    save(tmp_path / 'both' / split / 'a.tif', scene(), **place)
  lines = open_scenes(tmp_path / 'both', tmp_path).report(None)
  assert '1 of 1 places are in several splits' in lines[2]
  place['corner'] = (3e5 + 100, 5e6)
  save(folder / '3.tif', scene(3), **place)
  with pytest.raises(UserError, match=r'4 scenes that all overlap.*"train"'):
    open_scenes(folder, tmp_path)


def test_folders_are_splits(tmp_path):
  folder = tmp_path / 'scenes'
  save(folder / 'train' / 'a.tif', scene(0))
  save(folder / 'val' / 'b.tif', scene(1))
  dataset = open_scenes(folder, tmp_path)
  held_out = everything(load(dataset, 'test', **SHAPE))
  np.testing.assert_array_equal(held_out, tiles(scene(1)))


@pytest.mark.parametrize('options', ({}, {'tile': (16, 16)}))
def test_tiles_with_no_data_are_skipped_and_counted(options, tmp_path):
  values = scene()
  values[40, 30, 1] = 9999
  path = save(tmp_path / 'x.tif', values, '9999', **options)
  dataset = open_scenes(path, tmp_path)
  assert [tile.nodata for tile in dataset.read('train', [0])] == ['9999']
  images = load(dataset, 'train+test', **SHAPE)
  wanted = np.delete(tiles(values), 7, 0)
  np.testing.assert_array_equal(
    np.sort(everything(images).sum((1, 2, 3))), np.sort(wanted.sum((1, 2, 3)))
  )
  assert 'Skipped 1 of 12 tiles with more no data' in dataset.report(None)[-1]
  more = {'max_nodata': 0.1, **SHAPE}
  masked = open_scenes(path, tmp_path, max_nodata=0.1)
  found = everything(load(masked, 'train+test', **more))
  assert len(found) == 12 and np.argwhere(np.isnan(found))[:, 1:].tolist() == [
    [8, 14, 1]
  ]
  np.testing.assert_allclose(np.nansum(found), tiles(values).sum() - 9999.0)


def test_nan_is_no_data(tmp_path):
  values = scene(dtype=np.float32)
  values[:20, :20] = np.nan
  dataset = open_scenes(save(tmp_path / 'x.tif', values, 'nan'), tmp_path)
  assert 'Skipped 4 of 12 tiles with more no data' in dataset.report(None)[-1]
  # NaN needs no declaration.
  dataset = open_scenes(save(tmp_path / 'y.tif', values), tmp_path)
  assert 'Skipped 4 of 12 tiles' in dataset.report(None)[-1]


def test_parts_that_were_never_written_are_skipped(tmp_path):
  values = scene(shape=(64, 64, 3))
  options = {'tiled': True, 'blockxsize': 16, 'blockysize': 16}
  options |= {'width': 160, 'height': 160, 'SPARSE_OK': 'TRUE'}
  bands, corner = np.moveaxis(values, -1, 0), (32, 16)
  path = save_geotiff(
    tmp_path / 'x.tif', bands, corner, crs='EPSG:32633', **options
  )
  dataset = open_scenes(path, tmp_path)
  np.testing.assert_array_equal(read_all(dataset), tiles(values))
  assert 'Skipped 84 of 100 tiles with more no data' in dataset.report(None)[-1]


def test_tiles_share_decoded_parts(tmp_path, monkeypatch):
  decoded, original = [], scene_files.Scene._decode
  monkeypatch.setattr(
    scene_files.Scene,
    '_decode',
    lambda self, number: decoded.append(number) or original(self, number),
  )
  monkeypatch.setattr(scene_files, '_KEPT_BYTES', 8 * 32 * 32 * 3 * 2)
  path = tmp_path / 'x.tif'
  save(path, scene(shape=(64, 400, 3)), compression='zlib', tile=(32, 32))
  open_scenes(path, tmp_path)
  assert set(decoded) == set(range(26))
  assert len(decoded) < 2 * 26  # Of 100 tiles; a thread may come late.


def save_pages(path):
  save(path, scene())
  save(path, scene(1), append=True)
  return path


REFUSED = {
  r'x\.tif.* has 2 pages': lambda p: save_pages(p / 'x.tif'),
  'cannot be read, such as .*truncated': lambda p: cut(
    save(p / 'x.tif', scene(), tile=(16, 16)), -20000
  ),
  r'x\.tif.*cannot be read .*: it may be truncated': lambda p: (
    (p / 'x.tif').write_bytes(b'II*\0\x08') and p / 'x.tif'
  ),
  r'x\.tif.* has a palette.*gdal_translate -expand rgb': lambda p: save(
    p / 'x.tif',
    scene(shape=(32, 32), dtype=np.uint8),
    photometric='palette',
    colormap=np.zeros((3, 256), np.uint16),
  ),
  'larger than each of the 1 scenes': lambda p: save(
    p / 'x.tif', scene(shape=(9, 99, 3))
  ),
  'must be a GeoTIFF, or a folder': lambda p: p,
  'holds complex64, and must hold real': lambda p: save(
    p / 'x.tif', scene().astype(np.complex64)
  ),
  'tiles of uint16 .16, 16, 3., and 12 that differ': lambda p: (
    save(p / 'x' / 'a.tif', scene(1, (99, 99, 3))).parent,
    save(p / 'x' / 'b.tif', scene(2, (70, 53, 2))).parent,
  )[0],
}


@pytest.mark.parametrize('told', REFUSED)
def test_what_cannot_be_used_is_one_sentence(told, tmp_path):
  with pytest.raises(UserError, match=told) as caught:
    open_scenes(REFUSED[told](tmp_path), tmp_path)
  assert 'data.' in str(caught.value)


def test_a_part_that_is_too_large_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(scene_files, 'MAX_BYTES', 5000)
  options = {'compression': 'zlib', 'rowsperstrip': 70}
  path = save(tmp_path / 'x.tif', scene(), **options)
  with pytest.raises(UserError, match='gdal_translate -co TILED=YES'):
    open_scenes(path, tmp_path)


def test_a_missing_library_is_named(tmp_path, monkeypatch):
  path = save(tmp_path / 'x.tif', scene(), compression='zlib')

  def decode(self, number):
    raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

  with monkeypatch.context() as patch:
    patch.setattr(scene_files.Scene, '_decode', decode)
    with pytest.raises(UserError, match='pip install imagecodecs'):
      open_scenes(path, tmp_path)
  monkeypatch.setitem(sys.modules, 'tifffile', None)
  with pytest.raises(UserError, match='pip install tifffile'):
    open_scenes(path, tmp_path)
