"""Pictures, or arrays, that are no data set: files in, files out.

What comes in is decoded as training decodes its images; nothing is prepared or
kept, and nothing is held out.
"""

import functools
import hashlib
import io
import os
import pathlib
from collections.abc import Iterable, Sequence
from concurrent import futures
from typing import Any

import numpy as np
from PIL import Image

from vaegan_jax.data import arrays, decoding, pixels
from vaegan_jax.data.array_files import find_arrays
from vaegan_jax.data.image_files import (
  check_size,
  describe_error,
  expand_path,
  find_images,
)
from vaegan_jax.errors import UserError


class Pictures:
  """One image file, or all those of a folder, however deep; by index.

  Attributes:
    names: of the files, relative to the folder, sorted.
  """

  def __init__(
    self,
    path: str,
    *,
    channels: int,
    sides: tuple[int, ...],
    center_crop: int,
    of_arrays: bool = False,
  ):
    """Lists them; nothing is decoded yet.

    Args:
      path: of a file or a folder.
      channels: of the examples.
      sides: of the examples; two, of pictures.
      center_crop: as `decoding.decode_image` takes it.
      of_arrays: whether they are read by `arrays.decode_array`, which crops
        nothing else.

    Raises:
      UserError: there is nothing, or no image.
    """
    root = pathlib.Path(expand_path(path))
    if os.path.isfile(root):
      status = root.stat()
      found = {root.name: (status.st_size, status.st_mtime_ns)}
      root = root.parent
    elif os.path.isdir(root):
      found = find_arrays(root) if of_arrays else find_images(root)
    else:
      raise UserError(
        f'--input={path} does not exist: name an image, or a folder of images '
        'on a disk, such as --input=/data/my_photos'
      )
    if not found:
      raise UserError(
        f'--input={path} has no image: name a folder of JPEG, PNG or other '
        'images, such as --input=/data/my_photos'
      )
    self._root, self._found = root, found
    self._decoding = (channels, arrays.short_sides(sides), center_crop)
    if of_arrays:
      self._decode = functools.partial(
        arrays.decode_array, channels=channels, sides=sides
      )
    else:
      self._decode = functools.partial(
        decoding.decode_image,
        channels=channels,
        image_size=sides,
        center_crop=center_crop,
      )
    self._pool = futures.ThreadPoolExecutor()
    self.names = sorted(found)

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, indices: np.ndarray) -> np.ndarray:
    """Decodes the images at `indices` [B] as [B, *S, C], uint8 if no arrays.

    Raises:
      UserError: one cannot be read.
    """
    names = [self.names[index] for index in indices]
    return np.stack(list(self._pool.map(self._read, names)))

  def describe(self, first: int, last: int) -> str:
    """Names a part of them, and the way they are decoded."""
    part = [(n, *self._found[n]) for n in self.names[first:last]]
    listing = repr((part, self._decoding))
    return hashlib.sha256(listing.encode()).hexdigest()[:16]

  def _read(self, name: str) -> np.ndarray:
    path = self._root / name
    try:
      check_size(self._found[name][0])
      return self._decode(path.read_bytes())
    except Exception as error:  # Pillow raises nearly anything.
      raise UserError(
        f'{path} cannot be read as an image ({describe_error(error)}): mend or '
        'remove it, and run the same command again'
      ) from error


def png_names(names: Sequence[str]) -> list[str]:
  """Names for PNG files of pictures: theirs, with another suffix.

  Args:
    names: of the originals, each once.

  Returns:
    'a/cat.png' for 'a/cat.jpg'; 'a/cat.jpg.png' where that would be of two.
  """
  changed = [str(pathlib.PurePosixPath(n).with_suffix('.png')) for n in names]
  seen = set()
  twice = {n for n in changed if n in seen or seen.add(n)}
  return [
    f'{name}.png' if new in twice else new
    for name, new in zip(names, changed, strict=True)
  ]


def encode_pngs(images: Any) -> Iterable[bytes]:
  """PNG files of images, with all their channels.

  Args:
    images: [B, H, W, C] float in [-1, 1]; 1 grey, 2 grey and alpha, 3 RGB,
      4 RGBA.

  Yields:
    The content of each.
  """
  clipped = np.clip(np.asarray(images, np.float32), -1, 1)
  for image in np.round((clipped + 1) * 127.5).astype(np.uint8):
    image = image[..., 0] if image.shape[-1] == 1 else image
    content = io.BytesIO()
    Image.fromarray(image).save(content, format='PNG')
    yield content.getvalue()


def encode_npys(images: Any, value_range: pixels.ValueRange) -> Iterable[bytes]:
  """`.npy` files of examples, as float32 in the units of their data.

  Args:
    images: [B, *S, C] float in [-1, 1].
    value_range: as `pixels.to_values` takes it.

  Yields:
    The content of each.
  """
  for values in np.asarray(pixels.to_values(images, value_range)):
    yield arrays.encode_npy(values)
