"""CelebA in the layouts that people have, with its official splits."""

import zipfile

import pytest
from PIL import Image

from tests.data.contents import encode
from tests.data.opening import open_dataset, stored
from vaegan_jax.errors import UserError

_NAMES = [f'{index:06}.jpg' for index in range(1, 13)]
_SPLITS = {
  'train': _NAMES[:7],
  'validation': _NAMES[7:9],
  'test': _NAMES[9:],
}
_NUMBERS = {'train': 0, 'validation': 1, 'test': 2}


def _jpeg(name):
  return encode(Image.new('RGB', (178, 218), (int(name[:6]), 0, 0)), 'JPEG')


def _list(separator=' '):
  return ''.join(
    f'{name}{separator}{_NUMBERS[split]}\n'
    for split, names in _SPLITS.items()
    for name in names
  )


def _write_folder(root, prefix='img_align_celeba'):
  (root / prefix).mkdir(parents=True)
  for name in _NAMES:
    (root / prefix / name).write_bytes(_jpeg(name))


def _write_zip(root):
  root.mkdir(parents=True, exist_ok=True)
  with zipfile.ZipFile(root / 'img_align_celeba.zip', 'w') as file:
    for name in _NAMES:
      file.writestr(f'img_align_celeba/{name}', _jpeg(name))


def _lay_out(root, layout):
  if layout == 'kaggle':
    _write_folder(root, 'img_align_celeba/img_align_celeba')
    text = 'image_id,partition\n' + _list(',')
    (root / 'list_eval_partition.csv').write_text(text)
  elif layout == 'official':
    _write_zip(root / 'Img')
    (root / 'Eval').mkdir()
    (root / 'Eval' / 'list_eval_partition.txt').write_text(_list())
  else:
    (_write_zip if layout == 'zip' else _write_folder)(root)
    (root / 'list_eval_partition.txt').write_text(_list())
  return root


def _open(root, data_dir):
  return open_dataset('celeb_a', data_dir, path=root)


def _images(dataset, split):
  return {
    name.strip("'").rpartition('/')[2]: content
    for name, content in stored(dataset, split).items()
  }


@pytest.mark.parametrize('layout', ('folder', 'zip', 'kaggle', 'official'))
def test_the_official_splits_in_every_layout(layout, tmp_path):
  builder = _open(_lay_out(tmp_path / 'celeba', layout), tmp_path / 'data')
  assert list(builder.counts) == list(_SPLITS)
  for split, names in _SPLITS.items():
    found = _images(builder, split)
    assert found == {name: _jpeg(name) for name in names}


def test_what_is_not_there_is_counted_and_a_changed_list_is_other_data(
  tmp_path, caplog
):
  root = _lay_out(tmp_path / 'celeba', 'folder')
  (root / 'img_align_celeba' / _NAMES[0]).unlink()
  (root / 'img_align_celeba' / 'stray.jpg').write_bytes(_jpeg(_NAMES[0]))
  builder = _open(root, tmp_path / 'data')
  assert '1 of the 12 images that' in caplog.text
  assert len(_images(builder, 'train')) == 6
  # One of each of two splits in the other's place: as many as before.
  lines = (root / 'list_eval_partition.txt').read_text().splitlines()
  lines[1], lines[-1] = f'{_NAMES[1]} 2', f'{_NAMES[-1]} 0'
  (root / 'list_eval_partition.txt').write_text('\n'.join(lines))
  other = _open(root, tmp_path / 'data')
  assert _NAMES[1] in _images(other, 'test')
  hashes = {b.content_hash for b in (builder, other)}
  assert len(hashes) == 2


@pytest.mark.parametrize(
  ('fault', 'told'),
  (
    ('no list', 'there is no list_eval_partition.txt; it must hold img_align'),
    ('no images', 'there is no img_align_celeba; it must hold'),
    ('torn', r'img_align_celeba\.zip cannot be read .* fetch it again'),
    ('others', 'has none of the images that'),
    ('no folder', 'which does not exist'),
  ),
)
def test_what_is_missing_is_told(fault, told, tmp_path):
  root = _lay_out(tmp_path / 'celeba', 'zip')
  images = root / 'img_align_celeba.zip'
  partition = root / 'list_eval_partition.txt'
  if fault == 'no list':
    partition.unlink()
  elif fault == 'no images':
    images.unlink()
  elif fault == 'torn':
    images.write_bytes(images.read_bytes()[:-200])
  elif fault == 'others':
    partition.write_text('000099.jpg 0\n')
  else:
    root = tmp_path / 'nowhere'
  with pytest.raises(UserError, match=r'data\.path is .*' + told):
    _open(root, tmp_path / 'data')
