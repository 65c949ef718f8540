"""TIFFs as tools write them: axes, sets, planes, types that are no image."""

import importlib.util
import io
import struct
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.data.contents import encode, save_geotiff, tiff
from tests.data.opening import (
  everything,
  load,
  names_in,
  open_dataset,
  open_folder,
  open_splits,
  read_array,
)
from vaegan_jax.data import (
  arrays,
  decode,
  ome_sets,
  slices,
  tiff_images,
)
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.reading import PartOfSet, Reading, UnreadableKind
from vaegan_jax.errors import UserError

VALUES = np.random.default_rng(0).integers(0, 2**16, (6, 8, 8)).astype('uint16')


def ome_xml(content, order='XYCZT', **sizes):
  sizes = ''.join(f'Size{axis}="{n}" ' for axis, n in sizes.items())
  return (
    '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicro'
    'scopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
    f'DimensionOrder="{order}" Type="uint16" {sizes}>{content}</Pixels></Image>'
    '</OME>'
  )


def ome_set(planes=VALUES[:3], name='cell', companion=''):
  """Returns {file: content} of a set, one file a channel, as Bio-Formats."""
  number, height, width = planes.shape
  names = [f'{name}_C{i}.ome.tif' for i in range(number)]
  data = ''.join(
    f'<TiffData FirstC="{i}" IFD="0" PlaneCount="1"><UUID FileName="{n}">'
    f'urn:uuid:{i}</UUID></TiffData>'
    for i, n in enumerate(names)
  )
  channels = ''.join(
    f'<Channel ID="Channel:0:{i}" SamplesPerPixel="1"/>' for i in range(number)
  )
  xml = ome_xml(channels + data, X=width, Y=height, C=number, Z=1, T=1)
  if companion:
    xml = f'<OME><BinaryOnly MetadataFile="{companion}" UUID="urn:u"/></OME>'
  return {
    n: tiff(plane, description=xml, metadata=None)
    for n, plane in zip(names, planes, strict=True)
  }


@pytest.mark.parametrize('companion', ['', 'cell.companion.ome'])
def test_a_file_of_an_ome_set_is_no_example(companion, tmp_path):
  files = ome_set(companion=companion)
  told = 'one file of an OME-TIFF set.*tifffile.imwrite'
  for data in files.values():
    with pytest.raises(UnreadableKind, match=told):
      arrays.read_stored(data)
    with pytest.raises(UnreadableKind, match=told):
      decode.read_image(data)
  for name, data in files.items():
    (tmp_path / name).write_bytes(data)
  refused = ('image_folder', 'array_folder') if companion else ('image_folder',)
  for source in refused:
    with pytest.raises(UserError, match=f'3 of 3 .* cannot be read.*{told}'):
      open_dataset(source, tmp_path / 'data', path=tmp_path)
  if not companion:  # The remedy of the message, as it is written there.
    whole = tifffile.imread(tmp_path / 'cell_C1.ome.tif')
    np.testing.assert_array_equal(whole, VALUES[:3])
    data = tiff(whole, metadata={'axes': 'CYX'})
    example = arrays.decode_array(data, channels=3, shape=(8, 8))
    np.testing.assert_array_equal(example, np.moveaxis(VALUES[:3], 0, -1))


def write_sets(folder, count=12):
  """Writes sets of three channels, and returns {first file: [Y, X, C]}."""
  wanted = {}
  for index in range(count):
    rng = np.random.default_rng(index)
    planes = rng.integers(1, 999, (3, 8, 8)).astype(np.uint16)
    place = folder / f'plate{index % 2}'
    place.mkdir(parents=True, exist_ok=True)
    for name, data in ome_set(planes, f'cell{index:02}').items():
      (place / name).write_bytes(data)
    first = f'plate{index % 2}/cell{index:02}_C0.ome.tif'
    wanted[first] = np.moveaxis(planes, 0, -1)
  return wanted


def test_a_set_of_files_is_one_example(tmp_path, caplog):
  wanted = write_sets(tmp_path / 'cells')
  fields = {'path': tmp_path / 'cells', 'channels': 3, 'shape': (8, 8)}
  for _ in range(2):  # From the files, and from the index.
    dataset = open_dataset('array_folder', tmp_path / 'data', **fields)
    assert (dataset.shape, dataset.axes) == ((8, 8, 3), 'YXC')
    assert names_in(dataset) == set(wanted)
    for split in dataset.counts:
      images = load(dataset, split, channels=3, shape=(8, 8))
      for index, example in enumerate(everything(images)):
        name = dataset._names[split][index]
        np.testing.assert_array_equal(example, wanted[name])
  assert 'Skipped 24 of 36 arrays' in caplog.text


