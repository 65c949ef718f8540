"""Folders of images as users have them: damaged, disguised, endless, hostile.

`_DAMAGED` and `_WHOLE` have the expected result for each file. The files go
through the checks here, and through the program in a process with bounded time
and memory.
"""

import os
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.data.contents import encode
from tests.data.opening import names_in, open_folder
from vaegan_jax.data import decode, image_files, reading

_RED, _GREEN, _BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
_MAX_MEMORY = 2**31


def _noise():
  pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3))
  return Image.fromarray(pixels.astype(np.uint8))


def _chunk(kind, content):
  checksum = zlib.crc32(kind + content)
  return (
    struct.pack('>I4s', len(content), kind)
    + content
    + struct.pack('>I', checksum)
  )


def _png(width, height, *, extra=b'', pixels=b''):
  header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  body = extra + _chunk(b'IDAT', zlib.compress(pixels))
  head = b'\x89PNG\r\n\x1a\n' + _chunk(b'IHDR', header)
  return head + body + _chunk(b'IEND', b'')


def _jpeg_that_declares(width, height):
  data = bytearray(encode(_noise(), 'JPEG'))
  start = data.find(b'\xff\xc0') + 5
  data[start : start + 4] = struct.pack('>HH', height, width)
  return bytes(data)


def _gif_that_declares(screen, frame):
  head = b'GIF89a' + struct.pack('<HHBBB', *screen, 0x80, 0, 0) + bytes(6)
  image = b',' + struct.pack('<HHHHB', 0, 0, *frame, 0)
  return head + image + b'\x02\x02L\x01\0;'


def _bmp_that_declares(width, height):
  head = struct.pack('<2sIHHI', b'BM', 54, 0, 0, 54)
  return head + struct.pack(
    '<IiiHHIIiiII', 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0
  )


def _damaged():
  """Returns name -> bytes of files without a complete image."""
  files = {'empty.png': b'', 'text.png': b'no image', 'page.jpg': b'<html>'}
  for suffix, file_format in (
    *(('jpg', 'JPEG'), ('png', 'PNG'), ('webp', 'WEBP'), ('bmp', 'BMP')),
    *(('gif', 'GIF'), ('tif', 'TIFF'), ('ppm', 'PPM')),
    *(('avif', 'AVIF'), ('jp2', 'JPEG2000')),
  ):
    data = encode(_noise(), file_format)
    for percent in (0, 1, 10, 50, 90):
      cut = data[: len(data) * percent // 100]
      files[f'cut_{percent}.{suffix}'] = cut
  bomb = b'a\0\0' + zlib.compress(bytes(2**26), 9)
  return files | {
    'page.svg.png': b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    'pickle.png': b'\x80\x04cos\nsystem\n.',
    'archive.jpg': b'PK\x03\x04' + bytes(100),
    'floats.tif': encode(Image.new('F', (4, 4), 0.5), 'TIFF'),
    'flipped.png': encode(_noise(), 'PNG').replace(b'IDAT', b'IDAU'),
    'none.png': _png(0, 4),
    'bomb_real.png': _png(20_000, 20_000, pixels=bytes(10**7)),
    'bomb_small.png': _png(9_460, 9_460),  # Pillow only warns about these.
    'bomb_65535.png': _png(65_535, 65_535),
    'bomb_long.png': _png(2**31 - 1, 2**31 - 1),
    'bomb_line.png': _png(1, 2**31 - 1),
    'bomb_text.png': _png(2, 2, extra=_chunk(b'zTXt', bomb)),
    'bomb_profile.png': _png(2, 2, extra=_chunk(b'iCCP', bomb)),
    'bomb.jpg': _jpeg_that_declares(65_000, 65_000),
    'nothing.jpg': _jpeg_that_declares(9_000, 0),
    'bomb.bmp': _bmp_that_declares(60_000, 60_000),
    'bomb.gif': _gif_that_declares((65_535, 65_535), (65_535, 65_535)),
    'bomb_frame.gif': _gif_that_declares((4, 4), (65_535, 65_535)),
    'bomb.ppm': b'P6 60000 60000 255\n',
    'negative.pgm': b'P5 -1 5 255\n',
  }


def _turned(orientation):
  """Returns an image that is red above blue once it is upright."""
  image = Image.new('RGB', (16, 16), _RED)
  image.paste(_BLUE, (0, 8, 16, 16))
  turn = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
  }.get(orientation)
  exif = Image.Exif()
  exif[0x0112] = orientation
  stored = image if turn is None else image.transpose(turn)
  return encode(stored, 'JPEG', exif=exif, quality=100, subsampling=0)


