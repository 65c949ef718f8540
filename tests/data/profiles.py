"""Small ICC profiles, built from their numbers."""

import struct

import numpy as np

# Adapted to D50: red, green and blue in XYZ, row by row.
PRIMARIES = {
  'sRGB': ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971),
           (0.1431, 0.0606, 0.7141)),
  'Display P3': ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419),
                 (0.1571, 0.0666, 0.7841)),
  'Adobe RGB': ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609),
                (0.1492, 0.0632, 0.7446)),
}  # fmt: skip
_D50 = (0.9642, 1.0, 0.8249)


def _fixed(*values):
  return b''.join(struct.pack('>i', round(v * 65536)) for v in values)


def _xyz(values):
  return b'XYZ \0\0\0\0' + _fixed(*values)


def _gamma(gamma):
  return b'curv\0\0\0\0' + struct.pack('>IH', 1, round(gamma * 256))


def _srgb_curve():
  x = np.linspace(0, 1, 1024)
  y = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
  values = np.round(y * 65535).astype('>u2')
  return b'curv\0\0\0\0' + struct.pack('>I', len(values)) + values.tobytes()


def _text(text):
  data = text.encode() + b'\0'
  return (
    b'desc\0\0\0\0' + struct.pack('>I', len(data)) + data + bytes(4 + 4 + 70)
  )


def _assemble(space, kind, tags, connection=b'XYZ '):
  tags = {b'cprt': b'text\0\0\0\0none\0', b'wtpt': _xyz(_D50), **tags}
  table, body = struct.pack('>I', len(tags)), b''
  first = 128 + 4 + 12 * len(tags)
  for tag, data in tags.items():
    table += tag + struct.pack('>II', first + len(body), len(data))
    body += data + bytes(-len(data) % 4)
  header = struct.pack('>I4sI', first + len(body), bytes(4), 0x02100000)
  header += kind + space + connection + struct.pack('>6H', 2020, 1, 1, 0, 0, 0)
  header += b'acsp' + bytes(28) + _fixed(*_D50) + bytes(48)
  return header + table + body


def rgb(name, gamma=0.0):
  """Returns a profile with the primaries `name`, of sRGB's curve or a gamma."""
  curve = _gamma(gamma) if gamma else _srgb_curve()
  tags = {b'desc': _text(name)}
  for letter, primary in zip(b'rgb', PRIMARIES[name], strict=True):
    tags[bytes([letter]) + b'XYZ'] = _xyz(primary)
    tags[bytes([letter]) + b'TRC'] = curve
  return _assemble(b'RGB ', b'mntr', tags)


def grey(gamma):
  """Returns a profile of grey with a gamma."""
  tags = {b'desc': _text(f'gamma {gamma}'), b'kTRC': _gamma(gamma)}
  return _assemble(b'GRAY', b'mntr', tags)


def cmyk(ink=0.5):
  """Returns a profile in which full inks still reflect `1 - ink` of light."""
  nodes = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing='ij'), -1)
  lightness = 100 * (1 - ink * nodes.mean(-1))
  table = np.stack([lightness * 2.55, *[np.full_like(lightness, 128)] * 2], -1)
  ramp = np.arange(256, dtype=np.uint8).tobytes()
  lut = (
    b'mft1\0\0\0\0' + bytes([4, 3, 2, 0]) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
  )
  lut += 4 * ramp + np.round(table).astype(np.uint8).tobytes() + 3 * ramp
  tags = {b'desc': _text('pale inks'), b'A2B0': lut}
  return _assemble(b'CMYK', b'prtr', tags, b'Lab ')
