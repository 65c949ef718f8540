"""Decodes and encodes sound files.

WAV and FLAC need `soundfile`, which is imported only then. Axes: T samples, C
channels.
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
_UNKNOWN_SIZES = (0, 2**32 - 1)  # In a WAV that was written into a pipe.
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


def is_sound(data: bytes) -> bool:
  """Returns whether a file is a WAV or a FLAC, by its first bytes."""
  is_wav = data[:4] in (b'RIFF', b'RF64') and data[8:12] == b'WAVE'
  return is_wav or data.startswith(b'fLaC')


def read_sound(data: bytes) -> Sound:
  """Reads a WAV or a FLAC.

  Raises:
    Exception: whatever the library raises for a damaged file.
    UnreadableKind: the library is missing.
    ValueError: it is truncated or too large.
  """
  try:
    import soundfile
  except (ImportError, OSError) as error:  # OSError: libsndfile is missing.
    raise UnreadableKind(
      'it is a sound, which needs soundfile (pip install soundfile)'
    ) from error
  _check_whole(data)
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


def _check_whole(data: bytes) -> None:
  """Raises a ValueError for a truncated WAV, which the library accepts."""
  size = int.from_bytes(data[4:8], 'little')
  if data[:4] != b'RIFF' or size in _UNKNOWN_SIZES:
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
