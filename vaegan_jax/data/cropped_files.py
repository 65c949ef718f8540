"""The array and sound files of a folder that crops are taken from."""

import hashlib
import math
import os
from typing import Any

from vaegan_jax.data import arrays, slices, sound_conversion, tiff_files
from vaegan_jax.data.array_files import ArrayFiles
from vaegan_jax.data.crops import Grid, find_empty
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.slices import Facts, Opened, Sliced
from vaegan_jax.data.store import check_unchanged


class CroppedFiles(ArrayFiles):
  """Files whose lengths may vary; those read by slices may be of any size.

  Files that are smaller than a crop are skipped as damaged. `find_damaged` sets
  `facts`.
  """

  def __init__(self, path: str, data: DataConfig):
    """Lists the arrays; see `ArrayFiles`."""
    super().__init__(path, data)
    self.place_key += ' crops'
    self.facts = {}

  def open(self, name: str) -> Opened | None:
    """Opens an array; None if its file must be decoded whole.

    Raises:
      Exception: whatever the libraries raise for a damaged file.
      UnreadableKind: a mask is beside it.
      OSError: it is a pipe or a device, or has changed since it was listed.
    """
    path = str(self.root / name)
    tiff_files.check_mask(path, self._reading)
    if not os.path.isfile(path):
      raise OSError('it is not a regular file')
    check_unchanged(path, self._found[name])
    return slices.open_values(path, self._reading)

  def _inspect(self, name: str) -> tuple[bytes, Exception | None, Any]:
    digest = b''
    try:
      opened = self.open(name)
      if opened is None:
        return super()._inspect(name)
      with open(self.root / name, 'rb') as file:
        digest = hashlib.file_digest(file, 'sha256').digest()
      return digest, None, self._check_values(name, opened, in_place=True)
    except Exception as error:  # Libraries raise nearly anything.
      return digest, error.with_traceback(None), None

  def _check(self, name: str, data: bytes) -> tuple[int, int]:
    opened = slices.decoded(
      arrays.read_stored(data, self._reading), self._reading
    )
    return self._check_values(name, opened, in_place=False)

  def _check_values(
    self, name: str, opened: Opened, *, in_place: bool
  ) -> tuple[int, int]:
    """Returns the number of values of no data, and of all; or raises."""
    values = opened.values
    if not 1 <= len(values.shape) <= arrays.MAX_AXES or 0 in values.shape:
      raise ValueError(f'it has the shape {list(values.shape)}')
    channels, shape = self._cut
    try:
      whole = Sliced(opened, channels, len(shape), self._reading)
    except ValueError:  # `check_shape` reports what fits.
      free = (0,) if opened.sample_rate else range(len(values.shape))
      self._note(name, opened, free)
      return 0, 0
    if opened.sample_rate:
      self._check_length(values.shape[0])
    Grid.of(whole.space, shape)
    if opened.was and in_place:  # Its own samples are read faster.
      is_silent = sound_conversion.check(values.source)
      empty, missing, number = [], 0, math.prod(values.shape)
    else:
      empty, missing, number, is_silent = find_empty(
        whole, shape, self._reading.max_nodata
      )
    if is_silent and opened.sample_rate:
      self.silent.append(name)
    self.facts[name] = Facts(
      whole.space, in_place, '' if in_place else opened.nodata, empty
    )
    self._note(name, opened, whole.order[:-1])
    return missing, number
