"""Decodes and encodes sound files.

WAV (with RF64 and BW64), FLAC, AIFF, MP3 and Ogg (Vorbis and Opus) need
`soundfile`, which is imported only then. Axes: T samples, C channels.
"""

import atexit
import contextlib
import importlib.util
import io
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from vaegan_jax.data.reading import check_size
from vaegan_jax.data.sound_headers import (
  NO_REPAIR,
  find_last_page,
  find_repair,
  is_mp3,
  open_sound,
  size_of_tag,
)
from vaegan_jax.data.store import Recent, check_unchanged, stat_of

_SUFFIXES = ('.wav', '.flac')
_MORE_SUFFIXES = ('.aif', '.aiff', '.mp3', '.ogg', '.oga', '.opus')
_DTYPES = {'PCM_24': 'int32', 'PCM_32': 'int32'}
_DTYPES |= dict.fromkeys(('FLOAT', 'DOUBLE'), 'float32')
# Lossy formats are decoded to floats, and may exceed full scale.
_LOSSY = ('VORBIS', 'OPUS', 'MPEG_LAYER_I', 'MPEG_LAYER_II', 'MPEG_LAYER_III')
_KEPT_OPEN = Recent(64)  # Files.
atexit.register(_KEPT_OPEN.clear)  # While the library can close them.
# {largest bound: full scale}: of floats, which may exceed it, and of integers.
_FULL_SCALES = {2**4: 1, 2**15: 2**15, 2**31: 2**31}


class Sound(NamedTuple):
  """The content of a sound file."""

  # [T, C], int16 for 8 and 16 bits and lossy formats, int32 for 24 and 32
  # (which fill the upper bits), float32 for floats.
  samples: np.ndarray
  sample_rate: int  # Samples per second.


def suffixes(rules: int) -> tuple[str, ...]:
  """Returns the suffixes of sounds, by `data.folder_rules`."""
  return _SUFFIXES + _MORE_SUFFIXES if rules > 3 else _SUFFIXES


def is_sound(file: BinaryIO, rules: int = 4) -> bool:
  """Returns whether a file is a sound that is read, by its first bytes.

  Below rules 4 (`data.folder_rules`) these are WAV and FLAC; below 3 neither
  BW64 nor ID3 tags are known.
  """
  file.seek(0)
  start = file.read(12)
  if rules > 2 and (tag := size_of_tag(start)):
    file.seek(tag)
    start = file.read(12)
  names = (b'RIFF', b'RF64', b'BW64') if rules > 2 else (b'RIFF', b'RF64')
  is_wav = start[:4] in names and start[8:12] == b'WAVE'
  if is_wav or start.startswith(b'fLaC'):
    return True
  is_aiff = start[:4] == b'FORM' and start[8:12] in (b'AIFF', b'AIFC')
  return rules > 3 and (is_aiff or start[:4] == b'OggS' or is_mp3(start))


def read_sound(data: bytes, rules: int = 4) -> Sound:
  """Reads a sound; see `is_sound` for `rules`.

  Raises:
    Exception: whatever the library raises for a damaged file.
    UnreadableKind: the library is missing.
    ValueError: it is truncated or too large.
  """
  stream = io.BytesIO(data)
  with open_sound(stream, find_repair(stream, rules)) as file:
    itemsize = np.dtype(_DTYPES.get(file.subtype, 'int16')).itemsize
    check_size(file.frames * file.channels * itemsize, 'unpacks to')
    samples = _read(file, file.frames)
    _check_number(len(samples), file.frames)
    return Sound(samples, file.samplerate)


def _read(file: Any, number: int) -> np.ndarray:
  """Reads the next samples of an opened file, [number, C]."""
  dtype = _DTYPES.get(file.subtype, 'int16')
  if file.subtype not in _LOSSY:
    return file.read(number, dtype, always_2d=True)
  # The library's own conversion to int16 wraps beyond full scale.
  samples = file.read(number, 'float32', always_2d=True) * np.float32(2**15)
  return np.clip(np.rint(samples), -(2**15), 2**15 - 1).astype(dtype)


