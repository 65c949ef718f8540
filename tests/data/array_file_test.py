"""Files with many examples: values, order, splits, and what is refused."""

import json
import pickle

import numpy as np
import pytest

from tests.data.contents import Trap, cut, encrypted, traps
from tests.data.opening import (
  everything,
  load,
  open_dataset,
  open_splits,
  report,
)
from vaegan_jax.data import containers, no_data
from vaegan_jax.data.reading import Reading
from vaegan_jax.data.split import whole_of
from vaegan_jax.data.store import Blocks, hash_numbers
from vaegan_jax.errors import UserError

h5py = pytest.importorskip('h5py')
scipy_io = pytest.importorskip('scipy.io')

SHAPE = {'shape': (6, 5), 'channels': 3}
X = np.random.default_rng(0).integers(0, 4000, (40, 6, 5, 3)).astype(np.uint16)


def save_hdf5(path, chunks=True, **arrays):
  with h5py.File(path, 'w') as file:
    for name, array in arrays.items():
      file.create_dataset(name, data=array, chunks=chunks, compression=None)
  return path


def save_zarr(path, version=3, **options):
  zarr = pytest.importorskip('zarr')
  written = zarr.create_array(
    str(path),
    shape=X.shape,
    chunks=(7, 3, 5, 2),
    dtype=X.dtype,
    zarr_format=version,
    **options,
  )
  written[:] = X
  return path


def save_mat73(path, array):
  """Writes as MATLAB does, whose axes are stored in reverse."""
  with h5py.File(path, 'w', userblock_size=512) as file:
    file.create_dataset('x', data=array.T, chunks=True)
    file['x'].attrs['MATLAB_class'] = np.bytes_(b'uint16')
    file['name'] = np.zeros((1, 3), np.uint16)
    file['name'].attrs['MATLAB_class'] = np.bytes_(b'char')
  with open(path, 'r+b') as file:
    file.write(b'MATLAB 7.3 MAT-file, Platform: GLNXA64')
  return path


def npy(path, array, **options):
  np.save(path, array, **options)
  return path


def npz(path, save=np.savez, **arrays):
  save(path, **arrays)
  return path


def mat(path, **arrays):
  scipy_io.savemat(path, arrays, do_compression=True)
  return path


def open_file(path, tmp_path, **fields):
  fields = {**SHAPE, **fields}
  return open_dataset('array_file', tmp_path / 'data', path=path, **fields)


def read_all(path, tmp_path, *, cache=True, **fields):
  """Returns the examples in the order of the file, and the splits."""
  dataset = open_file(path, tmp_path, **fields)
  options = {'cache_images': cache, **SHAPE}
  parts = {s: everything(load(dataset, s, **options)) for s in dataset.counts}
  numbers = np.concatenate([dataset._numbers[s] for s in parts])
  return np.concatenate(list(parts.values()))[np.argsort(numbers)], parts


FILES = {
  'npy': lambda p: npy(p / 'x.npy', X),
  'fortran': lambda p: npy(p / 'x.npy', np.asfortranarray(X)),
  'npz': lambda p: npz(p / 'x.npz', x=X, y=np.arange(40)),
  'npz deflated': lambda p: npz(p / 'x.npz', np.savez_compressed, x=X),
  'hdf5': lambda p: save_hdf5(p / 'x.h5', x=X, labels=np.zeros((40, 1))),
  'hdf5 contiguous': lambda p: save_hdf5(p / 'x.h5', None, x=X),
  'mat 5': lambda p: mat(p / 'x.mat', x=X, name='cells'),
  'mat 7.3': lambda p: save_mat73(p / 'x.mat', X),
  'zarr 2': lambda p: save_zarr(p / 'x.zarr', version=2),
  'zarr 3': lambda p: save_zarr(p / 'x.zarr'),
  'zarr shards': lambda p: save_zarr(p / 'x.zarr', shards=(14, 6, 5, 4)),
}


@pytest.mark.parametrize('kind', FILES)
def test_values_are_exact_whatever_the_file(kind, tmp_path):
  path = FILES[kind](tmp_path)
  uncached, _ = read_all(path, tmp_path, cache=False)
  np.testing.assert_array_equal(uncached, X)
  read, parts = read_all(path, tmp_path)
  np.testing.assert_array_equal(read, X)
  assert read.dtype == np.uint16
  held_out = np.flatnonzero(hash_numbers(40) % np.uint64(10) == 0)
  np.testing.assert_array_equal(parts['test'], X[held_out])


