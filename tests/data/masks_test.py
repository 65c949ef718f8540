"""Values that a TIFF hides: by masks, by alpha, by parts never written."""

import numpy as np
import pytest
import tifffile

from tests.data.contents import save_geotiff
from tests.data.crops_test import draw, open_all
from tests.data.opening import everything, load, names_in, open_dataset
from vaegan_jax.data import arrays, slices
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.pictures import Pictures
from vaegan_jax.data.reading import NoData, Reading, UnreadableKind
from vaegan_jax.errors import UserError

CLEAR = np.zeros((32, 32), bool)  # Its middle is no data.
CLEAR[8:24, 8:24] = True
PLAIN = {
  'photometric': 'minisblack',
  'planarconfig': 'contig',
  'metadata': None,
}
GEO_KEYS = (34735, 'H', 4, (1, 1, 0, 0), True)


def bands(seed=0, dtype=np.uint16):
  values = np.random.default_rng(seed).integers(1, 250, (32, 32, 3))
  return np.where(CLEAR[..., None], 0, values).astype(dtype)


def write_mask(path, values):
  """Writes a mask as a page of its own, as GDAL."""
  with tifffile.TiffWriter(path) as file:
    file.write(values, **PLAIN)
    mask = {'photometric': 'mask', 'subfiletype': 4, 'compression': 'zlib'}
    file.write(~CLEAR, **PLAIN | mask)


def write_alpha(path, values, is_map=True):
  alpha = np.where(CLEAR, 0, 255).astype(values.dtype)[..., None]
  tifffile.imwrite(
    path,
    np.concatenate([values, alpha], -1),
    photometric='rgb',
    extrasamples=['unassalpha'],
    metadata=None,
    extratags=[GEO_KEYS] if is_map else [],
  )


def write_sparse(path, values):
  """Writes tiles, of which the second is declared empty."""
  tifffile.imwrite(path, values, tile=(16, 16), **PLAIN)
  with tifffile.TiffFile(path) as file:
    places = [file.pages[0].tags[name].valueoffset for name in (324, 325)]
    sizes = [file.pages[0].tags[name].dtype.value for name in (324, 325)]
  with open(path, 'r+b') as file:
    for place, kind in zip(places, sizes, strict=True):
      size = {3: 2, 4: 4}[kind]
      file.seek(place + size)
      file.write(bytes(size))


WRITERS = {'mask': write_mask, 'alpha': write_alpha, 'sparse': write_sparse}


def hidden_by(kind, values):
  """Returns what a written file hides."""
  if kind == 'sparse':
    hidden = np.zeros(values.shape, bool)
    hidden[:16, 16:] = True
    return hidden
  return np.broadcast_to(CLEAR[..., None], values.shape)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize('kind', WRITERS)
def test_what_a_tiff_hides_is_no_data(kind, dtype, tmp_path):
  path = tmp_path / 'a.tif'
  values = np.random.default_rng(0).integers(0, 200, (32, 32, 3)).astype(dtype)
  WRITERS[kind](path, values)
  data, hidden = path.read_bytes(), hidden_by(kind, values)
  channels = 4 if kind == 'alpha' else 3
  for axes in ('', 'YXC'):
    stored = arrays.read_stored(data, Reading(axes=axes))
    assert stored.values.shape == (32, 32, channels)
    np.testing.assert_array_equal(stored.missing[..., :3], hidden)
    np.testing.assert_array_equal(
      stored.values[..., :3], np.where(hidden, 0, values)
    )
  assert slices.open_values(str(path)) is None
  options = {'channels': channels, 'shape': (32, 32)}
  with pytest.raises(NoData, match=r'25\.00% of its values are missing'):
    arrays.decode_array(data, **options)
  # Valid values are 0, too, and stay.
  masked = Reading(max_nodata=0.5)
  example = arrays.decode_array(data, reading=masked, **options)[..., :3]
  np.testing.assert_array_equal(np.isnan(example), hidden)
  np.testing.assert_array_equal(example[~hidden], values[~hidden])
  for reading in (Reading(nodata='none'), Reading(rules=2)):
    assert arrays.read_stored(data, reading).missing is None
  stated = arrays.read_stored(data, Reading(nodata='7')).missing[..., :3]
  np.testing.assert_array_equal(stated, hidden | (values == 7))


def test_alpha_of_what_is_no_map_is_a_channel(tmp_path):
  write_alpha(tmp_path / 'a.tif', bands(), is_map=False)
  stored = arrays.read_stored((tmp_path / 'a.tif').read_bytes())
  assert stored.missing is None and stored.values[16, 16].tolist() == [0] * 4


def test_masks_of_other_shapes_refuse_a_tiff(tmp_path):
  path, planes = tmp_path / 'a.tif', bands().transpose(2, 0, 1)
  options = {'photometric': 'minisblack', 'metadata': {'axes': 'CYX'}}
  tifffile.imwrite(path, planes, ome=True, **options)
  with tifffile.TiffFile(path) as file:
    xml = file.ome_metadata
  options['metadata'] = None
  for description, told in ((xml, 'in an OME-TIFF'), ('', 'of another shape')):
    with tifffile.TiffWriter(path) as file:  # As GDAL adds a mask to any file.
      file.write(planes, description=description, **options)
      file.write(~CLEAR, photometric='mask', subfiletype=4, metadata=None)
    with pytest.raises(UnreadableKind, match=f'has a mask {told}, .*gdalwarp'):
      arrays.read_stored(path.read_bytes())


