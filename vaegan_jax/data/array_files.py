"""The array and sound files of a user's folder."""

import collections
import hashlib
import importlib.util
import pathlib
from typing import NamedTuple

import numpy as np

from vaegan_jax.data import arrays, sounds
from vaegan_jax.data.file_lists import list_files
from vaegan_jax.data.image_files import DAMAGED_FILE, RULES, ImageFiles


class _Kind(NamedTuple):
  """Properties that all arrays of a folder must share.

  Attributes:
    dtype: its name.
    shape: shape of the array; (C,) for a sound, whose length is its own.
    sample_rate: samples per second; 0 if not a sound.
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

  All must have one shape and dtype; sounds may differ in length. Files that
  are damaged, too short, or hold a NaN or an infinity are skipped.
  `find_damaged` sets `shape` (of the shortest sound), `dtype`, `sample_rate`.
  """

  noun = 'arrays'
  _nothing = (
    'in which there is no array; it must hold .npy, .npz, TIFF, PNG, WAV or '
    'FLAC files, such as "field.npy"'
  )

  def __init__(
    self,
    path: str,
    num_samples: int = 0,
    rules: int = RULES,
    group_by: str = '',
  ):
    """Lists the arrays, and reads none.

    Args:
      path: path of the folder, '~' and '$NAME' allowed.
      num_samples: the samples that a sound must have.
      rules, group_by: see `ImageFiles`. Arrays were never read by rules 1.

    Raises:
      UserError: see `ImageFiles`.
    """
    super().__init__(path, max(rules, 2), group_by)
    self.least_samples = num_samples
    if num_samples:  # It decides which sounds are too short.
      state = f'{self.fingerprint} {num_samples}'
      self.fingerprint = hashlib.sha256(state.encode()).hexdigest()[:16]

  def find_damaged(self, report: str = DAMAGED_FILE) -> dict[str, str]:
    """Reads every array once; see `ImageFiles.find_damaged`.

    Raises:
      UserError: as there, or the arrays differ in their kind.
    """
    self._kinds_found, self._lengths = {}, {}
    damaged = super().find_damaged(report)
    counts = collections.Counter(self._kinds_found.values())
    if not counts:  # `split` raises the error for an empty split.
      return damaged
    kind, count = counts.most_common(1)[0]
    self.dtype, self.shape, self.sample_rate = kind
    if count == len(self._kinds_found):
      if kind.sample_rate:
        self.shape = (min(self._lengths.values()), *kind.shape)
      return damaged
    others = sorted(
      n for n, found in self._kinds_found.items() if found != kind
    )
    raise self._error(
      f'in which {count:,} arrays are {kind}, and {len(others):,} are not, '
      f'such as {others[0]!r} ({self._kinds_found[others[0]]}); all must be '
      'alike, so repair or remove these'
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
      if length < max(self.least_samples, 1):
        raise ValueError(
          f'it has {length:,} samples, and at least '
          f'{max(self.least_samples, 1):,} are needed'
        )
      self._lengths[name] = length
    else:
      array = arrays.read_array(data)
      shape = array.shape
    arrays.check_finite(array)
    dtype = np.dtype(array.dtype).name
    self._kinds_found[name] = _Kind(dtype, tuple(shape), sample_rate)

  def _list(self) -> dict[str, tuple[int, int]]:
    return find_arrays(self.root)

  def _new_counts(self) -> None:
    return None


def find_arrays(root: pathlib.Path) -> dict[str, tuple[int, int]]:
  """Finds the files of arrays in a folder; see `list_files`."""
  return list_files(root, lambda path: path.suffix.lower() in arrays.SUFFIXES)