@pytest.mark.parametrize('kind', ('npy', 'hdf5', 'mat 5', 'mat 7.3'))
def test_examples_may_be_along_another_axis(kind, tmp_path, monkeypatch):
  last = np.moveaxis(X, 0, -1)
  monkeypatch.setitem(globals(), 'X', last)
  path = FILES[kind](tmp_path)
  read, _ = read_all(path, tmp_path, example_axis=-1)
  np.testing.assert_array_equal(read, np.moveaxis(last, -1, 0))
  with pytest.raises(UserError, match=r'--config\.data\.example_axis=3') as e:
    open_file(path, tmp_path)
  assert 'takes 6 examples of [5, 3, 40]' in str(e.value)


@pytest.mark.parametrize(
  ('names', 'splits'),
  [
    (('x_train', 'x_test'), ('train', 'test')),
    (('train/x', 'val/x'), ('train', 'test')),
    (('trainX', 'testX', 'validX'), ('train', 'test', 'validation')),
  ],
)
def test_keys_name_splits(names, splits, tmp_path):
  arrays = {name: X[i : i + 9] for i, name in enumerate(names)}
  labels = {
    name.replace('x', 'y').replace('X', 'Y'): np.arange(9) for name in names
  }
  dataset = open_file(
    save_hdf5(tmp_path / 'x.h5', **arrays, **labels), tmp_path
  )
  assert dataset.counts == dict.fromkeys(splits, 9)
  for i, split in enumerate(splits):
    read = everything(load(dataset, split, **SHAPE))
    np.testing.assert_array_equal(read, X[i : i + 9])
  assert 'as the files say' in dataset.report(None)[0]


def test_a_folder_may_have_a_file_for_each_split(folder, tmp_path):
  npy(folder / 'train.npy', X[:30])
  npy(folder / 'test_images.npy', X[30:])
  dataset = open_file(folder, tmp_path)
  read = everything(load(dataset, 'test', **SHAPE))
  np.testing.assert_array_equal(read, X[30:])
  npy(folder / 'more.npy', X)
  with pytest.raises(UserError, match='has 3 files with arrays'):
    open_file(folder, tmp_path)


def test_a_file_that_grows_moves_no_example(tmp_path):
  path = npy(tmp_path / 'x.npy', X[:30])
  before = open_file(path, tmp_path)
  npy(path, X)
  after = open_file(path, tmp_path)
  for split in ('train', 'test'):
    numbers = after._numbers[split]
    np.testing.assert_array_equal(numbers[numbers < 30], before._numbers[split])
  assert before.content_hash != after.content_hash
  assert hash_numbers(3)[:2].tolist() == hash_numbers(2).tolist()


def test_a_copy_is_the_same_data_and_a_change_is_not(tmp_path):
  first = open_file(npy(tmp_path / 'a.npy', X), tmp_path)
  packed = save_hdf5(tmp_path / 'b.h5', x=X)
  assert open_file(packed, tmp_path).content_hash == first.content_hash
  changed = X.copy()
  changed[7, 2, 1, 0] ^= 1
  other = open_file(npy(tmp_path / 'a.npy', changed), tmp_path)
  assert other.content_hash != first.content_hash


def test_each_chunk_is_read_once(tmp_path, monkeypatch):
  path, read = save_hdf5(tmp_path / 'x.h5', (8, 2, 5, 1), x=X), []
  original = containers.Rows._read
  monkeypatch.setattr(
    containers.Rows,
    '_read',
    lambda self, *rows: read.append(rows) or original(self, *rows),
  )
  dataset = open_file(path, tmp_path)
  blocks = [(first, first + 8) for first in range(0, 40, 8)]
  assert sorted(read) == blocks
  assert '8 examples at a time' in dataset.report(None)[1]
  images = load(dataset, 'train', **SHAPE)
  np.testing.assert_array_equal(
    everything(images), X[dataset._numbers['train']]
  )
  assert len(read) == 2 * len(blocks)
  read.clear()
  again = open_file(path, tmp_path)  # From the index and the memory map.
  everything(load(again, 'train', **SHAPE))
  assert read == []


def test_blocks_are_bounded_in_size(monkeypatch):
  monkeypatch.setattr(Blocks, 'LIMIT', 100)
  blocks = Blocks(lambda first, end: np.arange(first, end), 50, 30, 10)
  assert blocks.rows == 10
  assert [int(blocks[n]) for n in (0, 49, 11, 30)] == [0, 49, 11, 30]
  assert len(blocks._recent._kept) == 2


def test_what_is_not_finite_is_skipped_and_named(tmp_path, caplog):
  values = X.astype(np.float32)
  values[3, 0, 0, 0] = np.inf
  dataset = open_file(save_hdf5(tmp_path / 'x.h5', x=values), tmp_path)
  assert sum(dataset.counts.values()) == 39
  assert 3 not in np.concatenate(list(dataset._numbers.values()))
  assert 'Skipped 1 of 40 examples' in caplog.text
  assert (
    'x[3] (ValueError: of 90 values 0 are NaN and 1 infinite' in caplog.text
  )
  values[4:9] = np.inf
  with pytest.raises(UserError, match=r'6 cannot be read, such as x\[3'):
    open_file(save_hdf5(tmp_path / 'x.h5', x=values), tmp_path)


