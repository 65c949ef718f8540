"""Frames of MP3 files, and the index that some files lack.

Without an index the library guesses the length from the first frame. Where the
bit rate varies, the sound then ends too early, or seems to be truncated.
"""

from typing import BinaryIO

# Kilobits per second in layer III, by the bits of a header, for MPEG 1 and 2.
_RATES = (
  (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
  (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_SAMPLE_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000)}
_SAMPLE_RATES[0] = (11_025, 12_000, 8_000)
_KINDS = (b'Xing', b'Info', b'VBRI')
_MONO = 3
# What all frames of a file share: sync, version, layer and sample rate.
_SHARED = 0xFFFE0C00


def is_mp3(start: bytes) -> bool:
  """Returns whether a file begins with a frame of MP3."""
  return _size(int.from_bytes(start[:4])) > 0


def index_frame(file: BinaryIO) -> bytes:
  """Returns a frame with the number of frames, for a file that has no index.

  Args:
    file: a file that begins with a frame.

  Returns:
    A frame to put before it; b'' if it has an index.
  """
  file.seek(0)
  start = file.read(4)
  header = int.from_bytes(start)
  start += file.read(_size(header) - len(start))
  if any(kind in start for kind in _KINDS):
    return b''
  data = start + file.read()
  is_mpeg_1, is_mono = (header >> 19) & 3 == 3, (header >> 6) & 3 == _MONO
  side = (17 if is_mono else 32) if is_mpeg_1 else (9 if is_mono else 17)
  # No checksum, no padding, and room for the index.
  header = header & ~0xF200 | 0x10000 | 9 << 12
  frame = header.to_bytes(4) + bytes(side) + b'Xing' + (1).to_bytes(4)
  frame += _count_frames(data).to_bytes(4)
  return frame.ljust(_size(header), b'\0')


def _count_frames(data: bytes) -> int:
  """Counts frames; what is between them is skipped, as by the library."""
  shared, place, number = int.from_bytes(data[:4]) & _SHARED, 0, 0
  while place >= 0:
    header = int.from_bytes(data[place : place + 4])
    size = _size(header) if header & _SHARED == shared else 0
    if size and place + size <= len(data):
      number, place = number + 1, place + size
    else:
      place = data.find(b'\xff', place + 1)
  return number


def _size(header: int) -> int:
  """Returns the bytes of the frame with that header; 0 if it is not one."""
  version, layer = (header >> 19) & 3, (header >> 17) & 3
  rate, sample_rate = (header >> 12) & 15, (header >> 10) & 3
  is_frame = header >> 21 == 0x7FF and version != 1 and layer == 1
  if not is_frame or rate in (0, 15) or sample_rate == 3:
    return 0
  bits = 1000 * _RATES[version != 3][rate]
  samples = 1152 if version == 3 else 576
  padding = (header >> 9) & 1
  return samples // 8 * bits // _SAMPLE_RATES[version][sample_rate] + padding
