"""The array and sound files of a user's folder."""

import collections
import hashlib
import importlib.util
import math
import os
from collections.abc import Collection
from typing import Any

from vaegan_jax.data import (
  array_shapes,
  arrays,
  file_lists,
  ome_sets,
  slices,
  sound_conversion,
  sounds,
  tiff_files,
)
from vaegan_jax.data.crops import Grid, find_empty
from vaegan_jax.data.data_config import DataConfig
from vaegan_jax.data.folder_counts import ArrayCounts
from vaegan_jax.data.image_files import DAMAGED_FILE, ImageFiles
from vaegan_jax.data.reading import TooLarge, UnreadableKind
from vaegan_jax.data.store import check_unchanged

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
  _holds_arrays, Counts = True, ArrayCounts
  _must_hold = '.npy, .npz, TIFF, PNG, WAV or other files, such as "field.npy"'

  def __init__(self, path: str, data: DataConfig):
    """Lists the arrays; see `ImageFiles`. `data` has the run's settings."""
    self._data, self._reading = data, data.reading
    rules, shape = data.folder_rules, data.read_shape
    # Arrays were never read by rules 1.
    super().__init__(path, max(rules, 2), data.group_by)
    if rules < 3:
      self.counts = None
    else:  # They decide which examples are skipped.
      self.place_key += repr((self._reading.key, (data.channels, shape)))
      tiffs = [n for n in self.names if n.lower().endswith(('.tif', '.tiff'))]
      masked = [n for n in tiffs if tiff_files.has_mask(self.root / n)]
      self.place_key += f' masks {masked}' if tiffs else ''
    if len(shape) == 1:  # It decides which sounds are too short.
      self.least_samples = shape[0]
      state = f'{self.fingerprint} {self.least_samples}'
      self.fingerprint = hashlib.sha256(state.encode()).hexdigest()[:16]

  def find_damaged(self, report: str = DAMAGED_FILE) -> dict[str, str]:
    """Reads every array once; raises a UserError also if they differ."""
    self._kinds_found, self._shapes, self._lengths = {}, {}, []
    if self.counts is not None:
      self.counts.others = file_lists.only_data(
        file_lists.count_others(self.root, self.names)
      )
    damaged = super().find_damaged(report)
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
      f'{self._hint}'
    )

  def _describe_conversion(self, kind: array_shapes.Kind) -> str:
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

  def _check(self, name: str, data: bytes) -> tuple[Any, ...]:
    stored = arrays.read_stored(data, self._reading)
    if stored.sample_rate:
      self._check_length(stored.values.shape[0])
    arrays.check_finite(stored.values)
    missing = array_shapes.count_missing(stored, self._data)
    is_sound = stored.sample_rate > 0
    self._note(name, stored, (0,) if is_sound else ())
    is_silent = is_sound and stored.values.min() == stored.values.max()
    return *missing, is_silent, stored.was

  def _check_length(self, length: int) -> None:
    self._lengths.append(length)
    if length < max(self.least_samples, 1):
      raise ValueError(
        f'it has {length:,} samples, and at least '
        f'{max(self.least_samples, 1):,} are needed'
      )

  @property
  def _remedy(self) -> str:
    """Returns a clause about a shape that nine of ten sounds have, or ''."""
    lengths = sorted(self._lengths)
    length = lengths[len(lengths) // 10] if lengths else 0
    if not 0 < length < self.least_samples:
      return ''
    length = 2 ** (length.bit_length() - 1)
    return f', or take less of each: --config.data.shape="({length},)"'

  def _note(
    self, name: str, stored: arrays.Stored, free: Collection[int]
  ) -> None:
    """Notes the kind of an array, the lengths of whose axes `free` may vary."""
    axes, order = stored.axes, list(range(len(stored.values.shape)))
    if 'C' in axes and not self._reading.axes:  # Last, as in decoded files.
      order.append(order.pop(axes.index('C')))
      axes = axes.replace('C', '', 1) + 'C'
    shape = self._shapes[name] = tuple(stored.values.shape[n] for n in order)
    shape = tuple(
      None if n in free else size for n, size in zip(order, shape, strict=True)
    )
    dtype = arrays.device_dtype(stored.values.dtype)
    self._kinds_found[name] = array_shapes.Kind(
      dtype.name, shape, stored.sample_rate, axes
    )

  @property
  def _hint(self) -> str:
    if self.sample_rate or None in self.shape:  # Lengths may vary.
      return ''
    channels, shape = self._data.channels, self._data.read_shape
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


class CroppedFiles(ArrayFiles):
  """Files that crops are taken from; those read by slices may be of any size.

  Lengths may vary. Files that are smaller than a crop are skipped as damaged.
  `find_damaged` sets `facts`.
  """

  def __init__(self, path: str, data: DataConfig):
    super().__init__(path, data)
    self.place_key += ' crops'
    self.facts = {}

  def open(self, name: str) -> arrays.Stored | None:
    """Opens an array; None if its file must be decoded whole."""
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

  def _check(self, name: str, data: bytes) -> tuple[Any, ...]:
    stored = arrays.read_stored(data, self._reading)
    stored = slices.marked(stored, self._reading)
    return self._check_values(name, stored, in_place=False)

  def _check_values(
    self, name: str, stored: arrays.Stored, *, in_place: bool
  ) -> tuple[Any, ...]:
    values = stored.values
    if not 1 <= len(values.shape) <= arrays.MAX_AXES or 0 in values.shape:
      raise ValueError(f'it has the shape {list(values.shape)}')
    shape = self._data.read_shape
    try:
      whole = slices.Sliced(stored, self._data)
    except ValueError:  # `check_shape` reports what fits.
      free = (0,) if stored.sample_rate else range(len(values.shape))
      self._note(name, stored, free)
      return 0, 0, False, stored.was
    if stored.sample_rate:
      self._check_length(values.shape[0])
    Grid.of(whole.space, shape)
    if stored.was and in_place:  # Its own samples are read faster.
      is_silent = sound_conversion.check(values.source)
      empty, missing, number = [], 0, math.prod(values.shape)
    else:
      empty, missing, number, is_silent = find_empty(
        whole, shape, self._reading.max_nodata
      )
    self.facts[name] = slices.Facts(
      whole.space, in_place, '' if in_place else stored.nodata, empty
    )
    self._note(name, stored, whole.order[:-1])
    is_silent = is_silent and stored.sample_rate > 0
    return missing, number, is_silent, stored.was
