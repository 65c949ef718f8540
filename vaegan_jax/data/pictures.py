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

from vaegan_jax.data import arrays, decoding
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
    margin: int = 0,
    sample_rate: int = 0,
  ):
    """Lists them; nothing is decoded yet.

    Args:
      path: of a file or a folder.
      channels: of the examples.
      sides: of the examples; two, of pictures.
      center_crop: as `decoding.decode_image` takes it.
      of_arrays: whether they are read by `arrays.decode_array`, which crops
        nothing else.
      margin: so many pixels more have the sides to which pictures are resized,
        and out of which the middle is cut, as of all but training.
      sample_rate: that sounds must have; 0: any.

    Raises:
      UserError: there is nothing, or no image.
    """
    self._root, self._found = _find(path, of_arrays)
    self._sides = sides
    self._decoding = (channels, arrays.short_sides(sides), center_crop)
    if margin:
      self._decoding += (margin,)
    if of_arrays:
      self._decode = functools.partial(
        arrays.decode_array,
        channels=channels,
        sides=sides,
        sample_rate=sample_rate,
      )
    else:
      self._decode = functools.partial(
        decoding.decode_image,
        channels=channels,
        image_size=tuple(side + margin for side in sides),
        center_crop=center_crop,
      )
    self._pool = futures.ThreadPoolExecutor()
    self.names = sorted(self._found)

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
      return arrays.middle(self._decode(path.read_bytes()), self._sides)
    except Exception as error:  # Pillow raises nearly anything.
      raise UserError(
        f'{path} cannot be read as an image ({describe_error(error)}): mend or '
        'remove it, and run the same command again'
      ) from error


def _find(
  path: str, of_arrays: bool
) -> tuple[pathlib.Path, dict[str, tuple[int, int]]]:
  """The folder, and (bytes, nanoseconds of the last change) by name in it."""
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
  return root, found


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
