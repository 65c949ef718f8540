"""The fields of `config.data` as plain, immutable values."""

import dataclasses
import os
from collections.abc import Sequence

from vaegan_jax.data import sources
from vaegan_jax.data.reading import Reading

_HOME_DATA_DIR = '~/tensorflow_datasets'  # The default of TFDS.


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Settings of a data set; `config/schema.py` explains each field."""

  name: str
  path: str = ''
  folder_rules: int = 4
  group_by: str = ''
  allow_growth: bool = False
  feature: str = ''
  example_axis: int = 0
  data_dir: str = ''
  copy_dir: str = ''
  image_size: int | tuple[int, int] = 64
  shape: tuple[int, ...] = ()
  sample_rate: int = 16_000
  resample: bool = False
  mix_channels: bool = False
  mid_side: bool = False
  axes: str = ''
  nodata: str = ''
  max_nodata: float = 0.0
  channels: int = 3
  value_range: str | tuple[float, float] = 'dtype'
  clip: bool = False
  shown_bands: tuple[int, ...] = ()
  crop: str = 'center'
  center_crop: int = 0
  train_split: str = 'train'
  eval_split: str = 'test'
  random_flip: bool = True
  random_crop_margin: int = 0
  flip_axes: tuple[int, ...] = ()
  cache_images: bool = True

  def __post_init__(self):
    for field in dataclasses.fields(self):  # JSON has lists.
      value = getattr(self, field.name)
      if isinstance(value, list):
        object.__setattr__(self, field.name, tuple(value))

  @property
  def holds_arrays(self) -> bool:
    """True if examples are arrays in units of their own, not photographs."""
    return sources.holds_arrays(self.name, self.shape)

  @property
  def reading(self) -> Reading:
    """Settings of reading examples from files."""
    rules = self.folder_rules if sources.find(self.name).has_rules else 4
    return Reading(
      rules,
      self.nodata,
      self.max_nodata,
      self.axes,
      self.sample_rate if self.resample else 0,
      self.channels if self.mix_channels else 0,
    )

  @property
  def converts_profiles(self) -> bool:
    """True if images with another color profile are converted to sRGB."""
    return self.folder_rules > 2 and sources.find(self.name).converts_profiles

  @property
  def spatial_shape(self) -> tuple[int, ...]:
    """The lengths of one to three axes of space, S."""
    return spatial_shape(self.shape, self.image_size)

  @property
  def read_shape(self) -> tuple[int, ...]:
    """S before training's random crop."""
    return tuple(n + self.random_crop_margin for n in self.spatial_shape)

  @property
  def local_dir(self) -> str:
    """The folder on a disk for prepared data and decoded copies."""
    own = self.copy_dir if in_bucket(self.data_dir) else self.data_dir
    return expand_path(own or _HOME_DATA_DIR)

  @property
  def copies_dir(self) -> str:
    """The folder on a disk for copies of what is in buckets."""
    data_dir = '' if in_bucket(self.data_dir) else self.data_dir
    folder = expand_path(self.copy_dir or data_dir or _HOME_DATA_DIR)
    return os.path.join(folder, 'buckets')


def spatial_shape(
  shape: Sequence[int], image_size: int | Sequence[int]
) -> tuple[int, ...]:
  """Returns S: the `shape` of arrays or, if it is empty, the image size."""
  return tuple(shape) or as_pair(image_size)


def as_pair(image_size: int | Sequence[int]) -> tuple[int, ...]:
  """Returns an `image_size` as (height, width)."""
  is_pair = isinstance(image_size, (tuple, list))  # JSON has lists.
  return tuple(image_size) if is_pair else (image_size,) * 2


def in_bucket(path: str) -> bool:
  """Returns whether a path, which may be empty, is in a bucket."""
  return path.startswith('gs://')


def expand_path(path: str) -> str:
  """Replaces '~' and '$NAME'."""
  return os.path.expanduser(os.path.expandvars(path))
