"""Data in a bucket: copied whole and checked, and prepared there only once.

In the bucket of `fake_bucket.py`. Two processes, one of them killed, are in
`tests/commands/bucket_data_test.py`.
"""

import secrets
import shutil
import time
import types
from concurrent import futures

import numpy as np
import pytest

from tests.faults.damage import METHODS
from vaegan_jax.data import buckets, datasets, drawn
from vaegan_jax.data.buckets import LAST_FILE, BucketFolder
from vaegan_jax.data.images import load_splits
from vaegan_jax.errors import UserError

pytest.importorskip('google.cloud.storage')
pytestmark = pytest.mark.skipif(
  not shutil.which('openssl'), reason='needs openssl'
)
_FILES = {
  'a.bin': bytes(range(256)) * 9,
  'deep/er/b.bin': b'b' * 1000,
  'empty.bin': b'',
  LAST_FILE: b'{}',
}


@pytest.fixture(autouse=True)
def bucket(fake_bucket, monkeypatch):
  for name, value in fake_bucket.client_environment.items():
    monkeypatch.setenv(name, value)
  return fake_bucket


@pytest.fixture
def url(bucket):
  """A folder of the bucket of this test's own, with four files."""
  name = f'folder-{secrets.token_hex(4)}'
  for file, content in _FILES.items():
    bucket.write(f'{name}/{file}', content)
  bucket.write(f'{name}/deep/', b'')  # As the web console makes folders.
  bucket.write(f'{name}_2/other.bin', b'of another folder')
  return f'gs://bucket/{name}'


@pytest.fixture
def downloads(monkeypatch):
  """The names of the files that are downloaded, as they are."""
  names, download = [], BucketFolder._download

  def note(self, name):
    names.append(name)
    download(self, name)

  monkeypatch.setattr(BucketFolder, '_download', note)
  return names


def _open(url, tmp_path):
  return BucketFolder(url, str(tmp_path / 'copies'), 'data.path')


def _contents(folder):
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


def test_a_copy_is_whole_and_made_once(url, tmp_path, downloads, capsys):
  folder = _open(url, tmp_path).copy()
  assert _contents(folder) == _FILES
  assert sorted(downloads) == sorted(_FILES) and downloads[-1] == LAST_FILE
  out = capsys.readouterr().out
  assert f'Copied 3 of 3 files, 0.0 of 0.0 MB, of {url}, ' in out
  assert _open(f'{url}/', tmp_path).copy() == folder
  assert len(downloads) == len(_FILES)


@pytest.mark.parametrize('method', METHODS)
def test_damage_to_a_copy_is_noticed_and_mended(
  method, url, tmp_path, downloads
):
  folder = _open(url, tmp_path).copy()
  downloads.clear()
  METHODS[method](folder / 'a.bin')
  assert _open(url, tmp_path).copy() == folder
  assert _contents(folder) == _FILES
  assert downloads == ['a.bin', LAST_FILE]


def test_a_copy_goes_on_where_it_was_stopped(
  url, tmp_path, downloads, monkeypatch
):
  described = BucketFolder._describe

  def stop(self, path):
    if path.name.startswith('.copying') and path.parent.name == 'er':
      raise OSError('cut off')
    return described(self, path)

  with monkeypatch.context() as patch:
    patch.setattr(BucketFolder, '_describe', stop)
    with pytest.raises(UserError, match=r'cannot be copied \(OSError: cut off'):
      _open(url, tmp_path).copy()
  folder = buckets.local_folder(url, tmp_path / 'copies')
  # Half of a file is not under its name, and nothing takes it for prepared.
  assert not (folder / 'deep/er/b.bin').exists()
  assert not (folder / LAST_FILE).exists()
  assert list((folder / 'deep/er').iterdir())
  with pytest.raises(UserError, match='damaged'):
    datasets.open_prepared('any', folder)
  there = set(_contents(folder)) & set(_FILES)
  downloads.clear()
  _open(url, tmp_path).copy(exactly=True)
  assert set(downloads) == set(_FILES) - there
  assert _contents(folder) == _FILES


def test_a_copy_follows_the_bucket(bucket, url, tmp_path):
  first = _open(url, tmp_path)
  folder = first.copy()
  bucket.write(f'{url.removeprefix("gs://bucket/")}/a.bin', b'new' * 768)
  bucket.write(f'{url.removeprefix("gs://bucket/")}/c.bin', b'more')
  (folder / 'decoded.npy').write_bytes(b'made here')
  second = _open(url, tmp_path)
  assert second.fingerprint != first.fingerprint
  changed = {'a.bin': b'new' * 768, 'c.bin': b'more'}
  assert _contents(second.copy()) == (
    _FILES | changed | {'decoded.npy': b'made here'}
  )
  assert _contents(second.copy(exactly=True)) == _FILES | changed


