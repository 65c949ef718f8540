"""Examples outside of a data set: files in, files out.

They are decoded as training decodes its own; nothing is prepared or kept.
"""

import functools
import hashlib
import io
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from typing import Any

import numpy as np
from PIL import Image

from vaegan_jax.data import arrays, decode, reading, sources, tiff_files
from vaegan_jax.data.data_config import DataConfig, expand_path
from vaegan_jax.data.file_lists import find_images, list_files
from vaegan_jax.data.store import stat_of
from vaegan_jax.errors import UserError, describe_error

# The remedy for a file, by its error; the first kind that fits counts.
_REMEDIES = {
  reading.UnreadableKind: '',  # Its message says it.
  reading.OtherAxes: ': convert it, or leave it out',
  reading.TooShort: ': pad it, or leave it out',
  reading.NoData: ': cut out a part with more values, or leave it out',
  reading.TooLarge: ': make it smaller, or leave it out',
  Exception: ': repair or remove it, and run the same command again',
}


class Pictures:
  """One file, or all those of a folder at any depth, by index."""

  def __init__(
    self, path: str, data: DataConfig, more_suffixes: tuple[str, ...] = ()
  ):
    """Lists the files, and decodes none.

    Args:
      path: path of a file or a folder.
      data: settings of the run. The margin of its random crop is cut off.
      more_suffixes: names of files that `read` takes, besides those of arrays.

    Raises:
      UserError: the path does not exist, or has no example.
    """
    self._root, self._found = _find(path, data, more_suffixes)
    self.holds_arrays = data.holds_arrays
    self._kind = 'array' if data.holds_arrays else 'image'
    self._shape, self._reading = data.spatial_shape, data.reading
    # Setting `data.mix_channels` helps only these sources.
    converts = sources.find(data.name).has_conversion and not data.mix_channels
    self._may_mix = converts and len(self._shape) == 1
    size = arrays.short_shape(self._shape)
    self._decoding = (data.channels, size, data.center_crop)
    if data.random_crop_margin:
      self._decoding += (data.random_crop_margin,)
    if data.holds_arrays:
      self._decode = functools.partial(
        arrays.decode_array,
        channels=data.channels,
        shape=self._shape,
        sample_rate=data.sample_rate,
        reading=data.reading,
      )
      if data.reading.key != reading.Reading().key:
        self._decoding += data.reading.key
    else:
      self._decode = decode.decoder(data, data.converts_profiles)
      if data.converts_profiles:
        self._decoding += ('srgb',)
    self._pool = futures.ThreadPoolExecutor()
    self.names = sorted(self._found)  # Relative to the folder.

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    """Returns the examples at `indices` [B] as [B, *S, C]."""
    names = [self.names[index] for index in indices]
    return np.stack(list(self._pool.map(self._read, names)))

  def describe(self, first: int, last: int) -> str:
    """Returns a fingerprint of some examples and the way of decoding."""
    part = [(n, *self._found[n]) for n in self.names[first:last]]
    listing = repr((part, self._decoding))
    return hashlib.sha256(listing.encode()).hexdigest()[:16]

  def _read(self, name: str) -> np.ndarray:
    return arrays.middle(self.read(name, self._decode), self._shape)

  def read(
    self,
    name: str,
    decode: Callable[[bytes], Any],
    open_large: Callable[[str], Any] = lambda path: None,
  ) -> Any:
    """Returns what `decode` makes of the content of one file, or raises.

    Args:
      name: one of `names`.
      decode: function of the content.
      open_large: function of the path, which opens what is too large for that,
        and otherwise returns None.
    """
    path = self._root / name
    try:
      opened = open_large(str(path))
      if opened is not None:
        return opened
      reading.check_size(self._found[name][0])
      if self.holds_arrays:
        tiff_files.check_mask(path, self._reading)
      return decode(path.read_bytes())
    except Exception as error:  # Pillow raises nearly anything.
      kind = next(kind for kind in _REMEDIES if isinstance(error, kind))
      remedy = _REMEDIES[kind]
      if self._may_mix and kind is reading.OtherAxes:
        remedy += ', or use --config.data.mix_channels=true'
      if self.holds_arrays and kind is reading.TooLarge:
        remedy = (
          ': save it as .npy, a sound or TIFF without compression, which is '
          'read in parts with a --tile, such as --tile=256'
        )
      raise UserError(
        f'{path} cannot be read as an {self._kind} ({describe_error(error)})'
        f'{remedy}'
      ) from error


def _find(
  path: str, data: DataConfig, more_suffixes: tuple[str, ...]
) -> tuple[pathlib.Path, dict[str, tuple[int, int]]]:
  """Returns the folder, and (bytes, time of the last change) by name."""
  root, holds_arrays = pathlib.Path(expand_path(path)), data.holds_arrays
  if os.path.isfile(root):
    found, root = {root.name: stat_of(root)}, root.parent
  elif os.path.isdir(root):
    suffixes = arrays.suffixes(data.reading.rules) + more_suffixes
    found = list_files(root, suffixes) if holds_arrays else find_images(root)
  else:
    raise UserError(
      f'--input={path} does not exist: name a file or a folder on a disk, '
      'such as --input=/data/my_photos'
    )
  if not found:
    kind, files = 'image', 'JPEG, PNG or other images'
    if holds_arrays:
      kind, files = 'array', '.npy, TIFF, WAV or other arrays'
    raise UserError(
      f'--input={path} has no {kind}: name a folder of {files}, such as '
      '--input=/data/my_photos'
    )
  return root, found


def png_names(names: Sequence[str]) -> list[str]:
  """Returns 'a/cat.png' for 'a/cat.jpg', or 'a/cat.jpg.png' if two would be."""
  changed = [str(pathlib.PurePosixPath(n).with_suffix('.png')) for n in names]
  seen = set()
  twice = {n for n in changed if n in seen or seen.add(n)}
  return [
    f'{name}.png' if new in twice else new
    for name, new in zip(names, changed, strict=True)
  ]


def encode_pngs(images: Any) -> Iterable[bytes]:
  """Yields PNG files of images [B, H, W, C] float in [-1, 1].

  1 channel is grey, 2 are grey and alpha, 3 RGB, 4 RGBA.
  """
  clipped = np.clip(np.asarray(images, np.float32), -1, 1)
  for image in np.round((clipped + 1) * 127.5).astype(np.uint8):
    image = image[..., 0] if image.shape[-1] == 1 else image
    content = io.BytesIO()
    Image.fromarray(image).save(content, format='PNG')
    yield content.getvalue()