@pytest.mark.parametrize('lost', ['C0', 'C2'])
def test_a_set_without_a_file_is_damaged(lost, tmp_path):
  write_sets(tmp_path / 'cells', 2)
  (tmp_path / 'cells' / 'plate0' / f'cell00_{lost}.ome.tif').unlink()
  with pytest.raises(UserError, match=f'set lacks the file .cell00_{lost}'):
    open_dataset('array_folder', tmp_path / 'data', path=tmp_path / 'cells')


def test_a_set_reads_nothing_elsewhere(tmp_path):
  folder = tmp_path / 'cells'
  write_sets(folder, 2)
  for path in folder.glob('*/*.tif'):
    old, new = b'FileName="cell00_C2', b'FileName="../l00_C2'
    data = path.read_bytes().replace(old, new)
    path.write_bytes(data)
  with pytest.raises(UserError, match='which is in another folder'):
    open_dataset('array_folder', tmp_path / 'data', path=folder)


@pytest.mark.parametrize('compression', [None, 'zlib'])
def test_a_palette_is_its_colors_as_in_a_png(compression, tmp_path):
  indices = (VALUES[0] % 4).astype(np.uint8)
  colors = np.array([[9, 0, 7], [1, 2, 3], [255, 4, 0], [5, 5, 5]], np.uint8)
  image = Image.fromarray(indices, 'P')
  image.putpalette(colors.tobytes())
  colormap = np.zeros((3, 256), np.uint16)
  colormap[:, :4] = colors.T * np.uint16(257)
  options = {'photometric': 'palette', 'colormap': colormap}
  data = tiff(indices, compression=compression, **options)
  shape = {'channels': 3, 'shape': (8, 8)}
  for found in (data, encode(image)):
    example = arrays.decode_array(found, **shape)
    np.testing.assert_array_equal(example, colors[indices])
  old = arrays.read_stored(data, Reading(rules=2))  # Earlier runs keep them.
  np.testing.assert_array_equal(old.values, indices)
  (tmp_path / 'x.tif').write_bytes(data)
  assert slices.open_values(str(tmp_path / 'x.tif')) is None
  tag = (42113, 's', 0, '2', True)  # An index means no data.
  data = tiff(indices, compression=compression, extratags=[tag], **options)
  missing = arrays.read_stored(data).missing
  np.testing.assert_array_equal(
    missing, np.repeat(indices[..., None] == 2, 3, -1)
  )
  missing = arrays.read_stored(data, Reading(nodata='4')).missing
  np.testing.assert_array_equal(missing, colors[indices] == 4)


@pytest.mark.parametrize('is_ome', [True, False])
def test_several_images_of_a_file_are_no_example(is_ome, tmp_path):
  path = tmp_path / ('x.ome.tif' if is_ome else 'x.tif')
  with tifffile.TiffWriter(path, ome=is_ome) as file:
    for values in VALUES[:3]:
      file.write(values)
  told = r'it holds 3 images.*tifffile\.imwrite\(new, .* series=0\)'
  assert slices.open_values(str(path)) is None
  with pytest.raises(UnreadableKind, match=told):
    arrays.read_stored(path.read_bytes())
  np.testing.assert_array_equal(tifffile.imread(path, series=0), VALUES[0])
  with tifffile.TiffWriter(path, ome=False) as file:  # And a thumbnail.
    file.write(VALUES[0], metadata=None)
    file.write(VALUES[0, ::2, ::2], subfiletype=1, metadata=None)
  stored = arrays.read_stored(path.read_bytes())
  np.testing.assert_array_equal(stored.values, VALUES[0])


