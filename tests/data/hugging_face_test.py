"""Tables of Hugging Face: images and arrays, splits, and what is refused."""

import json
import sys
import types

import numpy as np
import pytest

from tests.data.contents import cut, noise_png
from tests.data.opening import everything, load, open_dataset, report
from vaegan_jax.data import decode
from vaegan_jax.errors import UserError

pa = pytest.importorskip('pyarrow')
pq = pytest.importorskip('pyarrow.parquet')

ARRAYS = np.random.default_rng(0).integers(0, 255, (30, 4, 5, 3), np.uint8)
SHAPE = {'shape': (4, 5), 'channels': 3}
IMAGES = [noise_png(seed) for seed in range(30)]


def images(files=IMAGES, place=''):
  cells = [{'bytes': f, 'path': f'{place}{i}.png'} for i, f in enumerate(files)]
  kind = pa.struct({'bytes': pa.binary(), 'path': pa.string()})
  columns = {'image': pa.array(cells, kind), 'label': list(range(len(cells)))}
  return pa.table(columns)


def nested(values=ARRAYS, kind=None):
  kind = kind or pa.list_(pa.list_(pa.list_(pa.uint8())))
  column = pa.array(values.tolist(), kind)
  return pa.table({'x': column, 'y': list(range(len(values)))})


def save_arrow(folder, table):
  """Writes as `save_to_disk` does."""
  folder.mkdir(parents=True)
  name = 'data-00000-of-00001.arrow'
  with (
    pa.OSFile(str(folder / name), 'wb') as sink,
    pa.ipc.new_stream(sink, table.schema) as writer,
  ):
    writer.write_table(table, max_chunksize=7)
  state = {'_data_files': [{'filename': name}], '_split': None}
  (folder / 'state.json').write_text(json.dumps(state))
  return folder


def save_dict(folder, **tables):
  for split, table in tables.items():
    save_arrow(folder / split, table)
  names = json.dumps({'splits': list(tables)})
  (folder / 'dataset_dict.json').write_text(names)
  return folder


def save_parquet(path, table):
  path.parent.mkdir(parents=True, exist_ok=True)
  pq.write_table(table, path, row_group_size=8)
  return path


def open_table(path, tmp_path, **fields):
  return open_dataset('hugging_face', tmp_path / 'data', path=path, **fields)


def stored(dataset):
  """Returns everything in the order of the files."""
  pairs = [
    (number, dataset.read(split, [index])[0])
    for split, numbers in dataset._numbers.items()
    for index, number in enumerate(numbers)
  ]
  return [value for _, value in sorted(pairs, key=lambda pair: pair[0])]


@pytest.mark.parametrize('kind', ('arrow', 'parquet'))
def test_images_are_those_of_the_files(kind, tmp_path):
  save = save_arrow if kind == 'arrow' else save_parquet
  dataset = open_table(save(tmp_path / 'x' / 'y', images()), tmp_path)
  assert stored(dataset) == IMAGES
  assert dataset.dtype is None and dataset.feature == 'image'
  number = int(dataset._numbers['test'][0])
  wanted = decode.decode_image(IMAGES[number], channels=3, image_size=8)
  np.testing.assert_array_equal(load(dataset, 'test')[np.arange(1)][0], wanted)


@pytest.mark.parametrize(
  'kind',
  (
    pa.list_(pa.list_(pa.list_(pa.uint8()))),
    pa.large_list(pa.list_(pa.list_(pa.float32(), 3), 5)),
  ),
)
def test_arrays_are_nested_lists(kind, tmp_path):
  path = save_parquet(tmp_path / 'x.parquet', nested(kind=kind))
  dataset = open_table(path, tmp_path, **SHAPE)
  np.testing.assert_array_equal(stored(dataset), ARRAYS)
  train = everything(load(dataset, **SHAPE))
  np.testing.assert_array_equal(train, ARRAYS[dataset._numbers['train']])
  assert train.dtype == ('float32' if 'float' in str(kind) else 'uint8')


def test_splits_have_their_names(tmp_path):
  saved = save_dict(
    tmp_path / 'saved',
    train=nested(ARRAYS[:20]),
    validation=nested(ARRAYS[20:]),
  )
  parquet = tmp_path / 'parquet'
  save_parquet(parquet / 'train-00000-of-00002.parquet', nested(ARRAYS[:9]))
  save_parquet(parquet / 'train-00001-of-00002.parquet', nested(ARRAYS[9:20]))
  save_parquet(parquet / 'val-00000-of-00001.parquet', nested(ARRAYS[20:]))
  for path in (saved, parquet):
    dataset = open_table(path, tmp_path, **SHAPE)
    assert dataset.counts == {'train': 20, 'test': 10}
    read = everything(load(dataset, 'test', **SHAPE))
    np.testing.assert_array_equal(read, ARRAYS[20:])
  save_parquet(parquet / 'more.parquet', nested(ARRAYS))
  with pytest.raises(UserError, match=r'more\.parquet.*besides files'):
    open_table(parquet, tmp_path, **SHAPE)


def test_a_row_group_is_read_once(tmp_path, monkeypatch):
  groups, original = [], pq.ParquetFile.read_row_group
  monkeypatch.setattr(
    pq.ParquetFile,
    'read_row_group',
    lambda self, *args: groups.append(args[0]) or original(self, *args),
  )
  path = save_parquet(tmp_path / 'x.parquet', nested())
  open_table(path, tmp_path, **SHAPE)
  assert sorted(groups) == [0, 1, 2, 3]
  open_table(path, tmp_path, **SHAPE)
  assert groups[4:] == [0]  # Its kind of cell.


