"""Crops from anywhere in larger arrays: which there are, and their values."""

import collections
import logging
import tarfile

import numpy as np
import pytest
import soundfile
import tifffile

from tests.data.opening import caches, open_splits
from tests.data.sounds_test import content, without_length
from vaegan_jax.data import crops, reading, slices
from vaegan_jax.data.batches import create_batches
from vaegan_jax.errors import UserError

RATE = 16_000


def positions(*shape, first=0):
  """Returns an array whose values are their own positions."""
  return (first + np.arange(np.prod(shape))).reshape(shape)


def open_crops(path, tmp_path, *fields, **options):
  """Returns the splits, and the lines that are printed."""
  options = {'name': 'array_folder', 'channels': 1, 'crop': 'random', **options}
  return open_splits(
    options.pop('name'), path, tmp_path / 'data', *fields, **options
  )


def open_all(path, tmp_path, **options):
  """Opens one split with all files."""
  options = {'train_split': 'train+test', **options}
  return open_crops(path, tmp_path, 'train_split', **options)[0]


def draw(images, number=40, **options):
  """Returns `number` training examples."""
  options = {'seed': 3, 'batch_size': 8, 'num_devices': 1, **options}
  batches = create_batches(images, **options)
  size = options['batch_size'] * options.get('num_parts', 1)
  size //= options.get('process_count', 1)
  return np.concatenate([next(batches)[0] for _ in range(number // size)])


def write_sounds(folder, lengths):
  """Writes sounds of which every sample of all has a value of its own."""
  for index, length in enumerate(lengths):
    sound = positions(length, 1, first=sum(lengths[:index])).astype(np.int16)
    soundfile.write(folder / f'{index:02}.wav', sound, RATE)


def test_the_grid_is_whole_in_the_middle_and_evenly_ordered(folder, tmp_path):
  lengths = [33, 16, 100, 9, 64, 33, 17, 300]
  write_sounds(folder, lengths)
  train, test, lines = open_crops(folder, tmp_path, shape=(8,))
  found = [*train[np.arange(len(train))], *test[np.arange(len(test))]]
  wanted, first = [], 0
  for length in lengths:
    offset = first + length % 8 // 2
    wanted += range(offset, offset + length // 8 * 8, 8)
    first += length
  assert sorted(int(crop[0, 0]) for crop in found) == wanted
  assert (np.diff(found, axis=1) == 1).all()
  told = f'data.train_split: {len(train)} crops of 8 fit side by side into 7'
  assert any(line.startswith(told) for line in lines)
  # The first ones are spread over all files, however many are taken.
  everything = open_all(folder, tmp_path, shape=(8,))
  for number in (8, 16, 32):
    starts = everything[np.arange(number)][:, 0, 0]
    assert np.diff(np.sort(starts)).max() <= 3 * sum(lengths) / number


def test_files_count_by_their_length_and_places_are_uniform(folder, tmp_path):
  write_sounds(folder, [40, 400, 9])
  images = open_all(folder, tmp_path, shape=(8,))
  found = draw(images, 4000)[:, :, 0]
  assert found.dtype == np.int16 and (np.diff(found, axis=1) == 1).all()
  for first, length in ((0, 40), (40, 400), (440, 9)):
    starts = found[:, 0]
    starts = starts[(starts >= first) & (starts < first + length)]
    assert len(starts) / 4000 * len(images) == pytest.approx(length // 8, 0.02)
    counts = collections.Counter(starts.tolist())
    assert set(counts) == set(range(first, first + length - 7))
    assert max(counts.values()) < 2.5 * np.mean(list(counts.values()))


def test_a_crop_is_a_function_of_seed_step_and_place(folder, tmp_path):
  write_sounds(folder, [90] * 5)
  images = open_all(folder, tmp_path, shape=(8,))
  whole = draw(images, 80, num_parts=2)
  np.testing.assert_array_equal(
    draw(images, 48, num_parts=2, start_step=2), whole[32:]
  )
  parts = [
    draw(images, 40, num_parts=2, process_index=n, process_count=2)
    for n in range(2)
  ]
  halves = [part.reshape(5, 2, 4, 8, 1) for part in parts]
  joined = np.concatenate(halves, 2).reshape(whole.shape)
  np.testing.assert_array_equal(joined, whole)
  assert (draw(images, seed=4) != draw(images)).any()
  # The next epoch has other places.
  epoch = len(images) // 8 * 8
  found = draw(images, 2 * epoch)
  assert (found[:epoch] != found[epoch:]).any()


def _save_flac(path, values):
  path.write_bytes(
    without_length(content(values.astype(np.int16), kind='FLAC'))
  )


def _save_tiff(path, values, **options):
  tifffile.imwrite(path, values, photometric='minisblack', **options)


CYX, ZYXC = {'axes': 'CYX'}, {'axes': 'ZYXC'}
SAVE = {
  'a.npy': np.save,
  'Fortran.npy': lambda path, x: np.save(path, np.asfortranarray(x)),
  'big endian.npy': lambda path, x: np.save(path, x.astype('>f8')),
  'a.tif': _save_tiff,
  'bands.tif': lambda path, x: _save_tiff(
    path, x, planarconfig='separate', metadata=CYX
  ),
  'compressed.tif': lambda path, x: _save_tiff(
    path, x, compression='zlib', metadata=ZYXC
  ),
  'a.npz': np.savez_compressed,
  'a.flac': _save_flac,
}


# S of the file, its channels as the first axis or the last one, S' of a crop,
# and whether files are read in place.
@pytest.mark.parametrize(
  ('name', 'space', 'first', 'last', 'shape', 'in_place'),
  [
    ('a.npy', (9, 7, 11), 0, 0, (3, 4, 5), True),
    ('Fortran.npy', (9, 13), 0, 2, (4, 4), True),
    ('big endian.npy', (9, 13), 2, 0, (2, 5), True),
    ('a.tif', (9, 7, 11), 0, 0, (3, 7, 5), True),
    ('bands.tif', (19, 17), 3, 0, (3, 3), True),
    ('compressed.tif', (9, 7, 11), 0, 2, (3, 4, 5), False),
    ('a.npz', (40, 301), 0, 0, (6, 7), False),
    ('a.flac', (5000,), 0, 2, (16,), True),
  ],
)
def test_crops_have_the_values_of_their_place(
  name, space, first, last, shape, in_place, folder, tmp_path, monkeypatch
):
  monkeypatch.setattr('vaegan_jax.data.whole_arrays._ROW', 100)
  if in_place:  # No limit is met.
    monkeypatch.setattr(reading, 'MAX_BYTES', 100)
  stored, wholes = [], []
  for index in range(3):  # Of lengths of their own.
    longer = (space[0] + index, *space[1:])
    stored_shape = (*(first,) * bool(first), *longer, *(last,) * bool(last))
    size = sum(x.size for x in stored)
    stored.append(positions(*stored_shape, first=size).astype(np.int32))
    SAVE[name](folder / f'{index}{name}', stored[-1])
    whole = np.moveaxis(stored[-1], 0, -1) if first else stored[-1]
    wholes.append(whole if first or last else whole[..., None])
  images = open_all(folder, tmp_path, shape=shape, channels=max(first, last, 1))
  size = int(np.prod([n // s for n, s in zip(space, shape, strict=True)]))
  assert len(images) >= 3 * size
  assert bool(caches(tmp_path)) == (not in_place)
  for found in (draw(images), images[np.arange(len(images))]):
    assert found.shape[1:] == (*shape, wholes[0].shape[-1])
    for crop in found:
      (whole,) = (x for x in wholes if x.min() <= crop.flat[0] <= x.max())
      *start, _ = np.argwhere(whole == crop.flat[0])[0]
      cuts = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
      np.testing.assert_array_equal(crop, whole[cuts])


@pytest.mark.parametrize('compression', [None, 'zlib'])
@pytest.mark.parametrize('dtype', ['int16', 'float32'])
def test_no_data_is_in_no_crop(compression, dtype, folder, tmp_path):
  tag = {'extratags': [(42113, 2, 0, '-9999', True)]}
  rng = np.random.default_rng(0)
  for index in range(3):
    values = rng.integers(1, 99, (20, 31)).astype(dtype)
    values[7:9, 13:] = -9999 if dtype == 'int16' or index else np.nan
    tifffile.imwrite(
      folder / f'{index}.tif', values, compression=compression, **tag
    )
  images = open_all(folder, tmp_path, shape=(4, 5))
  assert len(images) == 3 * (5 * 6 - 8)  # Two rows of four are without.
  for found in (draw(images, 400), images[np.arange(len(images))]):
    assert found.min() > 0
  with tarfile.open(tmp_path / 'a.tar', 'w') as archive:
    for path in sorted(folder.iterdir()):
      archive.add(path, path.name)
  options = {'shape': (4, 5), 'max_nodata': 0.3}
  for name, path in (('array_folder', folder), ('archive', tmp_path / 'a.tar')):
    images = open_all(path, tmp_path, name=name, **options)
    assert images.stored_dtype == dtype and images.dtype == np.float32
    for found in (draw(images, 400), images[np.arange(len(images))]):
      assert np.nanmin(found) > 0  # Up to 6 of 20 values are NaN.
      counts = np.isnan(found).sum((1, 2, 3))
      assert 0 < counts.max() <= 6


def test_what_is_short_or_damaged_is_counted_and_named(
  folder, tmp_path, caplog
):
  write_sounds(folder, [100] * 40)
  soundfile.write(folder / 'short.wav', np.zeros(7, np.int16), RATE)
  cut = (folder / '03.wav').read_bytes()[:-40]
  (folder / 'cut.wav').write_bytes(cut)
  with caplog.at_level(logging.WARNING):
    images = open_all(folder, tmp_path, shape=(8,))
  assert len(images) == 40 * 12
  assert 'Skipped 2 of 42 arrays' in caplog.text
  listed = next((tmp_path / 'data').rglob('damaged_images.txt')).read_text()
  assert "'short.wav': ValueError: it has 7 samples, and at least 8" in listed
  assert "'cut.wav': ValueError: it is truncated" in listed
  draw(images)
  for path in folder.glob('*.wav'):
    path.write_bytes(path.read_bytes() + b'LIST')
  told = r'cannot be read \(OSError: it has changed since the start\)'
  with pytest.raises(UserError, match=told):
    draw(open_all(folder, tmp_path, shape=(8,)) and images)


def _infinite(x):
  x[:, 9, 9] = np.inf


WRONG = {
  'infinite': (_infinite, {}, 'are damaged.*10 infinite'),
  'small': (None, {'shape': (8, 12, 8)}, 'is smaller than'),
  'channels': (None, {'channels': 3}, '--config.data.channels=1'),
  'axes': (None, {'shape': (8,)}, '--config.data.shape='),
  'no copy': (None, {'cache_images': False}, 'needs data.cache_images=true'),
}


@pytest.mark.parametrize('name', WRONG)
def test_what_cannot_be_cropped_is_one_sentence(name, folder, tmp_path):
  damage, options, told = WRONG[name]
  for index in range(3):
    values = np.zeros((10 + index, 10, 10), np.float32)
    if damage:
      damage(values)
    np.savez(folder / f'{index}.npz', values)
  with pytest.raises(UserError, match=told.replace('(', r'\(')):
    draw(open_all(folder, tmp_path, **{'shape': (8, 8, 8), **options}))


def test_a_full_disk_and_a_damaged_copy(folder, tmp_path, monkeypatch, caplog):
  for index in range(3):
    values = positions(50, 50, first=index * 2500).astype(np.float32)
    np.savez(folder / f'{index}.npz', values)
  with monkeypatch.context() as patch:
    patch.setattr('vaegan_jax.data.cache._MAX_USED', 0.0)
    with pytest.raises(UserError, match=r'3 compressed files \(OSError.*room'):
      open_all(folder, tmp_path, shape=(8, 8))
  images = open_all(folder, tmp_path, shape=(8, 8))
  wanted = draw(images)
  (path,) = caches(tmp_path)
  data = bytearray(path.read_bytes())
  for place in range(200, len(data), 5000):
    data[place] ^= 255
  path.unlink()  # It is still mapped.
  path.write_bytes(data)
  again = open_all(folder, tmp_path, shape=(8, 8))
  np.testing.assert_array_equal(draw(again), wanted)
  assert 'is damaged: ' in caplog.text and not path.exists()


def test_compressed_files_beside_others_are_alike(folder, tmp_path):
  for index in range(4):  # [C, Y, X] in the file; decoded, C is last.
    values = positions(3, 8, 9, first=index * 216).astype(np.uint16)
    compression = 'zlib' if index % 2 else None
    path = folder / f'{index}.tif'
    _save_tiff(path, values, metadata=CYX, compression=compression)
  images = open_all(folder, tmp_path, shape=(8, 9), channels=3)
  wanted = positions(4, 3, 8, 9).transpose(0, 2, 3, 1)
  found = images[np.arange(4)]
  np.testing.assert_array_equal(found[np.argsort(found[:, 0, 0, 0])], wanted)
  stated = open_all(folder, tmp_path, shape=(8, 9), channels=3, axes='CYX')
  np.testing.assert_array_equal(stated[np.arange(4)], found)


@pytest.mark.parametrize(
  ('options', 'told'),
  [
    ({'channels': 3, 'crop': 'random'}, '--config.data.channels=1$'),
    ({'shape': (9, 9, 9), 'crop': 'random'}, r'\(8, 6, 7\)"$'),
    ({'crop': 'center'}, r'or take crops of each, .*crop=random$'),
    ({'crop': 'center', 'channels': 3}, 'remove or convert these$'),
  ],
)
def test_a_store_that_does_not_fit_names_the_field(
  options, told, folder, tmp_path
):
  _archive(folder, [positions(8 + n % 2, 6, 7) for n in range(5)])
  options = {'name': 'archive', 'shape': (4, 3, 3), **options}
  with pytest.raises(UserError, match=told):
    open_crops(folder, tmp_path, **options)


def test_scans_of_other_axes_are_no_crops_either(folder, tmp_path):
  _scans(folder, [positions(8, 6, 7)] * 3 + [positions(8, 6, 7, 2)])
  options = {'name': 'medical', 'shape': (4, 3, 3), 'crop': 'center'}
  with pytest.raises(UserError, match=r'remove or convert these$'):
    open_crops(folder, tmp_path, **options)


@pytest.mark.parametrize('crop', ['center', 'random'])
@pytest.mark.parametrize(
  ('kind', 'told'),
  [
    ('rate', 'sample_rate=44100'),
    ('channels', 'channels=2'),
    ('dtype', 'float32'),
  ],
)
def test_files_that_are_not_alike_are_one_sentence(
  crop, kind, told, folder, tmp_path
):
  if kind == 'dtype':
    for index in range(5):
      dtype = np.float32 if index == 3 else np.int16
      np.save(folder / f'{index}.npy', positions(100).astype(dtype))
  else:
    write_sounds(folder, [100] * 5)
    rate, channels = (44_100, 1) if kind == 'rate' else (RATE, 2)
    soundfile.write(folder / '3.wav', np.zeros((100, channels)), rate)
  with pytest.raises(UserError, match=f'1 are not, such as .3.*{told}.*alike'):
    open_crops(folder, tmp_path, shape=(8,), crop=crop)


def test_large_files_are_not_damaged(folder, tmp_path, monkeypatch):
  write_sounds(folder, [100] * 3)
  monkeypatch.setattr(reading, 'MAX_BYTES', 150)
  with pytest.raises(UserError, match=r'cannot be read .* 150 .*crop=random'):
    open_crops(folder, tmp_path, shape=(8,), crop='center')
  assert len(open_all(folder, tmp_path, shape=(8,))) == 36


def test_large_files_are_read_in_parts(folder, tmp_path, monkeypatch):
  for index in range(2):
    np.save(folder / f'{index}.npy', np.full((1000, 90), index, np.float32))
  sizes, read = [], slices.Mapped.__getitem__

  def note(self, cuts):
    found = read(self, cuts)
    sizes.append(found.size)
    return found

  monkeypatch.setattr(slices.Mapped, '__getitem__', note)
  monkeypatch.setattr(crops, '_SLAB_BYTES', 5000)
  images = open_all(folder, tmp_path, shape=(4, 8))
  assert len(images) == 2 * 250 * 11
  assert max(sizes) <= 1250 and sum(sizes) == 2 * 90_000
  sizes.clear()
  draw(images, 16)
  # The batch, and what is prefetched.
  assert set(sizes) == {32} and len(sizes) <= 16 + 9 * 8


def _archive(folder, wholes):
  with tarfile.open(folder / 'a.tar', 'w') as archive:
    for index, whole in enumerate(wholes):
      path = folder.parent / f'{index}.npy'
      np.save(path, whole)
      archive.add(path, path.name)


def _scans(folder, wholes):
  nibabel = pytest.importorskip('nibabel')
  for index, whole in enumerate(wholes):
    image = nibabel.Nifti1Image(whole.astype(np.int16), np.eye(4))
    image.header.set_slope_inter(2, -7)
    suffix = '.nii.gz' if index % 2 else '.nii'
    nibabel.save(image, folder / f'{index}{suffix}')


STORES = {
  'archive': (_archive, 1, 0),
  'array_file': (lambda folder, w: np.save(folder / 'a.npy', w), 1, 0),
  'medical': (_scans, 2, -7),
}


@pytest.mark.parametrize('name', STORES)
def test_other_sources_have_crops(name, folder, tmp_path):
  write, scale, offset = STORES[name]
  wholes = [positions(9, 6, 7, first=n * 378) for n in range(4)]
  write(folder, wholes)
  images = open_all(folder, tmp_path, name=name, shape=(4, 3, 3))
  assert len(images) == 4 * 2 * 2 * 2
  starts = set()
  for crop in draw(images):
    assert crop.shape == (4, 3, 3, 1)
    start = (crop[0, 0, 0, 0] - offset) / scale
    starts.add(start % 378)
    wanted = start + positions(9, 6, 7)[:4, :3, :3]
    np.testing.assert_array_equal((crop[..., 0] - offset) / scale, wanted)
  assert len(starts) > 20
