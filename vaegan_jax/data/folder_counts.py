"""Counts of what the files of a folder hold, for its index and its report."""

import collections
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image

from vaegan_jax.data import color, file_lists, no_data, tiff_images
from vaegan_jax.data.data_config import DataConfig

_MIN_KEPT = 0.25  # Share of an image; the crop of a strip keeps less.
_MAX_NAMED = 5  # Profiles.
_KEYS = ('sizes', 'profiles', 'unusable_profiles', 'pages', 'tiffs')


class ImageCounts:
  """Number of images, and the name of the first, by size and by profile."""

  def __init__(self, counts: Mapping[str, Any] | None = None):
    """Starts with no image, or with what `to_json` returned."""
    self._found = {key: dict((counts or {}).get(key, {})) for key in _KEYS}
    self._sizes, self._profiles, self._unusable, self._pages, self._tiffs = (
      self._found.values()
    )

  @staticmethod
  def item(image: Image.Image, data: bytes, rules: int) -> dict[str, str]:
    """Returns {field: key} of an upright image and its file; see `to_json`."""
    item = {'sizes': f'{image.width}x{image.height}'}
    if profile := color.find_profile(image):
      is_usable = profile.transform is not None
      item['profiles' if is_usable else 'unusable_profiles'] = profile.name
    if rules > 2:
      pages, is_read_otherwise = tiff_images.describe(data)
      if pages > 1:
        item['pages'] = str(pages)
      if is_read_otherwise:
        item['tiffs'] = 'tiff'
    return item

  def add(self, name: str, item: Mapping[str, str]) -> None:
    """Counts an image."""
    for field, key in item.items():
      self._found[field].setdefault(key, [0, name])[0] += 1

  def to_json(self) -> dict[str, dict[str, list[Any]]]:
    """Returns {field: {key: [number, name]}} for the index of a folder."""
    return self._found

  @property
  def reading_key(self) -> tuple[str, ...]:
    """Kinds of files that newer rules read differently, for fingerprints."""
    return tuple(self._tiffs)

  @property
  def has_profiles(self) -> bool:
    """Whether an image has a profile to be converted to sRGB."""
    return bool(self._profiles)

  def describe(self, data: DataConfig) -> tuple[list[str], list[str]]:
    """Returns lines and warnings about the images."""
    lines = self._describe_profiles() if data.converts_profiles else ()
    return [*lines], [*self._describe_sizes(data), *self._describe_pages()]

  def _describe_profiles(self) -> Iterator[str]:
    if self._profiles:
      yield (
        f'{self._of_all(self._profiles)} are converted to sRGB from their '
        f'color profiles: {_most_frequent(self._profiles)}.'
      )
    if self._unusable:
      ((_, name), *_) = self._unusable.values()
      yield (
        f'{self._of_all(self._unusable)} have a color profile that cannot be '
        f'used, such as {name!r}, and are read as sRGB.'
      )

  def _describe_pages(self) -> Iterator[str]:
    if self._pages:
      pages = max(map(int, self._pages))
      yield (
        f'{self._of_all(self._pages)} are TIFFs of several pages, of which the '
        f'first is read, such as {self._pages[str(pages)][1]!r} ({pages:,} '
        "pages): data.name='array_folder' reads all"
      )

  def _describe_sizes(self, data: DataConfig) -> Iterator[str]:
    """Yields sentences about images that are enlarged, and about strips."""
    sizes = {
      tuple(map(int, size.split('x'))): found
      for size, found in self._sizes.items()
    }
    height, width = data.read_shape
    scales = {(w, h): min(w / width, h / height) for w, h in sizes}
    crop = data.center_crop / min(height, width) if data.center_crop else 1
    enlarged = [s for s, scale in scales.items() if min(scale, crop) < 1]
    if enlarged:
      least = min(enlarged, key=scales.get)
      yield (
        f'{self._of_all({s: sizes[s] for s in enlarged})} are smaller than the '
        f'{width} x {height} pixels that are read, and are enlarged; the '
        f'smallest is {least[0]} x {least[1]} ({sizes[least][1]!r})'
      )
    strips = {
      (w, h): sizes[w, h]
      for (w, h), scale in scales.items()
      if scale**2 * width * height < _MIN_KEPT * w * h
    }
    if strips:
      (w, h), (_, name) = max(strips.items(), key=lambda s: max(s[0]))
      yield (
        f'{self._of_all(strips)} are strips, of which the crop keeps less than '
        f'a quarter, such as {name!r} ({w} x {h})'
      )

  def _of_all(self, found: Mapping[Any, list[Any]]) -> str:
    total = sum(number for number, _ in self._sizes.values())
    number = sum(number for number, _ in found.values())
    return f'{number:,} of {total:,} images'


def _most_frequent(profiles: Mapping[str, list[Any]]) -> str:
  names = sorted(profiles, key=lambda name: -profiles[name][0])
  named = [f'{name} ({profiles[name][0]:,})' for name in names[:_MAX_NAMED]]
  others = len(names) - len(named)
  return ', '.join(named) + (f' and {others} others' if others else '')


class ArrayCounts(no_data.Counts):
  """Counts of no data, and of files that are not arrays."""

  has_profiles, reading_key = False, ()

  def __init__(self, counts: Mapping[str, Any] | None = None):
    """Starts with nothing, or with what `to_json` returned."""
    super().__init__(counts)
    counts = counts or {}
    # Numbers of other files of data by suffix, and of sounds by what they were.
    self.others = collections.Counter(counts.get('others', {}))
    self.converted = collections.Counter(counts.get('converted', {}))
    self.silent = counts.get('silent', [])  # Names of sounds.

  def add(self, name: str, item: tuple[int, int, bool, str]) -> None:
    """Counts (values of no data, all values, is silent, own format or '')."""
    missing, values, is_silent, was = item
    super().add(missing, values)
    if is_silent:
      self.silent.append(name)
    if was:
      self.converted[was] += 1

  def to_json(self) -> dict[str, Any]:
    """Returns the counts for the index of a folder."""
    return super().to_json() | {
      'others': dict(self.others),
      'converted': dict(self.converted),
      'silent': self.silent,
    }

  def describe(self, data: DataConfig) -> tuple[list[str], list[str]]:
    """Returns lines and warnings about the arrays."""
    lines, warnings = self.describe_missing('arrays'), []
    if self.converted:
      were = '; '.join(f'{n:,} of {w}' for w, n in self.converted.most_common())
      lines.append(
        f'{self.converted.total():,} of {self.examples:,} sounds are converted '
        f'to {data.sample_rate:,} Hz and {data.channels} '
        f'channel{"s" * (data.channels > 1)}: {were}.'
      )
    if self.silent:
      warnings.append(
        f'{len(self.silent):,} of {self.examples:,} sounds are silent '
        f'throughout, such as {self.silent[0]!r}; they are trained on, so '
        'remove them if they are not recordings'
      )
    if self.others:
      found = file_lists.describe_others(self.others, True)
      warnings.append(f'the folder also has {found}, which are not read')
    return lines, warnings
