"""NIfTI files as bytes, whose affine and header survive a model.

It needs `nibabel`, which is imported only then.
"""

import gzip
import io
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vaegan_jax.data import medical_files
from vaegan_jax.data.reading import MAX_BYTES, UnreadableKind, check_size

SUFFIXES = ('.nii', '.nii.gz')
_GZIP = b'\x1f\x8b'
_MAGIC = slice(344, 348)  # Where NIfTI-1 has b'n+1\0'.


def is_nifti(data: bytes) -> bool:
  """Returns whether a file is a NIfTI-1, compressed or not."""
  if data.startswith(_GZIP):
    try:
      data = zlib.decompressobj(wbits=31).decompress(data, _MAGIC.stop)
    except zlib.error:
      return False
  return data[_MAGIC] == b'n+1\0'


def read_nifti(data: bytes) -> tuple[np.ndarray, dict[str, Any]]:
  """Reads [X, Y, Z] or [X, Y, Z, T] float32, and the `facts` of `encode_nifti`.

  The scale and the intercept of the header are applied.

  Raises:
    Exception: whatever nibabel raises for a damaged file.
    UnreadableKind: nibabel is missing.
    ValueError: it is too large.
  """
  try:
    import nibabel
  except ImportError as error:
    raise UnreadableKind(
      'it is a NIfTI, which needs nibabel (pip install nibabel)'
    ) from error
  is_compressed = data.startswith(_GZIP)
  if is_compressed:
    with gzip.open(io.BytesIO(data)) as file:
      data = file.read(MAX_BYTES + 1)
    check_size(len(data), 'unpacks to')
  image = nibabel.Nifti1Image.from_bytes(data)
  header = image.header.binaryblock.hex()
  facts = {'header': header, 'order': image.header.endianness}
  values = medical_files.drop_time(np.asarray(image.dataobj))
  facts |= {'is_compressed': is_compressed}
  return medical_files.to_float32(values), facts


def encode_nifti(array: np.ndarray, facts: Mapping[str, Any]) -> bytes:
  """Encodes float32 [X, Y, Z], or [X, Y, Z, C], with the header of `facts`.

  This keeps its affine. The scale and type of values become the array's.
  """
  import nibabel

  header = nibabel.Nifti1Header(
    bytes.fromhex(facts['header']), endianness=facts['order']
  )
  if len(header.get_data_shape()) == 5:  # Vectors.
    array = array[..., None, :]
  header.set_data_dtype(array.dtype)
  header.set_slope_inter(1, 0)
  header['cal_min'] = header['cal_max'] = 0  # Of the original's values.
  data = nibabel.Nifti1Image(array, None, header).to_bytes()
  return gzip.compress(data, mtime=0) if facts['is_compressed'] else data