def test_damaged_images_are_skipped_and_named(tmp_path, caplog):
  files = [*IMAGES[:20], IMAGES[0][:60], None]
  dataset = open_table(save_arrow(tmp_path / 'x', images(files)), tmp_path)
  assert sum(dataset.counts.values()) == 20
  assert 'Skipped 1 of 22' not in caplog.text
  assert 'Skipped 2 of 22 examples' in caplog.text
  assert 'row 20 (' in caplog.text and 'row 21 (' in caplog.text


@pytest.mark.parametrize('kind', ['uint8', 'bool', 'float32'])
def test_nulls_in_lists_are_no_data(kind, tmp_path):
  values = (ARRAYS % 2 if kind == 'bool' else ARRAYS).astype(kind)
  rows = values.tolist()
  for row in rows[:6]:  # One in five.
    row[1][2][0] = None
  column = pa.list_(pa.list_(pa.list_(pa.from_numpy_dtype(values.dtype))))
  table = pa.table({'x': pa.array(rows, column)})
  path = save_parquet(tmp_path / 'x.parquet', table)
  dataset = open_table(path, tmp_path, **SHAPE)
  assert sum(dataset.counts.values()) == 24
  assert 'Skipped 6 of 30' in report(dataset)
  dataset = open_table(path, tmp_path, max_nodata=0.1, **SHAPE)
  found = everything(load(dataset, 'train+test', max_nodata=0.1, **SHAPE))
  assert np.isnan(found).sum((1, 2, 3)).tolist().count(1) == 6
  np.testing.assert_allclose(
    np.nansum(found), values.sum(dtype=float) - values[:6, 1, 2, 0].sum()
  )
  with pytest.raises(UserError, match=r'row 0 .*: 1 of its values are null'):
    open_table(path, tmp_path, nodata='none', **SHAPE)


def save_outside(folder):
  save_arrow(folder, images())
  state = {'_data_files': [{'filename': '../../secret.arrow'}]}
  (folder / 'state.json').write_text(json.dumps(state))
  return folder


REFUSED = {
  "holds only paths of files, such as '/cats/0.png'.*image_folder": lambda p: (
    save_parquet(p / 'x.parquet', images([None] * 9, '/cats/'))
  ),
  'names a file outside of it': lambda p: save_outside(p / 'x'),
  r'x\.parquet.*may be truncated': lambda p: cut(
    save_parquet(p / 'x.parquet', images()), -200
  ),
  "must be a column with images.*'y' .int64.*name other data": lambda p: (
    save_parquet(p / 'x.parquet', nested().select(['y']))
  ),
  r'feature=x': lambda p: save_parquet(
    p / 'x.parquet', nested().append_column('z', nested()['x'])
  ),
  'must be a folder that save_to_disk': lambda p: p,
  'does not exist': lambda p: p / 'absent',
  'cannot be read, such as row 0 .ValueError: its lists have different': (
    lambda p: save_parquet(p / 'x.parquet', pa.table({'x': [[[1], [2, 3]]]}))
  ),
}


@pytest.mark.parametrize('told', REFUSED)
def test_what_cannot_be_used_is_one_sentence(told, tmp_path):
  with pytest.raises(UserError, match=told):
    open_table(REFUSED[told](tmp_path), tmp_path)


def test_names_are_loaded_without_code(tmp_path, monkeypatch):
  loaded, (file,) = [], save_arrow(tmp_path / 'c', nested()).glob('*.arrow')
  table = types.SimpleNamespace(cache_files=[{'filename': str(file)}])
  module = types.SimpleNamespace(
    __version__='5.2.0',
    load_dataset=lambda *args: loaded.append(args) or {'train': table},
  )
  monkeypatch.setitem(sys.modules, 'datasets', module)
  dataset = open_table('owner/name:small', tmp_path, **SHAPE)
  assert loaded == [('owner/name', 'small')]
  np.testing.assert_array_equal(stored(dataset), ARRAYS)
  module.__version__ = '3.6.0'
  with pytest.raises(UserError, match='needs datasets 4 or later'):
    open_table('owner/name', tmp_path, **SHAPE)
  monkeypatch.setitem(sys.modules, 'datasets', None)
  with pytest.raises(UserError, match='pip install datasets'):
    open_table('owner/name', tmp_path, **SHAPE)


def test_what_datasets_saves_is_read(tmp_path, monkeypatch):
  monkeypatch.setenv('HF_HOME', str(tmp_path / 'cache'))
  datasets = pytest.importorskip('datasets')
  folder = tmp_path / 'photos'
  for split in ('train', 'test'):
    (folder / split / 'cat').mkdir(parents=True)
    for index in range(3):
      (folder / split / 'cat' / f'{index}.png').write_bytes(IMAGES[index])
  cache = str(tmp_path / 'cache')
  found = datasets.load_dataset(
    'imagefolder', data_dir=str(folder), cache_dir=cache
  )
  found.save_to_disk(str(tmp_path / 'saved'))
  dataset = open_table(tmp_path / 'saved', tmp_path)
  assert dataset.counts == {'train': 3, 'test': 3}
  assert stored(dataset) == IMAGES[:3] * 2
  (cached,) = {part['filename'] for part in found['train'].cache_files}
  with pytest.raises(UserError, match='holds only paths of files'):
    open_table(cached, tmp_path)
  features = datasets.Features({'x': datasets.Array3D((4, 5, 3), 'uint8')})
  made = datasets.Dataset.from_generator(
    _generate, features=features, cache_dir=cache, fingerprint='x'
  )
  made.save_to_disk(str(tmp_path / 'arrays'))
  dataset = open_table(tmp_path / 'arrays', tmp_path, **SHAPE)
  np.testing.assert_array_equal(stored(dataset), ARRAYS)


def _generate():
  yield from ({'x': array} for array in ARRAYS)
