"""Files of weights: each format, and ways to damage or abuse them.

Most are written here byte by byte, so that torch is not needed.
"""

import builtins
import hashlib
import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaegan_jax.errors import UserError
from vaegan_jax.models import safetensors_files
from vaegan_jax.models.pretrained import weights

MIB = 2**20
MAGIC = b'\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19'


# A few opcodes of a pickle, each as the bytes that push one object.


def text(value):
  return b'X' + struct.pack('<I', len(value)) + value.encode()


def number(value):
  return b'\x8a\x10' + value.to_bytes(16, 'little', signed=True)


def several(*items):
  return b'(' + b''.join(items) + b't'


def named(module, name):
  return f'c{module}\n{name}\n'.encode()


def mapping(items):
  pairs = b''.join(text(key) + value for key, value in items.items())
  return named('collections', 'OrderedDict') + b')R(' + pairs + b'u'


def storage(key, numel, kind='Float', view=()):
  kind = named('torch', f'{kind}Storage')
  pid = (text('storage'), kind, text(key), text('cuda:0'), number(numel), *view)
  return several(*pid) + b'Q'


def tensor(storage, shape, strides, offset=0, function='_rebuild_tensor_v2'):
  numbers = (several(*map(number, shape)), several(*map(number, strides)))
  args = (storage, number(offset), *numbers)
  if function == '_rebuild_tensor_v2':
    args += (b'\x89', mapping({}))
  return named('torch._utils', function) + several(*args) + b'R'


def pickled(value):
  return b'\x80\x02' + value + b'.'


def write_zip(path, state, contents=(), compression=zipfile.ZIP_STORED, **more):
  with zipfile.ZipFile(path, 'w', compression) as archive:
    archive.writestr('any/data.pkl', state)
    for name, content in more.items():
      archive.writestr(f'any/{name}', content)
    for key, content in dict(contents).items():
      archive.writestr(f'any/data/{key}', content)
  return path


