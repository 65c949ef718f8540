"""Decodes and encodes sound files.

WAV (with RF64 and BW64) and FLAC need `soundfile`, which is imported only then.
Axes: T samples, C channels.
"""

import importlib.util
import io
from typing import Any, NamedTuple

import numpy as np

from vaegan_jax.data.reading import UnreadableKind

SUFFIXES = ('.wav', '.flac')
_MAX_BYTES = 2**28  # Limit of one sound; a compressed file may claim any size.
_DTYPES = {'PCM_24': 'int32', 'PCM_32': 'int32'}
_DTYPES |= dict.fromkeys(('FLOAT', 'DOUBLE'), 'float32')
_FIRST_UNKNOWN_SIZES = (0, 2**32 - 1)  # In a WAV out of a pipe.
_PIPE_SIZE = 2**31 - 2**12  # Sox and others write this much or more there.
# {largest bound: full scale}: of floats, which may exceed it, and of integers.
_FULL_SCALES = {2**4: 1, 2**15: 2**15, 2**31: 2**31}


class Sound(NamedTuple):
  """The content of a sound file.

  Attributes:
    samples: [T, C], int16 for 8 and 16 bits, int32 for 24 and 32 (which fill
      the upper bits), float32 for floats.
    sample_rate: samples per second.
  """

  samples: np.ndarray
  sample_rate: int


def is_sound(data: bytes, rules: int = 3) -> bool:
  """Returns whether a file is a WAV or a FLAC, by its first bytes.

  Args:
    data: the file.
    rules: `data.folder_rules`; below 3 neither BW64 nor ID3 tags are known.
  """
  if rules > 2:
    data = _without_tag(data)
  names = (b'RIFF', b'RF64', b'BW64') if rules > 2 else (b'RIFF', b'RF64')
  is_wav = data[:4] in names and data[8:12] == b'WAVE'
  return is_wav or data.startswith(b'fLaC')


def read_sound(data: bytes, rules: int = 3) -> Sound:
  """Reads a WAV or a FLAC.

  Args:
    data: the file.
    rules: see `is_sound`.

  Raises:
    Exception: whatever the library raises for a damaged file.
    UnreadableKind: the library is missing, or a FLAC has no length.
    ValueError: it is truncated or too large.
  """
  try:
    import soundfile
  except (ImportError, OSError) as error:  # OSError: libsndfile is missing.
    raise UnreadableKind(
      'it is a sound, which needs soundfile (pip install soundfile)'
    ) from error
  if rules > 2:
    data = _repair(data)
  else:
    _check_whole(data, _size(data) in _FIRST_UNKNOWN_SIZES)
  with soundfile.SoundFile(io.BytesIO(data)) as file:
    dtype = _DTYPES.get(file.subtype, 'int16')
    claimed = file.frames * file.channels * np.dtype(dtype).itemsize
    if claimed > _MAX_BYTES:
      raise ValueError(f'it unpacks to more than {_MAX_BYTES:,} bytes')
    samples = file.read(dtype=dtype, always_2d=True)
    if len(samples) != file.frames:
      raise ValueError(
        f'it is truncated: {len(samples):,} of {file.frames:,} samples'
      )
    return Sound(samples, file.samplerate)


def _without_tag(data: bytes) -> bytes:
  """Removes an ID3 tag, which some programs put before a FLAC."""
  if data[:3] != b'ID3' or len(data) < 10:
    return data
  size = 0
  for byte in data[6:10]:  # Seven bits each.
    size = size << 7 | byte & 127
  has_footer = data[5] & 16
  return data[10 + size + (10 if has_footer else 0) :]


def _repair(data: bytes) -> bytes:
  """Returns a sound as the library reads it.

  Raises:
    UnreadableKind: it is a FLAC without its length.
    ValueError: it is a truncated WAV.
  """
  data = _without_tag(data)
  if data.startswith(b'fLaC'):
    # The number of samples has 36 bits of STREAMINFO, the first block.
    if not int.from_bytes(data[21:26]) & (2**36 - 1):
      raise UnreadableKind(
        'it is a FLAC that does not say how long it is, as out of a pipe: '
        'write it into a file again, as ffmpeg -i old.flac new.flac does'
      )
    return data
  if data.startswith(b'BW64'):  # RF64 with other metadata.
    return b'RF64' + data[4:]
  is_piped = _size(data) == 0 or _size(data) >= _PIPE_SIZE
  _check_whole(data, is_piped)
  return _with_sizes(data) if is_piped else data


def _with_sizes(data: bytes) -> bytes:
  """Writes the sizes into a WAV out of a pipe; its samples are the last."""
  place = 12
  while place + 8 <= len(data):
    name = data[place : place + 4]
    if name == b'data':
      rest = (len(data) - place - 8).to_bytes(4, 'little')
      whole = (len(data) - 8).to_bytes(4, 'little')
      head = data[:4] + whole + data[8 : place + 4]
      return head + rest + data[place + 8 :]
    size = int.from_bytes(data[place + 4 : place + 8], 'little')
    place += 8 + size + size % 2
  return data


def _size(data: bytes) -> int:
  """Returns the size that a WAV claims, without its first 8 bytes."""
  return int.from_bytes(data[4:8], 'little')


def _check_whole(data: bytes, is_piped: bool) -> None:
  """Raises a ValueError for a truncated WAV, which the library accepts."""
  size = _size(data)
  if data[:4] != b'RIFF' or is_piped:
    return
  if size + 8 > len(data) + 1:  # The last byte of padding is often missing.
    raise ValueError(f'it is truncated: {len(data):,} of {size + 8:,} bytes')


def read_format(data: bytes) -> dict[str, Any]:
  """Returns the arguments for `encode_as` to write such a sound."""
  import soundfile

  with soundfile.SoundFile(io.BytesIO(data)) as file:
    return {
      'sample_rate': file.samplerate,
      'format': file.format,
      'subtype': file.subtype,
    }


def encode_as(
  samples: np.ndarray, *, sample_rate: int, format: str, subtype: str
) -> bytes:
  """Encodes [T, C], of a dtype that `read_sound` returns, in libsndfile's."""
  import soundfile

  content = io.BytesIO()
  soundfile.write(content, samples, sample_rate, format=format, subtype=subtype)
  return content.getvalue()


def can_encode(value_range: tuple[float, float]) -> bool:
  """Returns whether `encode_wav` can write sounds with such values here."""
  has_scale = max(map(abs, value_range)) <= max(_FULL_SCALES)
  return has_scale and importlib.util.find_spec('soundfile') is not None


def encode_wav(
  samples: np.ndarray, *, sample_rate: int, value_range: tuple[float, float]
) -> bytes:
  """Returns the content of a WAV with floats, whose full scale is 1.

  The range of the data determines its full scale: 1 up to 16, as for floats;
  2**15 up to that, as for 16 bits; and 2**31 up to that.

  Args:
    samples: [T, C] in the units of the data.
    sample_rate: samples per second.
    value_range: (low, high) of the data.
  """
  import soundfile

  bound = max(map(abs, value_range))
  full = next(scale for most, scale in _FULL_SCALES.items() if bound <= most)
  content = io.BytesIO()
  sound = np.asarray(samples, np.float32) / np.float32(full)
  soundfile.write(content, sound, sample_rate, format='WAV', subtype='FLOAT')
  return content.getvalue()
