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
  """The splits of an opened source, whose examples are read by index."""

  # Fingerprints contain the fields from `name` to `reading_key`.
  name: str
  version = '1.0.0'
  num_bytes = 0
  content_hash: str | None = None
  feature = 'image'
  reading_key: Sequence[str] = ()  # Kinds that older rules read differently.
  counts: Mapping[str, int]  # Number of examples by split.
  # Lengths of files by split, for splits such as 'train[:2shard]'.
  shards: Mapping[str, Sequence[int]] = types.MappingProxyType({})
  # Arrays have this shape, in which a length that varies is None, and dtype.
  # Photographs have () and None.
  shape: tuple[int | None, ...] = ()
  dtype: np.dtype | None = None
  axes = ''  # A letter for each axis of an array, as `data.axes`.
  sample_rate = 0  # Samples per second, of sounds.
  to_srgb = False  # True if some photographs have profiles to convert.
  location: str  # The folder or file that error messages name.
  remedy = 'repair or remove it, and run the same command again'
  cache_dir: pathlib.Path | None = None  # For decoded copies, if any are kept.

  def find_parts(self, split: str, field: str) -> list[tuple[str, int, int]]:
    """Finds the parts of a split that is named as TFDS does: 'train[:90%]'.

    Args:
      split: such as 'train', 'train[:90%]' or 'train+test'.
      field: the configuration field of `split`, for error messages.

    Returns:
      (name, first, end) for each part.

    Raises:
      UserError: the split is unknown or empty.
    """
    try:
      if split in self.counts:
        parts = [(split, 0, self.counts[split])]
      else:
        parts = self._parse_split(split)
      if any(first < end for _, first, end in parts):
        return parts
      reason = 'it is empty'
    except (ValueError, AssertionError, NotImplementedError) as error:
      reason = str(error).splitlines()[0].rstrip('.')
    names = ', '.join(map(repr, self.counts))
    raise UserError(
      f'{field} is {split!r}, which cannot be read from {self.name} '
      f'({reason}); it has the splits {names}, and slices such as '
      f"'{next(iter(self.counts))}[:90%]'."
    )

  def _parse_split(self, split: str) -> list[tuple[str, int, int]]:
    import tensorflow_datasets as tfds  # Slow to import, and rarely needed.

    infos = {
      name: tfds.core.SplitInfo(
        name=name,
        shard_lengths=list(self.shards.get(name, [count])),
        num_bytes=0,
        filename_template=None,
      )
      for name, count in self.counts.items()
    }
    instruction = tfds.core.splits.AbstractSplit.from_spec(split)
    parts = []
    for part in instruction.to_absolute(infos):  # None stands for an end.
      name = str(part.splitname)
      end = self.counts[name] if part.to is None else part.to
      parts.append((name, part.from_ or 0, end))
    return parts

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
    """Opens an array whose facts say `in_place`, as an `arrays.Stored`."""
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
    """Returns lines about the examples; `data` is the run's `DataConfig`."""
    return []


class Source:
  """The properties of a source that are known before it is opened.

  The configuration's checks read them, so that the module of a source must not
  import TensorFlow, TFDS or Pillow at its top.
  """

  # True for arrays in units of their own, False for photographs; None:
  # `data.shape` decides.
  holds_arrays: bool | None = False
  path = 'unused'  # Or 'required' or 'optional': `data.path`.
  path_is = 'a folder'  # The kind of place that it names.
  has_groups = False  # True if `data.group_by` may keep examples together.
  has_rules = True  # True if `data.folder_rules` decides how arrays are read.
  has_features = False  # True if `data.feature` may choose among several.
  # True if rules from 3 on convert files to sRGB from their profiles.
  converts_profiles = False
  has_crops = False  # True if arrays can be cropped at random places.
  has_conversion = False  # True if sounds can be resampled and mixed.

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