@pytest.mark.parametrize('order', ['XYCZT', 'XYZCT', 'XYTZC'])
def test_planes_are_placed_by_their_order(order, tmp_path):
  """Each file has a channel, as pages in the order of the other axes."""
  stack = np.arange(2 * 3 * 4 * 8 * 8).reshape(2, 3, 4, 8, 8).astype(np.uint16)
  blocks, files = '', {}
  inner = order[2:].replace('C', '')  # The fastest first.
  for channel in range(4):
    pages, name = [], f'c{channel}.ome.tif'
    sizes = {'T': 2, 'Z': 3}
    for slow in range(sizes[inner[1]]):
      for fast in range(sizes[inner[0]]):
        place = {inner[0]: fast, inner[1]: slow}
        blocks += (
          f'<TiffData FirstC="{channel}" FirstZ="{place["Z"]}" '
          f'FirstT="{place["T"]}" IFD="{len(pages)}" PlaneCount="1">'
          f'<UUID FileName="{name}">u{channel}</UUID></TiffData>'
        )
        pages.append(stack[place['T'], place['Z'], channel])
    files[name] = np.stack(pages)
  xml = ome_xml(blocks, order, X=8, Y=8, C=4, Z=3, T=2)
  options = {'photometric': 'minisblack', 'metadata': None}
  contents = {
    name: tiff(pages, description=xml, **options)
    for name, pages in files.items()
  }
  joined = ome_sets.join(
    'c0.ome.tif', contents['c0.ome.tif'], contents, contents.get
  )
  with tifffile.TiffFile(io.BytesIO(joined)) as file:
    assert file.series[0].axes == 'TZCYX'
    np.testing.assert_array_equal(file.asarray(), stack)
  for name, content in contents.items():
    (tmp_path / name).write_bytes(content)
  with tifffile.TiffFile(tmp_path / 'c0.ome.tif') as file:  # Reads all four.
    (series,) = file.series
    order = ['TZCYX'.index(axis) for axis in series.axes]
    np.testing.assert_array_equal(series.asarray(), stack.transpose(order))
  with pytest.raises(PartOfSet, match=r"set of 'c0\.ome\.tif'"):
    ome_sets.join('c2.ome.tif', contents['c2.ome.tif'], contents, contents.get)


def test_a_plane_that_is_missing_is_never_zeros():
  data = tiff(VALUES[:2], ome=True, metadata={'axes': 'CYX'})
  whole = arrays.decode_array(data, channels=2, shape=(8, 8))
  np.testing.assert_array_equal(whole[..., 1], VALUES[1])
  data = data.replace(b'SizeC="2"', b'SizeC="3"')
  with pytest.raises(ValueError, match=r'1 of the 3 planes .* are missing'):
    arrays.read_stored(data)


@pytest.mark.parametrize(
  ('options', 'axes'),
  [
    ({'metadata': {'axes': 'ZYX'}}, 'ZYX'),
    ({'metadata': {'axes': 'TYX'}}, 'TYX'),
    ({'metadata': {'axes': 'QYX'}}, 'QYX'),
    ({}, 'QYX'),
    ({'metadata': None}, 'QYX'),  # Pages, as libtiff writes them.
    ({'imagej': True, 'metadata': {'axes': 'ZYX'}}, 'ZYX'),
    ({'ome': True, 'metadata': {'axes': 'ZYX'}}, 'ZYX'),
  ],
)
def test_pages_are_as_deep_as_they_say(options, axes):
  """Channels that the last axis has, too, are those of the pages."""
  pages = np.concatenate([VALUES, VALUES[:2]])  # 8 x 8 x 8.
  data = tiff(pages, photometric='minisblack', **options)
  assert arrays.read_stored(data).axes == axes
  example = arrays.decode_array(data, channels=8, shape=(8, 8))
  np.testing.assert_array_equal(example, np.moveaxis(pages, 0, -1))
  volume = arrays.decode_array(data, channels=1, shape=(8, 8, 8))
  np.testing.assert_array_equal(volume[..., 0], pages)
  # Earlier versions transposed them, and their runs go on so.
  old = {'channels': 8, 'shape': (8, 8), 'reading': Reading(rules=2)}
  np.testing.assert_array_equal(arrays.decode_array(data, **old), pages)


@pytest.mark.parametrize('axes', ['ZCYX', 'CZYX'])
@pytest.mark.parametrize('kind', ['ome', 'imagej', 'shaped'])
def test_channels_are_found_by_their_name(axes, kind):
  if (axes, kind) == ('CZYX', 'imagej'):  # It has one order of its own.
    pytest.skip('no such file')
  stack = VALUES[:6].reshape(3, 2, 8, 8)
  options = {kind: True} if kind != 'shaped' else {}
  data = tiff(
    stack, metadata={'axes': axes}, photometric='minisblack', **options
  )
  channels = stack.shape[axes.index('C')]
  depth = stack.shape[axes.index('Z')]
  example = arrays.decode_array(data, channels=channels, shape=(depth, 8, 8))
  moved = stack.transpose([axes.index(a) for a in 'ZYXC'])
  np.testing.assert_array_equal(example, moved)
  with pytest.raises(
    ValueError, match=r'axes are ZYXC .* 2 of space are needed'
  ):
    arrays.decode_array(data, channels=channels, shape=(8, 8))


