"""A user's folder of arrays: its files, which are damaged, and its splits."""

import collections
import hashlib
import importlib.util
import pathlib
from typing import NamedTuple

import numpy as np

from vaegan_jax.data import arrays, sounds
from vaegan_jax.data.image_files import (
  DAMAGED_FILE,
  ImageFiles,
  list_files,
)


class _Kind(NamedTuple):
  """What all arrays of a folder must have alike.

  Attributes:
    dtype: its name.
    shape: of the array; of a sound, whose length is its own, (C,).
    sample_rate: samples a second; 0 of what is no sound.
  """

  dtype: str
  shape: tuple[int, ...]
  sample_rate: int

  def __str__(self) -> str:
    if not self.sample_rate:
      return f'{self.dtype} {list(self.shape)}'
    (channels,) = self.shape
    return (
      f'{self.dtype} sounds with channels={channels} and '
      f'sample_rate={self.sample_rate}'
    )


class ArrayFiles(ImageFiles):
  """The arrays of a folder, split as `ImageFiles` splits images.

  All must have the same shape and dtype; sounds may have lengths of their own,
  and those that are too short are left out, as what is damaged is, or holds a
  NaN or an infinity.

  Attributes:
    shape, dtype: of each file's array, of sounds that of the shortest; known
      when `find_damaged` has read, as is `sample_rate`, 0 of no sounds.
  """

  noun = 'arrays'

  def __init__(self, path: str, num_samples: int = 0):
    """Lists the arrays; none is read yet.

    Args:
      path: of the folder, '~' and '$NAME' allowed.
      num_samples: the least that a sound must have.

    Raises:
      UserError: as `ImageFiles`.
    """
    super().__init__(path)
    self._num_samples = num_samples
    if num_samples:  # Which of them are too short depends on it.
      state = f'{self.fingerprint} {num_samples}'
      self.fingerprint = hashlib.sha256(state.encode()).hexdigest()[:16]

  def find_damaged(self, report: str = DAMAGED_FILE) -> dict[str, str]:
    """Reads every array once; see `ImageFiles.find_damaged`.

    Raises:
      UserError: as there, or the arrays are not alike.
    """
    self._found, self._lengths = {}, {}
    damaged = super().find_damaged(report)
    counts = collections.Counter(self._found.values())
    if not counts:  # Nothing is left: `split` says so.
      return damaged
    kind, count = counts.most_common(1)[0]
    self.dtype, self.shape, self.sample_rate = kind
    if count == len(self._found):
      if kind.sample_rate:
        self.shape = (min(self._lengths.values()), *kind.shape)
      return damaged
    others = sorted(n for n, found in self._found.items() if found != kind)
    raise self._error(
      f'in which {count:,} arrays are {kind}, and {len(others):,} are not, '
      f'such as {others[0]!r} ({self._found[others[0]]}); all must be alike, '
      'so mend or remove these'
    )

  def _readable_kinds(self) -> tuple[str, ...]:
    kinds = ('tifffile', 'imagecodecs')
    if any(name.lower().endswith(sounds.SUFFIXES) for name in self.names):
      kinds += ('soundfile',)
    return tuple(kind for kind in kinds if importlib.util.find_spec(kind))

  def _check(self, name: str, data: bytes) -> None:
    sample_rate = 0
    if sounds.is_sound(data):
      array, sample_rate = sounds.read_sound(data)
      length, *shape = array.shape
      if length < max(self._num_samples, 1):
        raise ValueError(
          f'it has {length:,} samples, and at least '
          f'{max(self._num_samples, 1):,} are needed'
        )
      self._lengths[name] = length
    else:
      array = arrays.read_array(data)
      shape = array.shape
    arrays.check_finite(array)
    dtype = np.dtype(array.dtype).name
    self._found[name] = _Kind(dtype, tuple(shape), sample_rate)

  def _list(self) -> dict[str, tuple[int, int]]:
    found = self._of_splits(find_arrays(self.root))
    if not found:
      raise self._error(
        'in which there is no array; it must hold .npy, .npz, TIFF, PNG, WAV '
        'or FLAC files, such as "field.npy"'
      )
    return found


def find_arrays(root: pathlib.Path) -> dict[str, tuple[int, int]]:
  """Finds the files of arrays in a folder; as `list_files`."""
  return list_files(root, _is_array)


def _is_array(path: pathlib.Path) -> bool:
  return path.suffix.lower() in arrays.SUFFIXES
