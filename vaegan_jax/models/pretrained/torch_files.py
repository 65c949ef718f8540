"""Reads torch's files, without torch and without running code.

A `.pth` or `.pt` file is a pickle beside raw numbers, and a pickle may call
anything. Here it may only build dicts, lists, tuples, numbers and text, and
name the few globals of a state dict. Those are replaced by stand-ins that only
describe a tensor. A hostile file can waste time, but it cannot run code. There
are two formats:

  zip: what `torch.save` writes since torch 1.6.
  legacy: what it wrote before, torchvision's VGG among them: five pickles (a
    magic number, a version, the system, the tensors, the keys of the storages)
    and then each storage, its length before it.
"""

import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
# Ten thousand tensors take 2 MB.
_MAX_PICKLE_BYTES = 2**22

# The opcodes of a state dict. All others are rejected before they run: some
# allocate any length they name, and a later Python may add more.
# fmt: off
_OPCODES = frozenset({
  'PROTO', 'FRAME', 'STOP', 'MARK', 'NONE', 'NEWTRUE', 'NEWFALSE',
  'BININT', 'BININT1', 'BININT2', 'LONG1', 'BINFLOAT',
  'BINUNICODE', 'SHORT_BINUNICODE', 'BINSTRING', 'SHORT_BINSTRING',
  'EMPTY_TUPLE', 'TUPLE', 'TUPLE1', 'TUPLE2', 'TUPLE3',
  'EMPTY_LIST', 'APPEND', 'APPENDS', 'EMPTY_DICT', 'SETITEM', 'SETITEMS',
  'BINPUT', 'LONG_BINPUT', 'MEMOIZE', 'BINGET', 'LONG_BINGET',
  'GLOBAL', 'STACK_GLOBAL', 'REDUCE', 'BUILD', 'BINPERSID',
})
# fmt: on

# By torch's name for each dtype, without its suffix `Storage`.
_DTYPES = {
  'Double': np.dtype(np.float64),
  'Float': np.dtype(np.float32),
  'Half': np.dtype(np.float16),
  'BFloat16': np.dtype(ml_dtypes.bfloat16),
  'ComplexFloat': np.dtype(np.complex64),
  'ComplexDouble': np.dtype(np.complex128),
  'Long': np.dtype(np.int64),
  'Int': np.dtype(np.int32),
  'Short': np.dtype(np.int16),
  'Char': np.dtype(np.int8),
  'Byte': np.dtype(np.uint8),
  'Bool': np.dtype(np.bool_),
}


def read_zip(f: BinaryIO, size: int) -> dict[str, np.ndarray]:
  """Reads what `torch.save` writes since torch 1.6.

  Returns:
    {name: tensor} in the file's order; they may be read-only views of one
    buffer.

  Raises:
    Exception: of any class; the file is damaged, or holds anything else.
  """
  with zipfile.ZipFile(f) as archive:
    members = archive.infolist()
    # Torch never compresses; a file that unpacks to more is a zip bomb.
    if any(m.compress_type != zipfile.ZIP_STORED for m in members):
      raise ValueError(
        'its members are compressed, which torch.save never does'
      )
    if any(m.compress_size != m.file_size for m in members) or (
      sum(m.file_size for m in members) > size
    ):
      raise ValueError('its members claim more bytes than the file has')
    names = archive.namelist()
    roots = [n[: -len('data.pkl')] for n in names if n.endswith('/data.pkl')]
    if len(roots) != 1:
      raise ValueError('it is a zip archive, but not one that torch.save wrote')
    root = roots[0]
    if f'{root}byteorder' in names:
      _check_little_endian(archive.read(f'{root}byteorder') == b'little')
    state, _ = _load_pickle(io.BytesIO(archive.read(f'{root}data.pkl')))
    return _arrays(state, lambda key: archive.read(f'{root}data/{key}'))


def read_legacy(f: BinaryIO, size: int) -> dict[str, np.ndarray]:
  """Reads what `torch.save` wrote before torch 1.6; as `read_zip`."""
  for expected in (_LEGACY_MAGIC, _LEGACY_VERSION):
    if _load_pickle(f)[0] != expected:
      raise ValueError('it is a pickle, but not one that torch.save wrote')
  system, _ = _load_pickle(f)
  _check_little_endian(system['little_endian'] is True)
  state, storages = _load_pickle(f)
  keys, _ = _load_pickle(f)
  if set(keys) != storages.keys():
    raise ValueError('its storages are not those of its tensors')
  contents = {}
  for key in keys:
    numel, num_bytes = storages[key].numel, storages[key].num_bytes
    # Checked before reading: `read` allocates any size it is given.
    if size - f.tell() < 8 + num_bytes:
      raise ValueError(
        f'it ends at byte {size}, within a storage of {num_bytes} bytes'
      )
    if struct.unpack('<q', f.read(8))[0] != numel:
      raise ValueError(f'a storage does not hold its {numel} numbers')
    contents[key] = f.read(num_bytes)
  return _arrays(state, contents.__getitem__)


def _check_little_endian(is_little: bool) -> None:
  if not is_little:
    raise ValueError(
      'a big-endian machine wrote it, whose numbers are reversed'
    )


# The stand-ins for torch's classes. A pickle can neither read nor set a named
# tuple's field, so it cannot change these for the next file.


class _StorageType(NamedTuple):
  """Stands in for `torch.FloatStorage` and the other storage classes."""

  dtype: np.dtype


