"""Folders of images of every shape, and their splits.

`malformed_images_test.py` has what is damaged.
"""

import os
import sys
import types

import pytest
from PIL import Image

from tests.data.contents import write_images
from vaegan_jax.data import decode, image_files
from vaegan_jax.errors import UserError


def _split(folder, rules=2):
  images = image_files.ImageFiles(str(folder), rules)
  return images.split(images.find_damaged())


def _all(folder):
  splits = _split(folder)
  return {*splits['train'], *splits['test']}


@pytest.fixture
def folder(tmp_path):
  return write_images(tmp_path / 'images', [f'{i:02}.png' for i in range(20)])


def test_the_first_rules_hold_out_every_tenth_image(folder):
  splits = _split(folder, rules=1)
  assert splits['test'] == ['00.png', '10.png']
  assert len(splits['train']) == 18


def test_no_image_changes_sides_when_others_come_and_go(tmp_path):
  folder = tmp_path / 'images'
  # Bytes that no version of an encoder changes.
  texts = {f'{i:03}.pgm': f'P2 2 1 999 {i} 0' for i in range(300)}
  folder.mkdir()
  for name, text in texts.items():
    if name >= '100':
      (folder / name).write_text(text)
  before = _split(folder)
  assert 10 < len(before['test']) < 30
  for name, text in texts.items():  # A third of all sorts first.
    (folder / name).write_text(text)
  after = _split(folder)
  for split, members in before.items():
    assert set(members) == {n for n in after[split] if n >= '100'}
  for name in before['train'][::2]:
    (folder / name).unlink()
  assert {n for n in _split(folder)['test'] if n >= '100'} == {*before['test']}


def test_an_image_and_its_copies_are_on_one_side_whatever_their_names(folder):
  before = _split(folder)
  for path in list(folder.iterdir()):
    (folder / f'copy of {path.name}').write_bytes(path.read_bytes())
    path.rename(folder / f'{99 - int(path.stem)}.png')
  for split, members in _split(folder).items():
    wanted = {f'copy of {name}' for name in before[split]}
    wanted |= {f'{99 - int(name[:2])}.png' for name in before[split]}
    assert set(members) == wanted


def test_finds_images_however_deep_and_of_any_case(tmp_path):
  names = ['a.PNG', 'cats/b.jpg', 'cats/small/c.WebP', 'dogs/d.gif']
  write_images(tmp_path / 'images', names)
  (tmp_path / 'images' / 'notes.txt').write_text('no image')
  (tmp_path / 'images' / '._a.png').write_text('no image either')
  assert _all(tmp_path / 'images') == set(names)


def _heic():
  return b'\0\0\0\x18ftypheic\0\0\0\0mif1heic' + bytes(100)


def _save(path, file_format):
  image = Image.effect_noise((16, 16), 50).convert('RGB')
  image.save(path, file_format)


def test_what_phones_and_browsers_write_is_read(tmp_path):
  kinds = {
    'a.avif': 'AVIF',
    'b.jp2': 'JPEG2000',
    'c.jfif': 'JPEG',
    'download': 'WEBP',  # No suffix, and a wrong one.
    'photo.dat': 'AVIF',
    'photo.jpg': 'JPEG2000',
    'd.png': 'PNG',
  }
  folder = tmp_path / 'images'
  for part in ('.', '@eaDir', '__MACOSX/images', 'sub/@eaDir'):
    (folder / part).mkdir(parents=True, exist_ok=True)
    for name, file_format in kinds.items():
      _save(folder / part / name, file_format)
  (folder / 'notes.txt').write_text('no image')
  os.mkfifo(folder / 'pipe')
  assert _all(folder) == set(kinds)
  # As the first versions did, whose runs go on with the same images.
  first = image_files.ImageFiles(str(folder), rules=1)
  folders = ('', '@eaDir/', '__MACOSX/images/', 'sub/@eaDir/')
  both = {f'{f}{name}' for f in folders for name in ('photo.jpg', 'd.png')}
  assert set(first.names) == both
  assert first._inspect('d.png')[1] is None
  assert first._inspect('photo.jpg')[1] is not None