@pytest.mark.parametrize('axes', ['CYX', 'YXC', 'XYC', 'CXY'])
def test_stated_axes_are_used_for_any_file(axes, tmp_path):
  canonical = VALUES[:, :, :5].transpose(1, 2, 0)  # [Y, X, C] = [8, 5, 6].
  stored = canonical.transpose(['YXC'.index(a) for a in axes])
  options = {'channels': 6, 'shape': (8, 5), 'reading': Reading(axes=axes)}
  for data in (
    arrays.encode_npy(stored),
    tiff(np.ascontiguousarray(stored), photometric='minisblack'),
    stored,
  ):
    example = arrays.decode_array(data, **options)
    np.testing.assert_array_equal(example, canonical)
  with pytest.raises(ValueError, match='has not the axes'):
    arrays.decode_array(stored[0], **options)


def test_stated_axes_settle_what_is_ambiguous(folder, tmp_path):
  for index in range(12):
    cube = np.random.default_rng(index).integers(0, 99, (6, 6, 6))
    np.save(folder / f'{index}.npy', cube.astype(np.uint8))

  def open_one(**options):
    options |= {'channels': 6, 'shape': (6, 6)}
    images, _ = open_splits(
      'array_folder', folder, tmp_path / 'data', 'train_split', **options
    )
    return images

  told = r'data\.axes must tell .*axes=YXC for the last, or .*axes=CYX'
  with pytest.raises(UserError, match=told):
    open_one()
  first, last = (open_one(axes=axes) for axes in ('CYX', 'YXC'))
  moved = np.moveaxis(everything(last), 1, -1)
  np.testing.assert_array_equal(everything(first), moved)
  assert first.fingerprint != last.fingerprint
  old = everything(open_one(folder_rules=2))
  np.testing.assert_array_equal(old, everything(last))


def image(data, **options):
  size = Image.open(io.BytesIO(data)).size[::-1]
  return decode.decode_image(data, channels=3, image_size=size, **options)


@pytest.mark.parametrize('compression', [None, 'zlib'])
@pytest.mark.parametrize('dtype', ['uint8', 'uint16'])
def test_bands_one_by_one_are_the_pixels_side_by_side(dtype, compression):
  pixels = VALUES[:3].astype(dtype)
  data = tiff(
    pixels,
    photometric='rgb',
    planarconfig='separate',
    compression=compression,
  )
  want = np.moveaxis(VALUES[:3] >> 8 if dtype == 'uint16' else pixels, 0, -1)
  np.testing.assert_array_equal(image(data), want)
  old = image(data, rules=2)  # Low and high bytes, as pixels.
  is_wrong = dtype == 'uint16' and compression is None
  assert (old != want).any() == is_wrong
  assert tiff_images.describe(data) == (1, is_wrong)


def test_grey_of_16_bits_is_inverted_as_that_of_8():
  for dtype, want in ((np.uint16, VALUES[0] >> 8), (np.uint8, VALUES[0] % 256)):
    values = VALUES[0] if dtype == np.uint16 else want.astype(np.uint8)
    white_is_0 = tiff(values, photometric='miniswhite')
    np.testing.assert_array_equal(image(white_is_0)[..., 0], 255 - want)
    black_is_0 = tiff(values, photometric='minisblack')
    np.testing.assert_array_equal(image(black_is_0)[..., 0], want)
  data = tiff(VALUES[0], photometric='miniswhite')
  np.testing.assert_array_equal(image(data, rules=2)[..., 0], VALUES[0] >> 8)


@pytest.mark.parametrize('compression', [None, 'zlib'])
@pytest.mark.parametrize('planarconfig', ['separate', 'contig'])
@pytest.mark.parametrize('bands', [2, 4, 13])
def test_more_bands_than_an_image_has_are_refused(
  bands, planarconfig, compression
):
  shape = (bands, 8, 8) if planarconfig == 'separate' else (8, 8, bands)
  data = tiff(
    np.zeros(shape, np.uint8),
    photometric='minisblack',
    planarconfig=planarconfig,
    compression=compression,
  )
  with pytest.raises(
    UnreadableKind, match=f'a TIFF with {bands} bands.*array_folder'
  ):
    decode.read_image(data)
  assert read_array(data).size == bands * 64


@pytest.mark.parametrize(
  ('dtype', 'told'),
  [
    ('int8', 'signed integers of 8 bits'),
    ('int16', 'signed integers of 16 bits'),
    ('int32', 'signed integers of 32 bits'),
    ('uint32', 'unsigned integers of 32 bits'),
    ('float32', 'floats of 32 bits'),
  ],
)
@pytest.mark.parametrize('photometric', ['minisblack', 'miniswhite'])
def test_numbers_without_a_fixed_white_are_refused(dtype, told, photometric):
  data = tiff(VALUES[0].astype(dtype), photometric=photometric)
  with pytest.raises(UnreadableKind, match=f'{told}.*array_folder'):
    decode.read_image(data)
  np.testing.assert_array_equal(read_array(data), VALUES[0].astype(dtype))