def _whole():
  """Returns name -> (bytes, expected colour of the pixels)."""
  frames = [Image.new('RGB', (8, 8), color) for color in (_RED, _GREEN, _BLUE)]
  animation = {'save_all': True, 'append_images': frames[1:]}
  clear = Image.new('P', (4, 4), 7)
  clear.putpalette(bytes(768))
  red = frames[0]
  grey = Image.new('LA', (4, 4), (0, 51))
  deep = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
  # Pillow stores ink as 0, as Adobe does, and marks it.
  ink = Image.new('CMYK', (8, 8), (0, 255, 255, 0))
  return {
    'animated.gif': (encode(red, 'GIF', **animation), _RED),
    'animated.webp': (encode(red, 'WEBP', lossless=True, **animation), _RED),
    'animated.png': (encode(red, 'PNG', **animation), _RED),
    'pair.jpg': (encode(red, 'MPO', quality=100, **animation), _RED),
    'one.png': (encode(Image.new('RGB', (1, 1), _GREEN), 'PNG'), _GREEN),
    'line.png': (encode(Image.new('RGB', (1, 5000), _RED), 'PNG'), _RED),
    'wide.png': (encode(Image.new('RGB', (60_000, 1), _RED), 'PNG'), _RED),
    'png.jpg': (encode(red, 'PNG'), _RED),
    'tail.png': (encode(red, 'PNG') + bytes(1000), _RED),
    'bad_exif.png': (encode(red, 'PNG', exif=b'Exif\0\0' + b'\xff' * 9), _RED),
    'ink.jpg': (encode(ink, 'JPEG', quality=100), _RED),
    'deep.png': (encode(deep, 'PNG'), (156, 156, 156)),
    'clear.png': (encode(clear, 'PNG', transparency=7), (255, 255, 255)),
    'half.png': (encode(grey, 'PNG'), (204, 204, 204)),
    'new\nline.png': (encode(red, 'PNG'), _RED),
    '$(touch name); `x`.png': (encode(red, 'PNG'), _RED),
    '\U0001f642.png': (encode(red, 'PNG'), _RED),
    os.fsdecode(b'\xff\xfe.png'): (encode(red, 'PNG'), _RED),
    '-rf.png': (encode(red, 'PNG'), _RED),
  } | {f'turned_{i}.jpg': (_turned(i), None) for i in range(1, 9)}


_DAMAGED = _damaged()
_WHOLE = _whole()
_SPECIAL = ('gone.png', 'circle.png', 'pipe.png', 'zeros.png', 'sparse.png')


def _fill(folder):
  """Writes all files, and the cases that need a file system."""
  folder.mkdir()
  for name, data in _DAMAGED.items():
    (folder / name).write_bytes(data)
  for name, (data, _) in _WHOLE.items():
    (folder / name).write_bytes(data)
  (folder / 'gone.png').symlink_to(folder / 'nowhere.png')
  (folder / 'circle.png').symlink_to(folder / 'circle.png')
  os.mkfifo(folder / 'pipe.png')
  (folder / 'zeros.png').symlink_to('/dev/zero')
  (folder / 'sparse.png').touch()
  os.truncate(folder / 'sparse.png', _MAX_MEMORY + 1)
  (folder / 'folder.png').mkdir()
  (folder / 'folder.png' / 'up').symlink_to(folder)
  return folder


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return _fill(tmp_path_factory.mktemp('malformed') / 'images')


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_each_file_is_decoded_or_named(folder, monkeypatch):
  monkeypatch.setattr(reading, 'MAX_DAMAGED', 1)
  images = image_files.ImageFiles(str(folder))
  assert set(images.names) == {*_DAMAGED, *_WHOLE, *_SPECIAL}
  damaged = images.find_damaged()
  assert set(damaged) == {*_DAMAGED, *_SPECIAL}
  assert len(damaged) >= 60
  for name, reason in damaged.items():
    assert reason and '\n' not in reason, name