class SoundFile:
  """The samples of a file, as in a `Sound`, read by slices [T, C]."""

  def __init__(self, path: str):
    """Reads the header; see `read_sound` for what it raises."""
    self._path, self._state = path, stat_of(path)
    with open(path, 'rb') as stream:
      self._repair = find_repair(stream)
      with open_sound(stream, self._repair) as file:
        self.shape = (file.frames, file.channels)
        self.dtype = np.dtype(_DTYPES.get(file.subtype, 'int16'))
        self.sample_rate = file.samplerate
        self._is_mp3, self._last = 'MPEG' in file.subtype, self.shape[0]
        if file.subtype == 'VORBIS':  # In its last page the library errs.
          self._last = find_last_page(stream)

  def __getitem__(self, cuts: tuple[slice, slice]) -> np.ndarray:
    check_unchanged(self._path, self._state)
    first, end, _ = cuts[0].indices(self.shape[0])
    start = max(min(first, self._last - 1), 0)
    with self._open() as file:
      file.seek(start)
      samples = _read(file, end - start)
    _check_number(start + len(samples), end)
    return samples[first - start :, cuts[1]]

  @contextlib.contextmanager
  def _open(self) -> Iterator[Any]:
    """Opens the file; an MP3 stays open, as a first seek reads all headers."""
    if self._repair != NO_REPAIR:
      with (
        open(self._path, 'rb') as source,
        open_sound(source, self._repair) as file,
      ):
        yield file
    elif not self._is_mp3:
      with open_sound(self._path, NO_REPAIR) as file:
        yield file
    else:
      file, lock = _KEPT_OPEN.get(
        (self._path, self._state),
        lambda: (open_sound(self._path, NO_REPAIR), threading.Lock()),
      )
      with lock:
        yield file


def _check_number(found: int, wanted: int) -> None:
  if found != wanted:
    raise ValueError(f'it is truncated: {found:,} of {wanted:,} samples')


def read_format(stream: BinaryIO) -> dict[str, Any]:
  """Returns the arguments for `encode_as` to write such a sound.

  Lossy formats are written as WAV, so that nothing is lost twice.
  """
  with open_sound(stream, find_repair(stream)) as file:
    is_lossy = file.subtype in _LOSSY
    return {
      'sample_rate': file.samplerate,
      'format': 'WAV' if is_lossy else file.format,
      'subtype': 'PCM_16' if is_lossy else file.subtype,
    }


def output_name(name: str) -> str:
  """Returns the name that a file has when written again; see `read_format`."""
  stem, _, suffix = name.rpartition('.')
  lossy = ('mp3', 'ogg', 'oga', 'opus')
  return f'{stem}.wav' if suffix.lower() in lossy else name


def encode_as(
  samples: np.ndarray, *, sample_rate: int, format: str, subtype: str
) -> bytes:
  """Encodes [T, C], as `read_sound` returns it, in a format of libsndfile."""
  import soundfile

  content = io.BytesIO()
  soundfile.write(content, samples, sample_rate, format=format, subtype=subtype)
  return content.getvalue()


def create(
  path: str, channels: int, *, sample_rate: int, format: str, subtype: str
) -> Any:
  """Opens a new file, whose `write` takes [T, C] of `read_sound`'s dtypes."""
  import soundfile

  return soundfile.SoundFile(
    path, 'w', sample_rate, channels, subtype, format=format
  )


def can_encode(value_range: tuple[float, float]) -> bool:
  """Returns whether `encode_wav` can write sounds with such values here."""
  has_scale = max(map(abs, value_range)) <= max(_FULL_SCALES)
  return has_scale and importlib.util.find_spec('soundfile') is not None


def encode_wav(
  samples: np.ndarray, *, sample_rate: int, value_range: tuple[float, float]
) -> bytes:
  """Returns the content of a WAV with floats, whose full scale is 1.

  `samples` are [T, C] in the units of the data, whose range determines its full
  scale: 1 up to 16, as for floats; 2**15 up to that; and 2**31 up to that.
  """
  import soundfile

  bound = max(map(abs, value_range))
  full = next(scale for most, scale in _FULL_SCALES.items() if bound <= most)
  content = io.BytesIO()
  sound = np.asarray(samples, np.float32) / np.float32(full)
  soundfile.write(content, sound, sample_rate, format='WAV', subtype='FLOAT')
  return content.getvalue()