def test_without_pillow_heif_heic_is_counted_and_named(
  folder, caplog, monkeypatch
):
  monkeypatch.setitem(sys.modules, 'pillow_heif', None)
  decode.readable_kinds.cache_clear()
  for name in ('IMG_1.HEIC', 'IMG_2.heic', 'IMG_3.JPG'):  # By its content.
    (folder / name).write_bytes(_heic())
  (folder / 'IMG_4.jxl').write_bytes(b'\0\0\0\x0cJXL \r\n\x87\n' + bytes(9))
  images = image_files.ImageFiles(str(folder))
  left_out = images.find_damaged()
  assert len(left_out) == 4
  assert 'needs pillow-heif (pip install pillow-heif)' in left_out['IMG_3.JPG']
  (warning,) = (line for line in caplog.messages if 'not readable' in line)
  assert '4 of 24 images' in warning and "'IMG_1.HEIC' (it is HEIF" in warning
  for path in folder.glob('*.png'):
    path.unlink()
  with pytest.raises(
    UserError, match=r'4 of 4 images cannot be read here.*heif'
  ):
    _split(folder)


def test_with_pillow_heif_heic_is_read_and_the_folder_prepared_anew(
  folder, monkeypatch
):
  def register():
    def accept(beginning):
      return beginning[4:12] == b'ftypheic'

    def create(file, name):
      return Image.new('RGB', (8, 8), 'red')

    Image.register_open('HEIF', create, accept)

  (folder / 'IMG_1.HEIC').write_bytes(_heic())
  monkeypatch.setattr(Image, 'OPEN', dict(Image.OPEN))
  monkeypatch.setattr(Image, 'ID', list(Image.ID))
  fingerprints = set()
  for module in (None, types.SimpleNamespace(register_heif_opener=register)):
    monkeypatch.setitem(sys.modules, 'pillow_heif', module)
    decode.readable_kinds.cache_clear()
    fingerprints.add(image_files.ImageFiles(str(folder)).fingerprint)
  assert len(fingerprints) == 2
  assert 'IMG_1.HEIC' in _all(folder)
  pixels = decode.decode_image(_heic(), channels=3, image_size=8)
  assert (pixels == (255, 0, 0)).all()


@pytest.fixture(autouse=True)
def kinds_of_this_machine():
  yield
  decode.readable_kinds.cache_clear()


@pytest.mark.parametrize('test_folder', ['test', 'validation', 'val'])
def test_takes_the_splits_from_their_folders(tmp_path, test_folder):
  images = tmp_path / 'images'
  train = [f'train/{kind}/{i}.png' for kind in 'ab' for i in range(3)]
  write_images(images, [*train, f'{test_folder}/x.png', 'stray.png'])
  splits = _split(images)
  assert splits['train'] == train
  assert splits['test'] == [f'{test_folder}/x.png']


def test_two_images_are_enough_and_one_is_not(tmp_path):
  write_images(tmp_path / 'two', ['a.png', 'b.png'])
  splits = _split(tmp_path / 'two')
  assert sorted(map(len, splits.values())) == [1, 1]
  twins = tmp_path / 'two' / 'a.png', tmp_path / 'two' / 'b.png'
  twins[1].write_bytes(twins[0].read_bytes())
  with pytest.raises(UserError, match=r"no image for the split 'train'"):
    _split(tmp_path / 'two')
  write_images(tmp_path / 'one', ['a.png'])
  with pytest.raises(UserError, match=r"data\.path.*no image.*'train'"):
    _split(tmp_path / 'one')


def test_a_touched_or_replaced_file_changes_the_fingerprint(folder):
  before = image_files.ImageFiles(str(folder)).fingerprint
  os.utime(folder / '03.png', ns=(0, 1))
  touched = image_files.ImageFiles(str(folder)).fingerprint
  write_images(folder, ['03.png'], size=9)
  os.utime(folder / '03.png', ns=(0, 1))
  replaced = image_files.ImageFiles(str(folder)).fingerprint
  assert len({before, touched, replaced}) == 3


@pytest.mark.parametrize(
  ('path', 'message'),
  [
    ('', r'data\.path is empty.*folder of your images'),
    ('missing', r"data\.path is .*missing', which does not exist"),
    ('a_file', r"data\.path is .*a_file', which is not a folder"),
    ('empty', r'data\.path is .* no image; .*\.jpg'),
  ],
)
def test_a_path_without_images_is_a_users_error(tmp_path, path, message):
  (tmp_path / 'a_file').touch()
  (tmp_path / 'empty').mkdir()
  with pytest.raises(UserError, match=message):
    image_files.ImageFiles(str(tmp_path / path) if path else '')
