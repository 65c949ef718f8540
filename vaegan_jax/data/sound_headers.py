"""Headers of sound files that the library reads wrongly, and their repair.

Unknown sizes, as pipes write them, tags before the file and the names of other
programs are replaced while a file is read. No file is changed.
"""

import io
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from vaegan_jax.data.reading import UnreadableKind

_FIRST_UNKNOWN_SIZES = (0, 2**32 - 1)  # In a WAV out of a pipe.
_PIPE_SIZE = 2**31 - 2**12  # Sox and others write this much or more there.
_AIFF_PIPE_SIZE = 0x7F000000
_FLAC_LENGTH = 2**36 - 1  # The bits with the number of samples.
_COUNTED_TOGETHER = 2**16  # Samples.
_LONGEST_PAGE = 2**16  # Bytes of a page of Ogg.
# Kilobits per second in layer III, by the bits of a header, for MPEG 1 and 2.
_BIT_RATES = (
  (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
  (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_SAMPLE_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000)}
_SAMPLE_RATES[0] = (11_025, 12_000, 8_000)
_INDICES = (b'Xing', b'Info', b'VBRI')
_MONO = 3
# All frames of a file share these bits: sync, version, layer, sample rate.
_SHARED = 0xFFFE0C00


class Repair(NamedTuple):
  """The bytes `head`, which the library gets instead of the first `skip`."""

  head: bytes = b''
  skip: int = 0


NO_REPAIR = Repair()


class _Repaired(io.RawIOBase):
  """A file with other first bytes."""

  def __init__(self, file: BinaryIO, repair: Repair):
    self._file, self._place = file, 0
    self._head, self._skip = repair

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
    start = self._place if whence == io.SEEK_CUR else 0
    if whence == io.SEEK_END:
      start = self._file.seek(0, io.SEEK_END) - self._skip + len(self._head)
    self._place = start + offset
    return self._place

  def tell(self) -> int:
    return self._place

  def readinto(self, buffer) -> int:
    data = self._head[self._place : self._place + len(buffer)]
    if not data:
      self._file.seek(self._place - len(self._head) + self._skip)
      data = self._file.read(len(buffer))
    buffer[: len(data)] = data
    self._place += len(data)
    return len(data)


def open_sound(source: str | BinaryIO, repair: Repair) -> Any:
  """Opens a path or a file by the library, or raises an UnreadableKind."""
  try:
    import soundfile
  except (ImportError, OSError) as error:  # OSError: libsndfile is missing.
    raise UnreadableKind(
      'it is a sound, which needs soundfile (pip install soundfile)'
    ) from error
  if repair != NO_REPAIR:
    source = io.BufferedReader(_Repaired(source, repair))
  elif not isinstance(source, str):
    source.seek(0)
  return soundfile.SoundFile(source)


def find_repair(file: BinaryIO, rules: int = 4) -> Repair:
  """Returns what the library needs to read a sound; rules below 3 know little.

  Raises:
    Exception: whatever the library raises for a damaged FLAC out of a pipe.
    ValueError: it is a truncated WAV, or too large for one out of a pipe.
  """
  start = _read_at(file, 0, 12)
  if rules < 3:
    _check_whole(file, start, _size(start) in _FIRST_UNKNOWN_SIZES)
    return NO_REPAIR
  if tag := size_of_tag(start):
    head, skip = find_repair(_Repaired(file, Repair(b'', tag)))
    if not head and is_mp3(_read_at(file, tag, 4)):  # It may have tags.
      return NO_REPAIR
    return Repair(head, tag + skip)
  if start.startswith(b'fLaC'):
    return _repair_flac(file)
  if start.startswith(b'OggS'):
    return NO_REPAIR
  if is_mp3(start):
    return Repair(index_frame(file), 0)
  if start.startswith(b'BW64'):  # RF64 with other metadata.
    return Repair(b'RF64', 4)
  if start.startswith(b'FORM'):
    size = int.from_bytes(start[4:8])
    if size < _AIFF_PIPE_SIZE:
      _check_size(file, size)
    return NO_REPAIR
  size, length = _size(start), file.seek(0, io.SEEK_END)
  # A file of 2 to 4 GiB states as much, and its own length.
  is_stated = abs(length - 8 - size) <= 1
  is_piped = size == 0 or (size >= _PIPE_SIZE and not is_stated)
  _check_whole(file, start, is_piped)
  return _repair_sizes(file) if is_piped else NO_REPAIR


def _repair_flac(file: BinaryIO) -> Repair:
  """Counts the samples of a FLAC out of a pipe, which does not state them."""
  start = _read_at(file, 0, 26)
  # The number of samples has 36 bits of STREAMINFO, the first block.
  facts, number = int.from_bytes(start[21:26]), 0
  if facts & _FLAC_LENGTH:
    return NO_REPAIR
  largest = (facts | _FLAC_LENGTH).to_bytes(5)
  with open_sound(file, Repair(start[:21] + largest, 26)) as sound:
    sound.seekable = lambda: False  # It would seek beyond the last sample.
    block = np.empty((_COUNTED_TOGETHER, sound.channels), np.int32)
    while found := len(sound.read(out=block)):
      number += found
  return Repair(start[:21] + (facts | number).to_bytes(5), 26)


def _repair_sizes(file: BinaryIO) -> Repair:
  """Writes the sizes into a WAV out of a pipe; its samples are the last."""
  length, place = file.seek(0, io.SEEK_END), 12
  while place + 8 <= length:
    name, size = _read_at(file, place, 4), _read_at(file, place + 4, 4)
    if name == b'data':
      if length >= 2**32:
        raise ValueError(
          'it is a WAV out of a pipe with more than 4 GiB: write it again, as '
          'ffmpeg -i old.wav -rf64 auto new.wav does'
        )
      whole, rest = ((length - n).to_bytes(4, 'little') for n in (8, place + 8))
      head = _read_at(file, 0, place + 4)
      return Repair(head[:4] + whole + head[8:] + rest, place + 8)
    size = int.from_bytes(size, 'little')
    place += 8 + size + size % 2
  return NO_REPAIR


def _read_at(file: BinaryIO, place: int, size: int) -> bytes:
  file.seek(place)
  return file.read(size)


def find_last_page(file: BinaryIO) -> int:
  """Returns the first sample of an Ogg file's last page."""
  length = file.seek(0, io.SEEK_END)
  end = _read_at(file, max(length - 2 * _LONGEST_PAGE, 0), length)
  pages = end.split(b'OggS')[1:-1]  # All but the last one.
  counts = [int.from_bytes(page[2:10], 'little') for page in pages]
  # Pages on which no packet ends have no number of samples.
  return max((n for n in counts if n < 2**63), default=0)


def size_of_tag(start: bytes) -> int:
  """Returns the bytes of an ID3 tag, which some programs put before a FLAC."""
  if start[:3] != b'ID3' or len(start) < 10:
    return 0
  size = 0
  for byte in start[6:10]:  # Seven bits each.
    size = size << 7 | byte & 127
  has_footer = start[5] & 16
  return 10 + size + (10 if has_footer else 0)


def _size(start: bytes) -> int:
  """Returns the size that a WAV claims, without its first 8 bytes."""
  return int.from_bytes(start[4:8], 'little')


def _check_whole(file: BinaryIO, start: bytes, is_piped: bool) -> None:
  """Raises a ValueError for a truncated WAV, which the library accepts."""
  if start[:4] == b'RIFF' and not is_piped:
    _check_size(file, _size(start))


def _check_size(file: BinaryIO, size: int) -> None:
  """Raises a ValueError if a file ends before the size in its header."""
  length = file.seek(0, io.SEEK_END)
  if size + 8 > length + 1:  # The last byte of padding is often missing.
    raise ValueError(f'it is truncated: {length:,} of {size + 8:,} bytes')


def is_mp3(start: bytes) -> bool:
  """Returns whether a file begins with a frame of MP3."""
  return _frame_size(int.from_bytes(start[:4])) > 0


def index_frame(file: BinaryIO) -> bytes:
  """Returns a frame to put before an MP3 that has no index; else b''.

  Without an index the library guesses the length from the first frame. Where
  the bit rate varies, the sound then ends too early, or seems to be truncated.
  """
  file.seek(0)
  start = file.read(4)
  header = int.from_bytes(start)
  start += file.read(_frame_size(header) - len(start))
  if any(kind in start for kind in _INDICES):
    return b''
  data = start + file.read()
  is_mpeg_1, is_mono = (header >> 19) & 3 == 3, (header >> 6) & 3 == _MONO
  side = (17 if is_mono else 32) if is_mpeg_1 else (9 if is_mono else 17)
  # No checksum, no padding, and room for the index.
  header = header & ~0xF200 | 0x10000 | 9 << 12
  frame = header.to_bytes(4) + bytes(side) + b'Xing' + (1).to_bytes(4)
  frame += _count_frames(data).to_bytes(4)
  return frame.ljust(_frame_size(header), b'\0')


def _count_frames(data: bytes) -> int:
  """Counts frames; what is between them is skipped, as by the library."""
  shared, place, number = int.from_bytes(data[:4]) & _SHARED, 0, 0
  while place >= 0:
    header = int.from_bytes(data[place : place + 4])
    size = _frame_size(header) if header & _SHARED == shared else 0
    if size and place + size <= len(data):
      number, place = number + 1, place + size
    else:
      place = data.find(b'\xff', place + 1)
  return number


def _frame_size(header: int) -> int:
  """Returns the bytes of the frame with that header; 0 if it is not one."""
  version, layer = (header >> 19) & 3, (header >> 17) & 3
  rate, sample_rate = (header >> 12) & 15, (header >> 10) & 3
  is_frame = header >> 21 == 0x7FF and version != 1 and layer == 1
  if not is_frame or rate in (0, 15) or sample_rate == 3:
    return 0
  bits = 1000 * _BIT_RATES[version != 3][rate]
  samples = 1152 if version == 3 else 576
  padding = (header >> 9) & 1
  return samples // 8 * bits // _SAMPLE_RATES[version][sample_rate] + padding
