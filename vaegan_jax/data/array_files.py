"""A user's folder of arrays: its files, which are damaged, and its splits."""

import collections
import importlib.util
import pathlib

import numpy as np

from vaegan_jax.data import arrays
from vaegan_jax.data.image_files import (
  DAMAGED_FILE,
  ImageFiles,
  list_files,
)


class ArrayFiles(ImageFiles):
  """The arrays of a folder, split as `ImageFiles` splits images.

  All must have the same shape and dtype. What holds a NaN or an infinity is
  left out as what is damaged is.

  Attributes:
    shape, dtype: of each file's array; known when `find_damaged` has read.
  """

  noun = 'arrays'

  def find_damaged(self, report: str = DAMAGED_FILE) -> dict[str, str]:
    """Reads every array once; see `ImageFiles.find_damaged`.

    Raises:
      UserError: as there, or their shapes or dtypes differ.
    """
    self._found = {}
    damaged = super().find_damaged(report)
    counts = collections.Counter(self._found.values())
    if not counts:  # Nothing is left: `split` says so.
      return damaged
    (self.dtype, self.shape), count = counts.most_common(1)[0]
    if count == len(self._found):
      return damaged
    others = sorted(
      name
      for name, found in self._found.items()
      if found != (self.dtype, self.shape)
    )
    dtype, shape = self._found[others[0]]
    raise self._error(
      f'in which {count:,} arrays are {self.dtype} {list(self.shape)}, and '
      f'{len(others):,} are not, such as {others[0]!r} ({dtype} '
      f'{list(shape)}); all must be alike, so mend or remove these'
    )

  def _readable_kinds(self) -> tuple[str, ...]:
    kinds = ('tifffile', 'imagecodecs')
    return tuple(kind for kind in kinds if importlib.util.find_spec(kind))

  def _check(self, name: str, data: bytes) -> None:
    array = arrays.read_array(data)
    arrays.check_finite(array)
    self._found[name] = (np.dtype(array.dtype).name, array.shape)

  def _list(self) -> dict[str, tuple[int, int]]:
    found = self._of_splits(find_arrays(self.root))
    if not found:
      raise self._error(
        'in which there is no array; it must hold .npy, .npz, TIFF or PNG '
        'files, such as "field.npy"'
      )
    return found


def find_arrays(root: pathlib.Path) -> dict[str, tuple[int, int]]:
  """Finds the files of arrays in a folder; as `list_files`."""
  return list_files(root, _is_array)


def _is_array(path: pathlib.Path) -> bool:
  return path.suffix.lower() in arrays.SUFFIXES
