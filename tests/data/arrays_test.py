"""Arrays: every kind and dtype of file, one to three axes, damage, folders."""

import gc
import io
import pickle
import sys
import zipfile
from concurrent import futures

import numpy as np
import pytest

from tests.data.contents import Trap, encode, tiff, traps
from tests.data.opening import list_arrays, load, open_dataset, read_array
from vaegan_jax.data import array_shapes, arrays
from vaegan_jax.data.decode import UnreadableKind
from vaegan_jax.errors import UserError

DTYPES = (
  *('uint8', 'uint16', 'uint32', 'int8', 'int16', 'int32'),
  *('float16', 'float32', '>u2', '>f4'),
)


def bands(dtype='uint16', shape=(10, 8, 13), seed=0):
  values = np.random.default_rng(seed).integers(0, 120, shape)
  values[-1] = 0  # A file that ends with zeros.
  return values.astype(dtype)


def npz(**members):
  content = io.BytesIO()
  np.savez_compressed(content, **members)
  return content.getvalue()


def write(folder, count=30, name='{:02}.npy', make=bands):
  folder.mkdir(exist_ok=True)
  for index in range(count):
    content = arrays.encode_npy(make(seed=index))
    (folder / name.format(index)).write_bytes(content)
  return folder


def open_folder(folder, tmp_path):
  return open_dataset('array_folder', tmp_path / 'data', path=folder)


@pytest.mark.parametrize('dtype', DTYPES)
def test_arrays_keep_their_values_and_dtype(dtype):
  array = bands(dtype)
  for data in (arrays.encode_npy(array), npz(any_name=array)):
    read = read_array(data)
    np.testing.assert_array_equal(read, array)
    assert read.dtype == np.dtype(dtype).newbyteorder('=')


def test_64_bits_become_32_and_bool_a_byte():
  array = bands('float64') / 7
  read = read_array(arrays.encode_npy(array))
  np.testing.assert_array_equal(read, array.astype(np.float32))
  read = read_array(arrays.encode_npy(array > 9))
  assert read.dtype == np.uint8 and read.max() == 1


@pytest.mark.parametrize('dtype', ('uint8', 'uint16', 'int16', 'float32'))
def test_a_tiff_has_its_bands_last(dtype):
  array = bands(dtype)
  interleaved = tiff(array, photometric='minisblack', planarconfig='contig')
  planes = np.ascontiguousarray(np.moveaxis(array, -1, 0))
  pages = tiff(planes, photometric='minisblack', metadata={'axes': 'CYX'})
  for data in (interleaved, pages):
    read = read_array(data)
    np.testing.assert_array_equal(read, array)
    assert read.dtype == dtype


def test_a_png_of_16_bits_keeps_them():
  array = np.arange(65536, dtype=np.uint16).reshape(256, 256)
  read = read_array(encode(array))
  np.testing.assert_array_equal(read, array)
  assert read.dtype == np.uint16
  color = bands('uint8', (6, 5, 3))
  np.testing.assert_array_equal(read_array(encode(color)), color)


def test_a_png_of_16_bits_of_colour_is_not_read_as_8():
  data = bytearray(encode(bands('uint8', (6, 5, 3))))
  data[24] = 16
  with pytest.raises(UnreadableKind, match='16 bits of each colour'):
    read_array(bytes(data))


def test_an_example_is_the_middle():
  array = bands(shape=(10, 8, 13))
  cut = arrays.to_example(array, channels=13, shape=(4, 6))
  np.testing.assert_array_equal(cut, array[3:7, 1:7])
  first = np.moveaxis(array, -1, 0)
  cut = arrays.to_example(first, channels=13, shape=(8, 8))
  np.testing.assert_array_equal(cut, array[1:9])
  grey = arrays.to_example(array[..., 0], channels=1, shape=(10, 8))
  np.testing.assert_array_equal(grey, array[..., :1])


def test_arrays_are_read_by_many_threads_at_once():
  data, interval = arrays.encode_npy(bands()), sys.getswitchinterval()
  threshold = gc.get_threshold()

  def callback(*_):  # JAX has one, too.
    return [None for _ in range(2000)]

  try:
    gc.callbacks.append(callback)
    gc.set_threshold(5)
    sys.setswitchinterval(1e-6)
    with futures.ThreadPoolExecutor(8) as pool:
      read = list(pool.map(read_array, [data] * 400))
  finally:
    gc.callbacks.remove(callback)
    gc.set_threshold(*threshold)
    sys.setswitchinterval(interval)
  assert len(read) == 400


def encrypted():
  data = bytearray(npz(x=bands()))
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    start = archive.start_dir
  data[start + 8] |= 1
  return bytes(data)


