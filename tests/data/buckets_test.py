"""Data in a bucket: complete copies, checks, and preparation only once.

`tests/commands/bucket_data_test.py` has two processes, one of which is killed.
"""

import queue
import secrets
import shutil
import types
from concurrent import futures

import numpy as np
import pytest

from tests.data.opening import caches, everything
from tests.data.tfds_builders import Photos
from tests.faults.damage import METHODS
from vaegan_jax.data import buckets, tfds_dataset
from vaegan_jax.data.buckets import LAST_FILE, BucketFolder
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.split import load_splits
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
  """Returns a folder in the bucket with four files, for this test alone."""
  name = f'folder-{secrets.token_hex(4)}'
  for file, content in _FILES.items():
    bucket.write(f'{name}/{file}', content)
  # The web console creates folders like this.
  bucket.write(f'{name}/deep/', b'')
  bucket.write(f'{name}_2/other.bin', b'of another folder')
  return f'gs://bucket/{name}'


@pytest.fixture
def downloads(monkeypatch):
  """Returns a list to which the names of downloaded files are added."""
  names, download = [], BucketFolder._download

  def note(self, some):
    names.extend(some)
    download(self, some)

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
  describe = buckets.describe

  def stop(path):
    if path.name.startswith('.copying') and path.parent.name == 'er':
      raise OSError('cut off')
    return describe(path)

  with monkeypatch.context() as patch:
    patch.setattr(buckets, 'describe', stop)
    with pytest.raises(UserError, match=r'cannot be copied \(OSError: cut off'):
      _open(url, tmp_path).copy()
  folder = buckets.local_folder(url, tmp_path / 'copies')
  # A partial file does not have its final name, so nothing uses it.
  assert not (folder / 'deep/er/b.bin').exists()
  assert not (folder / LAST_FILE).exists()
  assert list((folder / 'deep/er').iterdir())
  with pytest.raises(UserError, match='damaged'):
    tfds_dataset._open_prepared('any', folder)
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
  assert second.files != first.files
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
  with pytest.raises(UserError, match='is not a folder of a bucket'):
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


@pytest.mark.parametrize('limit', ('_FILES_TOGETHER', '_BYTES_TOGETHER'))
def test_an_error_ends_the_copy_soon(
  limit, url, tmp_path, downloads, monkeypatch
):
  monkeypatch.setattr(buckets, limit, 1)
  folder = _open(url, tmp_path)
  first = next(name for name in folder.files if name != LAST_FILE)
  folder.files[first] = folder.files[first]._replace(crc32c='other')
  with pytest.raises(UserError, match='is not what the bucket has listed'):
    folder.copy()
  assert downloads == [first]


def test_one_process_of_a_machine_copies_and_others_wait(
  url, tmp_path, downloads, monkeypatch
):
  # Reading captured output may lose what a thread prints meanwhile.
  told = queue.Queue()
  monkeypatch.setattr(
    buckets, 'print', lambda text, **_: told.put(text), raising=False
  )
  folder = _open(url, tmp_path)
  with futures.ThreadPoolExecutor() as pool:
    with folder.alone():
      waiting = pool.submit(_open(url, tmp_path).copy)
      assert 'Waiting' in told.get(timeout=60)
      assert not downloads
    waiting.result()
  assert len(downloads) == len(_FILES)


# Data sets.


@pytest.fixture
def fields(tmp_path):
  """Returns the fields of a TFDS data set that is prepared in the bucket."""
  return {
    'name': Photos.name,
    'data_dir': f'gs://bucket/prepared-{secrets.token_hex(4)}',
    'copy_dir': str(tmp_path / 'first'),
    'image_size': 8,
  }


def _load(fields, **options):
  return load_splits(DataConfig(**fields), _SPLITS, **options)


_SPLITS = ('train_split', 'eval_split')


def _prepared(bucket, fields):
  """Returns the generations of what was prepared in the bucket, by name."""
  folder = fields['data_dir'].removeprefix('gs://bucket/') + '/'
  return {
    item['name'].removeprefix(folder): item['generation']
    for item in bucket.items()
    if item['name'].startswith(folder)
  }


def test_a_data_set_is_prepared_once_and_every_machine_has_a_copy(
  bucket, fields, tmp_path, monkeypatch
):
  expected = _load(fields | {'data_dir': str(tmp_path / 'data')})
  first = _load(fields, fill_bucket=True)
  stored = _prepared(bucket, fields)
  assert f'photos/1.0.0/{LAST_FILE}' in stored
  # Other machines prepare nothing.
  monkeypatch.setattr(tfds_dataset, 'create_builder', None)
  fields['copy_dir'] = str(tmp_path / 'second')
  for splits in (first, _load(fields, fill_bucket=True)):
    for images, want in zip(splits, expected, strict=True):
      assert images.fingerprint == want.fingerprint
      np.testing.assert_array_equal(everything(images), everything(want))
  assert _prepared(bucket, fields) == stored
  # Decoded copies are kept on the machine, and not in the bucket.
  assert len(caches(tmp_path / 'second')) == 2
  assert not any('decoded' in name for name in stored)


def test_an_upload_that_was_cut_off_is_not_believed_and_done_again(
  bucket, fields, monkeypatch
):
  transfer = BucketFolder._transfer

  def stop(self, done, names, *args):
    if done == 'Uploaded' and LAST_FILE in names:
      raise ConnectionError('cut off')
    return transfer(self, done, names, *args)

  with monkeypatch.context() as patch:
    patch.setattr(BucketFolder, '_transfer', stop)
    with pytest.raises(UserError, match=r'cannot be written .*cut off'):
      _load(fields, fill_bucket=True)
  stored = _prepared(bucket, fields)
  assert stored and not any(LAST_FILE in name for name in stored)
  with pytest.raises(UserError, match='does not hold photos'):
    _load(fields)
  _load(fields, fill_bucket=True)
  # Files that had arrived are not sent again.
  assert stored.items() < _prepared(bucket, fields).items()


def test_only_training_writes_into_a_bucket(bucket, fields):
  before = bucket.items()
  with pytest.raises(UserError, match='--mode=train prepares it there'):
    _load(fields)
  assert bucket.items() == before


def test_a_folder_in_a_bucket_is_copied_and_read_here(
  bucket, image_folder, tmp_path, downloads
):
  name = f'photos-{secrets.token_hex(4)}'
  for path in image_folder.iterdir():
    bucket.write(f'{name}/{path.name}', path.read_bytes())
  fields = {'name': 'image_folder', 'image_size': 16}
  local = {'path': str(image_folder), 'data_dir': str(tmp_path / 'local')}
  expected = _load(fields | local)
  fields |= {'path': f'gs://bucket/{name}', 'copy_dir': str(tmp_path / 'c')}
  # A data_dir in a bucket is not written for folders.
  for data_dir in (str(tmp_path / 'data'), 'gs://bucket/never'):
    for images, want in zip(
      _load(fields | {'data_dir': data_dir}, fill_bucket=True),
      expected,
      strict=True,
    ):
      assert images.fingerprint == want.fingerprint
  assert not any(i['name'].startswith('never') for i in bucket.items())
  assert len(downloads) == len(list((tmp_path / 'c').rglob('*.png'))) == 43
  bucket.write(f'{name}/99.png', (image_folder / '01.png').read_bytes())
  splits = _load(fields | {'data_dir': 'gs://bucket/never'})
  assert sum(map(len, splits)) == 44 and len(downloads) == 44