def test_what_changes_while_it_is_copied_is_not_believed(bucket, url, tmp_path):
  folder = _open(url, tmp_path)
  bucket.write(f'{url.removeprefix("gs://bucket/")}/a.bin', b'changed')
  with pytest.raises(UserError, match=r'a\.bin is not what the bucket has'):
    folder.copy()
  assert not (folder.folder / 'a.bin').exists()


@pytest.mark.parametrize('name', ('../../b', 'x/../../b', './b', '/b', 'a//b'))
def test_no_name_in_a_bucket_leads_out_of_the_copy(name, bucket, tmp_path):
  folder = f'hostile-{secrets.token_hex(4)}'
  bucket.write(f'{folder}/{name}', b'evil')
  with pytest.raises(UserError, match='which no file on a disk can be called'):
    _open(f'gs://bucket/{folder}', tmp_path).copy()
  assert not list(tmp_path.rglob('b'))


@pytest.mark.parametrize(
  'url', ('gs://', 'gs:///a', 'gs://../a', 'gs://b/../..', 'gs://b//a')
)
def test_a_url_that_is_no_folder_is_told(url, tmp_path):
  with pytest.raises(UserError, match='is no folder of a bucket'):
    _open(url, tmp_path)


def test_what_cannot_be_read_is_told(url, tmp_path, monkeypatch):
  for name, reason in (('absent', 'NotFound'), ('refused', 'Forbidden')):
    with pytest.raises(UserError, match=f'cannot be read .{reason}') as caught:
      _open(f'gs://{name}/a', tmp_path)
    assert 'http' not in str(caught.value)
  with pytest.raises(UserError, match='in which there is no file'):
    _open('gs://bucket/nothing', tmp_path).copy()
  full = types.SimpleNamespace(free=0)
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: full)
  with pytest.raises(UserError, match=r'room for 0\.0.*data\.copy_dir=/mnt'):
    _open(url, tmp_path).copy()
  monkeypatch.setattr(buckets, '_RETRY_SECONDS', 0.1)
  monkeypatch.setenv('STORAGE_EMULATOR_HOST', 'http://127.0.0.1:9')
  with pytest.raises(UserError, match='cannot be read'):
    _open(url, tmp_path)


def test_an_error_ends_what_goes_on_beside_it(url, tmp_path):
  folder, path = _open(url, tmp_path), tmp_path / 'large'
  ended = []

  def work(name):
    if name == 'fails':
      while not path.exists():
        time.sleep(0.01)
      raise OSError('cut off')
    try:
      with folder._open(path, 'wb') as file:
        while True:
          file.write(b'x')
          time.sleep(0.001)
    except ValueError:  # It was closed.
      ended.append(name)

  with pytest.raises(OSError, match='cut off'):
    folder._do('Copied', {'fails': 1, 'large': 1}, work)
  assert ended == ['large']


def test_one_process_of_a_machine_copies_and_others_wait(
  url, tmp_path, downloads, capsys
):
  folder = _open(url, tmp_path)
  with futures.ThreadPoolExecutor() as pool:
    with folder.alone():
      waiting = pool.submit(_open(url, tmp_path).copy)
      deadline = time.monotonic() + 60
      out = ''
      while 'Waiting' not in out:
        assert time.monotonic() < deadline
        out += capsys.readouterr().out
      assert not downloads
    waiting.result()
  assert len(downloads) == len(_FILES)


# Datasets.


@pytest.fixture
def data(bucket, image_folder, tmp_path):
  """The fields of a folder of images in the bucket, to be prepared there."""
  name = f'photos-{secrets.token_hex(4)}'
  for path in image_folder.iterdir():
    bucket.write(f'{name}/{path.name}', path.read_bytes())
  return {
    'name': 'image_folder',
    'path': f'gs://bucket/{name}',
    'data_dir': f'gs://bucket/{name}_prepared',
    'copy_dir': str(tmp_path / 'first'),
    'folder_rules': 2,
    'train_split': 'train',
    'eval_split': 'test',
    'feature': '',
    'shape': (),
    'image_size': 16,
    'sample_rate': 16_000,
    'random_crop_margin': 0,
    'channels': 3,
    'center_crop': 0,
    'cache_images': True,
  }


_SPLITS = ('train_split', 'eval_split')


