"""Tars of WebDataset and zips: values, splits, order, and what is refused."""

import gzip
import io
import tarfile
import zipfile

import numpy as np
import pytest

from tests.data.contents import cut, encrypted
from tests.data.contents import noise_png as png
from tests.data.opening import (
  everything,
  load,
  open_dataset,
  open_splits,
  report,
  stored,
)
from vaegan_jax.data import decode
from vaegan_jax.data.arrays import encode_npy
from vaegan_jax.data.batches import create_batches
from vaegan_jax.data.sources import archive as archives
from vaegan_jax.errors import UserError


def array(seed):
  return np.random.default_rng(seed).integers(0, 999, (4, 5, 3))


IMAGES = {f'photos/{i:03}.png': png(i) for i in range(24)}


def tar(path, files):
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, 'w') as archive:
    for name, data in files.items():
      info = tarfile.TarInfo(name)
      info.size = len(data)
      archive.addfile(info, io.BytesIO(data))
  return path


def zipped(path, files):
  path.parent.mkdir(parents=True, exist_ok=True)
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    for name, data in files.items():
      archive.writestr(name, data)
  return path


def open_archive(path, tmp_path, **fields):
  return open_dataset('archive', tmp_path / 'data', path=path, **fields)


@pytest.mark.parametrize('write', (tar, zipped))
def test_images_are_those_of_the_archive(write, tmp_path):
  path = write(tmp_path / 'x.data', IMAGES | {'notes.txt': b'none'})
  dataset = open_archive(path, tmp_path)
  wanted = {f'{name!r} in x.data': data for name, data in IMAGES.items()}
  assert stored(dataset) == wanted
  train = load(dataset)
  (name,) = {dataset.describe('train', 3)} & set(wanted)
  decoded = decode.decode_image(wanted[name], channels=3, image_size=8)
  np.testing.assert_array_equal(train[np.array([3])][0], decoded)


def test_a_batch_is_a_function_of_seed_and_step(tmp_path):
  path = tar(tmp_path / 'x.tar', IMAGES)
  batches = []
  for first in (0, 2):  # The second run reads the index.
    train, _ = open_splits('archive', path, tmp_path, 'train_split')
    options = {'seed': 1, 'batch_size': 4, 'num_devices': 1}
    found = create_batches(train, start_step=first, **options)
    batches.append([next(found) for _ in range(4 - first)][-1])
  np.testing.assert_array_equal(*batches)


def test_a_later_start_scans_no_archive(tmp_path, monkeypatch):
  path = tar(tmp_path / 'x.tar', IMAGES)
  first = stored(open_archive(path, tmp_path))
  monkeypatch.setattr(archives, 'list_members', None)
  assert stored(open_archive(path, tmp_path)) == first


def test_keys_end_at_the_first_dot_in_a_tar_and_the_last_in_a_zip(tmp_path):
  files = {}
  for index in range(12):
    files |= {
      f'a.b/{index}.PNG': png(index),
      f'a.b/{index}.seg.png': png(99),
      f'a.b/{index}.cls': b'3',
    }
  path = tar(tmp_path / 'x.tar', files)
  with pytest.raises(UserError, match=r"'seg\.png' \(12\).*feature=png") as e:
    open_archive(path, tmp_path)
  assert 'data.feature' in str(e.value)
  dataset = open_archive(path, tmp_path, feature='png')
  assert set(stored(dataset).values()) == {png(i) for i in range(12)}
  path = zipped(tmp_path / 'x.zip', files)
  dataset = open_archive(path, tmp_path)
  assert sum(dataset.counts.values()) == 24


def test_arrays_are_read_with_a_shape(tmp_path):
  files = {f'{i}.npy': encode_npy(array(i)) for i in range(20)}
  path = tar(tmp_path / 'x.tar', files)
  dataset = open_archive(path, tmp_path, shape=(4, 5))
  train = everything(load(dataset, shape=(4, 5)))
  assert train.dtype == np.float32  # Of 64 bits.
  numbers = dataset._numbers['train']
  wanted = [array(int(n)) for n in numbers]
  np.testing.assert_array_equal(train, wanted)


def test_arrays_with_no_data_are_skipped(tmp_path):
  whole = array(0).astype(np.float32)
  holed = whole.copy()
  holed[0, 0, 0] = np.nan
  files = {f'{i}.npy': encode_npy(whole) for i in range(20)}
  path = tar(tmp_path / 'x.tar', files | {'99.npy': encode_npy(holed)})
  dataset = open_archive(path, tmp_path, shape=(4, 5))
  assert sum(dataset.counts.values()) == 20
  more = {'shape': (4, 5), 'max_nodata': 0.1}
  masked = open_archive(path, tmp_path, shape=(4, 5), max_nodata=0.1)
  found = everything(load(masked, 'train+test', **more))
  assert len(found) == 21 and np.isnan(found).sum() == 1
  assert '1 of 21 examples hold values that mean no data' in report(masked)
  assert 'Skipped 1 of 21 examples with more no data' in report(dataset)