def test_declared_no_data_is_skipped_and_a_scale_is_refused(tmp_path):
  path = save_hdf5(tmp_path / 'x.h5', x=np.maximum(X, 1))
  with h5py.File(path, 'r+') as file:
    file['x'][5, 1, 1, 1] = 0
    file['x'].attrs['_FillValue'] = np.uint16(0)
  dataset = open_file(path, tmp_path)
  assert sum(dataset.counts.values()) == 39
  assert 'Skipped 1 of 40 examples with more no data' in report(dataset)
  with h5py.File(path, 'r+') as file:
    file['x'].attrs['scale_factor'] = 0.1
  with pytest.raises(UserError, match='scale_factor is not applied'):
    open_file(path, tmp_path)


def save_elsewhere(path):
  """Writes a dataset whose bytes are those of another file."""
  secret = path.parent / 'secret'
  secret.write_bytes(bytes(range(240)))
  with h5py.File(path, 'w') as file:
    external = [(str(secret), 0, 240)]
    file.create_dataset('x', (4, 6, 10), np.uint8, external=external)
    file['y'] = h5py.ExternalLink(str(path.parent / 'other.h5'), 'x')
  return path


def save_zarr_pickle(path):
  path.mkdir()
  metadata = {
    'zarr_format': 2,
    'shape': [4, 6, 5],
    'chunks': [4, 6, 5],
    'dtype': '<f4',
    'compressor': {'id': 'pickle'},
    'fill_value': 0,
    'order': 'C',
    'filters': None,
  }
  (path / '.zarray').write_text(json.dumps(metadata))
  (path / '0.0.0').write_bytes(pickle.dumps(Trap()))
  return path


def save_bytes(path, data):
  path.write_bytes(data)
  return path


REFUSED = {
  'holds pickled objects, which are not loaded': lambda p: npy(
    p / 'x.npy', traps(4, 4), allow_pickle=True
  ),
  "no array with examples.*'x' .4, 4. object .no real numbers": lambda p: npz(
    p / 'x.npz', x=traps(4, 4)
  ),
  'a pickle is not loaded': lambda p: save_bytes(
    p / 'x.pkl', pickle.dumps(Trap())
  ),
  'is encrypted: store it without': lambda p: encrypted(npz(p / 'x.npz', x=X)),
  r'x\.npz.*may be truncated': lambda p: cut(npz(p / 'x.npz', x=X), 3000),
  r'x\.npy.*may be truncated': lambda p: cut(npy(p / 'x.npy', X), 3000),
  r'x\.h5.*truncated file': lambda p: cut(
    save_hdf5(p / 'x.h5', None, x=X), 3000
  ),
  'stored in other files': lambda p: save_elsewhere(p / 'x.h5'),
  r'no array.*struct.*cell': lambda p: mat(
    p / 'x.mat', x={'a': X}, y=np.array([X[0], 'b'], object)
  ),
  'complex128 .no real numbers': lambda p: npy(p / 'x.npy', X * 1j),
  'No Zarr data type|pickle': lambda p: save_zarr_pickle(p / 'x.zarr'),
  'does not exist': lambda p: p / 'absent.h5',
  "must select one array.*'a' .9, 6, 5, 3. uint16, 'b'": lambda p: save_hdf5(
    p / 'x.h5', a=X[:9], b=X[9:20]
  ),
}


@pytest.mark.parametrize('told', REFUSED)
def test_what_cannot_be_used_is_one_sentence(told, tmp_path, capfd):
  if 'Zarr' in told:
    pytest.importorskip('zarr')
  with pytest.raises(UserError, match=told) as caught:
    open_file(REFUSED[told](tmp_path), tmp_path)
  assert 'data.' in str(caught.value)
  assert 'unpickled' not in ''.join(capfd.readouterr())


def test_a_key_with_a_wrong_axis_is_told_the_axis(tmp_path):
  path = save_hdf5(tmp_path / 'x.h5', x=X, y=X)
  told = r"along data.example_axis=7 \('x' .40, 6, 5, 3. uint16\)"
  with pytest.raises(UserError, match=told):
    open_file(path, tmp_path, feature='x', example_axis=7)


def test_a_key_selects_an_array(tmp_path):
  path = save_hdf5(tmp_path / 'x.h5', a=X[:20], b=X)
  read, _ = read_all(path, tmp_path, feature='b')
  np.testing.assert_array_equal(read, X)
  with pytest.raises(UserError, match=r"data\.feature='c'.*feature=a"):
    open_file(path, tmp_path, feature='c')


