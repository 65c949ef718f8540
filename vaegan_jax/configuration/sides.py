"""What `data.image_size` stands for: one side, or a pair (height, width)."""

from typing import Any


def sides_of(image_size: int | tuple[int, int]) -> tuple[int, ...]:
  """Returns (height, width), or what stands there in their place."""
  return image_size if isinstance(image_size, tuple) else (image_size,) * 2


def image_shape(data: Any) -> tuple[int, ...]:
  """Returns (H, W, C) of the images that `config.data` describes."""
  return (*sides_of(data.image_size), data.channels)