def test_splits_are_archives_or_folders(tmp_path):
  names = list(IMAGES)
  parts = {
    'shards-train-000.tar': names[:8],
    'shards-train-001.tar': names[8:16],
    'shards-val-000.tar': names[16:],
  }
  for shard, members in parts.items():
    tar(tmp_path / 'shards' / shard, {n: IMAGES[n] for n in members})
  folders = {
    ('train/' if i < 16 else 'test/') + name: IMAGES[name]
    for i, name in enumerate(names)
  }
  path = zipped(tmp_path / 'x.zip', folders | {'other/a.png': png(3)})
  for location in (tmp_path / 'shards', path):
    dataset = open_archive(location, tmp_path)
    assert dataset.counts == {'train': 16, 'test': 8}
    held_out = list(stored(dataset, 'test').values())
    assert held_out == list(IMAGES.values())[16:]
  assert '1 are outside the folders' in report(dataset)


def test_another_archive_moves_no_example(tmp_path):
  folder = tmp_path / 'shards'
  tar(folder / '0.tar', IMAGES)
  before = stored(open_archive(folder, tmp_path), 'test')
  tar(folder / '1.tar', {f'more/{i}.png': png(99 + i) for i in range(24)})
  after = stored(open_archive(folder, tmp_path), 'test')
  assert before.items() < after.items()


def test_damaged_members_are_skipped_and_named(tmp_path, caplog):
  files = IMAGES | {'photos/cut.png': png(5)[:80]}
  dataset = open_archive(tar(tmp_path / 'x.tar', files), tmp_path)
  assert sum(dataset.counts.values()) == 24
  assert 'Skipped 1 of 25 examples' in caplog.text
  assert "'photos/cut.png' in x.tar (" in caplog.text


def joined(path):
  data = tar(path, IMAGES).read_bytes()
  path.write_bytes(data + data)
  return path


def compressed(path):
  path.write_bytes(gzip.compress(tar(path, IMAGES).read_bytes()))
  return path


def _end(path):
  return list(archives.list_members(str(path)))[-1]


REFUSED = {
  'is encrypted: store it without': lambda p: encrypted(
    zipped(p / 'x.zip', IMAGES)
  ),
  r'x\.zip.* may be truncated': lambda p: cut(
    zipped(p / 'x.zip', IMAGES), 4000
  ),
  # In a header, which `tarfile` takes for the end.
  r'x\.tar.* is truncated, as it lacks the end': lambda p: cut(
    tar(p / 'x.tar', IMAGES), _end(p / 'x.tar').offset - 200
  ),
  r'x\.tar.* may be truncated': lambda p: cut(
    tar(p / 'x.tar', IMAGES), _end(p / 'x.tar').offset + 20
  ),
  'has more after its end.*cat': lambda p: joined(p / 'x.tar'),
  'is compressed as a whole.*gunzip': lambda p: compressed(p / 'x.tar.gz'),
  "leads out of it, '../../a.png'": lambda p: tar(
    p / 'x.tar', IMAGES | {'../../a.png': png(0)}
  ),
  "leads out of it, '/etc/a.png'": lambda p: zipped(
    p / 'x.zip', IMAGES | {'/etc/a.png': png(0)}
  ),
  "no images and no arrays, but 'pickle' .3.": lambda p: tar(
    p / 'x.tar', {f'{i}.pickle': b'cos\nsystem\n.' for i in range(3)}
  ),
  'must be a .tar, a .zip, or a folder': lambda p: p,
  r'data.shape=\(\) is for images.*npy.*shape="': lambda p: tar(
    p / 'x.tar', {f'{i}.npy': encode_npy(array(i)) for i in range(3)}
  ),
  'may be truncated': lambda p: cut(tar(p / 'y.tar', IMAGES), 100),
}


@pytest.mark.parametrize('told', REFUSED)
def test_what_cannot_be_used_is_one_sentence(told, tmp_path):
  with pytest.raises(UserError, match=told) as caught:
    open_archive(REFUSED[told](tmp_path), tmp_path)
  assert 'data.path' in str(caught.value)


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_shards_of_webdataset_have_its_examples(tmp_path):
  wds = pytest.importorskip('webdataset')
  path = tmp_path / 'x-000.tar'
  with wds.TarWriter(str(path)) as writer:
    for index in range(12):
      writer.write({'__key__': f'a/s{index}', 'png': png(index), 'cls': index})
  dataset = open_archive(path, tmp_path)
  theirs = [s['png'] for s in wds.WebDataset(str(path), shardshuffle=False)]
  assert sorted(stored(dataset).values()) == sorted(theirs)
