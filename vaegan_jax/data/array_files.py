"""The array and sound files of a user's folder."""

import collections
import hashlib
import importlib.util
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from vaegan_jax.data import (
  array_shapes,
  arrays,
  file_lists,
  no_data,
  ome_sets,
  sounds,
  tiff_files,
)
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.image_files import DAMAGED_FILE, ImageFiles
from vaegan_jax.data.reading import TooLarge, UnreadableKind
from vaegan_jax.data.slices import Opened

# The codecs of ffmpeg for WAVs of each dtype.
_CODECS = {'int16': 'pcm_s16le', 'int32': 'pcm_s32le', 'float32': 'pcm_f32le'}


class ArrayFiles(ImageFiles):
  """The arrays of a folder, split as `ImageFiles` splits images.

  All must have one shape and dtype; sounds may differ in length. Files that
  are damaged, too short, hold an infinity or too much no data are skipped.
  `find_damaged` sets `shape` (of the shortest sound), `dtype`, `axes`,
  `sample_rate`.
  """

  noun, _noun = 'arrays', 'array'
  _examples = '"field_1.npy" and "field_2.npy"'
  _holds_arrays = True
  _must_hold = '.npy, .npz, TIFF, PNG, WAV or other files, such as "field.npy"'

  def __init__(self, path: str, data: DataConfig):
    """Lists the arrays, and reads none.

    Args:
      path: path of the folder, '~' and '$NAME' allowed.
      data: settings of the run. No data is counted in what is cut out. Arrays
        were never read by rules 1.

    Raises:
      UserError: see `ImageFiles`.
    """
    self._reading, rules = data.reading, data.folder_rules
    self._cut = data.channels, data.read_shape
    is_signal = len(data.read_shape) == 1
    num_samples = data.read_shape[0] if is_signal else 0
    super().__init__(path, max(rules, 2), data.group_by)
    if rules > 2:  # They decide which examples are skipped.
      self.place_key += repr((self._reading.key, self._cut))
      self.place_key += self._list_masks()
    self.least_samples = num_samples
    if num_samples:  # It decides which sounds are too short.
      state = f'{self.fingerprint} {num_samples}'
      self.fingerprint = hashlib.sha256(state.encode()).hexdigest()[:16]

  def find_damaged(self, report: str = DAMAGED_FILE) -> dict[str, str]:
    """Reads every array once; see `ImageFiles.find_damaged`.

    Raises:
      UserError: as there, or the arrays differ in their kind.
    """
    self._kinds_found, self._shapes, self._lengths = {}, {}, []
    self.silent, self.converted = [], {}
    if self.counts is not None:
      self.counts.others = file_lists.only_data(
        file_lists.count_others(self.root, self.names)
      )
    damaged = super().find_damaged(report)
    if self.counts is not None:
      self.counts.silent = sorted(self.silent)
      self.counts.converted = collections.Counter(self.converted.values())
    # Threads find them in any order.
    self._kinds_found = dict(sorted(self._kinds_found.items()))
    counts = collections.Counter(self._kinds_found.values())
    if not counts:  # `split` raises the error for an empty split.
      return damaged
    kind, count = counts.most_common(1)[0]
    self.dtype, self.shape, self.sample_rate, self.axes = kind
    if count == len(self._kinds_found):
      if None in kind.shape:
        self.shape = tuple(map(min, zip(*self._shapes.values(), strict=True)))
      return damaged
    others = [n for n, found in self._kinds_found.items() if found != kind]
    raise self._error(
      f'in which {count:,} arrays are {kind}, and {len(others):,} are not, '
      f'such as {others[0]!r} ({self._kinds_found[others[0]]}); all must be '
      f'alike, so convert or remove these{self._describe_conversion(kind)}'
      f'{self._describe_one()}'
    )

  def _describe_conversion(self, kind: array_shapes.Kind) -> str:
    """Returns a clause about fields that make different sounds alike."""
    kinds, flags = set(self._kinds_found.values()), []
    if len({found.sample_rate for found in kinds}) > 1:
      rate = kind.sample_rate
      flags += ['--config.data.resample=true']
      flags += [f'--config.data.sample_rate={rate}']
    if len({found.shape for found in kinds}) > 1:
      flags += ['--config.data.mix_channels=true']
    if not all(found.sample_rate for found in kinds):
      return ''
    ways = [' '.join(flags)] if flags else []
    if len({found.dtype for found in kinds}) > 1:
      ways.insert(0, f'ffmpeg -i old.wav -c:a {_CODECS[kind.dtype]} new.wav')
    return f': {", then ".join(ways)}' if ways else ''

  def _readable_kinds(self) -> tuple[str, ...]:
    kinds = ('tifffile', 'imagecodecs')
    suffixes = sounds.suffixes(self.rules)
    if any(name.lower().endswith(suffixes) for name in self.names):
      kinds += ('soundfile',)
    return tuple(kind for kind in kinds if importlib.util.find_spec(kind))

  def _list_masks(self) -> str:
    """Returns which TIFFs have a mask beside them, for `place_key`."""
    tiffs = [n for n in self.names if n.lower().endswith(('.tif', '.tiff'))]
    masked = [n for n in tiffs if tiff_files.has_mask(self.root / n)]
    return f' masks {masked}' if tiffs else ''

  def read(self, name: str) -> bytes:
    """Returns the bytes of a file, or of all planes of an OME-TIFF set."""
    read = super().read
    data = read(name)
    if self.rules < 3:
      return data
    tiff_files.check_mask(self.root / name, self._reading)
    return ome_sets.join(name, data, self._found, read)

  def _inspect(self, name: str) -> tuple[bytes, Exception | None, Any]:
    """Reads a file; see `ImageFiles._inspect`. A large one is not damaged."""
    digest, error, found = super()._inspect(name)
    if isinstance(error, TooLarge) and self.rules > 2:
      error = UnreadableKind(
        f'{error}: --config.data.crop=random reads .npy, sounds and TIFF '
        'without compression in parts, however large they are'
      )
    return digest, error, found

  def _check(self, name: str, data: bytes) -> tuple[int, int]:
    """Returns the number of values of no data and the number of all values."""
    stored = arrays.read_stored(data, self._reading)
    if stored.sample_rate:
      self._check_length(stored.values.shape[0])
    arrays.check_finite(stored.values)
    missing = array_shapes.count_missing(stored, self._reading, *self._cut)
    is_sound = stored.sample_rate > 0
    if is_sound and stored.values.min() == stored.values.max():
      self.silent.append(name)
    self._note(name, stored, (0,) if is_sound else ())
    return missing

  def _check_length(self, length: int) -> None:
    self._lengths.append(length)
    if length < max(self.least_samples, 1):
      raise ValueError(
        f'it has {length:,} samples, and at least '
        f'{max(self.least_samples, 1):,} are needed'
      )

  def _describe_remedy(self) -> str:
    """Returns a clause about a shape that nine of ten sounds have, or ''."""
    lengths = sorted(self._lengths)
    length = lengths[len(lengths) // 10] if lengths else 0
    if not 0 < length < self.least_samples:
      return ''
    length = 2 ** (length.bit_length() - 1)
    return f', or take less of each: --config.data.shape="({length},)"'

  def _note(
    self, name: str, opened: Opened | arrays.Stored, free: Collection[int]
  ) -> None:
    """Notes the kind of an array, the lengths of whose axes `free` may vary."""
    axes, order = opened.axes, list(range(len(opened.values.shape)))
    if 'C' in axes and not self._reading.axes:  # Last, as in decoded files.
      order.append(order.pop(axes.index('C')))
      axes = axes.replace('C', '', 1) + 'C'
    shape = self._shapes[name] = tuple(opened.values.shape[n] for n in order)
    shape = tuple(
      None if n in free else size for n, size in zip(order, shape, strict=True)
    )
    dtype = arrays.device_dtype(opened.values.dtype)
    self._kinds_found[name] = array_shapes.Kind(
      dtype.name, shape, opened.sample_rate, axes
    )
    if opened.was:
      self.converted[name] = opened.was

  def _describe(self, counts, data):
    """Returns a line about no data; see `ImageFiles`."""
    found = ArrayCounts(counts)
    lines = [*found.describe(self.noun), *found.describe_converted(data)]
    return lines, [*found.describe_silent(), *found.describe_others()]

  def reading_key(self, counts: Any) -> tuple[str, ...]:
    """Returns nothing: `split.py` adds what arrays differ in."""
    del counts
    return ()

  def _describe_one(self) -> str:
    """See `ImageFiles._describe_one`."""
    if self.sample_rate or None in self.shape:  # Lengths may vary.
      return ''
    channels, shape = self._cut
    axis = array_shapes.find_examples(
      self.shape, channels=channels, shape=shape
    )
    if axis is None:
      return ''
    found = array_shapes.describe_examples(self.shape, axis)
    kinds = self._kinds_found.items()
    name = next(name for name, kind in kinds if kind.shape == self.shape)
    return f'. As {name!r} may hold {found}'

  def _list(self) -> dict[str, tuple[int, int]]:
    return file_lists.list_files(self.root, arrays.suffixes(self.rules))

  def _new_counts(self) -> 'ArrayCounts | None':
    return ArrayCounts() if self.rules > 2 else None


class ArrayCounts(no_data.Counts):
  """Counts of no data, and of files that are not arrays.

  Attributes:
    others: number of other files of data, by suffix.
    converted: number of converted sounds, by what they were.
    silent: names of sounds whose samples are all equal.
  """

  def __init__(self, counts: Mapping[str, Any] | None = None):
    """Starts with nothing, or with what `to_json` returned."""
    super().__init__(counts)
    self.others, self.converted = (
      collections.Counter((counts or {}).get(name, {}))
      for name in ('others', 'converted')
    )
    self.silent = (counts or {}).get('silent', [])

  def add(self, name: str, missing: tuple[int, int]) -> None:
    """Counts an array.

    Args:
      name: of its file.
      missing: its number of values of no data, and that of all values.
    """
    del name
    super().add(*missing)

  def to_json(self) -> dict[str, Any]:
    """Returns the counts for the index of a folder."""
    return super().to_json() | {
      'others': dict(self.others),
      'converted': dict(self.converted),
      'silent': self.silent,
    }

  def describe_converted(self, data: DataConfig) -> Iterator[str]:
    """Yields a sentence about sounds that are resampled or mixed."""
    if self.converted:
      were = '; '.join(f'{n:,} of {w}' for w, n in self.converted.most_common())
      yield (
        f'{self.converted.total():,} of {self.examples:,} sounds are converted '
        f'to {data.sample_rate:,} Hz and {data.channels} '
        f'channel{"s" * (data.channels > 1)}: {were}.'
      )

  def describe_silent(self) -> Iterator[str]:
    """Yields a sentence about sounds in which there is nothing."""
    if self.silent:
      yield (
        f'{len(self.silent):,} of {self.examples:,} sounds are silent '
        f'throughout, such as {self.silent[0]!r}; they are trained on, so '
        'remove them if they are not recordings'
      )

  def describe_others(self) -> Iterator[str]:
    """Yields a sentence about files of data that are not read."""
    if self.others:
      found = file_lists.describe_others(self.others, True)
      yield f'the folder also has {found}, which are not read'