def write_legacy(path, state, contents=(), little_endian=True):
  system = (
    b'}' + text('little_endian') + (b'\x88' if little_endian else b'\x89')
  )
  parts = [MAGIC, number(1001), system + b's']
  parts = [pickled(part) for part in parts] + [state]
  parts.append(pickled(b'](' + b''.join(map(text, dict(contents))) + b'e'))
  for content in dict(contents).values():
    parts += [struct.pack('<q', len(content) // 4), content]
  path.write_bytes(b''.join(parts))
  return path


def write_safetensors(path, header, content):
  header = json.dumps(header).encode()
  path.write_bytes(struct.pack('<Q', len(header)) + header + content)
  return path


NUMBERS = np.arange(6, dtype=np.float32)
EXPECTED = {'a': NUMBERS.reshape(2, 3).T, 'b': NUMBERS[4:]}


def hand_written(folder, file_format):
  """Writes EXPECTED, two views of one storage."""
  view = () if file_format == 'zip' else (b'N',)
  function = '_rebuild_tensor' + ('' if file_format == 'oldest' else '_v2')
  row = storage('7', 6, view=view)
  state = mapping(
    {
      'a': tensor(row, (3, 2), (1, 3), function=function),
      'b': tensor(row, (2,), (1,), offset=4, function=function),
    }
  )
  contents = {'7': NUMBERS.tobytes()}
  path = folder / f'{file_format}.pth'
  if file_format == 'zip':
    return write_zip(path, pickled(state), contents, byteorder='little')
  if file_format == 'safetensors':
    header = {
      'a': {'dtype': 'F32', 'shape': [3, 2], 'data_offsets': [0, 24]},
      'b': {'dtype': 'F32', 'shape': [2], 'data_offsets': [24, 32]},
    }
    content = EXPECTED['a'].tobytes() + EXPECTED['b'].tobytes()
    return write_safetensors(path, header, content)
  return write_legacy(path, pickled(state), contents)


FORMATS = ('zip', 'legacy', 'oldest', 'safetensors')
WRITERS = (write_zip, write_legacy)


def refused(path):
  """Returns the message with which the file is refused."""
  with pytest.raises(UserError) as caught:
    weights.read_state_dict(path)
  sentence = str(caught.value)
  assert sentence.startswith(str(path))
  assert sentence.endswith('.')
  assert '\n' not in sentence
  assert len(sentence) < len(str(path)) + 600
  return sentence


def assert_same(got, expected):
  assert list(got) == list(expected)
  for name, array in expected.items():
    np.testing.assert_array_equal(got[name], array, strict=True)


@pytest.mark.parametrize('file_format', FORMATS)
def test_reads_what_is_written_by_hand(tmp_path, file_format):
  path = hand_written(tmp_path, file_format)
  assert_same(weights.read_state_dict(path), EXPECTED)
  # The name does not determine the format.
  renamed = path.rename(tmp_path / 'weights.safetensors')
  assert_same(weights.read_state_dict(str(renamed)), EXPECTED)


def one_tensor(write, numel, *view):
  """Returns the mapping of one view of a storage, for one of the formats."""
  row = storage('0', numel, view=() if write is write_zip else (b'N',))
  return mapping({'x': tensor(row, *view)})


@pytest.mark.parametrize('write', WRITERS)
def test_reads_the_state_dict_in_a_checkpoint(tmp_path, write):
  state = one_tensor(write, 1, (1,), (1,))
  state = mapping({'epoch': number(3), 'state_dict': state})
  path = write(tmp_path / 'x.pt', pickled(state), {'0': b'\0\0\x80\x3f'})
  assert_same(weights.read_state_dict(path), {'x': np.ones(1, np.float32)})


def test_files_of_python_2_are_read(tmp_path):
  """Its text is bytes, and its OrderedDict is built from pairs."""
  value = tensor(storage('0', 1), (1,), (1,))
  pairs = b'](](U\x01x' + value + b'ee'
  state = named('collections', 'OrderedDict') + pairs + b'\x85R'
  path = write_zip(tmp_path / 'x.pt', pickled(state), {'0': bytes(4)})
  assert_same(weights.read_state_dict(path), {'x': np.zeros(1, np.float32)})


def test_safetensors_of_every_type(tmp_path):
  header, content, expected = {'__metadata__': {'format': 'pt'}}, b'', {}
  for code, dtype in safetensors_files._DTYPES.items():
    array = np.array([[1, 0, 1]]).astype(dtype)
    offsets = [len(content), len(content) + array.nbytes]
    header[code] = {'dtype': code, 'shape': [1, 3], 'data_offsets': offsets}
    content += array.tobytes()
    expected[code] = array
  path = write_safetensors(tmp_path / 'x.safetensors', header, content)
  got = weights.read_state_dict(path)
  assert_same({code: got[code] for code in expected}, expected)
  header = {'x': {'dtype': 'F8_E4M3', 'shape': [], 'data_offsets': [0, 1]}}
  assert "'x' has the dtype F8_E4M3" in refused(
    write_safetensors(path, header, b'0')
  )


def test_safetensors_are_written_in_any_memory_order():
  """The library writes transposed and strided memory in memory order."""
  row = np.arange(24, dtype=np.float32)
  tensors = {
    'bfloat16': row.astype(ml_dtypes.bfloat16),
    'big_endian': row.astype('>f4'),
    'moved': np.moveaxis(row.reshape(2, 3, 4), -1, 0),
    'reversed': row[::-1],
    'scalar': np.float32(3),
    'strided': row[::2],
    'transposed': row.reshape(4, 6).T,
  }
  file = io.BytesIO()
  safetensors_files.write(file, tensors, {'format': 'pt'})
  got, metadata = safetensors_files.read(file.getvalue())
  assert metadata == {'format': 'pt'}
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(got[name], tensor)
    assert got[name].shape == np.shape(tensor)
  for damaged in (b'', b'any other file', file.getvalue()[:-1]):
    with pytest.raises(ValueError, match='safetensors'):
      safetensors_files.read(damaged)


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('protocol', [2, 4])
def test_reads_what_torch_writes(tmp_path, zipped, protocol):
  torch = pytest.importorskip('torch')
  row = torch.arange(24).reshape(2, 3, 4)
  state = {
    f'{dtype}': (row % 2).to(getattr(torch, str(dtype)))
    for dtype in (
      *('float64', 'float32', 'float16', 'bfloat16', 'complex64', 'complex128'),
      *('int64', 'int32', 'int16', 'int8', 'uint8', 'bool'),
    )
  } | {
    'transposed': row.float().permute(2, 0, 1),
    'every second': row[1, ::2, 1::2],
    'shared': row[0],
    'parameter': torch.nn.Parameter(torch.ones(2, 1)),
    'scalar': torch.tensor(2.5),
    'empty': torch.zeros(3, 0, 2),
  }
  path = tmp_path / 'x.pth'
  torch.save(
    state, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol
  )
  expected = {
    name: t.detach().float().numpy().astype(ml_dtypes.bfloat16)
    if t.dtype == torch.bfloat16
    else t.detach().numpy()
    for name, t in state.items()
  }
  assert_same(weights.read_state_dict(path), expected)
  # A saved module has `_metadata`.
  linear = torch.nn.Linear(3, 2)
  torch.save(linear.state_dict(), path, _use_new_zipfile_serialization=zipped)
  expected = {name: t.numpy() for name, t in linear.state_dict().items()}
  assert_same(weights.read_state_dict(path), expected)


def test_a_checksum_in_the_name_is_checked(tmp_path):
  path = hand_written(tmp_path, 'zip')
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  for digits in (digest[:8], digest):
    right = path.rename(tmp_path / f'net-{digits}.pth')
    assert_same(weights.read_state_dict(right), EXPECTED)
    path = right
  wrong = path.rename(tmp_path / 'net-0123abcd.pth')
  assert f'0123abcd... of its name and has {digest}' in refused(wrong)
  other = wrong.rename(tmp_path / 'net-2024.pth')  # Too short for a checksum.
  assert_same(weights.read_state_dict(other), EXPECTED)


def test_finds_the_home_and_variables(tmp_path, monkeypatch):
  path = hand_written(tmp_path, 'zip')
  monkeypatch.setenv('HOME', str(tmp_path))
  assert_same(weights.read_state_dict(f'~/{path.name}'), EXPECTED)
  assert_same(weights.read_state_dict(f'$HOME/{path.name}'), EXPECTED)


# Files that would execute something.


class _Calls:
  def __init__(self, function, *args):
    self.call = (function, args)

  def __reduce__(self):
    return self.call


def hostile(marker):
  """Returns {words of the message: a pickle that would run code}."""
  call = _Calls(builtins.eval, f'__import__("os").mkdir({str(marker)!r})')
  return {
    'system': pickle.dumps(_Calls(os.system, f'touch {marker}'), 2),
    'eval': pickle.dumps(call, 2),
    'builtins.eval': pickle.dumps(call, 5),
    'os system': pickled(b'(' + text(f'touch {marker}') + b'ios\nsystem\n'),
    '_reconstruct': pickle.dumps(np.zeros(2), 2),
    'builtins.getattr': pickled(named('builtins', 'getattr')),
    'torch.load': pickled(named('torch', 'load')),
    '__globals__': pickled(
      named('torch._utils', '_rebuild_parameter.__globals__')
    ),
  }


@pytest.mark.parametrize('write', WRITERS)
@pytest.mark.parametrize('words', hostile(''))
def test_runs_no_code(tmp_path, write, words):
  marker = tmp_path / 'it_ran'
  payload = hostile(marker)[words]
  sentence = refused(write(tmp_path / 'x.pth', payload))
  assert words in sentence
  assert 'may run code' in sentence
  assert not marker.exists()
  if words.endswith(('system', 'eval')):
    pickle.loads(payload)  # It is what it seems.
    assert marker.exists()


@pytest.mark.parametrize('position', range(4))
def test_no_other_pickle_of_the_legacy_format_runs_code(tmp_path, position):
  marker = tmp_path / 'it_ran'
  parts = [pickled(MAGIC), pickled(number(1001))]
  system = pickled(b'}' + text('little_endian') + b'\x88s')
  parts += [system, pickled(mapping({}))]
  path = tmp_path / 'x.pth'
  payload = hostile(marker)['system']
  path.write_bytes(b''.join([*parts[: position + 1], payload]))
  assert 'system' in refused(path)
  assert not marker.exists()


@pytest.mark.parametrize(
  'target',
  [
    named('torch._utils', '_rebuild_tensor_v2'),
    named('torch', 'FloatStorage'),
    named('collections', 'OrderedDict'),
    storage('0', 1),
    tensor(storage('0', 1), (1,), (1,)),
  ],
)
@pytest.mark.parametrize(
  'change', [b'}' + text('x') + b'Ns', b'N}' + text('function') + b'Ns\x86']
)
def test_a_pickle_cannot_change_what_it_is_given(tmp_path, target, change):
  path = write_zip(tmp_path / 'x.pth', pickled(target + change + b'b'))
  assert 'AttributeError' in refused(path)
  path = hand_written(tmp_path, 'zip')
  assert_same(weights.read_state_dict(path), EXPECTED)


def test_the_attributes_of_a_state_dict_are_dropped(tmp_path):
  """Drops a module's `_metadata`, and attributes that shadow a method."""
  attributes = b'}' + text('items') + b'Ns' + b'}' + text('get') + b'Ns\x86'
  path = write_zip(tmp_path / 'x.pth', pickled(mapping({}) + attributes + b'b'))
  assert weights.read_state_dict(path) == {}


# Files that claim more than they contain.


def peak_bytes(function, *args):
  tracemalloc.start()
  try:
    function(*args)
    return tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()


HUGE = {
  'a byte array': pickled(b'\x96' + struct.pack('<Q', 2**40)),
  'bytes': pickled(b'\x8e' + struct.pack('<Q', 2**40)),
  'a text': pickled(b'\x8d' + struct.pack('<Q', 2**40)),
  'a memo': pickled(b'Nr' + struct.pack('<I', 2**31)),
  'a frame': pickled(b'\x95' + struct.pack('<Q', 2**40)),
  'a storage': pickled(
    mapping({'x': tensor(storage('0', 2**40), (2**40,), (1,))})
  ),
  'repeated numbers': pickled(
    mapping({'x': tensor(storage('0', 1), (2**40,), (0,))})
  ),
  'a long pickle': pickled(text('x' * 2**23)),
}


@pytest.mark.parametrize('write', WRITERS)
@pytest.mark.parametrize('what', HUGE)
def test_allocates_no_more_than_there_is(tmp_path, write, what):
  state = HUGE[what]
  if write is write_legacy:
    state = state.replace(number(2**40) + b'tQ', number(2**40) + b'NtQ')
    state = state.replace(number(1) + b'tQ', number(1) + b'NtQ')
  path = write(tmp_path / 'x.pth', state, {'0': bytes(4)})
  assert peak_bytes(refused, path) < 2 * path.stat().st_size + 8 * MIB


def test_zip_bombs_are_refused(tmp_path):
  state = pickled(mapping({'x': tensor(storage('0', MIB), (MIB,), (1,))}))
  path = write_zip(
    tmp_path / 'x.pth', state, {'0': bytes(4 * MIB)}, zipfile.ZIP_DEFLATED
  )
  assert 'are compressed' in refused(path)
  path = hand_written(tmp_path, 'zip')
  content = path.read_bytes()
  # The sizes of the directory's first entry.
  entry = content.index(b'PK\x01\x02')
  huge = struct.pack('<II', 2**31, 2**31)
  path.write_bytes(content[: entry + 20] + huge + content[entry + 28 :])
  assert 'more bytes than the file has' in refused(path)


def test_a_safetensors_header_longer_than_its_file_is_refused(tmp_path):
  path = tmp_path / 'x.safetensors'
  path.write_bytes(struct.pack('<Q', 2**60) + b'{}')
  refused(path)
  header = {'x': {'dtype': 'F32', 'shape': [2**40], 'data_offsets': [0, 2**42]}}
  refused(write_safetensors(path, header, bytes(4)))


# Tensors that exceed their storage.


@pytest.mark.parametrize('write', WRITERS)
@pytest.mark.parametrize(
  ('shape', 'strides', 'offset'),
  [
    ((7,), (1,), 0),
    ((2,), (1,), 5),
    ((1,), (1,), 2**70),
    ((2, 3), (4, 1), 0),
    ((2,), (2**63,), 0),
    ((-1,), (1,), 0),
    ((2,), (-1,), 3),
    ((2,), (1,), -1),
    ((2, 3), (1,), 0),
    ((1,) * 99, (1,) * 99, 0),
    ((0, 2**70), (1, 1), 0),
    ((7,), (0,), 0),
  ],
)
def test_a_tensor_lies_within_its_storage(
  tmp_path, write, shape, strides, offset
):
  state = pickled(one_tensor(write, 6, shape, strides, offset))
  refused(write(tmp_path / 'x.pth', state, {'0': bytes(24)}))


@pytest.mark.parametrize('numel', [-1, 5, 7])
@pytest.mark.parametrize('write', WRITERS)
def test_a_storage_holds_what_it_says(tmp_path, write, numel):
  state = pickled(one_tensor(write, numel, (1,), (1,)))
  path = write(tmp_path / 'x.pth', state, {'0': bytes(24)})
  assert 'storage' in refused(path)


@pytest.mark.parametrize(
  ('value', 'reason'),
  [
    (number(3), 'holds a int'),
    (b'N', 'holds a NoneType'),
    (mapping({'epoch': number(3)}), "holds a int under 'epoch'"),
    (mapping({'model': mapping({})}), "holds a Dict under 'model'"),
    (b'}K\x01K\x02s', "holds a int under '1'"),
    (b'}]Ns', 'unhashable'),
    (b'h\x07', 'Memo value not found'),
    (named('torch._utils', '_rebuild_tensor_v2') + b')R', 'missing 4'),
    (tensor(number(1), (1,), (1,)), 'would not write'),
    (text('x') + b'Q', 'would not write'),
    (storage('0', 1, view=(text('part'),)), 'would not write'),
    (
      mapping(
        {
          'x': tensor(storage('0', 1), (1,), (1,)),
          'y': tensor(storage('0', 1, 'Int'), (1,), (1,)),
        }
      ),
      'would not write',
    ),
    (mapping({'x': tensor(storage('1', 1), (1,), (1,))}), 'any/data/1'),
  ],
)
def test_what_is_no_state_dict_is_refused(tmp_path, value, reason):
  path = write_zip(tmp_path / 'x.pth', pickled(value), {'0': bytes(4)})
  assert reason in refused(path)


def test_a_big_endian_file_is_refused(tmp_path):
  empty = pickled(mapping({}))
  path = write_zip(tmp_path / 'x.pth', empty, byteorder='big')
  assert 'big-endian' in refused(path)
  assert 'big-endian' in refused(write_legacy(path, empty, (), False))


def test_other_files_are_refused(tmp_path):
  path = tmp_path / 'weights.pth'
  assert 'No such file' in refused(path)
  assert 'directory' in refused(tmp_path)
  for content, reason in {
    b'': "begins with b''",
    b'<!DOCTYPE html>': "begins with b'<!DOCTYPE'",
    pickle.dumps({'x': 1}, 2): 'not one that torch.save wrote',
    pickled(MAGIC) + pickled(number(1000)): 'not one that torch.save wrote',
  }.items():
    path.write_bytes(content)
    assert reason in refused(path)
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('arr_0.npy', b'')
  assert 'not one that torch.save wrote' in refused(path)


@pytest.mark.parametrize('file_format', FORMATS)
def test_a_file_cut_anywhere_is_refused(tmp_path, file_format):
  path = hand_written(tmp_path, file_format)
  content = path.read_bytes()
  for length in range(len(content)):
    path.write_bytes(content[:length])
    refused(path)


@pytest.mark.parametrize('file_format', FORMATS)
def test_damage_gives_one_sentence_or_arrays(tmp_path, file_format):
  """A zip archive, whose members have CRCs, gives the right arrays."""
  path = hand_written(tmp_path, file_format)
  content = path.read_bytes()
  positions = st.integers(0, len(content) - 1)
  pieces = st.one_of(
    st.binary(min_size=1, max_size=9),
    st.sampled_from([*HUGE.values()][:-1]).map(lambda p: p[2:-1]),
  )

  @settings(max_examples=100, deadline=None)
  @given(st.lists(st.tuples(positions, pieces), min_size=1, max_size=3))
  def check(changes):
    damaged = bytearray(content)
    for position, piece in changes:
      damaged[position : position + len(piece)] = piece
    path.write_bytes(damaged)
    try:
      got = weights.read_state_dict(path)
    except UserError as error:
      assert '\n' not in str(error)
      return
    assert all(isinstance(array, np.ndarray) for array in got.values())
    assert sum(array.size for array in got.values()) <= 2 * len(damaged)
    if file_format == 'zip':
      assert_same(got, EXPECTED)

  assert peak_bytes(check) < 32 * MIB