def _prepared(bucket, data):
  """What is in the bucket of what was prepared, and when it came there."""
  folder = data['data_dir'].removeprefix('gs://bucket/') + '/'
  return {
    item['name'].removeprefix(folder): item['generation']
    for item in bucket.items()
    if item['name'].startswith(folder)
  }


def test_a_dataset_is_prepared_once_and_every_machine_has_a_copy(
  bucket, data, image_folder, tmp_path, monkeypatch
):
  local = data | {'path': str(image_folder), 'data_dir': str(tmp_path / 'data')}
  expected = load_splits(local, _SPLITS)
  first = load_splits(data, _SPLITS, fill_bucket=True)
  stored = _prepared(bucket, data)
  assert sum(name.endswith(f'/{LAST_FILE}') for name in stored) == 1
  # On other machines nothing is prepared, and no image is copied.
  monkeypatch.setattr(datasets, 'create_builder', None)
  data['copy_dir'] = str(tmp_path / 'second')
  second = load_splits(data, _SPLITS, fill_bucket=True)
  assert not list((tmp_path / 'second').rglob('*.png'))
  for splits in (first, second):
    for images, want in zip(splits, expected, strict=True):
      assert images.fingerprint == want.fingerprint
      every = np.arange(len(want))
      np.testing.assert_array_equal(images[every], want[every])
  assert _prepared(bucket, data) == stored
  # Decoded images are kept beside the copy, and not in the bucket.
  assert len(list((tmp_path / 'second').rglob('decoded-*'))) == 2
  assert not any('decoded' in name for name in stored)


def test_images_of_a_bucket_are_prepared_here(data, image_folder, tmp_path):
  data |= {'data_dir': str(tmp_path / 'data'), 'copy_dir': ''}
  local = data | {'path': str(image_folder)}
  for images, want in zip(
    load_splits(data, _SPLITS), load_splits(local, _SPLITS), strict=True
  ):
    assert images.fingerprint == want.fingerprint
  copies = list((tmp_path / 'data' / 'buckets').rglob('*.png'))
  assert len(copies) == 43


def test_images_that_change_are_prepared_anew(bucket, data, image_folder):
  load_splits(data, _SPLITS, fill_bucket=True)
  before = _prepared(bucket, data)
  folder = data['path'].removeprefix('gs://bucket/')
  bucket.write(f'{folder}/99.png', (image_folder / '01.png').read_bytes())
  splits = load_splits(data, _SPLITS, fill_bucket=True)
  assert sum(map(len, splits)) == 44
  after = _prepared(bucket, data)
  assert before.items() < after.items() and len(after) == 2 * len(before)


def test_an_upload_that_was_cut_off_is_not_believed_and_done_again(
  bucket, data, monkeypatch
):
  describe = BucketFolder._describe

  def stop(self, path):
    if path.name == LAST_FILE:
      raise ConnectionError('cut off')
    return describe(self, path)

  with monkeypatch.context() as patch:
    patch.setattr(BucketFolder, '_describe', stop)
    with pytest.raises(UserError, match=r'cannot be written .*cut off'):
      load_splits(data, _SPLITS, fill_bucket=True)
  stored = _prepared(bucket, data)
  assert stored and not any(LAST_FILE in name for name in stored)
  with pytest.raises(UserError, match='does not hold image_folder'):
    load_splits(data, _SPLITS)
  load_splits(data, _SPLITS, fill_bucket=True)
  # What had arrived is not sent again.
  assert stored.items() < _prepared(bucket, data).items()


def test_a_dataset_that_needs_no_folder(bucket, data, tmp_path, monkeypatch):
  counts = (('train', 6), ('test', 2))
  monkeypatch.setattr(drawn.DrawnFaces, 'num_images', counts)
  data |= {'name': 'drawn_faces', 'path': ''}
  load_splits(data, _SPLITS, fill_bucket=True)
  assert f'drawn_faces/1.0.0/{LAST_FILE}' in _prepared(bucket, data)
  monkeypatch.setattr(datasets, 'create_builder', None)
  data['copy_dir'] = str(tmp_path / 'second')
  assert [len(images) for images in load_splits(data, _SPLITS)] == [6, 2]


def test_only_training_writes_into_a_bucket(bucket, data):
  before = bucket.items()
  with pytest.raises(UserError, match='--mode=train prepares it there'):
    load_splits(data, _SPLITS)
  assert bucket.items() == before


def test_prepared_data_may_not_be_among_the_images(data):
  data['data_dir'] = f'{data["path"]}/prepared'
  with pytest.raises(UserError, match=r'which is in data\.path'):
    load_splits(data, _SPLITS, fill_bucket=True)