@pytest.mark.parametrize('kind', WRITERS)
def test_crops_have_no_hidden_values(kind, folder, tmp_path):
  """The hidden ones are 0, and so are valid ones of other files."""
  values = np.full((32, 32, 3), 9, np.uint8)
  values[:, :4] = 0
  for index in range(3):
    values[-1, -1] = 9 + index  # Copies would share a split.
    WRITERS[kind](folder / f'{index}.tif', values)
  channels = 4 if kind == 'alpha' else 3
  options = {'shape': (8, 8), 'channels': channels}
  images = open_all(folder, tmp_path, **options)
  assert len(images) == 3 * 12  # 4 of 16 are hidden.
  for found in (everything(images), draw(images)):
    assert set(np.unique(found[..., :3])) <= {0, 9, 10, 11}
  masked = open_all(folder, tmp_path, **options, max_nodata=0.9)
  hidden = hidden_by(kind, values)
  examples = everything(masked)[..., :3]
  assert np.isnan(examples).any() == (len(masked) > 36)
  assert (examples == 0).sum() == 3 * ((values == 0) & ~hidden).sum()


def test_crops_of_full_range_need_a_number_to_mark_with():
  values = np.arange(258).astype(np.uint8)
  stored = arrays.Stored(values, 'X', np.arange(258) > 256, nodata='1')
  with pytest.raises(UnreadableKind, match=r'each number of uint8 .*center'):
    slices.marked(stored, Reading())
  assert slices.marked(stored, Reading(nodata='5')).nodata == '5'
  for dtype in (np.int8, np.uint8, np.int16, np.int32, np.uint32):
    limits = np.iinfo(dtype)
    values = np.array([limits.min, limits.min + 1, limits.max, 0], dtype)
    missing = np.array([False, False, False, True])
    opened = slices.marked(
      arrays.Stored(values, 'X', missing, nodata=str(limits.max)), Reading()
    )
    np.testing.assert_array_equal(opened.values == int(opened.nodata), missing)


def test_a_mask_beside_a_tiff_refuses_it(folder, tmp_path):
  for index in range(20):
    tifffile.imwrite(folder / f'{index:02}.tif', bands(index) + 1, **PLAIN)

  def names(**options):
    options |= {'path': folder, 'shape': (32, 32), 'channels': 3}
    return names_in(open_dataset('array_folder', tmp_path / 'data', **options))

  for kind in ('center', 'random'):
    assert len(names(crop=kind)) == 20
  open_dataset('scenes', tmp_path / 'data', path=folder, shape=(16, 16))
  # It is found also where the index is older.
  tifffile.imwrite(folder / '07.tif.msk', ~CLEAR, photometric='minisblack')
  for kind in ('center', 'random'):
    found = names(crop=kind)
    assert len(found) == 19 and '07.tif' not in found
  told = r"cannot be read as an array .*beside it, in '07\.tif\.msk'"
  used = {'channels': 3, 'shape': (32, 32)}
  with pytest.raises(UserError, match=told):
    Pictures(str(folder), DataConfig('array_folder', **used))[np.arange(20)]
  assert len(names(nodata='none')) == 20
  with pytest.raises(UserError, match=r"07\.tif' .*in a \.msk file beside it"):
    open_dataset('scenes', tmp_path / 'data', path=folder, shape=(16, 16))


def test_alpha_of_scenes_is_no_data(tmp_path):
  for tiled in (False, True):
    path = tmp_path / f'{tiled}.tif'
    write_alpha(path, np.full((32, 32, 3), 9, np.uint8))
    dataset = open_dataset('scenes', tmp_path / 'data', path=path, shape=(8, 8))
    images = load(dataset, 'train+test', channels=4)
    assert len(images) == 12  # 4 of 16 are hidden.
    assert (everything(images)[..., 3] == 255).all()


def test_masks_of_the_real_tools_are_read(tmp_path):
  tiles = {'tiled': True, 'blockxsize': 16, 'blockysize': 16}
  path = tmp_path / 'x.tif'
  for index, options in enumerate(
    ({}, {'interleave': 'band'}, {'compress': 'deflate', **tiles})
  ):
    values = np.moveaxis(bands(index) + 1, -1, 0)
    save_geotiff(path, values, mask=~CLEAR, **options)
    stored = arrays.read_stored(path.read_bytes())
    np.testing.assert_array_equal(
      stored.missing, hidden_by('mask', stored.values)
    )
    with pytest.raises(UserError, match='has a mask of its own'):
      open_dataset('scenes', tmp_path / 'data', path=path, shape=(8, 8))
    with_alpha = np.stack([*values, ~CLEAR * np.uint16(65535)])
    save_geotiff(path, with_alpha, photometric='rgb', alpha='yes', **options)
    missing = arrays.read_stored(path.read_bytes()).missing
    assert (missing == CLEAR[..., None]).all()
    sparse = {'height': 32, 'SPARSE_OK': True, **tiles, **options}
    save_geotiff(path, values[:, 16:], (0, 16), **sparse)
    missing = arrays.read_stored(path.read_bytes()).missing
    assert missing[:16].all() and not missing[16:].any()