def _damaged():
  pickled = io.BytesIO()
  np.save(pickled, traps(2, 2), allow_pickle=True)
  whole = arrays.encode_npy(bands())
  huge = whole.replace(b'(10, 8, 13)', b'(99999, 9999, 9999)')
  return {
    'Object arrays cannot be loaded': pickled.getvalue(),
    'a pickle is not loaded': pickle.dumps(Trap()),
    'EOF|read|reshape': whole[:-100],
    'read|reshape|allocate|EOF|header': huge,
    'it has 2 arrays, and must have one': npz(a=bands(), b=bands()),
    'it is encrypted': encrypted(),
    'complex64, and must hold real': arrays.encode_npy(bands('complex64')),
    r'the shape \[2, 2, 2, 2, 2\]': arrays.encode_npy(np.zeros((2,) * 5)),
    r'the shape \[0, 2\]': arrays.encode_npy(np.zeros((0, 2))),
    'is truncated|not enough|unrecognized': encode(bands('uint16', (9, 8)))[
      :-30
    ],
  }


@pytest.mark.parametrize(('reason', 'data'), _damaged().items())
def test_damage_is_told_and_nothing_is_unpickled(reason, data, capsys):
  with pytest.raises((ValueError, OSError, MemoryError), match=reason):
    read_array(data)
  assert 'unpickled' not in capsys.readouterr().out


