"""The protocol of data sources.

A new source is one file, `sources/NAME.py`, with a class `Source` below the one
here. `data.name=NAME` selects it; no other file has to name it.
"""

import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vaegan_jax.errors import UserError


class Dataset:
  """The splits of an opened source, whose examples are read by index.

  Attributes:
    name, version: identify the data set in fingerprints.
    counts: the number of examples by split.
    shards: the lengths of files by split, for splits such as 'train[:2shard]'.
    shape, dtype: of each array, a length that varies being None; (), None if
      the examples are photographs.
    sample_rate: samples per second of sounds; 0 otherwise.
    to_srgb: whether photographs are converted from their color profiles,
      because some have one.
    axes: a letter for each axis of an array, as `data.axes`; '' if unknown.
    num_bytes, content_hash, feature: identify the stored examples further.
    reading_key: what of some examples is read otherwise than by the first
      rules, for fingerprints.
    location: the folder or file that error messages name.
    remedy: what the user can do about an example that cannot be read.
    cache_dir: the folder for decoded copies; None if none are to be kept.
  """

  name: str
  version = '1.0.0'
  counts: Mapping[str, int]
  shards: Mapping[str, Sequence[int]] = types.MappingProxyType({})
  shape: tuple[int | None, ...] = ()
  dtype: np.dtype | None = None
  sample_rate = 0
  to_srgb = False
  axes = ''
  reading_key: Sequence[str] = ()
  num_bytes = 0
  content_hash: str | None = None
  feature = 'image'
  location: str
  remedy = 'repair or remove it, and run the same command again'
  cache_dir: pathlib.Path | None = None

  def read(self, split: str, indices: Sequence[int]) -> list[Any]:
    """Returns stored examples: bytes of files, or arrays.

    Args:
      split: a key of `counts`.
      indices: from 0 to the split's count.

    Raises:
      OSError, ValueError, RuntimeError: the stored data is damaged.
    """
    raise NotImplementedError

  def whole(self, split: str, index: int) -> Any:
    """Returns the `slices.Facts` of an array that crops are taken from."""
    raise NotImplementedError

  def open_whole(self, split: str, index: int) -> Any:
    """Opens an array whose facts say `in_place`, as a `slices.Opened`."""
    raise NotImplementedError

  def close(self) -> None:
    """Releases memory and files; reading opens them again."""

  def describe(self, split: str, index: int) -> str:
    """Returns a name of an example for error messages."""
    return f'example {index} of the split {split!r}'

  def error(
    self, split: str, index: int, problem: str, error: Exception
  ) -> UserError:
    """Returns the error for an example that cannot be read."""
    return UserError(
      f'{self.describe(split, index)} in {self.location} {problem} '
      f'({type(error).__name__}: {error}); {self.remedy}.'
    )

  def report(self, data: Any) -> list[str]:
    """Returns lines about the examples for the terminal.

    Args:
      data: the `DataConfig` of the run.
    """
    return []


class Source:
  """The properties of a source that are known before it is opened.

  The configuration's checks read them, so that the module of a source must not
  import TensorFlow, TFDS or Pillow at its top.

  Attributes:
    holds_arrays: True if examples are arrays in units of their own, False if
      they are photographs, None if `data.shape` decides.
    path: whether `data.path` is 'required', 'optional' or 'unused'.
    path_is: what it names.
    has_groups: whether `data.group_by` may keep examples together.
    has_rules: whether `data.folder_rules` decides how arrays are read.
    has_features: whether `data.feature` may choose among several features.
    converts_profiles: whether the color profiles of files are converted to
      sRGB, by `data.folder_rules` from 3.
    has_crops: whether arrays can be cropped at random places of the whole.
    has_conversion: whether sounds can be resampled and mixed.
  """

  holds_arrays: bool | None = False
  path = 'unused'
  path_is = 'a folder'
  has_groups = False
  has_rules = True
  has_features = False
  converts_profiles = False
  has_crops = False
  has_conversion = False

  @classmethod
  def open(cls, data: Any, *, fill_bucket: bool = False) -> Dataset:
    """Opens the data set, and prepares it first if necessary.

    Args:
      data: a `DataConfig`.
      fill_bucket: whether this process may prepare data in a bucket.

    Raises:
      UserError: the data cannot be used.
    """
    raise NotImplementedError