@pytest.mark.parametrize('name', _WHOLE, ids=ascii)
def test_the_colours_are_right(name):
  data, color = _WHOLE[name]
  pixels = decode.decode_image(data, channels=3, image_size=16).astype(int)
  if color is None:
    expected = np.repeat([[_RED], [_BLUE]], 8, axis=0).repeat(16, axis=1)
    pixels, expected = pixels[[0, 15]], expected[[0, 15]]
  else:
    expected = np.broadcast_to(color, pixels.shape)
  np.testing.assert_allclose(pixels, expected, atol=3)


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch):
  def load(self):
    raise AssertionError('unpacked')

  monkeypatch.setattr(Image.Image, 'load', load)
  with (
    pytest.warns(Image.DecompressionBombWarning),
    pytest.raises(ValueError, match='9460 x 9460 pixels'),
  ):
    decode.read_image(_DAMAGED['bomb_small.png'])


def test_strange_names_are_prepared_and_a_few_damaged_named(tmp_path):
  folder = tmp_path / 'images'
  folder.mkdir()
  for name, (data, _) in _WHOLE.items():
    (folder / name).write_bytes(data)
  os.mkfifo(folder / 'pipe.png')
  (folder / 'new\nline_cut.png').write_bytes(b'\x89PNG')
  # A link to an outside file is read like any image.
  (tmp_path / 'outside.png').write_bytes(_WHOLE['one.png'][0])
  (folder / 'outside.png').symlink_to(tmp_path / 'outside.png')
  dataset = open_folder(folder, tmp_path / 'data')
  assert names_in(dataset) == {*_WHOLE, 'outside.png'}
  (report,) = (tmp_path / 'data').rglob(image_files.DAMAGED_FILE)
  named = report.read_text().splitlines()
  assert [line.partition(': ')[0] for line in named] == [
    "'new\\nline_cut.png'",
    "'pipe.png'",
  ]


@pytest.mark.parametrize('change', ('vanishes', 'is cut', 'becomes a pipe'))
def test_a_file_that_changes_after_the_check(change, told, tiny_run, tmp_path):
  folder = tmp_path / 'images'
  folder.mkdir()
  for index in range(4):
    image = Image.new('RGB', (8, 8), (index, 0, 0))
    (folder / f'{index}.png').write_bytes(encode(image, 'PNG'))
  victim = folder / '2.png'

  find_damaged = image_files.ImageFiles.find_damaged

  def find_damaged_before(self, report):
    assert find_damaged(self, report) == {}
    victim.unlink()
    if change == 'is cut':
      victim.write_bytes(b'\x89PNG')
    elif change == 'becomes a pipe':
      os.mkfifo(victim)
    return {}

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(image_files.ImageFiles, 'find_damaged', find_damaged_before)
    data = f'--config.data.data_dir={tmp_path / "data"}'
    sentence = told(*tiny_run, f'--config.data.path={folder}', data)
  assert "'2.png'" in sentence and 'cannot be read' in sentence


_PROGRAM = """
import atexit, runpy
def print_status():
  with open('/proc/self/status') as status:
    print(status.read(), flush=True)
atexit.register(print_status)
runpy.run_path('main.py', run_name='__main__')
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='/proc tells the memory')
def test_the_program_names_them_within_bounds(folder, tmp_path):
  done = subprocess.run(
    [
      *(sys.executable, '-c', _PROGRAM, '--config=configs/image_folder.py'),
      *(f'--config.data.path={folder}', f'--workdir={tmp_path / "run"}'),
      f'--config.data.data_dir={tmp_path / "data"}',
    ],
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 2
  assert 'Traceback' not in done.stderr
  damaged = len(_DAMAGED) + len(_SPECIAL) - 1  # Floats are of another kind.
  told = f'in which {damaged} of {damaged + 1 + len(_WHOLE)} images are damaged'
  assert told in done.stderr.splitlines()[-1]
  (peak,) = re.findall(r'VmHWM:\s+(\d+) kB', done.stdout)
  assert int(peak) * 1024 < _MAX_MEMORY  # TensorFlow's memory included.
  assert not (tmp_path / 'run').exists()