def test_a_truncated_tiff_is_damaged():
  data = tiff(bands(), photometric='minisblack')
  with pytest.raises(Exception, match=r'failed|read|buffer|size'):
    read_array(data[: len(data) // 2])


@pytest.mark.parametrize(
  ('library', 'start'),
  [('tifffile', b'II*\0'), ('soundfile', b'RIFF\0\0\0\0WAVE')],
)
def test_without_its_library_a_file_is_left_out(library, start, monkeypatch):
  monkeypatch.setitem(sys.modules, library, None)
  with pytest.raises(UnreadableKind, match=f'pip install {library}'):
    read_array(start + bytes(100))


def test_a_map_keeps_the_dtype_of_the_files(tmp_path):
  folder = write(tmp_path / 'arrays')
  builder = open_folder(folder, tmp_path)
  shape = {'shape': (10, 8), 'channels': 13}
  decoded = load(builder, 'train+test', cache_images=False, **shape)
  cached = load(builder, 'train+test', **shape)
  everywhere = np.arange(30)
  assert cached.dtype == decoded.dtype == np.uint16
  assert cached[everywhere].dtype == np.uint16
  np.testing.assert_array_equal(cached[everywhere], decoded[everywhere])
  wanted = {bands(seed=index).tobytes() for index in range(30)}
  assert {example.tobytes() for example in cached[everywhere]} == wanted
  (path,) = builder.cache_dir.glob('decoded-*.npy')
  data = bytearray(path.read_bytes())
  data[200] ^= 1  # One bit of a pixel: decoded again.
  path.write_bytes(data)
  again = load(builder, 'train+test', **shape)
  np.testing.assert_array_equal(again[everywhere], decoded[everywhere])


def test_an_array_is_held_out_by_its_content(tmp_path):
  files = list_arrays(write(tmp_path / 'a'))
  splits = files.split(files.find_damaged())
  renamed = list_arrays(write(tmp_path / 'b', name='x{}.npy'))
  others = renamed.split(renamed.find_damaged())
  assert len(splits['test']) == len(others['test']) > 0
  assert {f'x{int(n[:2])}.npy' for n in splits['test']} == set(others['test'])


def test_what_is_damaged_or_not_finite_is_left_out_and_named(tmp_path, caplog):
  folder = write(tmp_path / 'a', make=lambda seed: bands('float32', seed=seed))
  values = bands('float32')
  values[1, 0, 0] = -np.inf
  np.save(folder / 'inf.npy', values)
  (folder / 'cut.npy').write_bytes(arrays.encode_npy(values)[:300])
  files = list_arrays(folder)
  damaged = files.find_damaged()
  assert set(damaged) == {'inf.npy', 'cut.npy'}
  assert 'of 1,040 values 0 are NaN and 1 infinite' in damaged['inf.npy']
  assert 'Skipped 2 of 32 arrays' in caplog.text
  for index in range(3):
    np.save(folder / f'inf{index}.npy', values + index)
  files = list_arrays(folder)
  message = r'5 of 35 arrays are damaged, such as .*cut\.npy'
  with pytest.raises(UserError, match=message):
    files.find_damaged()


@pytest.mark.parametrize(
  ('other', 'told'),
  [
    (bands('int16'), r"3 are not, such as 'other0\.npy' \(int16 \[10, 8, 13\]"),
    (bands(shape=(9, 8, 13)), r'\(uint16 \[9, 8, 13\]\); all must be alike'),
  ],
)
def test_arrays_that_are_not_alike_are_counted_and_named(other, told, tmp_path):
  folder = write(tmp_path / 'a')
  for index in range(3):
    np.save(folder / f'other{index}.npy', other + other.dtype.type(index))
  files = list_arrays(folder)
  with pytest.raises(UserError, match=told) as caught:
    files.find_damaged()
  assert '30 arrays are uint16 [10, 8, 13]' in str(caught.value)


@pytest.mark.parametrize(
  ('fields', 'told'),
  [
    ({'channels': 3, 'shape': (8, 8)}, r'--config\.data\.channels=10'),
    ({'channels': 13, 'shape': (16, 8)}, r'--config\.data\.shape="\(10, 8\)"'),
  ],
)
def test_a_shape_that_does_not_fit_is_one_sentence(fields, told, tmp_path):
  builder = open_folder(write(tmp_path / 'a'), tmp_path)
  with pytest.raises(UserError, match=told) as caught:
    load(builder, 'train', **fields)
  assert '[10, 8, 13]' in str(caught.value)


SIDES = {1: (6,), 2: (4, 6), 3: (4, 6, 2)}


@pytest.mark.parametrize('axes', SIDES)
@pytest.mark.parametrize('where', ['last', 'first', 'nowhere'])
def test_the_middle_is_cut_along_every_axis(axes, where):
  sides = SIDES[axes]
  whole = tuple(side + 4 for side in sides)
  channels = 1 if where == 'nowhere' else 3
  array = np.arange(np.prod(whole) * channels).reshape(*whole, channels)
  given = array if where == 'last' else np.moveaxis(array, -1, 0)
  given = given[0] if where == 'nowhere' else given
  cut = arrays.to_example(given, channels=channels, shape=sides)
  np.testing.assert_array_equal(cut, array[(slice(2, -2),) * axes])


@pytest.mark.parametrize(
  ('given', 'channels', 'shape', 'axes', 'told'),
  [
    ((8192,), 1, (64, 64), '', r'data\.shape="\(8192,\)"'),
    ((8192, 2), 2, (64, 64), '', r'data\.shape="\(8192,\)"'),
    ((8192, 2), 1, (8192,), '', r'data\.channels=2'),
    ((32, 32, 24), 1, (32, 32, 32), '', r'data\.shape="\(32, 32, 24\)"'),
    ((32, 32, 24), 1, (8192,), '', r'data\.shape="\(32, 32, 24\)"'),
    ((3, 32, 32, 24), 3, (32, 32), '', r'data\.shape="\(32, 32, 24\)"'),
    ((4, 5, 6, 2, 3), 3, (4, 5, 6), '', 'at most three axes of space'),
    ((16, 16), 1, (16, 16), 'CYX', r'config\.data\.axes=YX$'),
    ((100, 32, 32), 1, (32, 32), '', r'100 examples, save each .*array_file'),
    ((100, 32, 32), 1, (64, 64), 'QYX', r'100 ch.*channels=100.*100 exam'),
    ((60_000, 28, 28), 1, (28, 28), '', '60,000 examples'),
    ((60_000, 28, 28), 1, (64, 64), '', r'60,000 ex.*shape="\(28, 28\)"'),
    ((13, 64, 64), 1, (64, 64), 'CYX', r'for example, .*channels=13$'),
    ((64, 64, 4), 1, (64, 64), 'YXC', r'for example, .*channels=4$'),
    ((9, 30, 40), 1, (64, 64), 'ZYX', r'space, .*shape="\(9, 30, 40\)"'),
    ((2, 9, 30, 40), 1, (64, 64), 'CZYX', r'.*shape="\(9, 30, 40\)"$'),
  ],
)
def test_what_does_not_fit_says_what_would(given, channels, shape, axes, told):
  options = {'channels': channels, 'shape': shape, 'axes': axes}
  with pytest.raises(UserError, match=told) as caught:
    array_shapes.check_shape(given, **options)
  for wrong in ('channels=28', 'channels=32', 'channels=64'):
    assert wrong not in str(caught.value)


@pytest.mark.parametrize(
  ('shapes', 'axis'),
  [
    ([(40, 9, 8)], 0),
    ([(9, 8, 40)], 2),
    ([(40, 9, 8, 3)], 0),
    ([(40, 9, 8, 3), (30, 9, 8, 3)], 0),
    ([(40, 9, 8, 3), (40, 9, 8, 3)], 0),
  ],
)
def test_files_of_many_examples_name_the_source_that_reads_them(
  shapes, axis, tmp_path
):
  (tmp_path / 'a').mkdir()
  for index, shape in enumerate(shapes):
    array = np.full(shape, index, np.uint8)
    np.save(tmp_path / 'a' / f'{index}.npy', array)
  channels = 3 if len(shapes[0]) == 4 else 1
  fields = {'path': tmp_path / 'a', 'shape': (9, 8), 'channels': channels}
  told = f'40 examples along axis {axis}, --config.data.name=array_file'
  if axis:
    told += f' --config.data.example_axis={axis}'
  with pytest.raises(UserError, match=told):
    dataset = open_dataset('array_folder', tmp_path / 'data', **fields)
    load(dataset, shape=(9, 8), channels=channels)
  if len(shapes) == 1:  # As the message says.
    dataset = open_dataset(
      'array_file', tmp_path / 'data', **fields, example_axis=axis
    )
    assert sum(dataset.counts.values()) == 40