class _Storage(NamedTuple):
  """A row of numbers that the file holds elsewhere under `key`."""

  key: str
  dtype: np.dtype
  numel: int

  @property
  def num_bytes(self) -> int:
    return self.numel * self.dtype.itemsize


class _Tensor(NamedTuple):
  """A view within a storage; offset and strides count numbers, not bytes."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class _Function(NamedTuple):
  """Stands in for a global that is called."""

  function: Callable[..., Any]

  def __call__(self, *args: Any) -> Any:
    return self.function(*args)


class _Dict(dict):
  """Stands in for `collections.OrderedDict`."""

  def __setstate__(self, state: Any) -> None:
    """Drops the attribute `_metadata` of torch's state dicts."""


def _rebuild_tensor(
  storage, offset, shape, strides, requires_grad=None, hooks=None, metadata=None
) -> _Tensor:
  """Stands in for `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`."""
  numbers = (offset, *shape, *strides)
  if not (
    isinstance(storage, _Storage)
    and all(isinstance(n, int) and n >= 0 for n in numbers)
    and len(shape) == len(strides)
    and not metadata  # Such as "to be negated".
  ):
    raise ValueError('it holds a tensor that torch.save would not write')
  last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
  # Strides of 0 could turn a few bytes into any number of numbers.
  if 0 not in shape and max(last + 1, math.prod(shape)) > storage.numel:
    raise ValueError(
      f'a tensor of shape {list(shape)} reaches beyond the {storage.numel} '
      'numbers of its storage'
    )
  return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor, requires_grad=None, hooks=None) -> _Tensor:
  """Stands in for `torch._utils._rebuild_parameter`."""
  return tensor


_GLOBALS = {
  'collections.OrderedDict': _Function(_Dict),
  # The first occurs in torchvision's VGG files of 2017.
  'torch._utils._rebuild_tensor': _Function(_rebuild_tensor),
  'torch._utils._rebuild_tensor_v2': _Function(_rebuild_tensor),
  'torch._utils._rebuild_parameter': _Function(_rebuild_parameter),
  **{f'torch.{name}Storage': _StorageType(d) for name, d in _DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
  """Resolves only the globals of a state dict, and collects its storages."""

  def __init__(self, f: BinaryIO):
    super().__init__(f, encoding='utf-8')  # For text that Python 2 wrote.
    self.storages: dict[str, _Storage] = {}

  def find_class(self, module: str, name: str) -> Any:
    full_name = f'{module}.{name}'
    if full_name not in _GLOBALS:
      raise ValueError(
        f'it names the Python global {full_name[:80]!r}, which no state dict '
        'needs and which may run code'
      )
    return _GLOBALS[full_name]

  def persistent_load(self, pid: Any) -> _Storage:
    match pid:
      case (
        'storage',
        _StorageType(dtype),
        str(key),
        _,  # The device it was on.
        int(numel),
        *view,  # Legacy only: None, or a part of the storage.
      ) if numel >= 0 and view in ([], [None]):
        storage = _Storage(key, dtype, numel)
        if self.storages.setdefault(key, storage) == storage:
          return storage
    raise ValueError('it holds a storage that torch.save would not write')


def _load_pickle(f: BinaryIO) -> tuple[Any, dict[str, _Storage]]:
  """Loads the pickle at the file's position, and moves the file to its end."""
  start = f.tell()
  # In memory, since a file's `read` allocates any length it is given.
  pickled = io.BytesIO(f.read(_MAX_PICKLE_BYTES))
  for count, (opcode, arg, _) in enumerate(pickletools.genops(pickled)):
    if opcode.name not in _OPCODES:
      raise ValueError(
        f'its pickle has the opcode {opcode.name} {str(arg)[:80]!r}, which no '
        'state dict needs and which may run code'
      )
    # Python allocates room for all indices below this one.
    if opcode.name == 'LONG_BINPUT' and arg > count:
      raise ValueError(f'its pickle asks for room for {arg} objects')
  f.seek(start + pickled.tell())
  pickled.seek(0)
  unpickler = _Unpickler(pickled)
  return unpickler.load(), unpickler.storages


def _arrays(
  state: Any, read_storage: Callable[[str], bytes]
) -> dict[str, np.ndarray]:
  """Reads the numbers of an unpickled state dict's tensors."""
  if isinstance(state, dict) and isinstance(state.get('state_dict'), dict):
    state = state['state_dict']
  if not isinstance(state, dict):
    raise ValueError(
      f'it holds a {type(state).__name__} and no dict of tensors'
    )
  contents, arrays = {}, {}
  for name, tensor in state.items():
    if not (isinstance(name, str) and isinstance(tensor, _Tensor)):
      raise ValueError(
        f'it holds a {type(tensor).__name__.strip("_")} under '
        f'{str(name)[:80]!r}, where a tensor should be'
      )
    storage = tensor.storage
    if storage.key not in contents:
      contents[storage.key] = read_storage(storage.key)
      if len(contents[storage.key]) != storage.num_bytes:
        raise ValueError(f'a storage does not hold its {storage.numel} numbers')
    arrays[name] = _array(tensor, contents[storage.key])
  return arrays


def _array(tensor: _Tensor, content: bytes) -> np.ndarray:
  dtype = tensor.storage.dtype
  if 0 in tensor.shape:
    return np.zeros(tensor.shape, dtype)
  return np.ndarray(
    tensor.shape,
    dtype,
    buffer=content,
    offset=tensor.offset * dtype.itemsize,
    strides=[stride * dtype.itemsize for stride in tensor.strides],
  )