@pytest.mark.parametrize('module', ('h5py', 'scipy.io'))
def test_a_missing_library_is_named(module, tmp_path, monkeypatch):
  kind = 'hdf5' if module == 'h5py' else 'mat 5'
  path = FILES[kind](tmp_path)
  monkeypatch.setitem(__import__('sys').modules, module, None)
  package = module.partition('.')[0]
  with pytest.raises(UserError, match=f'pip install {package}'):
    open_file(path, tmp_path)


def test_training_reads_it(tmp_path):
  """Opens both splits as a run does, with a random crop."""
  fields = {'shape': (4, 3), 'random_crop_margin': 2, 'channels': 3}
  path = npy(tmp_path / 'x.npy', X)
  train, test, lines = open_splits('array_file', path, tmp_path, **fields)
  assert len(train) + len(test) == 40
  assert whole_of(train)[np.arange(2)].shape == (2, 6, 5, 3)
  assert 'one in ten held out' in lines[0]


def _declared(path):
  return {e.name: e.no_data.split() for e in containers.open_entries(str(path))}


def test_hdf5_declares_no_data_by_attributes_and_by_what_fills_it(tmp_path):
  """As netCDF4-python 1.7.5 writes it."""
  path = tmp_path / 'x.nc'
  default = np.float32(9.9692099683868690e36)
  with h5py.File(path, 'w') as file:
    shape = (4, 8)
    file.create_dataset('plain', shape, 'f4', fillvalue=default)
    file.create_dataset('byte', shape, 'u1', fillvalue=255)
    file.create_dataset('unset', shape, 'i2')
    both = file.create_dataset('both', shape, 'i2', fillvalue=-9999)
    both.attrs['_FillValue'] = np.int16([-9999])
    both.attrs['missing_value'] = np.int16([-999, -9999])
    unsigned = file.create_dataset('unsigned', shape, 'i1')
    unsigned.attrs['_Unsigned'] = 'true'
    file.create_dataset('zero', shape, 'i2', fillvalue=0)
  found = _declared(path)
  assert no_data.parse(*found['plain'], np.dtype('f4')) == default
  assert found['both'] == ['-9999', '-999']
  assert found['byte'] == found['unset'] == found['zero'] == []
  entries = {e.name: e for e in containers.open_entries(str(path))}
  assert '_Unsigned is not applied' in entries['unsigned'].problem
  values = np.int16([[-9999, -999, 5]])
  missing = no_data.find(values, ' '.join(found['both']), Reading())
  np.testing.assert_array_equal(missing, [[True, True, False]])


def test_zarrs_of_xarray_declare_no_data(tmp_path):
  """As xarray 2026.9 writes it, in the attributes or the fill value."""
  zarr = pytest.importorskip('zarr')
  fields = {'shape': (4, 8), 'chunks': (1, 8), 'dtype': 'f4'}
  dims = {'_ARRAY_DIMENSIONS': ['n', 'x']}
  for version, fill, attrs, wanted in (
    (2, -9999.0, dims, ['-9999.0']),
    (2, -9999.0, {}, []),
    (3, 0.0, {'_FillValue': 'AAAAAICHw8A='}, ['-9999.0']),
    (3, 0.0, {'_FillValue': 'AAAAAAAA+H8='}, ['nan']),
  ):
    path = tmp_path / f'{version}{fill}{len(attrs)}{wanted}.zarr'
    zarr.create_array(
      path, zarr_format=version, fill_value=fill, attributes=attrs, **fields
    )
    assert _declared(path) == {'': wanted}


def test_no_data_is_masked_up_to_a_share(tmp_path):
  """Declared by the file, stated by the run, or NaN: one path for all."""
  values = np.maximum(X, 2).astype(np.float32)
  values[5, 1, 1] = 0  # 3 of 90 values.
  values[6, :4] = np.nan  # 60 of 90.
  values[7, 2, 2, 0] = 1
  path = save_hdf5(tmp_path / 'x.h5', x=values)
  with h5py.File(path, 'r+') as file:
    file['x'].attrs['_FillValue'] = np.float32(0)
  found = {}
  for nodata, most, number, masked in (
    ('', 0.0, 38, ()),
    ('', 0.1, 39, (3,)),
    ('', 0.7, 40, (3, 60)),
    ('1', 0.1, 39, (1,)),
  ):
    fields = {'nodata': nodata, 'max_nodata': most, 'feature': 'x', **SHAPE}
    *splits, lines = open_splits('array_file', path, tmp_path, **fields)
    examples = np.concatenate([everything(images) for images in splits])
    counts = np.isnan(examples).sum((1, 2, 3))
    assert len(examples) == number
    np.testing.assert_array_equal(np.sort(counts[counts > 0]), masked)
    told = f'{len(masked)} of {number} examples hold values that mean no data'
    assert any(told in line for line in lines) == bool(masked)
    found[splits[0].fingerprint] = splits[0].dtype
  assert len(found) == 4 and set(found.values()) == {np.dtype('f4')}
