"""What the sides and axes of `config.data` stand for.

`data.image_size` is one side, or a pair (height, width).
"""

from typing import Any


def sides_of(image_size: int | tuple[int, int]) -> tuple[int, ...]:
  """Returns (height, width), or what stands there in their place."""
  return image_size if isinstance(image_size, tuple) else (image_size,) * 2


def image_shape(data: Any) -> tuple[int, ...]:
  """Returns (H, W, C) of the images that `config.data` describes."""
  return (*sides_of(data.image_size), data.channels)


def flip_axes(data: Any) -> tuple[int, ...]:
  """Returns the axes of space along which training mirrors examples."""
  if data.flip_axes:
    return tuple(data.flip_axes)
  photographs = data.name != 'array_folder'
  return (1,) if photographs and data.random_flip else ()


def shown_bands(data: Any) -> tuple[int, ...]:
  """Returns the channels that figures show; () if all, as of images."""
  if data.shown_bands:
    return tuple(data.shown_bands)
  return (0,) if data.name == 'array_folder' else ()
