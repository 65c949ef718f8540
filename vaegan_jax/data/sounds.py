"""From the bytes of a sound file to an array, and back.

WAV and FLAC, by `soundfile`, which is loaded only where there is one. Axes: T
samples, C channels.
"""

import importlib.util
import io
from typing import NamedTuple

import numpy as np

from vaegan_jax.data.decode import UnreadableKind

SUFFIXES = ('.wav', '.flac')
_MAX_BYTES = 2**28  # Of one sound; a compressed file may claim any number.
_DTYPES = {'PCM_24': 'int32', 'PCM_32': 'int32'}
_DTYPES |= dict.fromkeys(('FLOAT', 'DOUBLE'), 'float32')
_UNKNOWN_SIZES = (0, 2**32 - 1)  # Of a WAV that was written into a pipe.
# Full scale of floats, which may exceed it a little, and of whole numbers.
_FULL_SCALES = {2**4: 1, 2**15: 2**15, 2**31: 2**31}


class Sound(NamedTuple):
  """What a file holds.

  Attributes:
    samples: [T, C], int16 of 8 and 16 bits, int32 of 24 and 32 (whose upper
      bits they fill), float32 of floats.
    sample_rate: samples a second.
  """

  samples: np.ndarray
  sample_rate: int


def is_sound(data: bytes) -> bool:
  """Whether a file is a WAV or a FLAC, by its first bytes."""
  is_wav = data[:4] in (b'RIFF', b'RF64') and data[8:12] == b'WAVE'
  return is_wav or data.startswith(b'fLaC')


def read_sound(data: bytes) -> Sound:
  """Reads a sound.

  Args:
    data: of a WAV or a FLAC.

  Returns:
    What it holds.

  Raises:
    Exception: whatever the library raises for a damaged file.
    UnreadableKind: the library is missing.
    ValueError: it is truncated or too large.
  """
  try:
    import soundfile
  except (ImportError, OSError) as error:  # Or libsndfile is missing.
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
  """Raises a ValueError for a WAV that is shorter than it says.

  The library reads such as if it had been shorter from the beginning.
  """
  size = int.from_bytes(data[4:8], 'little')
  if data[:4] != b'RIFF' or size in _UNKNOWN_SIZES:
    return
  if size + 8 > len(data) + 1:  # A last byte of padding is often left out.
    raise ValueError(f'it is truncated: {len(data):,} of {size + 8:,} bytes')


def can_encode(value_range: tuple[float, float]) -> bool:
  """Whether `encode_wav` can write sounds of such values here.

  Args:
    value_range: (low, high) of the data.
  """
  has_scale = max(map(abs, value_range)) <= max(_FULL_SCALES)
  return has_scale and importlib.util.find_spec('soundfile') is not None


def encode_wav(
  samples: np.ndarray, *, sample_rate: int, value_range: tuple[float, float]
) -> bytes:
  """The content of a WAV of floats, in which full scale is 1.

  What full scale is of the data is told by its range: up to 16 it is 1, as of
  floats; up to 2**15 that, as of 16 bits; and up to 2**31 that.

  Args:
    samples: [T, C] in the units of the data.
    sample_rate: samples a second.
    value_range: (low, high) of the data.

  Returns:
    The content.
  """
  import soundfile

  bound = max(map(abs, value_range))
  full = next(scale for most, scale in _FULL_SCALES.items() if bound <= most)
  content = io.BytesIO()
  sound = np.asarray(samples, np.float32) / np.float32(full)
  soundfile.write(content, sound, sample_rate, format='WAV', subtype='FLOAT')
  return content.getvalue()