def test_a_folder_reports_pages_and_skips_bands(folder, tmp_path, caplog):
  for index in range(12):
    pixels = np.full((8, 8), 1000 * index + 9, np.uint16)
    data = tiff(pixels, photometric='miniswhite')
    (folder / f'{index:02}.tif').write_bytes(data)
  (folder / 'stack.tif').write_bytes(
    tiff(VALUES.astype(np.uint8), photometric='minisblack')
  )
  (folder / 'bands.tif').write_bytes(
    tiff(VALUES, photometric='minisblack', planarconfig='separate')
  )
  new = open_folder(folder, tmp_path / 'data')
  assert 'Skipped 1 of 14 images' in caplog.text
  assert "'bands.tif' (it is a TIFF with 6 bands" in caplog.text
  assert new.reading_key == ('tiff',)
  lines = new.report(DataConfig('image_folder', image_size=8))
  (line,) = (line for line in lines if "'stack.tif' (6 pages)" in line)
  assert '1 of 13 images are TIFFs of several pages' in line
  fingerprints = {load(new, 'train').fingerprint}
  for path in (folder / 'stack.tif', folder / 'bands.tif'):
    path.unlink()
  old, now = (
    open_folder(folder, tmp_path / 'data', folder_rules=rules)
    for rules in (2, 3)
  )
  old, now = load(old, folder_rules=2), load(now)
  np.testing.assert_array_equal(everything(old), 255 - everything(now))
  fingerprints |= {old.fingerprint, now.fingerprint}
  assert len(fingerprints) == 3


def test_an_orientation_is_kept_for_bands_one_by_one():
  data = tiff(
    VALUES[:3],
    photometric='rgb',
    planarconfig='separate',
    extratags=[(274, 'H', 1, 6, True)],
  )
  upright = np.rot90(np.moveaxis(VALUES[:3] >> 8, 0, -1), -1)
  np.testing.assert_array_equal(image(data), upright)


@pytest.mark.skipif(
  importlib.util.find_spec('imagecodecs') is not None
  or sys.version_info >= (3, 14),
  reason='it reads Zstd',
)
def test_zstd_without_its_library_is_not_damaged():
  data = tiff(VALUES[0])
  entry = struct.pack('<HHI', 259, 3, 1)  # Compression.
  plain, zstd = (entry + struct.pack('<I', n) for n in (1, 50000))
  assert data.count(plain) == 1
  with pytest.raises(UnreadableKind, match='pip install imagecodecs'):
    read_array(data.replace(plain, zstd))


@pytest.mark.parametrize('compression', ['zstd', 'lzw', 'jpeg_2000_lossy'])
def test_compressed_tiffs_are_exact_with_their_library(compression):
  pytest.importorskip('imagecodecs')
  lossless = {'compressionargs': {'reversible': True}}
  options = lossless if compression == 'jpeg_2000_lossy' else {}
  data = tiff(VALUES[0], compression=compression, **options)
  np.testing.assert_array_equal(read_array(data), VALUES[0])


@pytest.mark.parametrize('interleave', ['band', 'pixel'])
@pytest.mark.parametrize('compress', ['none', 'deflate', 'zstd'])
def test_files_of_rasterio_are_exact(interleave, compress, tmp_path):
  """Its default profile stores bands one by one."""
  if compress == 'zstd':
    pytest.importorskip('imagecodecs')
  values, path = VALUES[:5].copy(), tmp_path / 'a.tif'
  values[:, 2, 3] = 7
  options = {'interleave': interleave, 'compress': compress}
  save_geotiff(path, values, nodata=7, **options)
  stored = arrays.read_stored(path.read_bytes())
  np.testing.assert_array_equal(stored.missing.sum(), 5)
  example = arrays.decode_array(
    path.read_bytes(),
    channels=5,
    shape=(8, 8),
    reading=Reading(max_nodata=0.1),
  )
  valid = np.ones((8, 8), bool)
  valid[2, 3] = False
  np.testing.assert_array_equal(
    example[valid], np.moveaxis(values, 0, -1)[valid]
  )
  assert np.isnan(example[2, 3]).all()
  with pytest.raises(UnreadableKind, match='a TIFF with 5 bands'):
    decode.read_image(path.read_bytes())
